"Checkpoints: whole or not at all, found by step, and never of another model without saying so."
import errno
import json
import os
import types

import pytest
import torch

from jointdit.core import CheckpointError
from jointdit.settings import Knobs
from jointdit.train.checkpoint import (check_data, checkpoints, ckpt_path, differences, find_checkpoint, header_text, latest,
    load_model, newest_run, prune, read_info, read_state, read_weights, run_folder, step_of, write_checkpoint)
from jointdit.model.joint import ModelSettings, build_model
from train_helpers import CLOCK, TINY


@pytest.fixture
def made(tmp_path):
    "A small model and its checkpoint, whose average differs from its weights."
    model = build_model(ModelSettings(**TINY), seed=1)
    model.video.set_statistics(torch.arange(8.), torch.ones(8) * 2)
    ema = {n: p.detach() + .5 for n, p in model.named_parameters()}
    header = header_text("A", 7, model.settings.model_dump(), Knobs(kv_downsample=2).model_dump(), {"recipe": {"video_codec": "x"}}, {})
    state = dict(model=model.state_dict(), ema=ema, step=7)
    path = write_checkpoint(run_folder("A", "t", tmp_path), 7, state, {**model.state_dict(), **ema}, header)
    return types.SimpleNamespace(model=model, ema=ema, path=path, header=header, root=tmp_path)


def test_both_files_give_the_same_averaged_model(made):
    for path in (made.path, made.path.with_suffix(".safetensors"), made.path.parent):
        model, info = load_model(path, knobs=Knobs(kv_downsample=2))
        assert all(torch.equal(p, made.ema[n]) for n, p in model.named_parameters())
        assert torch.equal(model.video.mean, torch.arange(8.)) and (info.stage, info.step) == ("A", 7)
        assert not model.training and model.knobs.kv_downsample == 2 and len(info.hash) == 16


def test_the_loaded_model_runs(made):
    model, _ = load_model(made.path)
    v, a = model(torch.zeros(1, *CLOCK.video_shape), torch.zeros(1, *CLOCK.audio_shape), torch.ones(1), torch.ones(1), CLOCK)
    assert v.shape[1:] == CLOCK.video_shape and a.shape[1:] == CLOCK.audio_shape


def test_the_state_loads_without_trust(made):
    assert set(torch.load(made.path, weights_only=True)) == {"model", "ema", "step", "header"}
    assert json.loads(made.header)["model"]["width_v"] == 32


def test_other_knobs_warn(made):
    with pytest.warns(UserWarning, match="kv_downsample=2, used with 1"): load_model(made.path, knobs=Knobs())


def test_truncated_foreign_and_missing_files_are_named(made):
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(CheckpointError, match="broken or not one of ours"): read_state(made.path)
    torch.save({"state_dict": {}}, made.path)
    with pytest.raises(CheckpointError, match="no header"): read_state(made.path)
    made.path.write_text("hello")
    with pytest.raises(CheckpointError, match=made.path.name): load_model(made.path)
    with pytest.raises(CheckpointError, match="there is no such checkpoint.*ckpt_step_000007"): load_model(made.path.with_name("ckpt_step_000009.pt"))
    with pytest.raises(CheckpointError, match="no ckpt_step"): find_checkpoint(made.root)


def test_foreign_safetensors_are_named(made):
    from safetensors.torch import save_file
    path = made.root / "x.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a JointDiT checkpoint"): load_model(path)
    path.write_bytes(b"\0" * 40)
    with pytest.raises(CheckpointError, match="safetensors"): load_model(path)


def test_weights_of_another_version_are_named(made):
    said = json.loads(made.header)
    said["model"]["depth"] = 3
    path = write_checkpoint(made.root / "odd", 1, {"model": made.model.state_dict(), "ema": {}}, made.model.state_dict(), json.dumps(said))
    with pytest.raises(CheckpointError, match="do not fit the model"): load_model(path)


def test_another_codec_is_named(made):
    with pytest.raises(CheckpointError, match="video_codec x then, y now"):
        check_data(read_info(made.path), {"recipe": {"video_codec": "y"}})
    check_data(read_info(made.path), {"recipe": {"video_codec": "x"}})


def test_a_pickle_that_would_run_code_does_not(made):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(made.root / "hacked"),)
    torch.save({"header": "{}", "x": Evil()}, made.path)
    with pytest.raises(CheckpointError): read_state(made.path)
    assert not (made.root / "hacked").exists()


def fill_disk(monkeypatch, how):
    if how == "before": monkeypatch.setattr("shutil.disk_usage", lambda p: types.SimpleNamespace(free=1000))
    if how == "torch":
        def full(obj, p): p.write_bytes(b"half"); raise RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed")
        monkeypatch.setattr("torch.save", full)
    if how == "os":
        def full(obj, p): raise OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr("torch.save", full)


@pytest.mark.parametrize("how", ["before", "torch", "os"])
def test_a_full_disk_keeps_the_last_good_one(made, monkeypatch, how):
    fill_disk(monkeypatch, how)
    with pytest.raises(CheckpointError, match="disk is full.*last good checkpoint is .*000007.pt"):
        write_checkpoint(made.path.parent, 8, {"w": torch.ones(4)}, {"w": torch.ones(4)}, made.header)
    monkeypatch.undo()
    assert latest(made.path.parent) == made.path and read_state(made.path)["step"] == 7
    prune(made.path.parent, 0)
    assert sorted(p.name for p in made.path.parent.iterdir()) == ["ckpt_step_000007.pt", "ckpt_step_000007.safetensors"]


def test_keep_last_n_and_order_by_step(tmp_path):
    for step in (5, 100, 20, 1000000): write_checkpoint(tmp_path, step, {"w": torch.ones(1)}, {"w": torch.ones(1)}, "{}", 0)
    assert [step_of(p) for p in checkpoints(tmp_path)] == [5, 20, 100, 1000000]
    prune(tmp_path, 2)
    assert [step_of(p) for p in checkpoints(tmp_path)] == [100, 1000000] and len(list(tmp_path.iterdir())) == 4


def test_newest_run_goes_by_date_and_skips_what_was_put_aside(tmp_path):
    for i, name in enumerate(("old", "new", "aside.old")):
        p = write_checkpoint(run_folder("A", name, tmp_path), 10 - i, {}, {"w": torch.ones(1)}, "{}")
        os.utime(p, (1000 + i, 1000 + i))
    assert newest_run("A", tmp_path) == ckpt_path(run_folder("A", "new", tmp_path), 9) and newest_run("B", tmp_path) is None


def test_leftovers_of_a_killed_write_are_swept(made):
    (made.path.parent / ".tmp-abc").mkdir()
    made.path.with_name("ckpt_step_000009.safetensors").write_bytes(b"no .pt yet")
    prune(made.path.parent, 0)
    assert len(list(made.path.parent.iterdir())) == 2


def test_differences_are_dotted_and_ignore_spelling():
    assert differences({"a": {"b": (1, 2), "c": 1}}, {"a": {"b": [1, 2], "c": 2}, "d": 3}) == {"a.c": (1, 2), "d": (None, 3)}


def test_bf16_and_empty_tensors_survive(tmp_path):
    w = {"x": torch.randn(3).bfloat16(), "y": torch.zeros(0)}
    path = write_checkpoint(tmp_path, 1, {"model": w, "ema": {}}, w, json.dumps({"stage": "A"}))
    for p in (path, path.with_suffix(".safetensors")):
        _, got = read_weights(p)
        assert torch.equal(got["x"], w["x"]) and got["x"].dtype == torch.bfloat16
