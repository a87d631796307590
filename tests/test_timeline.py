"The one clock: lengths, positions, clamping, cropping, JSON."
import json, math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st

from jointdit.core import TimelineError
from jointdit.timeline import *

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")

RATES = [Fraction(r) for r in ("8", "10", "12", "25/2", "24000/1001", "25", "30000/1001", "30", "60")]
videos = st.builds(VideoGrid, down=st.just(8), first=st.sampled_from([1, 1, 4]), stride=st.sampled_from([1, 4, 8]))
audios = st.builds(AudioGrid, hop=st.sampled_from([160, 256, 441]), down_t=st.sampled_from([1, 4]))

@st.composite
def clocks(draw, most=60):
    v = draw(videos)
    return Timeline(v.n_frames(draw(st.integers(1, most))), draw(st.sampled_from(RATES)),
                    draw(st.sampled_from([16000, 22050, 44100, 48000])), v, draw(audios))

@st.composite
def crops(draw):
    tl = draw(clocks())
    first = draw(st.integers(0, tl.n_video_latents - 1))
    return tl, first, draw(st.integers(1, tl.n_video_latents - first))

def step(tl): return tl.audio.samples/tl.sample_rate


# ---- lengths

def test_toy_default():
    tl = Timeline.from_seconds(2., 12)
    assert tl == Timeline(24, 12) and hash(tl) == hash(Timeline(24, Fraction(12)))
    assert tl.video_shape == (24, 8, 8, 8) and tl.audio_shape == (8, 50, 16) and tl.n_mel == 200 and tl.n_samples == 32000

@given(clocks())
def test_both_streams_cover_the_same_seconds(tl):
    assert abs(tl.n_samples/tl.sample_rate - tl.seconds) <= .5/tl.sample_rate + 1e-9
    over = tl.n_audio_latents*tl.audio.samples - tl.n_samples
    assert 0 <= over < tl.audio.samples
    assert tl.video.n_frames(tl.n_video_latents) == tl.n_frames == len(tl.frame_times)

@given(clocks())
def test_shapes_agree_with_times(tl):
    assert len(tl.video_times) == tl.video_shape[0] == tl.n_video_latents
    assert len(tl.audio_times) == tl.audio_shape[1] == tl.n_audio_latents
    assert tl.n_mel == tl.n_audio_latents*tl.audio.down_t

def test_25_latents_a_second():
    for n in range(1, 200):
        tl = Timeline(n, 12)
        assert tl.n_audio_latents == math.ceil(Fraction(round(Fraction(n, 12)*16000), 640))

@given(clocks())
def test_times_are_fp32_centres_that_rise(tl):
    for t in (tl.video_times, tl.audio_times, tl.frame_times):
        assert t.dtype == torch.float32 and (t.diff() > 0).all()
    assert tl.video_times[0] > 0 and tl.video_times[-1] < tl.seconds and tl.frame_times[-1] < tl.seconds
    assert tl.audio_times[-1] < tl.seconds + step(tl)

@given(clocks())
def test_each_latent_is_the_mean_of_its_frames(tl):
    f, v = tl.frame_times.double(), tl.video
    for i in range(min(tl.n_video_latents, 5)):
        a, b = v.n_frames(i), v.n_frames(i + 1)
        assert abs(f[a:b].mean() - tl.video_times[i]) < 1e-5

@given(videos, st.integers(0, 300))
def test_grid_conversions(v, n):
    k = v.n_latents(n)
    assert v.n_frames(k) <= n < v.n_frames(k + 1) and v.n_latents(v.n_frames(k)) == k

@given(st.floats(.6, 20), st.sampled_from(RATES), videos)
def test_from_seconds_is_the_longest_that_fits(s, fps, v):
    tl = Timeline.from_seconds(s, fps, video=v)
    assert tl.seconds <= s + 1e-6 and tl.seconds + float(v.stride/fps) > s - 1e-6
    assert Timeline.from_seconds(tl.seconds, fps, video=v) == tl

