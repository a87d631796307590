"T5's words as the published folders have them: a `spiece.model` of SentencePiece, and no tokenizer.json."
import json
import subprocess
import sys

import pytest

from jointdit.assets.catalogue import PARTS

CONFIG = dict(tokenizer_class="T5Tokenizer", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_ids=0, model_max_length=128)
# in a process of its own: what was imported before decides how transformers reads such a file
LOAD = """import json, sys
from transformers import T5TokenizerFast
from jointdit.assets.conditioner import _load
t = _load(T5TokenizerFast, sys.argv[1])
print(json.dumps(t.convert_ids_to_tokens(t("a ball falls").input_ids)))
"""


@pytest.mark.parametrize("part", ["ltx/tokenizer", "audioldm2/tokenizer_2"])
def test_the_files_that_are_fetched_are_enough_to_read_words(tmp_path, part):
    import sentencepiece
    files = [f.rstrip("?") for f in PARTS[part].files if f in ("tokenizer_config.json", "spiece.model", "spiece.model?")]
    assert "spiece.model" in files
    (tmp_path / "words.txt").write_text("a ball falls\na red ball jumps\nthe ball is red\n" * 20)
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=32, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    folder = tmp_path / part
    folder.mkdir(parents=True)
    for name in files:
        if name == "spiece.model": (tmp_path / name).rename(folder / name)
        else: (folder / name).write_text(json.dumps(CONFIG if name == "tokenizer_config.json" else {}))
    r = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, timeout=200)
    assert r.returncode == 0, r.stderr[-1500:]
    said = r.stdout.strip().splitlines()[-1]
    assert json.loads(said)[-1] == "</s>" and "".join(json.loads(said)[:-1]) == "▁a▁ball▁falls"
