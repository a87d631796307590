"Detectors of visible and audible events: against the known moments of the toy world, through the codecs, and on bad input."
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from jointdit.measure import events as ev
from jointdit.measure.events import audible_curve, sound_onsets, visible_curve, visible_events
from jointdit.measure.sync import match_events
from jointdit.measure.undefined import Undefined, clip_fault, defined, picture_fault, sound_fault, to_json
from jointdit.toyworld import make_clip

CLIPS = int(os.environ.get("MEASURE_CLIPS", 3))  # of each scene; 64 for the full examination
SEED = os.environ.get("MEASURE_SEED", "check")
FRAME = 1/12


@pytest.fixture(scope="module")
def codecs():
    from jointdit.assets.audio_codec import AudioCodec
    from jointdit.assets.video_codec import VideoCodec
    torch.set_num_threads(1)
    return VideoCodec.from_folder("toy:svd/vae"), AudioCodec.from_folder("toy:audioldm2/vae")


def through(codecs, c):
    video, audio = codecs
    with torch.inference_mode():
        return video.decode(video.encode(c.frames)), audio.decode(audio.encode(torch.as_tensor(c.wave)), len(c.wave))


def score(true, found):
    "(matched, true, found, lags) of lists of moments."
    lags = [match_events(t, f, FRAME).lags for t, f in zip(true, found)]
    return sum(map(len, lags)), sum(map(len, true)), sum(map(len, found)), np.concatenate(lags)


@pytest.mark.parametrize("scene", ev.SHARP)
def test_events_of_real_clips_through_the_codecs(codecs, scene):
    true, seen, heard = [], [], []
    for i in range(CLIPS):
        c = make_clip(f"{SEED} {i}", scene=scene, split="test")
        f, w = through(codecs, c)
        true.append(np.array([e["time"] for e in c.events])); seen.append(visible_events(f, 12, scene)); heard.append(sound_onsets(w, 16000).times)
    for name, found, near in (("seen", seen, .042), ("heard", heard, .01)):
        k, n, m, lags = score(true, found)
        print(f"{scene} {name}: recall {k/n:.4f}, precision {k/m:.4f} of {n}, median lag {1000*np.median(lags):+.1f} ms")
        assert k/n >= .97 and k/m >= .97
        assert np.abs(lags).max() <= near and abs(np.median(lags)) <= .1/np.sqrt(n)  # lags of what is seen: uniform within a frame
    k, n, m, lags = score(seen, heard)
    assert k/n >= .97 and k/m >= .97


@pytest.mark.parametrize("scene", ev.SMOOTH)
def test_curves_of_real_clips_through_the_codecs(codecs, scene):
    for i in range(CLIPS):
        c = make_clip(f"{SEED} {i}", scene=scene, split="test")
        f, w = through(codecs, c)
        v, a, true = visible_curve(f, 12, scene), audible_curve(w, 16000, 12, scene), c.curves["level" if scene == "swell" else "speed"]
        assert v.shape == a.shape == (24,)
        assert min(np.corrcoef(v, true)[0, 1], np.corrcoef(a, true)[0, 1], np.corrcoef(v, a)[0, 1]) > .97
        assert len(sound_onsets(w, 16000).times) == 0, "a smooth sound has no onset"


@pytest.mark.parametrize("scene", ev.SHARP)
@pytest.mark.parametrize("harm", ["soft", "noise", "blur", "dim", "large", "grey"])
def test_events_survive_what_models_do_to_pictures(scene, harm):
    rng = np.random.default_rng(0)
    for i in range(6):
        c = make_clip(f"harm {i}", scene=scene, split="test")
        f, calm = c.frames.astype(np.float32), np.median(c.frames, 0)
        if harm == "soft": f = .4*f + .6*calm
        if harm == "noise": f = f + rng.normal(0, 12, f.shape)
        if harm == "blur": f = (f + np.roll(f, 1, 2) + np.roll(f, -1, 2) + np.roll(f, 2, 2) + np.roll(f, -2, 2))/5
        if harm == "dim": f = .4*f
        if harm == "large": f = f.repeat(2, 1).repeat(2, 2)
        if harm == "grey": f = np.broadcast_to(f.mean(-1, keepdims=True), f.shape)
        got = visible_events(f.clip(0, 255).astype(np.uint8), 12, scene)
        k, n, m, _ = score([np.array([e["time"] for e in c.events])], [got])
        assert k == n == m, (i, c.events, got)


@pytest.mark.parametrize("scene", ev.SHARP)
@pytest.mark.parametrize("harm", ["quiet", "hiss", "smeared", "8 kHz", "44.1 kHz"])
def test_onsets_survive_what_models_do_to_sound(scene, harm):
    rng = np.random.default_rng(0)
    for i in range(6):
        c, rate = make_clip(f"harm {i}", scene=scene, split="test"), 16000
        w = c.wave.astype(float)
        if harm == "quiet": w = w*.01
        if harm == "hiss": w = w + rng.normal(0, .02*np.abs(w).max(), len(w))
        if harm == "smeared": w = np.convolve(w, rng.normal(size=320)*np.hanning(320))[160:-159]; w = w/np.abs(w).max()/2   # 20 ms
        if harm.endswith("kHz"):
            rate = int(float(harm.split()[0])*1000)
            w = np.interp(np.arange(2*rate)/rate, np.arange(32000)/16000, w)
        got = sound_onsets(w, rate).times
        k, n, m, lags = score([np.array([e["time"] for e in c.events])], [got])
        assert k == n == m and np.abs(lags).max() < .02, (i, harm, c.events, got)


