"""The toy world: what it says about its events must be true of its sound and of its pictures, and must not be guessable."""
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from jointdit.core import JointDiTError, SettingsError
from jointdit.toyscenes import SPEEDS
from jointdit.toyworld import (FPS, FRAMES, RATE, SECONDS, SHARP, captions_of, clip_row, combinations, held_out, is_held_out, make_clip,
                               procedural_frames, procedural_wave, render_batch, spec, write_dataset)

ROOT = Path(__file__).resolve().parents[1]
SCENES = list(spec())


def onsets(wave, jump=1.2):
    "Seconds at which the energy of 1 ms rises by a factor of e^jump over the 8 ms before: a plain onset detector."
    hop = RATE // 1000
    e = np.log(np.sqrt((wave[:len(wave) // hop * hop].reshape(-1, hop) ** 2).mean(1)) + 3e-3)
    before = np.array([e[max(i - 8, 0):max(i, 1)].max() for i in range(len(e))])
    found, last = [], -1.
    for i in np.flatnonzero(e - before > jump * .5):
        t = i * hop / RATE
        if t - last > .08: found.append(t)
        last = t
    return np.array(found)


def clips(scene, n, split="train", tag="test"):
    return [make_clip(f"{tag} {i}", scene, split=split) for i in range(n)]


# ---- what a clip is

@pytest.mark.parametrize("scene", SCENES)
def test_clip_has_its_shapes_and_its_truth(scene):
    for c in clips(scene, 25, "val"):
        assert c.frames.shape == (FRAMES, 64, 64, 3) and c.frames.dtype == np.uint8
        assert c.wave.shape == (round(SECONDS * RATE),) and c.wave.dtype == np.float32 and np.isfinite(c.wave).all()
        assert .2 < np.abs(c.wave).max() <= .8501
        assert c.caption in c.captions and len(set(c.captions)) == len(c.captions) >= 3
        assert set(c.attributes) == set(spec()[scene]) and c.events
        assert all(.1 <= e["time"] <= SECONDS - .1 for e in c.events)
        assert np.diff([e["time"] for e in c.events], prepend=-1).min() >= .17
        assert all(len(v) == FRAMES for v in c.curves.values())


def test_same_seed_same_clip_in_any_order():
    a = [make_clip(i) for i in range(6)]
    b = [make_clip(i) for i in reversed(range(6))][::-1]
    for x, y in zip(a, b):
        assert (x.frames == y.frames).all() and (x.wave == y.wave).all() and x.caption == y.caption and x.events == y.events
    assert any((make_clip(i, split="val").frames != a[i].frames).any() for i in range(6))
    frames, waves, batch = render_batch(range(6))
    assert (frames == np.stack([c.frames for c in a])).all() and waves.shape == (6, 32000) and batch[3].caption == a[3].caption


def test_notes_are_shared_but_cannot_be_spoilt():
    c = make_clip(0, "ball")
    before = c.wave.copy()
    c.wave[:] = 0
    assert (make_clip(0, "ball").wave == before).all()


# ---- words

def test_captions_name_every_attribute_and_are_short():
    words = {"wood": ("wooden", "wood"), "slow": ("slow", "slowly"), "fast": ("fast", "quickly"), "many": ("tune", "many"),
             "up": ("up",), "down": ("down",)}
    for scene in SCENES:
        for a in combinations(scene):
            for said in captions_of(scene, a):
                have = said.replace(",", "").split()
                assert len(have) <= 18 and "None" not in said and "{" not in said
                for v in a.values(): assert set(words.get(v, (v,))) & set(have), (said, v)
                if scene != "swell": assert {"ball", "xylophone", "rotor", "propeller"} & set(have)


def test_different_combinations_never_share_a_caption():
    seen = {}
    for scene in SCENES:
        for a in combinations(scene):
            for said in captions_of(scene, a): assert seen.setdefault(said, (scene, a)) == (scene, a)


# ---- splits

@pytest.mark.parametrize("scene", SCENES)
def test_held_out_is_never_in_train_and_every_value_is(scene):
    rng, train = np.random.default_rng(0), combinations(scene, False)
    assert held_out(scene) and not any(is_held_out(scene, a) for a in train)
    for name, values in spec()[scene].items(): assert {a[name] for a in train} == set(values)
    from jointdit.toyworld import _choose
    drawn = [_choose(rng, scene, {}, "train")[1] for _ in range(300)]
    assert not any(is_held_out(scene, a) for a in drawn)
    val = [is_held_out(scene, _choose(rng, scene, {}, "val")[1]) for _ in range(300)]
    assert .2 < np.mean(val) < .5


def test_spec_and_held_out_are_copies():
    spec()["ball"]["colour"].clear()
    held_out("ball")[0].clear()
    assert spec()["ball"]["colour"] and held_out("ball")[0]


@pytest.mark.parametrize("wrong, word", [
    (dict(scene="bal"), "bal"), (dict(attributes=dict(colour="pink")), "pink"), (dict(split="dev"), "dev"),
    (dict(scene="rotor", attributes=dict(material="wood")), "material"),
    (dict(scene="ball", attributes=dict(colour="red", material="glass")), "held_out"),
    (dict(attributes=dict(motion="up", tempo="slow")), "motion")])
def test_what_no_clip_can_be_is_said(wrong, word):
    with pytest.raises(SettingsError, match=word): make_clip(0, **wrong)


def test_given_attributes_are_kept():
    c = make_clip(3, attributes=dict(material="glass", tempo="fast"))
    assert c.scene == "mallet" and c.attributes["material"] == "glass" and c.attributes["tempo"] == "fast"
    assert make_clip(0, "ball", dict(colour="red", material="glass"), split="test").attributes["colour"] == "red"


# ---- events and sound

@pytest.mark.parametrize("scene", ["ball", "mallet"])
def test_sound_starts_within_5_ms_of_its_event_and_nowhere_else(scene):
    for c in clips(scene, 60, "val"):
        heard, true = onsets(c.wave), np.array([e["time"] for e in c.events])
        assert len(heard) == len(true), (c.caption, heard, true)
        assert np.abs(heard - true).max() <= .005, (c.caption, heard, true)


def test_pitch_is_what_the_event_says():
    for i in range(12):
        c = make_clip(f"p{i}", "mallet", dict(material="wood", tempo="slow"))
        for e in c.events:
            part = c.wave[int((e["time"] + .01) * RATE):][:1500]
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16384))
            assert abs(np.argmax(spectrum) * RATE / 16384 - e["pitch"]) < 15


def test_swell_and_rotor_sound_as_they_look():
    for c in clips("swell", 15):
        loud = np.sqrt((c.wave.reshape(100, 320) ** 2).mean(1))
        at = np.interp((np.arange(FRAMES) + .5) / FPS, np.arange(100) * .02 + .01, loud)
        light = c.frames.astype(float).mean((1, 2, 3))
        assert np.corrcoef(at, light)[0, 1] > .97
    for c in clips("rotor", 15):
        f = [np.argmax(np.abs(np.fft.rfft(w * np.hanning(640), 8192))) * RATE / 8192
             for w in (c.wave[int(t * RATE) - 320:][:640] for t in (np.arange(FRAMES) + .5) / FPS)]
        assert np.corrcoef(f, c.curves["speed"])[0, 1] > .98
        at = np.interp(c.events[0]["time"], (np.arange(FRAMES) + .5) / FPS, c.curves["speed"])
        assert abs(at - sum(SPEEDS) / 2) < .18  # the middle of the ramp


# ---- events and picture

def lit(c):
    "Light of the region where impacts show, for each frame."
    f = c.frames.astype(float)
    return f[:, 53:59].mean((1, 2, 3)) if c.scene == "ball" else f[:, 30:62].min(-1).reshape(FRAMES, 32, 4, 16).mean((1, 3)).max(1)


@pytest.mark.parametrize("scene", ["ball", "mallet"])
def test_the_frame_of_an_event_shows_it(scene):
    for c in clips(scene, 40, "val"):
        light = np.r_[0, lit(c), 0]
        rise = np.diff(light)
        true = {int(e["time"] * FPS) for e in c.events}
        seen = {k for k in range(1, FRAMES) if rise[k] > 8 and light[k + 1] > light[k + 2]}
        assert seen == true, (c.caption, seen, true)


def test_the_bar_that_flashes_is_the_bar_that_sounds():
    bars = ["red", "yellow", "green", "blue"]
    for c in [make_clip(f"b{i}", "mallet", dict(colour="many")) for i in range(20)]:
        for e in c.events:
            k = int(e["time"] * FPS)
            gain = (c.frames[k, 38:58].astype(float) - c.frames[0, 38:58]).clip(0).reshape(20, 4, 16, 3).mean((0, 2, 3))
            assert bars[int(gain.argmax())] == e["bar"]


def test_ball_is_low_at_impacts_only():
    for c in clips("ball", 30):
        h, true = c.curves["height"], [int(e["time"] * FPS) for e in c.events]
        assert (h[true] < 1e-6).all() and h.max() <= 64
        first = c.frames[0].astype(int)
        assert np.abs(first[:2] - first[:2, :1]).max() < 3  # the ball stays below the top edge
        assert all(np.abs(f[0].astype(int) - f[0, :1]).max() < 30 for f in c.frames)


# ---- nobody can guess

@lru_cache(maxsize=None)
def predictors(scene, n=400):
    data = clips(scene, n, tag="guess")
    values = [v for a in spec()[scene].values() for v in a]
    said = np.array([[v in c.attributes.values() for v in values] for c in data], float)
    seen = np.stack([c.frames[0].reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() / 255 for c in data])
    return said, seen, data


def ridge(x, y, half, alpha):
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-3)
    w = np.linalg.solve(x[:half] @ x[:half].T + alpha * np.eye(half), y[:half] - y[:half].mean(0))
    return y[:half].mean(0) + x[half:] @ (x[:half].T @ w)


def nearest(x, y, half, k=15):
    x = (x - x[:half].mean(0)) / (x[:half].std(0) + 1e-3)
    d = (x[:half] ** 2).sum(1) - 2 * x[half:] @ x[:half].T  # up to a constant for each row
    return y[:half][np.argsort(d, 1)[:, :k]].mean(1)


@pytest.mark.parametrize("scene", SCENES)
def test_first_frame_adds_nothing_to_a_guess(scene):
    half, (said, seen, data) = 280, predictors(scene)
    first = np.array([[c.events[0]["time"]] for c in data])
    hits = np.stack([[any(int(e["time"] * FPS) == k for e in c.events) for k in range(FRAMES)] for c in data]).astype(float)
    for y in (first, hits):
        base = ridge(said, y, half, 20.)
        spread = ((y[half:] - base) ** 2).sum()
        for guess in (ridge(np.c_[said * 5, seen], y, half, 3000.), nearest(np.c_[said * 5, seen], y, half), nearest(seen, y, half)):
            gain = 1 - ((y[half:] - guess) ** 2).sum() / spread
            assert gain < .06, (scene, gain)


def test_the_test_would_notice_a_leak():
    "The same predictors find the time when the first frame does betray it: a mark at a place that depends on it."
    half, (said, seen, data) = 280, predictors("ball")
    first = np.array([[c.events[0]["time"]] for c in data])
    seen = np.c_[seen, first + .02 * np.random.default_rng(0).standard_normal(first.shape)].astype(float)
    guess = ridge(np.c_[said * 5, seen], first, half, 300.)
    assert 1 - ((first[half:] - guess) ** 2).sum() / ((first[half:] - first[:half].mean()) ** 2).sum() > .3


@pytest.mark.parametrize("scene", SCENES)
def test_times_are_spread(scene):
    first = np.array([c.events[0]["time"] for c in predictors(scene)[2]])
    assert first.std() > .12


# ---- sounds and pictures for the codecs

def test_procedural_sounds_and_pictures():
    w, f = procedural_wave(8, 3), procedural_frames(48, 3, clip=24)
    assert w.shape == (8, 32000) and w.dtype == np.float32 and np.isfinite(w).all() and np.abs(w).max() <= .9
    assert f.shape == (48, 64, 64, 3) and f.dtype == np.uint8
    assert (w == procedural_wave(8, 3)).all() and (f == procedural_frames(48, 3, clip=24)).all()
    assert (w != procedural_wave(8, 4)).any() and procedural_frames(3, 1, size=32).shape == (3, 32, 32, 3)
    same = np.abs(np.diff(f.astype(float), axis=0)).mean((1, 2, 3))
    assert same[23] > 1.3 * max(same[22], same[24])  # a cut between the shots, motion within them


# ---- files

def fake(path, frames, fps, wave=None, sample_rate=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(frames.tobytes()[:64])


def test_dataset_is_complete_resumable_and_the_same(tmp_path):
    files = write_dataset(tmp_path / "a", 5, 3, 2, seed=1, write_video=fake)
    assert {k: len(p.read_text().splitlines()) for k, p in files.items()} == dict(train=5, val=3, test=2)
    rows = [json.loads(line) for line in files["train"].read_text().splitlines()]
    assert all((files["train"].parent / r["video"]).exists() for r in rows) and len({r["id"] for r in rows}) == 5
    assert {"id", "video", "caption", "captions", "events", "scene", "attributes", "curves", "held_out"} <= set(rows[0])
    assert not any(r["held_out"] for r in rows)
    (tmp_path / "a/train" / rows[2]["video"]).unlink()
    files["train"].unlink()
    keep = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.mp4")}
    write_dataset(tmp_path / "a", 6, 3, 2, seed=1, write_video=fake)
    assert all(p.stat().st_mtime_ns == t for p, t in keep.items()) and len(list((tmp_path / "a/train").glob("*.mp4"))) == 6
    again = [json.loads(line) for line in files["train"].read_text().splitlines()]
    assert again[:5] == rows


def test_stopped_in_the_middle_it_goes_on(tmp_path):
    calls = []

    def dies(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 4: raise KeyboardInterrupt
        fake(path, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt): write_dataset(tmp_path, 6, 2, write_video=dies)
    assert not list(tmp_path.rglob("metadata.jsonl")) and len(list(tmp_path.rglob("*.mp4"))) == 3
    write_dataset(tmp_path, 6, 2, write_video=fake)
    assert len(list(tmp_path.rglob("*.mp4"))) == 8


def test_a_folder_that_cannot_be_written_or_is_another_s_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(JointDiTError, match="file"): write_dataset(tmp_path / "file" / "toy", 1, 0, write_video=fake)
    write_dataset(tmp_path / "toy", 1, 0, seed=1, write_video=fake)
    with pytest.raises(JointDiTError, match="another recipe"): write_dataset(tmp_path / "toy", 1, 0, seed=2, write_video=fake)

    def full(path, *args, **kwargs): raise OSError(28, "No space left on device")
    with pytest.raises(JointDiTError, match="No space"): write_dataset(tmp_path / "full", 1, 0, write_video=full)


def test_through_h264_and_aac_nothing_moves(tmp_path):
    from jointdit.data.media import read_clip, write_video
    from jointdit.timeline import Timeline
    clock, late = Timeline(FRAMES, FPS), []
    for i in range(10):
        c = make_clip(f"aac {i}", ("ball", "mallet")[i % 2])
        path = write_video(tmp_path / f"{i}.mp4", c.frames, FPS, wave=c.wave, sample_rate=RATE)
        frames, wave = read_clip(path, 0., clock)
        assert frames.shape == c.frames.shape and np.abs(frames.astype(int) - c.frames).mean() < 6
        lag = np.correlate(np.abs(wave[:32000]), np.abs(c.wave[400:-400]), "valid").argmax() - 400
        assert abs(lag) / RATE < .002
        true, heard = np.array([e["time"] for e in c.events]), onsets(np.where(np.abs(wave) < .03, 0, wave))
        late += [np.abs(heard - t).min() for t in true]
    assert np.mean(np.array(late) <= .005) > .97, sorted(late)[-4:]


def test_command_line(tmp_path):
    script = [sys.executable, str(ROOT / "scripts/data/make_toy.py")]
    run = subprocess.run([*script, "--out", str(tmp_path / "toy"), "--train", "3", "--val", "2", "--seed", "5"],
                         capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0 and "train: 3 clips" in run.stdout, run.stderr
    assert (tmp_path / "toy/val/metadata.jsonl").exists()
    (tmp_path / "blocked").write_text("")
    run = subprocess.run([*script, "--out", str(tmp_path / "blocked/toy"), "--train", "1", "--val", "0"],
                         capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 2 and "blocked" in run.stderr and "Traceback" not in run.stderr


def test_every_row_is_json():
    for i in range(120): json.dumps(clip_row(make_clip(i), str(i)))
