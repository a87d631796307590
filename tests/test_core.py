"The floor: errors, whole files, fingerprints, named randomness, contexts."
import errno, json, math, os, signal, subprocess, sys, textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from jointdit import core
from jointdit.core import *


def run(body, **env):
    "Run a script in a fresh process."
    code = "from jointdit.core import *\n" + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env, timeout=120)


# ---- errors

@pytest.mark.parametrize("cls", [SettingsError, TimelineError, MediaError, AssetError, CacheError, CheckpointError,
                                 ModelError, TrainError, SampleError])
def test_every_error_is_one_family(cls): assert issubclass(cls, JointDiTError) and cls.__doc__

def test_script_says_one_paragraph_and_exits_2():
    r = run("with user_errors(): raise MediaError('a.mp4: broken. Convert it again.')")
    assert r.returncode == 2 and r.stderr == "error: a.mp4: broken. Convert it again.\n" and r.stdout == ""

def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv("JOINTDIT_TRACEBACK", "1")
    with pytest.raises(MediaError):
        with user_errors(): raise MediaError("a.mp4: broken.")

def test_ctrl_c_is_130(capsys):
    assert exit_of(KeyboardInterrupt()) == 130 and capsys.readouterr().err.count("\n") == 1

def exit_of(error):
    with pytest.raises(SystemExit) as e:
        with user_errors(): raise error
    return e.value.code

def test_disk_full_pydantic_memory_and_files_are_explained(capsys):
    class S(BaseModel): steps: int
    try: S(steps="x")
    except ValueError as e: invalid = e
    for error, words in [(OSError(errno.ENOSPC, "No space left on device"), "disk is full"), (invalid, "steps"),
                         (torch.OutOfMemoryError("CUDA out of memory"), "JOINTDIT_Q_CHUNK_V"),
                         (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.yaml"), "x.yaml")]:
        assert exit_of(error) == 2
        assert words in capsys.readouterr().err

@pytest.mark.parametrize("bug", [KeyError("a"), RuntimeError("shapes"), ZeroDivisionError()])
def test_bugs_keep_their_traceback(bug):
    with pytest.raises(type(bug)):
        with user_errors(): raise bug

def test_exit_passes_through():
    with pytest.raises(SystemExit) as e:
        with user_errors(): raise SystemExit(7)
    assert e.value.code == 7


# ---- files

def test_write_atomic_kinds(tmp_path):
    for i, w in enumerate(["text ü", b"\0\1", lambda p: p.write_bytes(b"w")]):
        p = write_atomic(tmp_path/"new"/"deep"/f"{i}.bin", w)
        assert p.is_file()
    assert (tmp_path/"new/deep/0.bin").read_text(encoding="utf-8") == "text ü"
    assert sorted(f.name for f in (tmp_path/"new/deep").iterdir()) == ["0.bin", "1.bin", "2.bin"]

def test_writer_sees_the_same_name(tmp_path):
    seen = []
    write_atomic(tmp_path/"a.safetensors", lambda p: (seen.append(p), p.write_text("x")))
    assert seen[0].name == "a.safetensors" and seen[0].parent.name.startswith(".tmp-")

def test_failed_writer_leaves_the_old_file(tmp_path):
    p = write_atomic(tmp_path/"a", "old")
    def dies(t): t.write_text("ne"); raise RuntimeError("killed")
    with pytest.raises(RuntimeError, match="killed"): write_atomic(p, dies)
    with pytest.raises(KeyboardInterrupt): write_atomic(p, lambda t: (_ for _ in ()).throw(KeyboardInterrupt))
    assert p.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a"]

def test_kill_9_leaves_the_old_file(tmp_path):
    p = write_atomic(tmp_path/"a.json", "old")
    def half(t): t.write_text("half"); os.kill(os.getpid(), signal.SIGKILL)
    if not (pid := os.fork()): write_atomic(p, half)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert p.read_text() == "old" and [f.name for f in tmp_path.glob("*.json")] == ["a.json"]

@pytest.mark.parametrize("said", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Quota"),
                                  RuntimeError("I/O error: No space left on device (os error 28)")])
def test_full_disk_is_said_and_loses_nothing(tmp_path, said):
    p = write_atomic(tmp_path/"a", "old")
    def full(t): t.write_text("h"); raise said
    with pytest.raises(JointDiTError, match="disk is full"): write_atomic(p, full)
    assert p.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a"]

def test_full_disk_that_torch_reports_vaguely(tmp_path, monkeypatch):
    monkeypatch.setattr(core.shutil, "disk_usage", lambda p: type("U", (), {"free": 100})())
    def full(t): raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    with pytest.raises(JointDiTError, match="disk is full"): write_atomic(tmp_path/"a.pt", full)

def test_folder_that_is_a_file(tmp_path):
    (tmp_path/"f").write_text("x")
    with pytest.raises(JointDiTError, match="cannot write into"): write_atomic(tmp_path/"f"/"a", "x")

def test_json_round_trip(tmp_path):
    obj = {"a": [1, 2.5, None, "ü"], "nan": math.nan, "inf": -math.inf, "path": Path("x/y"), "fps": Fraction(1, 3),
           "np": np.float32(.5), "t": torch.tensor([1, 2]), 3: (1, 2)}
    got = load_json(save_json(tmp_path/"a.json", obj))
    assert got == {"a": [1, 2.5, None, "ü"], "nan": None, "inf": None, "path": "x/y", "fps": "1/3", "np": .5,
                   "t": [1, 2], "3": [1, 2]}

@pytest.mark.parametrize("content,words", [(None, "cannot be read"), (b"{'a': 1}", "line 1, column 2"),
                                           (b"", "line 1"), (b"\xff\xfe\x00", "not text")])
def test_bad_json(tmp_path, content, words):
    p = tmp_path/"a.json"
    if content is not None: p.write_bytes(content)
    with pytest.raises(JointDiTError, match=words) as e: load_json(p)
    assert str(p) in str(e.value)


# ---- fingerprints

def test_fingerprint(tmp_path):
    (tmp_path/"vae").mkdir()
    (tmp_path/"vae/config.json").write_text("{}"); (tmp_path/"vae/w").write_bytes(b"123")
    a = folder_fingerprint(tmp_path/"vae")
    for name in ("card.json", "README.md", ".hidden"): (tmp_path/"vae"/name).write_text("x")
    (tmp_path/"vae/__pycache__").mkdir(); (tmp_path/"vae/__pycache__/x").write_text("x")
    assert folder_fingerprint(tmp_path/"vae") == a and len(a) == 16
    (tmp_path/"vae/w").rename(tmp_path/"vae/w2")
    assert folder_fingerprint(tmp_path/"vae") != a

def test_file_hash_is_sha256(tmp_path):
    (tmp_path/"e").write_bytes(b"")
    assert file_hash(tmp_path/"e") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

def test_fingerprint_of_nothing(tmp_path):
    with pytest.raises(AssetError, match="no such folder"): folder_fingerprint(tmp_path/"none")


# ---- randomness

def test_seeds_are_the_same_for_ever():
    assert derive_seed(0, "a") == 8340445980718767854
    assert named_rng(1).initial_seed() == derive_seed(1) == 7818949063157315524

def test_seed_kinds():
    assert derive_seed(np.int64(3), "a") == derive_seed(3, "a")
    assert len({derive_seed(1, 23), derive_seed(12, 3), derive_seed("1", 23), derive_seed((1, 23)), derive_seed(1, 23, "")}) == 5
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))

