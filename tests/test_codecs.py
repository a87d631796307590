"The codecs, with the shipped toy weights: counts, chunks, trims, loudness, types, and what a wrong call says."
import json
import math
import shutil

import numpy as np
import pytest
import torch

from jointdit.assets.audio_codec import AudioCodec, load_vocoder, log_mel, polish
from jointdit.assets.toy_cards import loudness_error, onset_errors, pitch_error
from jointdit.assets.video_codec import VideoCodec, psnr, windows
from jointdit.core import AssetError, toy_path
from jointdit.timeline import Timeline
from jointdit.toyworld import make_clip

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def video(): return VideoCodec.from_folder("toy:svd/vae")

@pytest.fixture(scope="module")
def audio(): return AudioCodec.from_folder("toy:audioldm2/vae")

@pytest.fixture(scope="module")
def clip(): return make_clip("codec test", scene="mallet", split="val")

@pytest.fixture(scope="module")
def z(video, clip): return video.encode(clip.frames)


# ---- video

def test_video_encodes_each_frame_by_itself(video, clip, z):
    assert z.shape == (24, 8, 8, 8) and z.dtype == torch.float32
    for chunk in (1, 5, 100): assert torch.allclose(video.encode(clip.frames[:6], chunk), z[:6], atol=1e-3)
    assert torch.allclose(video.encode(clip.frames[3:4]), z[3:4], atol=1e-3)

@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("chunk", [1, 4, 8, 50])
def test_video_decodes_as_many_frames_as_latents(video, z, n, chunk):
    x = video.decode(z[:n], chunk=chunk)
    assert x.shape == (n, 64, 64, 3) and x.dtype == torch.uint8

def test_video_chunks_agree_and_context_helps_at_the_seams(video, z):
    whole = video.decode(z[:8], chunk=8).float()
    off = [(video.decode(z[:8], chunk=4, overlap=o).float() - whole).abs().mean().item() for o in (0, 2)]
    assert off[1] <= off[0] + .01 and off[0] < 4

def test_windows_keep_every_index_once():
    for n in range(1, 40):
        for chunk in (1, 3, 8):
            for overlap in (0, 1, 4):
                kept = [a + i for (a, b), (lo, hi) in windows(n, chunk, overlap) for i in range(lo, hi)]
                assert kept == list(range(n))

def test_video_quality(video):
    for scene in ("ball", "mallet", "swell", "rotor"):
        c = make_clip(f"quality {scene}", scene=scene, split="val")
        assert psnr(video.decode(video.encode(c.frames)), c.frames) > 30

def test_video_takes_the_dtype_of_its_weights(clip):
    low = VideoCodec.from_folder("toy:svd/vae", dtype=torch.bfloat16)
    z = low.encode(clip.frames[:2])
    assert low.dtype == torch.bfloat16 and z.dtype == torch.float32
    assert low.decode(z.double()).dtype == torch.uint8

def test_video_takes_arrays_and_other_sizes(video):
    x = np.zeros((3, 32, 96, 3), np.uint8)
    z = video.encode(x)
    assert z.shape == (3, 8, 4, 12) and video.decode(z).shape == x.shape
    g = video.grid(32, 96)
    assert (g.down, g.channels, g.first, g.stride, g.height, g.width) == (8, 8, 1, 1, 32, 96)

def test_video_gives_raw_latents(video, clip):
    x = torch.as_tensor(clip.frames[:1]).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad(): raw = video.vae.encode(x).latent_dist.mode()
    assert torch.allclose(video.encode(clip.frames[:1]), raw, atol=1e-4)

@pytest.mark.parametrize("bad", [torch.zeros(2, 64, 64, 3), torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
                                 torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(1, 60, 64, 3, dtype=torch.uint8)])
def test_video_refuses(video, bad):
    with pytest.raises(AssetError): video.encode(bad)

def test_video_refuses_latents_of_another_codec(video):
    with pytest.raises(AssetError, match="8"): video.decode(torch.zeros(2, 4, 8, 8))


# ---- folders

def test_a_missing_folder_says_what_it_wanted(tmp_path):
    with pytest.raises(AssetError, match="config.json"): VideoCodec.from_folder(tmp_path / "svd/vae")
    with pytest.raises(AssetError, match="vocoder"): load_vocoder(tmp_path)

def test_a_folder_of_another_class_is_refused():
    with pytest.raises(AssetError, match="AutoencoderKL"): VideoCodec.from_folder("toy:audioldm2/vae")
    with pytest.raises(AssetError, match="must be"): AudioCodec.from_folder("toy:svd/vae")

@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(toy_path("toy:svd/vae"), tmp_path / "vae")

def test_a_config_that_is_not_json(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(AssetError, match="not JSON"): VideoCodec.from_folder(copy)

def test_truncated_weights(copy):
    w = copy / "diffusion_pytorch_model.safetensors"
    w.write_bytes(w.read_bytes()[:1000])
    with pytest.raises(AssetError, match="cannot be loaded"): VideoCodec.from_folder(copy)

def test_weights_that_lack_a_tensor(copy):
    from safetensors.torch import load_file, save_file
    w = copy / "diffusion_pytorch_model.safetensors"
    state = load_file(w)
    state.pop("decoder.conv_out.weight")
    save_file(state, w, {"format": "pt"})
    with pytest.raises(AssetError, match="decoder.conv_out.weight"): VideoCodec.from_folder(copy)

def test_weights_of_another_width(copy):
    c = json.loads((copy / "config.json").read_text())
    c["block_out_channels"] = [32, 64, 64, 64]
    (copy / "config.json").write_text(json.dumps(c))
    with pytest.raises(AssetError): VideoCodec.from_folder(copy)

def test_the_fingerprint_follows_the_weights_and_not_the_card(copy, video):
    (copy / "card.json").write_text("{}")
    assert VideoCodec.from_folder(copy).fingerprint == video.fingerprint
    c = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**c, "scaling_factor": .5}))
    assert VideoCodec.from_folder(copy).fingerprint != video.fingerprint