def test_long_clip_does_not_drift():
    tl = Timeline.from_seconds(300, "30000/1001")
    assert abs(tl.video_times[-1].item() - (tl.n_frames - .5)*1001/30000) < 3e-5
    assert abs(tl.audio_times[-1].item() - tl.video_times[-1].item()) < .04


# ---- clamp

@given(clocks(), st.integers(1, 80))
def test_clamp_shortens_both_streams(tl, max_t):
    c = tl.clamp(max_t)
    assert c.n_video_latents == min(max_t, tl.n_video_latents) and c.seconds <= tl.seconds
    assert torch.equal(c.video_times, tl.video_times[:c.n_video_latents])
    assert torch.equal(c.audio_times, tl.audio_times[:c.n_audio_latents])
    assert 0 <= c.n_audio_latents*c.audio.samples - c.n_samples < c.audio.samples
    assert c.clamp(max_t) == c

@given(clocks())
def test_no_clamp(tl): assert tl.clamp(None) == tl.clamp(0) == tl.clamp(10**6) == tl


# ---- crop

@given(crops())
def test_crop_keeps_every_moment(c):
    tl, first, n = c
    cut, v, a = tl.crop(first, n)
    assert (v.start, v.stop) == (first, first + n) and cut.n_video_latents == n
    assert 0 <= a.start and a.stop <= tl.n_audio_latents and a.stop - a.start == cut.n_audio_latents
    start = cut.start_seconds
    assert torch.allclose(cut.video_times.double() + start, tl.video_times[v].double(), atol=1e-5)
    assert torch.allclose(cut.audio_times.double() + start, tl.audio_times[a].double(), atol=1e-5)

@given(crops())
def test_crop_starts_on_a_video_frame(c):
    tl, first, n = c
    cut, *_ = tl.crop(first, n)
    assert cut.start_frame == tl.video.n_frames(first) and cut.start_frame + cut.n_frames <= tl.n_frames
    assert 0 <= cut.audio_offset < step(tl) + 1e-9

@given(crops())
def test_length_of_a_crop_does_not_depend_on_its_start(c):
    tl, first, n = c
    cut, *_ = tl.crop(first, n)
    fresh = Timeline(cut.n_frames, cut.fps, cut.sample_rate, cut.video, cut.audio)
    assert cut.audio_shape == fresh.audio_shape and cut.video_shape == fresh.video_shape

@given(crops(), st.data())
def test_crop_of_a_crop_keeps_every_moment(c, data):
    tl, first, n = c
    cut, v, a = tl.crop(first, n)
    i = data.draw(st.integers(0, n - 1)); m = data.draw(st.integers(1, n - i))
    cut2, v2, a2 = cut.crop(i, m)
    start = cut2.start_seconds
    assert torch.allclose(cut2.audio_times.double() + start, tl.audio_times[a][a2].double(), atol=1e-5)
    assert torch.allclose(cut2.video_times.double() + start, tl.video_times[v][v2].double(), atol=1e-5)
    assert cut2.start_frame == tl.video.n_frames(first + i)
    assert len(cut2.audio_times) == a2.stop - a2.start and a2.stop <= cut.n_audio_latents

@given(crops())
def test_samples_of_a_crop(c):
    tl, first, n = c
    cut, *_ = tl.crop(first, n)
    s = cut.sample_slice
    assert s.stop - s.start == cut.n_samples and abs(s.start/tl.sample_rate - cut.start_seconds) <= .5/tl.sample_rate + 1e-9
    assert s.stop <= tl.n_samples + 1

@given(clocks())
def test_whole_crop_is_the_clip(tl):
    cut, v, a = tl.crop(0, tl.n_video_latents)
    assert cut == tl and a == slice(0, tl.n_audio_latents)

@given(clocks(), st.integers(1, 60))
def test_clamp_is_a_crop_from_the_start(tl, k):
    k = min(k, tl.n_video_latents)
    assert tl.clamp(k) == tl.crop(0, k)[0]

