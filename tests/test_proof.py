"The proof: a plan that does not change, batches that are kept, numbers beside their controls, and reasons in place of numbers."
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jointdit.core import SampleError, load_json
from jointdit.measure.sync import sync_of, track
from jointdit.measure.undefined import Undefined, to_json
from jointdit.proof import run as runs
from jointdit.proof.charts import Dot, dot_chart, histogram, line_chart, strip
from jointdit.proof.generate import load_bench
from jointdit.proof.goals import Goal, at_least, memory_goal, ratio
from jointdit.proof.page import goal_list, undefined_in
from jointdit.proof.plan import Batch, ProofSettings, batches, evaluations, parts, price, proof_clip, proof_key
from jointdit.proof.records import about, against_truth, measure_clip, read_track, truth
from jointdit.proof.report import prove
from jointdit.proof.summary import find_parts, gather
from jointdit.timeline import Timeline
from jointdit.toyworld import FPS, RATE, is_held_out
from sample_helpers import tiny_model, toy_dim, write_tiny

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory): return write_tiny(tmp_path_factory.mktemp("ckpt") / "day07_stage_b_x", toy_dim(), clock=Timeline(24, 12))


def settings(ckpt, out, **more): return ProofSettings(ckpt=str(ckpt), out=str(out), **dict(dict(clips=4, steps=2, workers=1, players=1), **more))


@pytest.fixture(scope="module")
def proved(ckpt, tmp_path_factory):
    s = settings(ckpt, tmp_path_factory.mktemp("proof"))
    return s, prove(s, say=lambda line: None)


# ---- the plan

def test_the_plan_has_every_direction_and_its_controls():
    plan = {p.name: p for p in parts(ProofSettings())}
    assert {n: p.clips for n, p in plan.items()} == dict(raw=256, real=256, text=256, iso=128, off=64, high=64, image=64, v2a=64, a2v=64, **{"continue": 64})
    assert [evaluations(plan[n]) for n in ("raw", "real", "text", "iso", "off", "image")] == [0, 0, 90, 60, 30, 120]
    assert plan["off"].guidance.weight_txt == 0 and plan["high"].guidance.weight_v == pytest.approx(2.4)


@pytest.mark.parametrize("clips, batch", [(4, 3), (33, 8), (256, 32)])
def test_batches_cover_every_clip_once(clips, batch):
    s = ProofSettings(clips=clips, batch=batch)
    for p in parts(s):
        mine = [i for b in batches(s) if b.part.name == p.name for i in range(b.lo, b.hi)]
        assert mine == list(range(p.clips))
    assert all(price(b) > 0 for b in batches(s))


def test_clips_of_a_proof_are_fixed_balanced_and_partly_held_out():
    clips = [proof_clip(0, i) for i in range(24)]
    assert np.array_equal(clips[5].frames, proof_clip(0, 5).frames) and not np.array_equal(clips[5].frames, proof_clip(1, 5).frames)
    assert [c.scene for c in clips[:4]] == [c.scene for c in clips[4:8]] and len({c.scene for c in clips[:4]}) == 4
    assert 1 <= sum(is_held_out(c.scene, c.attributes) for c in clips) < 20


def test_what_changes_clips_changes_their_folder():
    key = lambda **kw: proof_key(ProofSettings(**kw), "model", "codecs")
    assert key() == key(clips=64) == key(workers=2) == key(players=1)
    assert len({key(), key(steps=20), key(seed=1), key(high=3), key(prefix_seconds=.6), key(guidance=dict(weight_a=0))}) == 6


# ---- what is noted of a clip

def test_detectors_agree_with_the_truth_of_real_clips():
    clips = [proof_clip(3, i) for i in range(8)]
    tracks = [track(c.frames, c.wave, FPS, RATE, c.scene) for c in clips]
    for side in ("seen", "heard"):
        p = sync_of([against_truth(t, truth(c), side) for t, c in zip(tracks, clips)])
        assert p.events.f1 > .9 and p.curves.correlation > .9


def test_a_record_survives_json():
    c = proof_clip(0, 0)
    row = measure_clip(0, c, c.frames, c.wave)
    assert np.allclose(read_track(to_json(row)["track"]).heard, read_track(row["track"]).heard, atol=1e-5)
    assert row["held_out"] == is_held_out(c.scene, c.attributes) and row["caption"] == c.caption


