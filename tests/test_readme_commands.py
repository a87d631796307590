"README's commands, as a stranger would type them one after the other: each writes what the next one reads."
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from jointdit.data.cache import CacheSettings
from jointdit.sample.request import InferSettings
from jointdit.settings import load_settings
from jointdit.train.checkpoint import run_folder
from jointdit.train.trainer import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))


def commands(block):
    "The `make` lines of a block as (targets, variables)."
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            yield [w for w in words[1:] if "=" not in w], dict(w.split("=", 1) for w in words[1:] if "=" in w)


def dry(*words):
    "The last line that make would run."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "MAX_STEPS", "SUFFIX", "TRAIN_"))}    # `make test` hands down what it was told
    r = subprocess.run(["make", "-n", "--no-print-directory", *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return [line for line in r.stdout.splitlines() if line.strip()][-1]


def test_every_make_target_and_settings_file_of_the_readme_exists():
    seen = [c for b in BLOCKS for c in commands(b)]
    assert len(seen) > 15
    for targets, given in seen:
        assert set(targets) <= TARGETS
        for k, v in given.items(): assert not k.endswith("_CFG") or (ROOT / v).is_file()


def run_of(stage, given):
    "Settings of a training as make would start it, from its own command line."
    words = shlex.split(dry(f"final-train-{stage.lower()}", *(f"{k}={v}" for k, v in given.items())))
    options = dict(zip(words, words[1:]))
    over = {"max_steps": options.get("--max-steps"), "output.ckpt_suffix": options.get("--ckpt-suffix")}
    return load_settings(TrainSettings, ROOT / options["--cfg"], env={}, overrides={k: v for k, v in over.items() if v}).settings


def test_the_commands_for_pretrained_experts_hang_together():
    "Cache of both splits -> Stage A of the file's own length -> Stage B from it -> clips from that."
    block = next(b for b in BLOCKS if "experts_train_a.yaml" in b)
    said = [(t, given) for targets, given in commands(block) for t in targets]
    of = dict(said)
    assert [t for t, _ in said] == ["assets", "cache-train", "cache-val", "final-train-a", "final-train-b", "final-infer"]
    cache = load_settings(CacheSettings, ROOT / of["cache-val"]["CACHE_CFG"], env={}).settings
    a, b = run_of("A", of["final-train-a"]), run_of("B", of["final-train-b"])
    infer = load_settings(InferSettings, ROOT / of["final-infer"]["INFER_CFG"], env={}).settings
    assert of["cache-train"] == of["cache-val"] and a.data.cache_dir == b.data.cache_dir == cache.cache_dir
    assert a.max_steps > 10 * a.schedule.warmup and b.max_steps > 10 * b.schedule.warmup
    assert b.init == str(run_folder("A", a.output.ckpt_suffix)) and infer.ckpt == str(run_folder("B", b.output.ckpt_suffix))


@pytest.mark.parametrize("words, wanted, unwanted", [
    ([], "--cfg configs/day05_train.yaml --max-steps 25 --ckpt-suffix finalA --log-suffix finalA", []),
    (["MAX_STEPS_A=4000"], "--max-steps 4000 --ckpt-suffix finalA", []),
    (["TRAIN_A_CFG=configs/ltx/stage_a.yaml"], "--cfg configs/ltx/stage_a.yaml", ["--max-steps", "--ckpt-suffix"]),
    (["TRAIN_A_CFG=configs/ltx/stage_a.yaml", "MAX_STEPS_A=7", "SUFFIX_A=x"], "--max-steps 7 --ckpt-suffix x --log-suffix x", [])])
def test_a_settings_file_of_ones_own_says_itself_how_long(words, wanted, unwanted):
    line = dry("final-train-a", *words)
    assert wanted in " ".join(line.split()) and not [u for u in unwanted if u in line]
