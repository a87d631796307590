"Awkward media made with PyAV, and codecs that cost nothing, for the tests of the cache."
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from jointdit.core import Context, derive_seed
from jointdit.data.encode import CacheSettings, Encoders
from jointdit.data.media import write_video
from jointdit.timeline import AudioGrid, Timeline, VideoGrid

MEDIA = Path(__file__).resolve().parents[1] / ".." / "shared" / "media"


def grey(n, size=(32, 32), step=5):
    "n frames whose brightness is their number: frame i is 10 + step * i everywhere."
    return np.stack([np.full((*size, 3), (10 + step * i) % 250, np.uint8) for i in range(n)])


def number(frames, step=5):
    "The numbers of frames made by `grey`."
    return np.round((frames.astype(float).mean((1, 2, 3)) - 10) / step).astype(int).tolist()


def clicks(seconds, at, rate=16000, hz=1500, amp=0.7):
    "Short decaying tones that begin at the given seconds."
    t = np.arange(round(seconds * rate)) / rate
    w = np.zeros_like(t)
    for a in at:
        on = t >= a
        w[on] += amp * np.sin(2 * np.pi * hz * (t[on] - a)) * np.exp(-(t[on] - a) / 0.02)
    return w.astype(np.float32)


def onset(wave, near, rate=16000, within=0.05):
    "Seconds of the first sample near `near` that reaches a quarter of the peak there."
    a, b = max(0, round((near - within) * rate)), round((near + within) * rate)
    x = np.abs(wave[a:b])
    return (a + int(np.argmax(x > x.max() / 4))) / rate


def mux(path, videos=(), sounds=(), fmt=None, rotate=None, **options):
    """videos: (frames, pts in seconds or fps, codec, codec options); sounds: (channels x samples, rate, layout, codec, start seconds)."""
    with av.open(str(path), "w", format=fmt, options=options) as c:
        vs = []
        for frames, when, codec, opt in videos:
            s = c.add_stream(codec, rate=Fraction(when) if not isinstance(when, (list, np.ndarray)) else 1000, options=opt)
            s.width, s.height, s.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            s.codec_context.time_base = Fraction(1, 90000)
            pts = when if isinstance(when, (list, np.ndarray)) else [i / float(Fraction(when)) for i in range(len(frames))]
            vs.append((s, frames, pts))
        ss = []
        for wave, rate, layout, codec, start in sounds:
            s = c.add_stream(codec, rate=rate, layout=layout)
            ss.append((s, wave, rate, layout, start))
        for s, frames, pts in vs:
            for x, t in zip(frames, pts):
                f = av.VideoFrame.from_ndarray(x, format="rgb24")
                f.pts, f.time_base = round(t * 90000), Fraction(1, 90000)
                c.mux(s.encode(f))
            c.mux(s.encode(None))
        for s, wave, rate, layout, start in ss:
            fmt_ = s.codec_context.format.name
            size = s.codec_context.frame_size or 1024
            for i in range(0, wave.shape[1], size):
                x = np.ascontiguousarray(wave[:, i:i + size], dtype=np.float32)
                f = av.AudioFrame.from_ndarray(x, format="fltp", layout=layout)
                f.sample_rate, f.pts, f.time_base = rate, i + round(start * rate), Fraction(1, rate)
                if fmt_ != "fltp":
                    g = av.AudioResampler(fmt_, layout, rate).resample(f)[0]
                    g.pts, g.time_base, f = f.pts, f.time_base, g
                c.mux(s.encode(f))
            c.mux(s.encode(None))
    return Path(path)


def turn_mp4(path, quarter_turns):
    "Write a rotation into the picture track's header, as telephones do."
    data = bytearray(Path(path).read_bytes())
    at = data.find(b"tkhd")
    matrix = at + 4 + 4 + 20 + 8 + 8       # version 0: flags, five words, reserved, layer to reserved
    one = 0x10000
    a, b, c, d = {0: (one, 0, 0, one), 1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[quarter_turns]
    data[matrix:matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    Path(path).write_bytes(bytes(data))


class FakeVideo:
    "A video codec that averages 8 x 8 pixels."
    fingerprint, device, channels = "fake-video", torch.device("cpu"), 3
    def grid(self, h=64, w=64): return VideoGrid(8, 3, 1, 1, h, w)
    def encode(self, frames, chunk=8):
        x = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255
        return torch.nn.functional.avg_pool2d(x, 8)
    def decode(self, v, chunk=8):
        return (torch.nn.functional.interpolate(v, scale_factor=8) * 255).round().byte().permute(0, 2, 3, 1)


class FakeAudio:
    "An audio codec that keeps the samples, 640 to a latent."
    fingerprint, sample_rate = "fake-audio", 16000
    def grid(self): return AudioGrid()
    def encode(self, wave):
        x = torch.as_tensor(wave)
        x = torch.nn.functional.pad(x, (0, -len(x) % 640)).reshape(-1, 640)
        return x[:, :128].reshape(-1, 8, 16).permute(1, 0, 2)
    def decode(self, a, n=None): return torch.zeros(a.shape[1] * 640)[:n]


class FakeClip:
    "A text and image encoder of 8 features, at most 6 words."
    fingerprint = "fake-clip"
    def tokenize(self, texts):
        from jointdit.core import AssetError
        if any(len(t.split()) > 6 for t in texts): raise AssetError("too long")
    def text(self, texts):
        self.tokenize(texts)
        g = torch.Generator().manual_seed(derive_seed(*texts) % 2**31)
        return Context(torch.randn(1, 8, generator=g), torch.randn(1, 6, 8, generator=g), torch.ones(1, 6, dtype=torch.bool))
    def image(self, frames):
        x = torch.as_tensor(frames).float().mean((1, 2))
        x = torch.nn.functional.pad(x, (0, 5))
        return Context(x, x[:, None], torch.ones(1, 1, dtype=torch.bool))


def fake_encoders(s: CacheSettings, clip=True, **changes):
    "Encoders of a cache that need no weights."
    v, a, c = FakeVideo(), FakeAudio(), FakeClip() if clip else None
    clock = Timeline.from_seconds(s.seconds, s.fps, s.sample_rate, v.grid(s.height, s.width), a.grid())
    recipe = {"video_codec": v.fingerprint, "audio_codec": a.fingerprint, "text_encoder": c.fingerprint if c else None, "fps": str(s.fps),
              "seconds": s.seconds, "height": s.height, "width": s.width, "sample_rate": s.sample_rate, "dtype": "float32"} | changes
    return Encoders(v, a, c, clock, recipe)


def clip_file(path, seconds=2.0, at=(0.5,), fps=12, sound=True, first=0):
    "An ordinary small clip: numbered frames, clicks."
    n = round(seconds * fps)
    frames = np.roll(grey(max(n, first + n)), -first, 0)[:n]
    return write_video(path, frames, fps, clicks(seconds, at) if sound else None, preset="ultrafast")