@pytest.mark.parametrize("frames, wave, why", [(None, "ok", "picture"), ("ok", None, "sound"), ("still", "ok", "never changes"), ("ok", "silent", "silent"),
                                               ("ok", "nan", "NaN"), ("one", "ok", "one frame"), ("ok", "short", "lasts")])
def test_a_clip_that_cannot_be_measured_keeps_its_reason(frames, wave, why):
    c = proof_clip(0, 0)
    f = dict(ok=c.frames, still=np.repeat(c.frames[:1], 24, 0), one=c.frames[:1]).get(frames)
    w = dict(ok=c.wave, silent=c.wave * 0, nan=c.wave * np.nan, short=c.wave[:9000]).get(wave)
    got = measure_clip(0, c, f, w)["track"]
    assert why in got["undefined"]


def test_a_continuation_counts_only_what_was_made():
    c = proof_clip(0, 1)
    record = dict(clips=[measure_clip(1, c, c.frames, c.wave) | dict(reading={"undefined": "x"})], features={}, cost=dict(evaluations=1, walk=1., decode=1., fault=""))
    part = next(p for p in parts(ProofSettings()) if p.name == "continue")
    whole, rest = gather(part, [record]).tracks[0], gather(part, [record], .5).tracks[0]
    assert (whole.seen < .5).any() and not (rest.seen < .5).any() and not (rest.heard < .5).any() and len(rest.seen)


# ---- the whole, in small

def test_the_page_is_whole_and_loads_nothing(proved):
    s, page = proved
    text = page.read_text()
    links = re.findall(r'src="([^"]+\.mp4)"', text)
    assert links and all((page.parent / x).is_file() for x in links)
    assert "http" not in text and "<svg" in text and "Goals" in text and "What is undefined" in text
    for p in parts(s): assert p.title.replace("→", "→") in text


def test_the_numbers_are_json_with_reasons(proved):
    d = load_json(proved[1].parent / "proof.json")
    assert len(d["goals"]) >= 10 and set(d["parts"]) == {p.name for p in parts(proved[0])}
    assert d["parts"]["real"]["sync"]["events"]["f1"] > .8 and "undefined" in d["memory"]["text"]
    assert all(len(t) == d["parts"][k]["n"] for k, t in d["tracks"].items())


def test_a_second_run_makes_nothing_again(proved):
    bench = load_bench(proved[0], say=lambda line: None)
    before = {p: p.stat().st_mtime_ns for p in bench.folder.iterdir()}
    assert runs.make_all(bench, say=lambda line: None) < 5
    assert before == {p: p.stat().st_mtime_ns for p in bench.folder.iterdir()}


def test_what_is_missing_is_made_again_and_the_same(proved):
    s, _ = proved
    bench = load_bench(s, say=lambda line: None)
    b = next(b for b in batches(s) if b.part.name == "off")
    old, path = load_json(bench.path(b).with_suffix(".json")), bench.path(b)
    for p in (path, path.with_suffix(".json")): p.unlink()
    assert not runs.is_done(bench, b)
    runs.make_all(bench, say=lambda line: None)
    assert load_json(path.with_suffix(".json"))["clips"] == old["clips"]


def test_another_measure_measures_again_without_generating(proved):
    bench = load_bench(proved[0], say=lambda line: None)
    b = next(b for b in batches(proved[0]) if b.part.name == "v2a")
    record = bench.path(b).with_suffix(".json")
    record.write_text(record.read_text().replace(bench.mark(), "yesterday's"))
    before = bench.path(b).stat().st_mtime_ns
    assert not runs.is_done(bench, b)
    bench.record(b)
    assert runs.is_done(bench, b) and bench.path(b).stat().st_mtime_ns == before


def test_a_broken_record_is_not_done(proved):
    bench = load_bench(proved[0], say=lambda line: None)
    b = batches(proved[0])[0]
    path = bench.path(b).with_suffix(".json")
    whole = path.read_text()
    path.write_text(whole[:100])
    assert not runs.is_done(bench, b)
    path.write_text(whole)


