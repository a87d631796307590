"Lag and AV-Align of any clip, and the command that prints them: known offsets, known flows, bad files."
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import shift
from typer.testing import CliRunner

from jointdit.__main__ import app, load, sparkline
from jointdit.data.media import write_video, write_wav
from jointdit.measure.anyclip import av_align, flow, flow_curve, lag, motion_curve, onset_curve
from jointdit.measure.undefined import Undefined, defined
from jointdit.sample.render import measure_lag
from jointdit.toyworld import make_clip, procedural_frames

AT = (9, 16, 24, 33, 38)


def flashes(fps=24, n=48, size=64):
    f = np.full((n, size, size, 3), 40, np.uint8)
    for i in AT: f[i, size//4:size//2, size//4:size//2] = 220
    return f


def clicks(delay=0., fps=24, seconds=2., rate=16000):
    "A click in the middle of each flash, and `delay` later."
    w = np.zeros(int(seconds*rate), np.float32)
    for i in AT:
        k = int(((i + .5)/fps + delay)*rate)
        w[max(k, 0):k + rate//20] = (.5*np.sin(np.arange(rate//20)*.4)*np.exp(-np.arange(rate//20)/(rate/60)))[:max(len(w) - max(k, 0), 0)]
    return w


@pytest.mark.parametrize("delay", [-.35, -.12, -.04, 0, .01, .1, .35])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_known_delay_is_found_to_ten_milliseconds(delay, rate):
    found = lag(flashes(), clicks(delay, rate=rate), 24, rate)
    assert found.seconds == pytest.approx(delay, abs=.011) and found.confidence > .35 and found.onsets == len(AT)
    assert len(found.curves["motion"]) == len(found.curves["onsets"]) == len(found.curves["times"])


@pytest.mark.parametrize("size", [24, 63, 200])
def test_size_does_not_matter(size):
    assert lag(flashes(size=size), clicks(.1), 24, 16000).seconds == pytest.approx(.1, abs=.015)


def test_clips_of_the_toy_world_are_in_step():
    found = [lag(c.frames, c.wave, 12, 16000) for s in ("ball", "mallet") for c in (make_clip(f"lag {i}", scene=s) for i in range(10))]
    ok = [f.seconds for f in found if defined(f)]
    assert len(ok) >= 15 and abs(np.median(ok)) < .03 and np.abs(ok).max() < .09


def test_one_coincidence_is_worth_less_than_five():
    f, w = flashes(), clicks()
    one = lag(np.concatenate([f[:12], f[:1].repeat(36, 0)]), w*(np.arange(32000) < 10000), 24, 16000)
    assert one.onsets == 1 and one.confidence <= .5


def test_where_there_is_no_lag():
    f, w = flashes(), clicks()
    swell = make_clip("s", scene="swell")
    noise = np.random.default_rng(0)
    nan = w.copy(); nan[3] = np.nan
    for frames, wave, why in ((None, w, "no picture"), (f, None, "no sound"), (f[:1], w, "one frame"), (f*0, w, "never changes"), (f, w*0, "silent"),
                              (f, nan, "NaN"), (f, np.sign(np.sin(np.arange(32000))), "clipped"), (f, w[:20000], "lasts"), (f[7:12], w[6000:9333], "shorter"),
                              (f, .4*np.sin(np.arange(32000)/9), "no sharp onsets")):
        for got in (lag(frames, wave, 24, 16000), ):
            assert isinstance(got, Undefined) and why in got.reason, got
    assert not defined(lag(swell.frames, swell.wave, 12, 16000))
    unrelated = [lag(procedural_frames(72, seed=i, clip=72), .3*noise.normal(size=48000).clip(-3, 3)/3, 24, 16000) for i in range(4)]
    assert not any(map(defined, unrelated))


def jolts():
    "A texture that lies still and jumps by three pixels at each event."
    a, k = procedural_frames(1, seed=3, size=64)[0], np.searchsorted(AT, np.arange(48), side="right")
    return np.stack([np.roll(a, 3*i, 1) for i in k])


def test_av_align_is_one_where_all_peaks_pair():
    f, w = jolts(), clicks()
    assert av_align(f, w, 24, 16000) == 1
    assert av_align(f, clicks(.11), 24, 16000) < .3
    assert not defined(av_align(f, w*0, 24, 16000)) and not defined(av_align(f[:1], w, 24, 16000)) and not defined(av_align(f, None, 24, 16000))
    assert lag(f, w, 24, 16000).seconds == pytest.approx(0, abs=.02)


def test_av_align_of_known_peaks(monkeypatch):
    "Two of three sounds fall on motion peaks, of which there are four: 2/(3 + 4 - 2)."
    import jointdit.measure.anyclip as m
    motion = np.zeros(48); motion[[5, 15, 25, 35]] = 1
    monkeypatch.setattr(m, "flow_curve", lambda frames: motion)
    onsets = np.zeros(200); onsets[[22, 68, 120]] = 20        # 0.22 is frame 5.3, 0.68 frame 16.3, 1.2 frame 28.8
    monkeypatch.setattr(m, "onset_curve", lambda *a: onsets)
    assert m.av_align(flashes(), clicks(), 24, 16000) == pytest.approx(2/5)


@pytest.mark.parametrize("dx, dy", [(0, 0), (1, 0), (0, -2), (3, -2), (6, 5)])
def test_flow_of_a_known_motion(dx, dy):
    a = procedural_frames(1, seed=3, size=96)[0].astype(np.float32).mean(-1)
    u, v = flow(a[12:76, 12:76], a[12 - dy:76 - dy, 12 - dx:76 - dx])
    assert np.median(u) == pytest.approx(dx, abs=.15) and np.median(v) == pytest.approx(dy, abs=.15)


def test_flow_of_a_part_of_a_pixel():
    a = procedural_frames(1, seed=3, size=96)[0].astype(np.float32).mean(-1)
    u, v = flow(a[12:76, 12:76], shift(a, (.3, -.4), order=3)[12:76, 12:76])
    assert np.median(u) == pytest.approx(-.4, abs=.1) and np.median(v) == pytest.approx(.3, abs=.1)


def test_curves_have_the_lengths_they_promise():
    f, w = flashes(), clicks()
    assert len(motion_curve(f)) == len(flow_curve(f)) == 48 and len(onset_curve(w, 16000)) == 200 and len(onset_curve(w, 16000, 24)) == 48
    assert motion_curve(f).argmax() in AT and motion_curve(f)[0] == 0


def test_cards_say_the_same():
    assert measure_lag(flashes(), clicks(.1), 24) == dict(lag_ms=pytest.approx(100, abs=11), correlation=pytest.approx(.9, abs=.1), reason=None)
    assert measure_lag(flashes(), None, 24) == dict(lag_ms=None, correlation=None, reason="the clip has no sound")


# ---- the command

def run(*args):
    r = CliRunner().invoke(app, ["measure", *map(str, args)])
    return r.exit_code, r.output


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp("clips")
    write_video(d/"late.mp4", flashes(), 24, clicks(.1))
    write_video(d/"mute.mp4", flashes(), 24)
    write_video(d/"silent.mp4", flashes(), 24, clicks()*0)
    write_video(d/"still.mp4", flashes()[:1].repeat(48, 0), 24, clicks())
    write_video(d/"longer.mp4", flashes(), 24, np.r_[clicks(.1), clicks(.1)])
    write_wav(d/"only.wav", clicks())
    c = make_clip("file", scene="mallet"); write_video(d/"toy.mp4", c.frames, 12, c.wave)
    (d/"text.mp4").write_text("no video")
    return d


def test_the_command_prints_lag_confidence_and_curves(files, tmp_path):
    code, out = run(files/"late.mp4", "--out", tmp_path/"c.png", "--columns", 40)
    assert code == 0 and "the sound comes late" in out and "confidence" in out and "AV-Align" in out
    ms = int(out.split("lag")[1].split("ms")[0])
    assert abs(ms - 100) <= 20
    lines = [l for l in out.splitlines() if l.startswith(("motion", "onsets"))]
    assert [len(l) for l in lines] == [52, 52] and (tmp_path/"c.png").stat().st_size > 5000


@pytest.mark.parametrize("name, why", [("mute", "no sound"), ("silent", "silent"), ("still", "never changes"), ("longer", "--seconds"), ("only.wav", "no picture")])
def test_the_command_says_what_it_cannot_measure(files, tmp_path, name, why):
    code, out = run(files/(name if "." in name else name + ".mp4"), "--out", tmp_path/"c.png", "--scene", "ball")
    assert code == 0 and out.count("undefined") == 3 and why in out and "not written" in out and not (tmp_path/"c.png").exists()


def test_a_named_part_of_unequal_streams_is_measured(files):
    code, out = run(files/"longer.mp4", "--seconds", "1.9")
    assert code == 0 and "the sound comes late" in out


def test_toy_clips_by_their_own_detectors(files):
    code, out = run(files/"toy.mp4", "--scene", "mallet")
    seen, heard, matched = (int(out.split(w)[0].split()[-1]) for w in (" events seen", " heard", " matched"))
    assert code == 0 and seen == heard == matched > 0
    assert "correlation" in run(files/"toy.mp4", "--scene", "swell")[1]


def test_wrong_options_and_files_are_one_sentence(files):
    for args in ((files/"nope.mp4",), (files/"text.mp4",), (files/"late.mp4", "--scene", "dog"), (files/"late.mp4", "--start", "-1"),
                 (files/"late.mp4", "--seconds", "0")):
        code, out = run(*args)
        assert code == 2 and "Traceback" not in out
    assert "nothing in common" in run(files/"late.mp4", "--start", "9")[1]


def test_python_m_jointdit(files):
    r = subprocess.run([sys.executable, "-m", "jointdit", "measure", str(files/"late.mp4")], capture_output=True, text=True)
    assert r.returncode == 0 and "comes late" in r.stdout, r.stderr
    r = subprocess.run([sys.executable, "-m", "jointdit", "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "measure" in r.stdout


def test_reading_keeps_both_streams_on_one_clock(files):
    frames, wave, fps, rate = load(files/"late.mp4", start=.5)
    assert abs(len(frames)/fps - len(wave)/rate) < .001 and len(frames)/fps == pytest.approx(1.5, abs=.05) and frames.shape[1:] == (64, 64, 3)
    assert lag(frames, wave, fps, rate).seconds == pytest.approx(.1, abs=.02)


def test_sparkline():
    assert sparkline([0, 1, 2, 8], 4) == " ▁▂█" and len(sparkline(np.arange(1000), 30)) == 30 and sparkline([1.]) == " " and sparkline([5, 5, 5]) == "   "
