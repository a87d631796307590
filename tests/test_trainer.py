"The trainer: the same tensors whatever happens to it on the way."
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from jointdit.core import CacheError, CheckpointError, JointDiTError, SettingsError, TrainError
from jointdit.train.checkpoint import latest, load_model, read_info, read_state, step_of
from jointdit.train.metrics import read_metrics
from jointdit.train.optim import EMA, Group, ScheduleSettings, lr_factor, match_groups
from jointdit.train.stage import FrozenProof, run_stage, stage_settings, train_stage
from jointdit.train.trainer import Trainer, TrainSettings, train
from train_helpers import TINY, make_cache, tiny_dict, tiny_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("train")
    make_cache(path / "cache")
    return path


@pytest.fixture(scope="module")
def undisturbed(root): return train(tiny_settings(root, "undisturbed"))


def tensors(tree, prefix=""):
    "Every tensor of nested dicts and lists, by dotted name."
    if torch.is_tensor(tree): return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {n: t for k, v in items for n, t in tensors(v, f"{prefix}.{k}").items()}


def assert_same(a, b):
    "Two checkpoints agree in every tensor and in what else the next step depends on."
    x, y = read_state(a), read_state(b)
    tx, ty = tensors(x), tensors(y)
    assert tx.keys() == ty.keys() and len(tx) > 300
    odd = [k for k in tx if not torch.equal(tx[k], ty[k])]
    assert not odd, f"{len(odd)} tensors differ, first {odd[0]}"
    assert x["step"] == y["step"] and x["start_eval"] == y["start_eval"]
    for f in (a, b): assert f.with_suffix(".safetensors").is_file()
    wx, wy = load_file(a.with_suffix(".safetensors")), load_file(b.with_suffix(".safetensors"))
    assert all(torch.equal(wx[k], wy[k]) for k in wx)


def child(root, name, body="", **more):
    "A process that trains with these settings; `body` may add to its `callbacks`."
    (root / f"{name}.json").write_text(json.dumps(tiny_dict(root, name, **more)))
    code = f"""
import json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from jointdit.core import user_errors
from jointdit.train.trainer import Trainer, TrainSettings, train
callbacks = []
{body}
with user_errors(): train(TrainSettings(**json.load(open({str(root / f'{name}.json')!r}))), callbacks)
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


# ---- resume --------------------------------------------------------------------------------------------------------

KILL_AT = """
step = Trainer.train_step
def dying(self, k):
    if k == {k}: os.kill(os.getpid(), signal.SIGKILL)
    return step(self, k)