def test_given_streams_are_shown_as_they_were_given(proved):
    found = find_parts(load_bench(proved[0], say=lambda line: None))
    raw, v2a, a2v = (found[k].tracks for k in ("raw", "v2a", "a2v"))
    same = lambda a, b: isinstance(a, Undefined) or isinstance(b, Undefined) or np.allclose(a, b)
    assert all(same(getattr(x, "seen", x), y.seen) for x, y in zip(v2a, raw)) and all(same(getattr(x, "heard", x), y.heard) for x, y in zip(a2v, raw))


def test_a_model_of_nan_has_reasons_and_no_goal(ckpt, tmp_path):
    s = settings(ckpt, tmp_path)
    bench = load_bench(s, say=lambda line: None)
    with torch.no_grad(): next(bench.kit.model.parameters()).fill_(float("nan"))
    b = next(b for b in batches(s) if b.part.name == "off")
    r = bench.record(b)
    assert all("non-finite" in c["track"]["undefined"] for c in r["clips"]) and r["features"] == {}
    assert "non-finite" in bench.record(b)["cost"]["fault"]


def test_a_stop_keeps_what_is_finished(ckpt, tmp_path):
    bench, flag = load_bench(settings(ckpt, tmp_path), say=lambda line: None), {"stop": None}
    work = batches(bench.settings)
    for b in runs._here(bench, work, flag): flag["stop"] = "SIGINT"
    assert [runs.is_done(bench, b) for b in work[:2]] == [True, False]


def test_ctrl_c_of_the_command_says_how_to_go_on(ckpt, tmp_path):
    env = os.environ | {"JOINTDIT_QUIET": "1", "OMP_NUM_THREADS": "1"}
    said = [sys.executable, "scripts/proof.py", "--ckpt", str(ckpt), "--clips", "64", "--workers", "2", "--steps", "2", "--out", str(tmp_path), "--set", "batch=4"]
    p = subprocess.Popen(said, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.time() + 200
    while time.time() < end and not list(tmp_path.glob("cache/*/raw_*.json")): time.sleep(.3)
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=200)
    assert p.returncode == 130 and "the same command goes on" in out and "Traceback" not in out, out[-2000:]


# ---- requests that cannot be met

def test_a_checkpoint_of_another_clock_is_refused(tmp_path):
    odd = write_tiny(tmp_path / "day05_stage_a_x", toy_dim(), clock=Timeline(6, 12))
    with pytest.raises(SampleError, match="toy world's"): load_bench(settings(odd, tmp_path))


@pytest.mark.parametrize("words, said", [(["--ckpt", "no/such.pt"], "no such checkpoint"), (["--set", "clipz=3"], "clipz"), (["--clips", "1"], "clips")])
def test_bad_requests_are_one_paragraph(words, said):
    done = subprocess.run([sys.executable, "scripts/proof.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


# ---- pictures and goals

@pytest.mark.parametrize("svg", [
    dot_chart([Dot("a", .5, .4, .6, (.1, .2)), Dot("b <", Undefined("x")), Dot("c", -.2, -.4, .1)], "t"),
    line_chart([-1., 0., 1.], {"a": ([.1, Undefined("x"), .3], "seen"), "b": ([Undefined("x")] * 3, "real")}, "t", "ms", (-1, 0, 1)),
    histogram({"a": ([1., 2.], "seen"), "none": ([], "real")}, np.arange(0, 5), "t", "ms"), strip(Undefined("silent"))])
def test_pictures_are_well_formed_and_have_words(svg):
    root = ET.fromstring(svg)
    assert root.get("aria-label") and "nan" not in svg


def test_an_undefined_measure_reaches_no_goal():
    g = at_least("x", ratio(Undefined("too few clips"), 1.), .9, "")
    assert not g.passed and "too few clips" in g.text and "undefined" in goal_list([g]) and "0 of 1" in goal_list([g])
    assert not memory_goal(Undefined("no bank")).passed
    assert "&lt;b" in goal_list([Goal("<b>", 1., 1., "", True)])


def test_every_undefined_value_is_collected():
    found = undefined_in(dict(a=dict(b=Undefined("one")), c=[Undefined("one"), SimpleNamespace()]))
    assert list(found) == ["one"] and len(found["one"]) == 2


def test_what_was_asked_is_noted(): assert about(3, proof_clip(0, 3))["i"] == 3
