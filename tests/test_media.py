"Media in and out: whatever people's files are like, picture and sound of the same seconds come back."
import numpy as np
import pytest
from data_helpers import MEDIA, clicks, clip_file, grey, mux, number, onset, turn_mp4

from jointdit.core import MediaError
from jointdit.data.media import (loudest_db, probe, read_clip, read_frames, read_image, read_wave, resize_center_crop, write_video,
                                 write_wav)
from jointdit.timeline import Timeline, VideoGrid

FAST = {"preset": "ultrafast", "crf": "10"}
SMALL = VideoGrid(8, 8, 1, 1, 32, 32)


def clock(n, fps=12): return Timeline(n, fps, 16000, SMALL)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_sound_is_not_shifted_by_writing_and_reading(tmp_path, rate):
    at = [0.0, 0.31, 1.0, 1.9]
    write_video(tmp_path / "a.mp4", grey(24), 12, clicks(2, at, rate), rate)
    wave = read_wave(probe(tmp_path / "a.mp4"), 0, 32000, 16000)
    for t in at: assert abs(onset(wave, t) - t) < 0.005
    assert wave.shape == (32000,) and wave.dtype == np.float32


def test_every_frame_comes_back_in_order(tmp_path):
    write_video(tmp_path / "a.mp4", grey(24), 12, clicks(2, [1]))
    v, a = read_clip(tmp_path / "a.mp4", 0, clock(24))
    assert number(v) == list(range(24)) and v.dtype == np.uint8
    v, a = read_clip(tmp_path / "a.mp4", 0.5, clock(12))
    assert number(v) == list(range(6, 18)) and abs(onset(a, 0.5) - 0.5) < 0.005 and a.shape == (16000,)


@pytest.mark.parametrize("fps", ["24", "25", "30000/1001", "60", "10"])
def test_any_frame_rate_shows_what_a_player_shows(tmp_path, fps):
    from fractions import Fraction
    n = int(Fraction(fps))
    mux(tmp_path / "a.mp4", [(grey(n, step=3), fps, "libx264", FAST)])
    got = number(read_clip(tmp_path / "a.mp4", 0, clock(11))[0], 3)
    assert got == [min(n - 1, int(Fraction(i, 12) * Fraction(fps) + Fraction(1, 20))) for i in range(11)]


def test_variable_frame_rate_goes_by_timestamps(tmp_path):
    pts = [0, 0.04, 0.5, 0.54, 0.58, 1.5, 1.9]
    mux(tmp_path / "a.mp4", [(grey(7), pts, "libx264", FAST)])
    v, _ = read_clip(tmp_path / "a.mp4", 0, clock(22))
    assert number(v) == [max(i for i, p in enumerate(pts) if p <= k / 12 + 0.002) for k in range(22)]