Trainer.train_step = dying
"""
KILL_IN_SAVE = """
import torch
save = torch.save
def dying(obj, path):
    if obj.get("step") == {k}:
        open(path, "wb").write(b"half a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)
    return save(obj, path)
torch.save = dying
"""


@pytest.mark.parametrize("body, k", [(KILL_AT, random.Random(1).randrange(5, 11)), (KILL_IN_SAVE, 8)])
def test_kill_9_and_resume_is_bit_exact(root, undisturbed, body, k):
    name = f"killed{len(body)}"
    p = child(root, name, body.format(k=k))
    assert p.wait(120) == -signal.SIGKILL, p.stdout.read()
    again = train(tiny_settings(root, name))
    assert_same(undisturbed.checkpoint, again.checkpoint)
    rows = [r["step"] for r in read_metrics(again.log_dir / "metrics.jsonl") if "lr" in r]
    assert rows == list(range(1, 13))


def test_ctrl_c_saves_says_how_to_resume_and_exits_130(root, undisturbed):
    body = "step = Trainer.train_step\ndef slow(self, k):\n    if k == 6: os.kill(os.getpid(), signal.SIGINT)\n    return step(self, k)\nTrainer.train_step = slow"
    p = child(root, "stopped", body)
    said, _ = p.communicate(timeout=120)
    assert p.returncode == 130 and "stopped after step 7" in said and "Run the same command to go on" in said and "Traceback" not in said
    folder = root / "checkpoints/day05_stage_a_stopped"
    assert step_of(latest(folder)) == 7
    assert_same(undisturbed.checkpoint, train(tiny_settings(root, "stopped")).checkpoint)


def test_sigterm_in_a_library_call_saves_too(root):
    hit = lambda run, event: os.kill(os.getpid(), signal.SIGTERM) if event == "start" else None
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt): train(tiny_settings(root, "term"), [hit])
    assert latest(root / "checkpoints/day05_stage_a_term") and signal.getsignal(signal.SIGTERM) == before


def test_running_again_changes_nothing_and_more_steps_go_on(root):
    a = train(tiny_settings(root, "more", max_steps=4))
    before = a.checkpoint.read_bytes()
    b = train(tiny_settings(root, "more", max_steps=4))
    assert b.checkpoint == a.checkpoint and a.checkpoint.read_bytes() == before and b.step == 4
    assert train(tiny_settings(root, "more", max_steps=6)).step == 6


def test_no_resume_puts_the_old_run_aside(root):
    train(tiny_settings(root, "fresh", max_steps=4))
    r = train(tiny_settings(root, "fresh", max_steps=2, resume=False))
    assert r.step == 2 and step_of(latest(root / "checkpoints/day05_stage_a_fresh.old")) == 4


def test_a_broken_last_checkpoint_is_passed_over(root, undisturbed, capsys):
    r = train(tiny_settings(root, "torn", max_steps=8))
    r.checkpoint.write_bytes(r.checkpoint.read_bytes()[:500])
    again = train(tiny_settings(root, "torn"))
    assert_same(undisturbed.checkpoint, again.checkpoint)
    assert "going on from the one before" in capsys.readouterr().out


def test_muon_resumes_exactly(root):
    more = dict(optim=dict(name="muon"), max_steps=6, output=dict(tiny_dict(root, "m")["output"], save_every=3, keep_last_n=0))
    whole = train(tiny_settings(root, "m1", **{**more, "output": dict(ckpt_suffix="m1", log_suffix="m1", save_every=3, keep_last_n=0)}))
    train(tiny_settings(root, "m2", **{**more, "output": dict(ckpt_suffix="m2", log_suffix="m2", save_every=3, keep_last_n=0)}))
    whole_2 = root / "checkpoints/day05_stage_a_m2"
    for f in whole_2.glob("ckpt_step_000006*"): f.unlink()
    assert_same(whole.checkpoint, train(tiny_settings(root, "m2", **{**more, "output": dict(ckpt_suffix="m2", log_suffix="m2", save_every=3)})).checkpoint)


# ---- what must not matter ------------------------------------------------------------------------------------------

def test_accumulation_changes_only_memory(root):
    whole, cut = (train(tiny_settings(root, f"acc{n}", max_steps=3, data=dict(accumulate=n))) for n in (1, 3))
    a, b = read_state(whole.checkpoint)["model"], read_state(cut.checkpoint)["model"]
    assert all(torch.allclose(a[k], b[k], atol=2e-5) for k in a)


def test_checkpointing_of_gradients_changes_only_memory(root):
    a = train(tiny_settings(root, "gc0", max_steps=2))
    b = train(tiny_settings(root, "gc1", max_steps=2, grad_checkpointing=True))
    x, y = read_state(a.checkpoint)["model"], read_state(b.checkpoint)["model"]
    assert all(torch.allclose(x[k], y[k], atol=1e-5) for k in x)


def test_seeds_matter(root, undisturbed):
    other = train(tiny_settings(root, "seed1", runtime=dict(seed=1)))
    a, b = read_state(undisturbed.checkpoint)["model"], read_state(other.checkpoint)["model"]
    assert not torch.equal(a["video.inlet.weight"], b["video.inlet.weight"])


@pytest.mark.parametrize("presence", [((True, False),), ((False, True),), ((True, True), (True, False), (False, True))])
def test_clips_of_one_stream_train(tmp_path, presence):
    make_cache(tmp_path / "cache", 12, presence=presence)
    r = train(tiny_settings(tmp_path, "one", max_steps=6, output=dict(eval_clips=4)))
    rows = [x for x in read_metrics(r.log_dir / "metrics.jsonl") if "lr" in x]
    assert any(x["loss_v"] is not None for x in rows) == any(v for v, _ in presence)
    assert any(x["loss_a"] is not None for x in rows) == any(a for _, a in presence)
    assert set(r.start) & {"v", "a"} == {s for s, i in (("v", 0), ("a", 1)) if any(p[i] for p in presence)}


def test_no_captions_and_no_images_train(tmp_path):
    make_cache(tmp_path / "cache", 8, captions=False, images=False)
    assert train(tiny_settings(tmp_path, "plain", max_steps=2)).step == 2


def test_bf16_autocast_keeps_fp32_parameters(root):
    r = train(tiny_settings(root, "bf16", max_steps=2, runtime=dict(dtype="bf16")))
    state = read_state(r.checkpoint)
    assert {t.dtype for t in state["model"].values()} == {torch.float32} and {t.dtype for t in state["ema"].values()} == {torch.float32}


# ---- it learns, and says so ----------------------------------------------------------------------------------------

def test_both_streams_learn_and_everything_is_written(root):
    events = []
    r = train(tiny_settings(root, "learn", max_steps=60, data=dict(batch_size=8), schedule=dict(warmup=5),
                            output=dict(eval_clips=8, eval_every=30, tensorboard=True)), [lambda run, e: events.append(e)])
    assert set(r.ratio) == {"v", "a"} and r.start["v"] > 1.5
    assert events[0] == "start" and events[-1] == "end" and {"save", "eval"} <= set(events)
    rows = read_metrics(r.log_dir / "metrics.jsonl")
    for k in ("loss_v", "loss_a"):
        losses = [x[k] for x in rows if "lr" in x]
        assert sum(losses[-20:]) < .9 * sum(losses[:20])
    step = next(x for x in rows if x.get("step") == 50 and "lr" in x)
    assert {"loss_v", "loss_a", "grad_v", "grad_a", "samples_per_s", "eta", "elapsed", "bins_v"} <= set(step) and len(step["bins_v"]) == 10
    assert [x["step"] for x in rows if "heldout_v" in x] == [0, 30, 60, 60] and len(rows[0]["heldout_v_by_t"]) == 9
    assert r.plot.stat().st_size > 5000 and list((r.log_dir / "tb").iterdir()) and yaml.safe_load((r.log_dir / "settings.yaml").read_text())["max_steps"] == 60
    line = (r.log_dir / "train.log").read_text().splitlines()[0]
    assert all(w in line for w in ("loss_v", "loss_a", "grad_v", "grad_a", "clips/s", "peak", "ETA"))


def test_a_time_budget_ends_the_run_and_finishes_the_schedule(root, monkeypatch):
    ticks = itertools.count()                     # a clock of the test's own: a look at it takes 20 ms, on every machine
    monkeypatch.setattr("jointdit.train.trainer.time", SimpleNamespace(perf_counter=lambda: .02 * next(ticks)))
    r = train(tiny_settings(root, "minutes", max_steps=100000, max_minutes=.05, schedule=dict(warmup=1, fraction=1.)))
    rows = [x for x in read_metrics(r.log_dir / "metrics.jsonl") if "lr" in x]
    assert 2 < r.step < 100 and rows[-1]["lr"] < .4 * rows[1]["lr"] and 3 <= r.seconds < 4


def test_schedule_and_average():
    s = ScheduleSettings(warmup=10, decay="linear", fraction=.5)
    assert lr_factor(s, 0, 0.) == .1 and lr_factor(s, 20, .4) == 1 and lr_factor(s, 99, .75) == .5 and lr_factor(s, 99, 1.) == 0
    p = {"w": torch.nn.Parameter(torch.zeros(2))}
    ema = EMA(p, .9)
    p["w"].data.fill_(1.)
    ema.update(0)
    assert torch.allclose(ema.avg["w"], torch.full((2,), .9))
    with ema.applied(): assert torch.allclose(p["w"].data, torch.full((2,), .9))
    assert p["w"].data.tolist() == [1., 1.]


# ---- stage B -------------------------------------------------------------------------------------------------------

B_GROUPS = [dict(match="*.blocks", lr=1e-3), dict(match="*.in", lr=1e-3), dict(match="*.out", lr=1e-3)]


def test_stage_b_starts_from_a_and_proves_what_is_frozen(root, undisturbed, capsys):
    proof, first = FrozenProof(), {}
    look = lambda run, event: first.update({n: p.detach().clone() for n, p in run.model.named_parameters()}) if event == "start" else None
    r = train(tiny_settings(root, "b", stage="B", init=str(undisturbed.checkpoint), model=None, groups=B_GROUPS, max_steps=4), [proof, look])
    a, _ = load_model(undisturbed.checkpoint)
    assert all(torch.equal(p, first[n]) for n, p in a.named_parameters())
    end = read_state(r.checkpoint)["model"]
    moved = {n for n in first if not torch.equal(first[n], end[n])}
    assert moved and not any(n.startswith(("joint.", "cond.")) for n in moved)
    assert proof.moved["joint"] == 0 < proof.moved["audio.blocks"] and "equal" in capsys.readouterr().out
    trained = sum(len(g["params"]) for g in read_state(r.checkpoint)["optim"][0]["param_groups"])
    assert trained == sum(len(v) for k, v in a.param_groups_named().items() if k.split(".")[0] in ("video", "audio"))
    assert read_info(r.checkpoint).extras["init"]["step"] == 12


def test_stage_b_finds_the_newest_a_by_itself(tmp_path):
    make_cache(tmp_path / "cache", 8)
    with pytest.raises(TrainError, match="has none"): train(tiny_settings(tmp_path, "b", stage="B", model=None))
    train(tiny_settings(tmp_path, "a1", max_steps=1))
    newest = train(tiny_settings(tmp_path, "a2", max_steps=2))
    b = train_stage(tiny_settings(tmp_path, "b", stage="B", model=None, groups=B_GROUPS, max_steps=1))
    assert read_info(b.checkpoint).extras["init"]["path"] == str(newest.checkpoint) and b.checkpoint.parent.name == "day07_stage_b_b"


def test_a_frozen_tensor_that_moves_is_caught(root, undisturbed):
    def meddle(run, event):
        if event == "start": next(p for p in run.model.joint.parameters()).data.add_(1e-3)
    with pytest.raises(TrainError, match="frozen tensors have changed"):
        train(tiny_settings(root, "meddled", stage="B", init=str(undisturbed.checkpoint), model=None, groups=B_GROUPS, max_steps=2), [FrozenProof(), meddle])


def test_tensors_without_gradient_are_named(root, capsys, monkeypatch):
    from jointdit.model import expert
    monkeypatch.setattr(expert.FeedForward, "forward", lambda self, x, c: x + 0 * self.mod(c)[:, :1, :x.shape[-1]].mean())
    train(tiny_settings(root, "dead", max_steps=50))
    said = capsys.readouterr().out
    assert "have had no gradient in 50 steps" in said and "feed" in said


# ---- bad input -----------------------------------------------------------------------------------------------------

def test_nan_names_step_stream_and_clips_and_keeps_the_last_good(tmp_path):
    make_cache(tmp_path / "cache", 16)
    good = train(tiny_settings(tmp_path, "nan", max_steps=2))
    bad = tmp_path / "cache/audio_latents/train/fake_0005.safetensors"
    x = load_file(bad)
    save_file({"latents": x["latents"] * float("nan")}, bad)
    with pytest.raises(TrainError, match=r"step \d+: the .*audio loss is not finite for 1 clip.*fake_0005.*ckpt_step_0000\d\d.pt.*cached audio latents of fake_0005") as e:
        train(tiny_settings(tmp_path, "nan", max_steps=12))
    last = read_state(latest(good.checkpoint.parent))
    assert all(torch.isfinite(t.float()).all() for t in tensors(last).values() if t.is_floating_point())


def test_an_exploding_gradient_is_an_error(root, monkeypatch):
    from jointdit.train.optim import GradNorms
    monkeypatch.setattr(GradNorms, "measure", lambda self: torch.tensor([1., 1., float("inf")]))
    with pytest.raises(TrainError, match="step 1: the gradient is inf"): train(tiny_settings(root, "explode", max_steps=2))


@pytest.mark.parametrize("groups, said", [
    ([dict(match="joint_blocks", lr=1e-3)], "joint_blocks.*matches no tensor"),
    ([dict(match="*", lr=1e-3), dict(match="joint", lr=1e-3)], "nothing left to match"),
    ([], "nothing would be trained"),
])
def test_patterns_that_train_nothing_are_errors(root, groups, said):
    with pytest.raises(SettingsError, match=said): train(tiny_settings(root, "pattern", groups=groups))


def test_patterns_may_name_tensors(root):
    from jointdit.model.joint import ModelSettings, build_model
    got = match_groups(build_model(ModelSettings(**TINY)), [Group(match="joint.*.out.weight", lr=1.), Group(match="joint", lr=2.)])
    assert len(got[0][1]) == 4 and not set(got[0][1]) & set(got[1][1])


def test_another_architecture_names_the_settings(root, undisturbed):
    other = dict(TINY, depth=3, width_a=64)
    with pytest.raises(CheckpointError, match="depth is 2 in the checkpoint and 3 in the settings, width_a is 32"):
        train(tiny_settings(root, "undisturbed", model=other, max_steps=20))
    with pytest.raises(CheckpointError, match="architecture"):
        train(tiny_settings(root, "other", model=other, init=str(undisturbed.checkpoint)))


def test_other_groups_on_resume_are_refused(root, undisturbed):
    with pytest.raises(TrainError, match="other parameter groups"):
        train(tiny_settings(root, "undisturbed", groups=[dict(match="joint", lr=1e-3)], max_steps=20))


def test_another_cache_is_refused(root, undisturbed, tmp_path):
    make_cache(tmp_path / "cache", 8)
    for f in (tmp_path / "cache").glob("index_*.json"): f.write_text(f.read_text().replace('"video_codec": "fake"', '"video_codec": "svd"'))
    with pytest.raises(CheckpointError, match="video_codec fake then, svd now"):
        train(tiny_settings(tmp_path, "x", init=str(undisturbed.checkpoint)))


def test_missing_inputs_are_named(root, tmp_path):
    with pytest.raises(CacheError, match="cache"): train(tiny_settings(tmp_path, "x"))
    with pytest.raises(CheckpointError, match="nowhere.pt"): train(tiny_settings(root, "x", init="nowhere.pt"))
    with pytest.raises(SettingsError, match="fp16"): train(tiny_settings(root, "x", runtime=dict(dtype="fp16")))


def test_a_full_disk_in_training_keeps_the_run(root, monkeypatch):
    r = train(tiny_settings(root, "full", max_steps=4))
    monkeypatch.setattr("jointdit.train.checkpoint.shutil.disk_usage", lambda p: type("u", (), {"free": 10}))
    with pytest.raises(CheckpointError, match="disk is full"): train(tiny_settings(root, "full", max_steps=8))
    monkeypatch.undo()
    assert latest(r.checkpoint.parent) == r.checkpoint and train(tiny_settings(root, "full", max_steps=8)).step == 8


def test_settings_of_the_wrong_stage_and_bad_keys(tmp_path):
    y = tmp_path / "b.yaml"
    y.write_text("stage: B\nmax_steps: 5\n")
    with pytest.raises(SettingsError, match="this command trains Stage A"): stage_settings("A", y)
    with pytest.raises(SettingsError, match="key=value"): stage_settings("B", y, sets=["optim.clip"])
    y.write_text("max_step: 5\n")
    with pytest.raises(SettingsError, match="max_step.*Did you mean max_steps"): stage_settings("A", y)
    y.write_text("groups: [{match: '*', lr: fast}]\n")
    with pytest.raises(SettingsError, match="lr"): stage_settings("A", y)


# ---- command lines -------------------------------------------------------------------------------------------------

def shell(*args, **env):
    return subprocess.run(args, cwd=ROOT, text=True, capture_output=True, timeout=240,
                          env={**{k: v for k, v in os.environ.items() if not k.startswith("JOINTDIT_")}, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1", **env})


@pytest.fixture(scope="module")
def cfg(root):
    path = root / "a.yaml"
    path.write_text(yaml.safe_dump(tiny_dict(root, "unnamed", stage="A")))
    return str(path)


def test_scripts_train_and_refuse(root, cfg):
    a = shell(sys.executable, "scripts/train/train_stage_a.py", "--cfg", cfg, "--max-steps", "3", "--ckpt-suffix", "cli", "--log-suffix", "cli")
    assert a.returncode == 0, a.stderr
    assert (root / "checkpoints/day05_stage_a_cli/ckpt_step_000003.pt").is_file() and "command line" in a.stdout and "step     3" in a.stdout
    assert "# max_steps: command line" in (root / "logs/day05_stage_a_cli/settings.yaml").read_text()
    b = shell(sys.executable, "scripts/train/train_stage_b.py", "--cfg", cfg)
    assert b.returncode == 2 and "this command trains Stage B" in b.stderr and "Traceback" not in b.stderr


def test_train_sh_picks_a_profile_and_keeps_yours(root, cfg):
    args = ("scripts/finals/train.sh", "--stage", "A", "--cfg", cfg, "--max-steps", "1", "--log-suffix", "sh")
    out = shell(*args, "--ckpt-suffix", "sh", JOINTDIT_VRAM_GIB="47", JOINTDIT_Q_CHUNK_V="256")
    assert out.returncode == 0, out.stderr
    assert "profile Balanced sets" in out.stderr and "JOINTDIT_Q_CHUNK_V=256" in out.stderr
    knobs = read_info(root / "checkpoints/day05_stage_a_sh/ckpt_step_000001.pt").knobs
    assert knobs["q_chunk_v"] == 256 and knobs["kv_downsample"] == 4 and knobs["max_t"] == 6
    forced = shell(*args, "--ckpt-suffix", "sh2", JOINTDIT_VRAM_GIB="47", FORCE_KEEP_USER_ENVS="1")
    assert forced.returncode == 0 and read_info(root / "checkpoints/day05_stage_a_sh2/ckpt_step_000001.pt").knobs["kv_downsample"] == 1
    assert shell("scripts/finals/train.sh", "--stage", "C").returncode == 2