def test_noise_and_stillness_have_no_events():
    rng = np.random.default_rng(1)
    for sigma in (2, 6, 12):
        noise = (80 + rng.normal(0, sigma, (24, 64, 64, 3))).clip(0, 255).astype(np.uint8)
        assert all(len(visible_events(noise, 12, s)) == 0 for s in ev.SHARP)
    for w in (rng.normal(0, .1, 32000), np.sin(np.arange(32000)/9)*.5, np.linspace(0, .5, 32000)*np.sin(np.arange(32000)/9)):
        assert len(sound_onsets(w, 16000).times) == 0


def test_a_slow_flash_dates_from_its_first_bright_frame():
    f = np.full((24, 64, 64, 3), 60, np.uint8)
    f[8:10, 57:63, 20:40], f[10, 57:63, 20:40] = 200, 100
    assert visible_events(f, 12, "ball") == pytest.approx([8.5/12])
    assert visible_events(f, 24, "ball") == pytest.approx([8.5/24])


@settings(max_examples=25, deadline=None)
@given(st.floats(.05, 1.85), st.floats(.02, 1.))
def test_an_onset_is_found_where_it_is(t, level):
    x = np.arange(32000)/16000 - t
    w = level*.9*np.where(x > 0, np.exp(-np.maximum(x, 0)/.05)*np.sin(2*np.pi*700*x), 0)
    assert sound_onsets(w, 16000).times == pytest.approx([t], abs=.006)


@pytest.mark.parametrize("speed", [.05, .1, .35, .7, 1.4])
@pytest.mark.parametrize("way", [-1, 1])
def test_turning_speed_of_a_known_arm(speed, way):
    from jointdit.toypaint import paint_rotor
    f = paint_rotor(dict(angle=way*speed*np.arange(24)/12 + .3, sweep=np.full(24, speed/12)), dict(colour="red", size="large"))
    assert ev.turning_speed(f, 12) == pytest.approx(np.full(24, speed), abs=.02)


@pytest.mark.parametrize("pitch", [130., 260., 431., 1118.])
def test_pitch_of_a_known_voice(pitch):
    from jointdit.toysound import tone_wave
    w = tone_wave(pitch, np.full(32000, .5), "rotor")
    assert ev.pitch_curve(w, 16000, 12)[1:-1] == pytest.approx(np.full(22, pitch), rel=.01)


# ---- undefined

NOISE = np.random.default_rng(0).integers(0, 255, (24, 64, 64, 3), dtype=np.uint8)
TONE = .5*np.sin(np.arange(32000)/9).astype(np.float32)

BAD_PICTURES = [(None, "no picture"), (NOISE[:1], "one frame"), (NOISE[:0], "shape"), (NOISE[:1].repeat(24, 0), "never changes"),
                (NOISE/255., "uint8"), (NOISE[..., 0], "shape"), (NOISE[0], "shape")]
BAD_SOUNDS = [(None, "no sound"), (TONE*0, "silent"), (TONE*1e-4, "silent"), (TONE[:0], "shape"), (np.stack([TONE, TONE]), "shape"),
              (np.where(TONE > .4, np.nan, TONE), "NaN"), (np.where(TONE > .4, np.inf, TONE), "NaN"), (np.clip(4*TONE, -1, 1), "clipped")]


@pytest.mark.parametrize("frames, why", BAD_PICTURES)
def test_bad_pictures_are_undefined(frames, why):
    for got in (picture_fault(frames), visible_events(frames, 12, "ball"), visible_curve(frames, 12, "swell"), clip_fault(frames, TONE, 12, 16000)):
        assert isinstance(got, Undefined) and why in got.reason


@pytest.mark.parametrize("wave, why", BAD_SOUNDS)
def test_bad_sounds_are_undefined(wave, why):
    for got in (sound_fault(wave), sound_onsets(wave, 16000), audible_curve(wave, 16000, 12, "rotor"), clip_fault(NOISE, wave, 12, 16000)):
        assert isinstance(got, Undefined) and why in got.reason


def test_lengths_that_differ_are_undefined():
    assert "2.00 s" in clip_fault(NOISE, TONE[:20000], 12, 16000).reason
    assert "rates" in clip_fault(NOISE, TONE, 0, 16000).reason
    assert clip_fault(NOISE, TONE[:-1000], 12, 16000) is None and clip_fault(NOISE, TONE, 12, 16000) is None


def test_the_wrong_kind_of_scene_is_undefined():
    assert not defined(visible_events(NOISE, 12, "swell")) and not defined(visible_curve(NOISE, 12, "ball"))
    assert not defined(audible_curve(TONE, 16000, 12, "mallet")) and not defined(visible_events(NOISE, 12, "dog"))


def test_undefined_is_a_value_and_no_number():
    u = Undefined("because")
    assert u == Undefined("because") and hash(u) == hash(Undefined("because")) and str(u) == "undefined: because" and not u
    for op in (float, int, lambda x: x + 1, lambda x: x < 1, np.mean, lambda x: np.asarray([x, 1.], float), sum):
        with pytest.raises(TypeError): op(u)
    with pytest.raises(AttributeError): u.reason = "other"
    assert to_json(dict(a=u, b=[np.float32(1.5), float("inf")], c=np.arange(2))) == \
        dict(a={"undefined": "because"}, b=[1.5, {"undefined": "not a finite number"}], c=[0, 1])