def test_known_crop():
    cut, v, a = Timeline(24, 12).crop(1, 12)
    assert (v, a) == (slice(1, 13), slice(2, 27)) and abs(cut.audio_offset - 1/300) < 1e-15
    assert cut.sample_slice == slice(1333, 17333) and cut.audio_shape == (8, 25, 16)

def test_causal_crop_has_no_short_first_latent():
    tl = Timeline(25, 12, video=VideoGrid(stride=8))
    cut, *_ = tl.crop(1, 2)
    assert cut.n_frames == 16 and cut.video.first == 8 and torch.allclose(cut.video_times, torch.tensor([4/12, 12/12]))


# ---- JSON, rates, one line

@given(crops())
def test_dict_round_trip_through_json(c):
    cut, *_ = c[0].crop(c[1], c[2])
    assert Timeline.from_dict(json.loads(json.dumps(cut.to_dict()))) == cut

def test_dict_may_leave_out_the_grids():
    assert Timeline.from_dict({"n_frames": 24, "fps": "12"}) == Timeline(24, 12)

@pytest.mark.parametrize("rate,exact", [(12, "12"), (29.97, "30000/1001"), (23.976, "24000/1001"), ("23.98", "24000/1001"), (Fraction(2997, 100), "2997/100"), (59.94, "60000/1001"),
                                        ("30000/1001", "30000/1001"), (30., "30"), (1/3, "1/3"), ("12.5", "25/2"), (Fraction(15), "15")])
def test_rates(rate, exact):
    assert str(as_fps(rate)) == exact and as_fps(str(as_fps(rate))) == as_fps(rate)

def test_describe_is_one_line():
    line = Timeline(24, 12).describe()
    assert "\n" not in line and "24x8x8x8" in line and "8x50x16" in line and "2.000 s" in line


# ---- bad input

@pytest.mark.parametrize("make,words", [
    (lambda: Timeline(0, 12), "n_frames"), (lambda: Timeline(2.5, 12), "n_frames"), (lambda: Timeline(True, 12), "n_frames"),
    (lambda: Timeline(24, 0), "fps"), (lambda: Timeline(24, "fast"), "fast"), (lambda: Timeline(24, -3), "fps"),
    (lambda: Timeline(24, float("nan")), "fps"), (lambda: Timeline(24, "1/0"), "1/0"), (lambda: Timeline(24, 5000), "5000"),
    (lambda: Timeline(24, 12, 0), "sample_rate"), (lambda: Timeline(24, 12, video=VideoGrid(stride=8)), "1 \\+ 8k"),
    (lambda: Timeline(1, 1000, 100), "one sample"), (lambda: Timeline(24, 12, start_frame=-1), "start_frame"),
    (lambda: Timeline(24, 12, audio_offset=-.1), "audio_offset"), (lambda: Timeline(24, 12, audio_offset=float("nan")), "audio_offset"),
    (lambda: VideoGrid(height=60), "60 x 64"), (lambda: VideoGrid(stride=0), "stride"), (lambda: AudioGrid(mel_bins=63), "63"),
    (lambda: AudioGrid(hop=-1), "hop"),
    (lambda: Timeline.from_seconds(.01, 12), "too short"), (lambda: Timeline.from_seconds(-1, 12), "length of time"),
    (lambda: Timeline.from_seconds(float("nan"), 12), "length of time"), (lambda: Timeline.from_seconds("2", 12), "length of time"),
    (lambda: Timeline(24, 12).clamp(-1), "max_t"), (lambda: Timeline(24, 12).crop(20, 5), "20 ... 25"),
    (lambda: Timeline(24, 12).crop(-1, 5), "-1"), (lambda: Timeline(24, 12).crop(0, 0), "crop"),
    (lambda: Timeline.from_dict({"frames": 3}), "not a timeline"), (lambda: Timeline.from_dict([1]), "not a timeline"),
    (lambda: Timeline.from_dict({"n_frames": 24, "fps": "12", "video": 3}), "not a timeline"),
])
def test_bad_input_is_named(make, words):
    with pytest.raises(TimelineError, match=words): make()