def test_named_rng_is_undisturbed():
    a = torch.randn(4, generator=named_rng(0, "clip", "noise"))
    torch.manual_seed(5); torch.randn(9)
    assert torch.equal(a, torch.randn(4, generator=named_rng(0, "clip", "noise")))


# ---- contexts, paths, progress

def context(n, B=1, D=4, value=1.):
    return Context(torch.full((B, D), value), torch.full((B, n, D), value), torch.ones(B, n, dtype=torch.bool))

def test_stack_pads_with_masked_tokens():
    c = Context.stack([context(2, value=1.), context(5, B=2, value=2.), context(3, value=3.)])
    assert c.tokens.shape == (4, 5, 4) and c.mask.sum(1).tolist() == [2, 5, 5, 3] and len(c) == 4
    assert c.tokens[0, 2:].abs().sum() == 0 and c.pooled[:, 0].tolist() == [1, 2, 2, 3]

def test_index_keeps_the_batch_axis():
    c = Context.stack([context(2, value=float(i)) for i in range(4)])
    for i in (2, np.int64(2), [2], slice(2, 3), torch.tensor([2]), torch.tensor([False, False, True, False])):
        assert c.index(i).pooled.shape == (1, 4) and c.index(i).pooled[0, 0] == 2
    assert c.index([3, 0]).pooled[:, 0].tolist() == [3, 0]

def test_expand_and_to():
    c = context(2).expand(3).to(dtype=torch.float64)
    assert len(c) == 3 and c.tokens.dtype == torch.float64 and c.mask.dtype == torch.bool
    assert len(context(2).to("meta")) == 1 and context(2).to("meta").mask.device.type == "meta"
    with pytest.raises(ModelError, match="cannot be expanded"): context(2, B=2).expand(3)

@pytest.mark.parametrize("pooled,tokens,mask", [((1, 4), (1, 2, 4), (1, 3)), ((2, 4), (1, 2, 4), (1, 2)), ((4,), (1, 2, 4), (1, 2))])
def test_context_refuses_wrong_shapes(pooled, tokens, mask):
    with pytest.raises(ModelError, match="Context: expected"):
        Context(torch.ones(pooled), torch.ones(tokens), torch.ones(mask, dtype=torch.bool))

def test_context_refuses_a_float_mask():
    with pytest.raises(ModelError, match="float32"): Context(torch.ones(1, 4), torch.ones(1, 2, 4), torch.ones(1, 2))

def test_stack_of_nothing():
    with pytest.raises(ModelError): Context.stack([])

def test_toy_path(tmp_path):
    assert toy_path("toy:clip") == Path(core.__file__).parent/"assets"/"toy"/"clip"
    assert toy_path("toy:../../x").parts[-3:] == ("assets", "toy", "x")
    assert toy_path(tmp_path) == tmp_path and toy_path("~/x") == Path.home()/"x"

def test_progress(capfd, monkeypatch):
    assert list(progress(iter([1, 2]), "work", total=2)) == [1, 2]
    assert "work" in capfd.readouterr().err
    monkeypatch.setenv("JOINTDIT_QUIET", "1")
    assert list(progress([1, 2], "work")) == [1, 2] and capfd.readouterr().err == ""