def test_seeking_in_a_long_file_is_exact_and_equals_reading_on(tmp_path):
    frames = np.stack([np.kron(np.array([[i >> b & 1 for b in range(4)], [i >> b & 1 for b in range(4, 8)]]) * 200 + 20, np.ones((16, 8)))
                       for i in range(250)]).astype(np.uint8)[..., None].repeat(3, -1)
    mux(tmp_path / "a.mp4", [(frames, 10, "libx264", FAST | {"g": "120", "bf": "2"})], [(clicks(25, range(25))[None], 16000, "mono", "aac", 0)])
    info = probe(tmp_path / "a.mp4")
    code = lambda v: [sum(int(x[8 + 16 * (b // 4), 4 + 8 * (b % 4), 0] > 120) << b for b in range(8)) for x in v]
    for start in (0.0, 3.3, 11.9, 12.0, 12.1, 20.05, 24.0):
        want = [int((start + i / 10) * 10 + 0.02) for i in range(9)]
        assert code(read_frames(info, [start + i / 10 for i in range(9)])) == want
    for start in (2.7, 19.5):
        tick = np.ceil(start)
        assert abs(onset(read_wave(info, start, 16000), tick - start) - (tick - start)) < 0.005


def test_eight_kilohertz_stereo(tmp_path):
    x = clicks(2, [0.7], 8000, 700)
    mux(tmp_path / "a.mp4", [(grey(24), 12, "libx264", FAST)], [(np.stack([x, 0 * x]), 8000, "stereo", "aac", 0)])
    wave = read_wave(probe(tmp_path / "a.mp4"), 0, 32000)
    assert abs(onset(wave, 0.7) - 0.7) < 0.005 and 0.25 < np.abs(wave).max() < 0.45    # one of two channels: half


def test_surround_is_mixed_down_without_clipping_or_subwoofer(tmp_path):
    t = np.arange(96000) / 48000
    tones = np.stack([0.9 * np.sin(2 * np.pi * f * t) for f in (300, 500, 700, 60, 1100, 1300)])    # FL FR FC LFE BL BR
    mux(tmp_path / "a.mov", [], [(tones, 48000, "5.1", "pcm_s16le", 0)])
    wave = read_wave(probe(tmp_path / "a.mov"), 0.2, 16000)
    level = lambda f: 2 * abs(np.exp(-2j * np.pi * f * np.arange(16000) / 16000) @ wave) / 16000 / 0.9
    got = np.array([level(f) for f in (300, 500, 700, 60, 1100, 1300)])
    assert np.abs(wave).max() <= 1 and got[3] < 0.01
    assert np.allclose(got / got[0], [1, 1, 1.414, 0, 0.707, 0.707], atol=0.03)


def test_of_two_pictures_the_one_that_players_show_is_taken(tmp_path):
    two = [(grey(12, (32, 32)), 12, "libx264", FAST), (255 - grey(12, (64, 64)), 12, "libx264", FAST)]
    info = probe(mux(tmp_path / "a.mp4", two))              # MP4 marks the first as default
    assert (info.picture.width, info.streams) == (32, 2) and read_frames(info, [0.0]).mean() < 50
    info = probe(mux(tmp_path / "a.ts", two, fmt="mpegts"))  # here neither is: the larger
    assert (info.picture.width, info.streams) == (64, 2) and read_frames(info, [0.0]).mean() > 200


def test_sound_only_and_picture_only_are_legal(tmp_path):
    write_wav(tmp_path / "a.wav", clicks(1, [0.5]))
    info = probe(tmp_path / "a.wav")
    assert info.has_audio and not info.has_video
    v, a = read_clip(info, 0, clock(12))
    assert v is None and abs(onset(a, 0.5) - 0.5) < 0.001
    write_video(tmp_path / "b.mp4", grey(12), 12)
    v, a = read_clip(tmp_path / "b.mp4", 0, clock(12))
    assert a is None and number(v) == list(range(12))


def test_sound_that_starts_late_and_has_a_hole_stays_in_place(tmp_path):
    x = clicks(3, [0.2, 2.5])
    mux(tmp_path / "a.mkv", [(grey(48), 12, "libx264", FAST)], [(x[None], 16000, "mono", "pcm_s16le", 0.75)])
    info = probe(tmp_path / "a.mkv")
    assert info.span == pytest.approx((0.75, 3.75), abs=0.08)
    wave = read_wave(info, 0, 64000)
    assert abs(onset(wave, 0.95) - 0.95) < 0.005 and abs(onset(wave, 3.25) - 3.25) < 0.005 and not wave[:11000].any()


def test_transport_stream_time_counts_from_its_own_start(tmp_path):
    mux(tmp_path / "a.ts", [(grey(36), 12, "libx264", FAST | {"bf": "0"})], [(clicks(3, [1.5], 48000)[None], 48000, "mono", "aac", 0)], "mpegts", output_ts_offset="5")
    info = probe(tmp_path / "a.ts")
    assert info.origin > 1 and abs(info.picture.start) < 0.1
    v = number(read_frames(info, [info.picture.start + i / 12 for i in range(24)]))
    assert v == list(range(24))
    wave = read_wave(info, info.picture.start, 40000)
    assert abs(onset(wave, 1.5) - 1.5) < 0.005


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_telephones_hold_their_camera_sideways(tmp_path, turns):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255                                   # white at the top left
    write_video(tmp_path / "a.mp4", frames, 12)
    turn_mp4(tmp_path / "a.mp4", turns)
    v = read_frames(probe(tmp_path / "a.mp4"), [0.0])[0]
    want = np.rot90(frames[0], -turns)
    assert v.shape == want.shape and np.abs(v.astype(int) - want).mean() < 12


def test_odd_sizes_and_rates_are_written(tmp_path):
    rng = np.random.default_rng(0)
    for h, w, fps in ((33, 47, "30000/1001"), (1, 1, 12), (64, 63, 23.976)):
        x = np.repeat(np.repeat(rng.integers(60, 200, (5, (h + 7) // 8, (w + 7) // 8, 3), dtype=np.uint8), 8, 1), 8, 2)[:, :h, :w]
        info = probe(write_video(tmp_path / "a.mp4", x, fps))
        back = read_frames(info, [i / info.picture.rate for i in range(5)])
        assert back.shape == (5, h + h % 2, w + w % 2, 3) and np.abs(back[:, :h, :w].astype(int) - x).mean() < 9


def test_colours_survive(tmp_path):
    x = np.zeros((3, 32, 32, 3), np.uint8)
    x[:, :, :16], x[:, :, 16:] = (200, 30, 60), (20, 120, 230)
    v = read_frames(probe(write_video(tmp_path / "a.mp4", x, 12)), [0.0])[0].astype(int)
    assert np.abs(v[4:-4, 4:12] - (200, 30, 60)).max() <= 5 and np.abs(v[4:-4, 20:28] - (20, 120, 230)).max() <= 5


def test_the_moov_box_comes_first_so_that_browsers_start_at_once(tmp_path):
    data = write_video(tmp_path / "a.mp4", grey(12), 12, clicks(1, [0.5])).read_bytes()
    assert data.find(b"moov") < data.find(b"mdat") and b"elst" in data
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_crop_keeps_shape_and_middle():
    x = np.zeros((2, 40, 80, 3), np.uint8)
    x[:, 10:30, 30:50] = 250
    y = resize_center_crop(x, 20, 20)
    assert y.shape == (2, 20, 20, 3) and y[0, 10, 10, 0] == 250 and y[0, 1, 1, 0] == 0
    assert np.abs(y[0].astype(int) - y[0, ::-1, ::-1]).max() <= 1
    assert np.array_equal(resize_center_crop(x, 40, 80), x)
    wide = resize_center_crop(np.full((1, 40, 40, 3), 7, np.uint8), 20, 40, aspect=2.0)
    assert wide.shape == (1, 20, 40, 3) and (wide == 7).all()


def test_stills_are_turned_upright(tmp_path):
    from PIL import Image
    x = np.zeros((20, 40, 3), np.uint8)
    x[:, :20] = 255
    im, exif = Image.fromarray(x), Image.Exif()
    exif[0x0112] = 6
    im.save(tmp_path / "a.png", exif=exif)
    y = read_image(tmp_path / "a.png")
    assert y.shape == (40, 20, 3) and y[5, 10, 0] == 255 and y[35, 10, 0] == 0


def test_silence_is_measured_by_the_loudest_moment():
    assert loudest_db(np.zeros(16000, np.float32)) == -120
    assert loudest_db(clicks(2, [1.0])) > -15 > -40 > loudest_db(clicks(2, [1.0], amp=0.003))


BROKEN = {
    "missing.mp4": (None, "no such file"), "empty.mp4": (b"", "empty"), "text.mp4": (b"hello " * 99, "not a readable"),
    "cut_header.mp4": (lambda d: d[:100], "not a readable|no data|neither"), "cut.mp4": (lambda d: d[:len(d) * 2 // 3], "cut short|damaged"),
    "riff.wav": (b"RIFF\0\0\0\0WAVE", "no data|not a readable|neither"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path, name):
    data, words = BROKEN[name]
    if callable(data): data = data(clip_file(tmp_path / "good.mp4").read_bytes())
    if data is not None: (tmp_path / name).write_bytes(data)
    with pytest.raises(MediaError, match=words) as e: read_clip(tmp_path / name, 0, clock(24))
    assert name in str(e.value) and "\n" not in str(e.value)


def test_a_folder_and_a_text_file_are_not_media(tmp_path):
    with pytest.raises(MediaError, match="no such file"): probe(tmp_path)
    (tmp_path / "a.txt").write_text("subtitles\n" * 50)
    with pytest.raises(MediaError): probe(tmp_path / "a.txt")


def test_damage_in_the_middle_is_an_error_or_a_picture_never_a_crash(tmp_path):
    data = bytearray(clip_file(tmp_path / "good.mp4").read_bytes())
    data[len(data) // 2:len(data) // 2 + 300] = bytes(300)
    (tmp_path / "bad.mp4").write_bytes(data)
    try: v, a = read_clip(tmp_path / "bad.mp4", 0, clock(24))
    except MediaError as e: assert "bad.mp4" in str(e)
    else: assert len(v) == 24


def test_a_window_beyond_the_end_is_refused_unless_padded(tmp_path):
    info = probe(clip_file(tmp_path / "a.mp4"))
    with pytest.raises(MediaError, match="covers 0.00 to 2.00"): read_clip(info, 1.5, clock(12))
    v, a = read_clip(info, 1.5, clock(12), pad=True)
    assert number(v) == [18, 19, 20, 21, 22, 23] + [23] * 6 and np.abs(a[-4000:]).max() < 0.01


def test_nonsense_is_not_written(tmp_path):
    ok = clicks(1, [0.5])
    for frames, wave, words in ((grey(1)[:0], None, "frames must be"), (grey(3).astype(float), None, "frames must be"), (grey(3)[..., :1], None, "frames must be"),
                                (None, ok, "got nothing"), (grey(3), ok[None], "must have shape"), (grey(3), ok * np.nan, "NaN")):
        with pytest.raises(MediaError, match=words): write_video(tmp_path / "a.mp4", frames, 12, wave)
    with pytest.raises(MediaError, match="cannot be written"): write_video(tmp_path / "a.mp4", grey(3), 12, ok, 12345)
    with pytest.raises(MediaError, match="not a readable image"): (tmp_path / "b.png").write_text("x"); read_image(tmp_path / "b.png")
    with pytest.raises(MediaError, match="no such image"): read_image(tmp_path / "c.png")
    assert [p.name for p in tmp_path.iterdir()] == ["b.png"]


@pytest.mark.skipif(not MEDIA.is_dir(), reason=f"real clips are not here ({MEDIA})")
def test_real_clips_open_and_cover_the_same_seconds():
    for path in sorted(p for p in MEDIA.iterdir() if p.suffix != ".tsv"):
        info = probe(path)
        lo, hi = info.span
        start, seconds = max(lo, hi - 2.2), min(1.0, hi - lo)
        v, a = read_clip(info, start, Timeline.from_seconds(seconds, 4, 16000, SMALL))
        assert v.std() > 1 and np.isfinite(a).all() and len(v) == len(a) // 4000, path


@pytest.mark.skipif(not MEDIA.is_dir(), reason=f"real clips are not here ({MEDIA})")
def test_five_minutes_in_the_tick_still_meets_the_clock():
    info = probe(MEDIA / "wpt_counter_300s.mp4")
    def change(start):      # when the picture of the counter changes, and when it ticks
        times = start + np.arange(24) / 24
        v, a = read_frames(info, times, 64, 64).astype(float), read_wave(info, start, 16000)
        d = np.abs(np.diff(v, axis=0)).mean((1, 2, 3))
        return times[1 + d.argmax()], start + np.argmax(np.abs(a) > np.abs(a).max() / 4) / 16000
    gaps = [np.subtract(*change(s + 0.5)) for s in (2, 150, 297)]
    assert max(gaps) - min(gaps) < 0.06