def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(AssetError, match="fp16"): VideoCodec.from_folder("toy:svd/vae", dtype=torch.float16)
    with pytest.raises(AssetError, match="fp16"): AudioCodec.from_folder("toy:audioldm2/vae", dtype=torch.float16)


# ---- audio

def test_mel_is_not_normalised():
    w = torch.sin(torch.arange(16000) * .3) * .5
    shift = log_mel(w, 100) - log_mel(w / 10, 100)
    assert torch.allclose(shift[10:-10].max(), torch.tensor(math.log(10)), atol=1e-3)
    assert log_mel(torch.zeros(16000), 100).max() == pytest.approx(math.log(1e-5))

def test_mel_frame_i_is_centred_on_sample_160_i():
    w = torch.zeros(16000)
    w[160 * 37] = 1
    assert log_mel(w, 100).exp().sum(1).argmax() == 37

@pytest.mark.parametrize("n", [1, 159, 640, 641, 16000, 32000, 33333])
def test_audio_lengths_are_exact(audio, n):
    z = audio.encode(torch.zeros(n))
    assert z.shape == (8, math.ceil(n / 640), 16) and z.dtype == torch.float32
    assert audio.decode(z, n, steps=0).shape == (n,) and audio.mel(torch.zeros(n)).shape == (math.ceil(n / 160), 64)

def test_audio_lengths_are_the_timelines(audio, video):
    clock = Timeline.from_seconds(2., 12, 16000, video.grid(), audio.grid())
    z = audio.encode(torch.zeros(clock.n_samples))
    assert z.shape == clock.audio_shape

def test_padding_is_silence_and_does_not_leak(audio, clip):
    w = torch.as_tensor(clip.wave)
    assert torch.allclose(audio.encode(w[:10000]), audio.encode(torch.cat([w[:10000], torch.zeros(240)])), atol=1e-4)

@pytest.mark.parametrize("scene", ["ball", "mallet", "swell", "rotor"])
def test_audio_round_trip(audio, scene):
    c = make_clip(f"sound {scene}", scene=scene, split="val")
    y = audio.decode(audio.encode(c.wave), len(c.wave))
    assert y.dtype == torch.float32 and y.abs().max() <= 1
    assert abs(loudness_error(y, c.wave)) < 1.5
    assert pitch_error(y, c.wave) < 50
    late = onset_errors(y, c.wave, [e["time"] for e in c.events if e["kind"] in ("bounce", "strike")])
    assert not late or np.median(np.abs(late)) <= 12

def test_loudness_survives_thirty_decibels(audio, clip):
    w = torch.as_tensor(clip.wave)
    for db in (0, 15, 30):
        x = w * 10 ** (-db / 20)
        assert abs(loudness_error(audio.decode(audio.encode(x), len(x)), x)) < 3

def test_silence_stays_silent(audio):
    assert audio.decode(audio.encode(torch.zeros(8000)), 8000).abs().max() < .01

def test_decoding_is_deterministic(audio, clip):
    z = audio.encode(clip.wave[:8000])
    assert torch.equal(audio.decode(z, 8000), audio.decode(z, 8000))

def test_polish_finds_the_pitch_between_the_vocoders_tones(audio):
    tone = .3 * torch.sin(2 * math.pi * 440 * torch.arange(32000) / 16000)
    m = log_mel(tone, 200)
    with torch.no_grad(): raw = audio.vocoder(m)[:32000]
    assert pitch_error(polish(raw[None], m[None], 48)[0], tone) < 40

def test_audio_in_bf16(clip):
    low = AudioCodec.from_folder("toy:audioldm2/vae", dtype=torch.bfloat16)
    y = low.decode(low.encode(clip.wave), 32000)
    assert y.dtype == torch.float32 and abs(loudness_error(y, clip.wave)) < 2

@pytest.mark.parametrize("bad", [torch.zeros(2, 100), torch.zeros(100, dtype=torch.int16), torch.zeros(0),
                                 torch.tensor([0., math.nan]), torch.tensor([math.inf])])
def test_audio_refuses(audio, bad):
    with pytest.raises(AssetError): audio.encode(bad)

def test_audio_refuses_more_samples_than_latents_cover(audio):
    with pytest.raises(AssetError, match="cover"): audio.decode(torch.zeros(8, 2, 16), 1281)
    with pytest.raises(AssetError, match="expected latents"): audio.decode(torch.zeros(4, 2, 16), 100)

def test_a_vocoder_of_another_front_end_is_refused(tmp_path):
    folder = shutil.copytree(toy_path("toy:audioldm2"), tmp_path / "a")
    c = json.loads((folder / "vocoder/config.json").read_text())
    (folder / "vocoder/config.json").write_text(json.dumps({**c, "sampling_rate": 22050}))
    with pytest.raises(AssetError, match="22050"): AudioCodec.from_folder(folder / "vae")
