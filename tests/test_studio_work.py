"Data, caching, training and predictions of the studio, without a browser: real scripts, real clips, wrong wishes."
import os
import time
from pathlib import Path

import pytest

from jointdit.core import JointDiTError
from jointdit.sample.infer import InferSettings
from jointdit.studio.caching import CacheWish, begin_cache, cache_status
from jointdit.studio.context import Studio
from jointdit.studio.jobs import Run
from jointdit.studio.kits import make
from jointdit.studio.looking import Codecs, look, places, show
from jointdit.studio.predict import predict
from jointdit.studio.processes import exit_status, find, start, stop, verdict
from jointdit.studio.serve import own_uploads
from jointdit.studio.training import Wish, begin, curves, end, merged, runs, samples, settings_rows, status
from sample_helpers import toy_dim, write_tiny
from studio_helpers import make_configs, make_data

CFG = "configs/day05_train.yaml"


@pytest.fixture(scope="module")
def ctx(tmp_path_factory):
    root = make_configs(tmp_path_factory.mktemp("work") / "project")
    own_uploads()
    return Studio(make_data(root, 3))


def wait(fn, seconds=180):
    until = time.time() + seconds
    while time.time() < until:
        if got := fn(): return got
        time.sleep(.1)
    raise AssertionError("waited in vain")


def test_training_starts_stops_and_goes_on(ctx):
    wish = Wish("A", CFG, "short", max_steps=100000)
    run = begin(ctx, wish)
    assert run == "day05_stage_a_short" and run in runs(ctx)
    with pytest.raises(JointDiTError, match="running already"): begin(ctx, wish)
    wait(lambda: status(Studio(ctx.root), run).step > 3)             # another app, with the same folder
    assert status(ctx, run).state == "running" and status(ctx, run).eta > 0
    end(ctx, run)
    s = wait(lambda: (lambda s: s.state != "running" and s)(status(ctx, run)))
    assert s.state == "stopped" and s.checkpoint and "same name" in s.message
    begin(ctx, Wish("A", CFG, "short", max_steps=s.step + 2))
    assert wait(lambda: (lambda x: x.state == "finished" and x)(status(ctx, run))).step == s.step + 2
    assert "<svg" in curves(ctx, run) and samples(ctx, run) == []


def test_what_a_failed_run_says(ctx):
    run = begin(ctx, Wish("A", CFG, "broken", cache="data/toy"))
    s = wait(lambda: (lambda x: x.state not in ("running", "starting") and x)(status(ctx, run)))
    assert s.state == "failed" and "no cached train split" in s.message


def test_settings_and_their_sources(ctx):
    rows = {k: (v, source) for k, v, source in settings_rows(merged(ctx, Wish("A", CFG, "x", max_steps=7)))}
    assert rows["max_steps"] == ("7", "this page") and rows["data.batch_size"] == ("2", "day05_train.yaml") and rows["optim.clip"][1] == "default"


@pytest.mark.parametrize("wish,match", [(Wish("A", ""), "Choose a config"), (Wish("B", CFG), "stage"), (Wish("A", CFG, more="optim.clip=much"), "optim.clip"), (Wish("A", "configs/none.yaml"), "none.yaml"),
                                        (Wish("A", CFG, max_steps=-1), "max_steps"), (Wish("A", CFG, more="max_step=3"), "max_steps")])
def test_wishes_that_cannot_be(ctx, wish, match):
    with pytest.raises(JointDiTError, match=match): merged(ctx, wish)


def test_caching_in_a_process_of_its_own(ctx):
    job = begin_cache(ctx, CacheWish("configs/day02_cache.yaml", "train", cache_dir="data/cache_more"))
    s = wait(lambda: (lambda x: x.state != "running" and x)(cache_status(ctx, job)))
    assert s.state == "finished" and "3 clips" in s.message
    assert s.place in [v for _, v in places(ctx)] and len(look(ctx, s.place).clips) == 3


def test_a_source_outside_is_not_shown(ctx, tmp_path):
    import shutil
    shutil.copytree(ctx.root / "data/cache", ctx.root / "data/cache_far")
    for p in (ctx.root / "data/cache_far/meta/train").glob("*.json"): p.write_text(p.read_text().replace(str(ctx.root / "data/toy"), "/etc"))
    place = "cache:data/cache_far:train"
    shown = show(ctx, place, look(ctx, place).clips[0][1], Codecs())
    assert shown.original is None and shown.decoded.is_file()


@pytest.fixture(scope="module")
def model(ctx): return write_tiny(ctx.root / "checkpoints/day05_stage_a_tiny", toy_dim())


@pytest.mark.parametrize("wish", [dict(), dict(seconds=6.), dict(guidance=dict(type="none")), dict(knobs=dict(max_t=3)), dict(seeds=[1, 2])])
def test_memory_is_predicted(ctx, model, wish):
    s = InferSettings(**dict(prompt="a bell", steps=2, seconds=2., ckpt=str(model), out_dir=str(ctx.root / "outputs/p"), clip=dict(variant="toy-ViT-8", pretrained="toy:clip")) | wish)
    said = predict(ctx, s)
    cards = [r.card for r in make(s, Run("1", "me", "x", None), ctx.kits)]
    got = max(x for c in cards for x in c["peak_memory_gib"].values())
    assert abs(said["peak_gib"] / got - 1) < .15, (said["peak_gib"], got)
    assert said["evaluations"] == cards[0]["evaluations"] and said["seconds"] > 0 and said["free_gib"] > 0


def test_nothing_to_predict_without_a_checkpoint(tmp_path):
    ctx = Studio(tmp_path)
    s = InferSettings(ckpt=str(tmp_path / "none.pt"))
    with pytest.raises(JointDiTError, match="no such checkpoint"): predict(ctx, s)


def test_a_killed_process_is_said(tmp_path):
    p = start(tmp_path / "x", ["sleep", "60"])
    assert stop(p, force=True)
    wait(lambda: not find(tmp_path / "x").alive)
    assert verdict(p) == "killed" and exit_status(p) is None
