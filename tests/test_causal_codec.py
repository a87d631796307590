"A codec that squeezes time: LTX-Video's VAE, from its folder to a cache, a trained joint block and a clip."
from types import SimpleNamespace

import pytest
import torch

import expert_helpers as H
from data_helpers import clip_file
from jointdit.assets.video_codec import CausalCodec, VideoCodec
from jointdit.core import AssetError, CacheError
from jointdit.data.encode import CacheSettings, load_encoders
from jointdit.data.sources import Entry, plan
from jointdit.model.joint import JointDiT, build_model
from jointdit.model.layers import ModelSettings
from jointdit.timeline import Timeline, VideoGrid
from jointdit.toyworld import make_clip
from jointdit.train.experts import load_experts, resolve_experts
from test_experts_pipelines import tokenizers

torch.set_num_threads(1)
FIRST = dict(latent_channels=4, block_out_channels=(8,)*4, decoder_block_out_channels=(8,)*4, layers_per_block=(1,)*5, decoder_layers_per_block=(1,)*5, scaling_factor=.5)
LATER = dict(latent_channels=4, block_out_channels=(8,)*5, down_block_types=("LTXVideo095DownBlock3D",)*4, downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
             spatio_temporal_scaling=(True,)*4, layers_per_block=(1,)*5, decoder_block_out_channels=(8, 16, 32), decoder_spatio_temporal_scaling=(True,)*3, decoder_layers_per_block=(1,)*4,
             decoder_inject_noise=(True,)*4, upsample_residual=(True,)*3, upsample_factor=(2,)*3, timestep_conditioning=True, spatial_compression_ratio=32, temporal_compression_ratio=8)


def vae(config):
    from diffusers import AutoencoderKLLTXVideo
    torch.manual_seed(0)
    out = AutoencoderKLLTXVideo(**config)
    out.latents_mean.copy_(torch.tensor([.1, -.2, .3, 0])), out.latents_std.copy_(torch.tensor([.5, 1.5, 2, 1]))
    for n, p in out.named_parameters():
        if "per_channel_scale" in n: p.data.fill_(.3)       # noise that the decoder adds: nothing, in a fresh one
    return out.eval()


def ltx_folder(root, tmp, config):
    "LTXPipeline of random parts."
    import transformers as T
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline
    reader = T.T5EncoderModel(T.T5Config(vocab_size=64, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=1024, max_image_seq_len=4096, base_shift=.95, max_shift=2.05, shift_terminal=.1)
    LTXPipeline(scheduler=scheduler, vae=vae(config), text_encoder=reader, tokenizer=tokenizers(tmp)[1], transformer=H.model(H.LTX, None).video.net).save_pretrained(root)
    return root


@pytest.fixture(scope="module", params=["first", "later"])
def folder(request, tmp_path_factory):
    tmp = tmp_path_factory.mktemp(request.param)
    return ltx_folder(tmp/"ltx", tmp, dict(first=FIRST, later=LATER)[request.param])


@pytest.fixture(scope="module")
def codec(folder): return VideoCodec.from_folder(folder/"vae")


@pytest.fixture(scope="module")
def frames(): return make_clip("causal", scene="ball").frames[:17]


def test_the_folder_says_which_codec_it_is(codec, folder):
    g = codec.grid(64, 96)
    assert type(codec) is CausalCodec and (g.down, g.channels, g.first, g.stride, g.height, g.width) == (32, 4, 1, 8, 64, 96)
    assert type(VideoCodec.from_folder("toy:svd/vae")) is VideoCodec and len(codec.fingerprint) == 16
    assert CausalCodec.from_folder(folder/"vae", dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(AssetError, match="AutoencoderKLTemporalDecoder or a AutoencoderKLLTXVideo"): VideoCodec.from_folder("toy:audioldm2/vae")
    with pytest.raises(AssetError, match="PROFILE=ltx"): VideoCodec.from_folder("assets/nowhere/ltx/vae")


def test_as_many_frames_come_back_and_no_latent_knows_the_future(codec, frames):
    z = codec.encode(frames, chunk=2)
    assert z.shape == (3, 4, 2, 2) and z.dtype == torch.float32
    x = torch.as_tensor(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad(): assert torch.allclose(codec.vae.encode(x).latent_dist.mode()[0].transpose(0, 1), z, atol=1e-6)
    for n in (1, 9): assert torch.allclose(codec.encode(frames[:n]), z[:1 + n//8], atol=1e-5)
    for k in (1, 2, 3): assert codec.decode(z[:k], chunk=1).shape == (1 + 8*(k - 1), 64, 64, 3)


def test_a_decoder_that_adds_noise_draws_the_same_twice(codec, frames):
    z = codec.encode(frames)
    torch.manual_seed(7); one, after = codec.decode(z), torch.rand(())
    torch.manual_seed(7)
    assert after == torch.rand(()) and (codec.decode(z) == one).all()


@pytest.mark.parametrize("n", [0, 2, 16, 20, 24])
def test_frames_that_fill_no_whole_latent_are_refused(codec, n):
    with pytest.raises(AssetError, match=r"1 \+ 8k"): codec.encode(torch.zeros(n, 64, 64, 3, dtype=torch.uint8))


def test_scaling_and_pictures_are_those_of_the_official_pipeline(codec, folder, frames):
    from diffusers import LTXPipeline
    pipe, z = LTXPipeline.from_pretrained(folder), codec.encode(frames)
    m = load_experts(build_model(resolve_experts(ModelSettings(width_v=32, width_a=32, heads=2, head_dim=16, depth=3, cond_width=16, expert_v=dict(folder=str(folder))))))
    x, v = m.video.normalize(z[None]), pipe.vae
    theirs = pipe._normalize_latents(z[None].transpose(1, 2), v.latents_mean, v.latents_std, v.config.scaling_factor).transpose(1, 2)
    assert torch.allclose(x, theirs, atol=1e-6) and not torch.allclose(x, z[None], atol=.1) and torch.allclose(m.video.denormalize(x)[0], z, atol=1e-6)
    for p in pipe.transformer.proj_out.parameters(): p.data.zero_()      # a transformer that moves nothing: the pipeline decodes what it was given
    pipe.set_progress_bar_config(disable=True)
    draw, noise = v.decode, []
    def watched(z, when=None, **k):
        noise.append(when); torch.manual_seed(0)                          # of the decoder's own noise
        return draw(z, when, **k)
    v.decode = watched
    seen = pipe("a ball", height=64, width=64, num_frames=17, frame_rate=12, num_inference_steps=2, guidance_scale=1., latents=x.transpose(1, 2).flatten(2).mT, output_type="np").frames[0]
    assert (noise[0] is None) == (not v.config.timestep_conditioning) and not any(float(t.abs().max()) for t in noise if t is not None)
    assert (torch.as_tensor(seen*255).round() - codec.decode(z).float()).abs().max() <= 1


def test_windows_are_cut_to_whole_latents_and_a_clip_too_short_is_named(tmp_path):
    s = SimpleNamespace(min_seconds=.5, max_windows_per_video=8, silence="drop", silence_db=-50.)
    clock = Timeline.from_seconds(2., 12, video=VideoGrid(32, 4, 1, 8))
    cut = lambda seconds: plan(Entry("x", "here", video=clip_file(tmp_path/f"{seconds}.mp4", seconds)), s, clock)
    assert [(round(w.start, 3), w.timeline.n_frames) for w in cut(4)] == [(0, 17), (1.417, 17)]
    assert [w.timeline.n_frames for w in cut(1)] == [9]
    with pytest.raises(ValueError, match=r"only 1 frame.*1 \+ 8k frames at 12 fps; min_seconds is 0.5"): cut(.6)


def test_from_clips_to_a_clip(tmp_path, monkeypatch):
    "Cache, Stage A on a frozen LTX, sampling from a picture and from a film: one clock from end to end."
    from PIL import Image
    from jointdit.data.cache import build_cache
    from jointdit.data.dataset import LatentDataset
    from jointdit.data.media import probe, write_video
    from jointdit.sample.infer import generate, load_kit
    from jointdit.sample.request import InferSettings
    from jointdit.toyworld import write_dataset
    from jointdit.train.stage import train_stage
    from jointdit.train.trainer import TrainSettings
    monkeypatch.setattr(JointDiT, "flops", None)        # counted on the meta device at the start of a run: tested elsewhere, and seconds
    ltx = ltx_folder(tmp_path/"ltx", tmp_path, FIRST)
    write_dataset(tmp_path/"clips", 2, 1, write_video=write_video)
    paths, cpu = dict(video_vae_path=str(ltx/"vae")), dict(device="cpu", dtype="fp32", threads=1)
    s = CacheSettings(data_root=str(tmp_path/"clips"), cache_dir=str(tmp_path/"cache"), clip=dict(experts=[str(ltx)]), workers=0, runtime=cpu, **paths)
    with pytest.raises(CacheError, match=r"seconds: 0.60 s hold only 1 frame"): load_encoders(s.model_copy(update=dict(seconds=.6, clip=s.clip.model_copy(update=dict(enabled=False)))))
    build_cache(s)
    item = LatentDataset(tmp_path/"cache")[0]
    c = item["timeline"]
    assert (c.n_frames, c.n_samples, c.video_shape) == (17, 22667, (3, 4, 2, 2)) == (17, round(17/12*16000), tuple(item["v_latents"].shape))
    assert item["a_latents"].shape[2] == 36 and "ltx.t5" in item["text"].more
    out = dict(ckpt_root=str(tmp_path/"ckpt"), log_root=str(tmp_path/"logs"), eval_clips=0, samples=0, tensorboard=False)
    groups = [dict(match=m, lr=1e-3) for m in ("joint", "cond", "audio.*")]
    a = train_stage(TrainSettings(data=dict(cache_dir=str(tmp_path/"cache"), batch_size=2), max_steps=2, runtime=cpu, groups=groups, output=out,
                                  model=dict(width_v=32, width_a=32, heads=2, head_dim=16, depth=3, n_text=24, n_image=8, cond_width=16, expert_v=dict(folder=str(ltx)))))
    Image.fromarray(make_clip(1).frames[0]).save(tmp_path/"first.png")
    ask = dict(ckpt=str(a.checkpoint), prompt="a ball", steps=2, out_dir=str(tmp_path/"out"), runtime=cpu, **paths)
    quiet = dict(say=lambda line: None)
    s = InferSettings(**ask, clip=dict(experts=[str(ltx)], image_path=str(tmp_path/"first.png")))
    kit = load_kit(s, **quiet)
    r, = generate(s, kit, **quiet)
    assert len(r.frames) == 17 and len(r.wave) == 22667 and r.v.shape == (3, 4, 2, 2) and r.clock == c
    info = probe(r.files["mp4"])
    assert abs(info.picture.end - c.seconds) < .02 and abs(info.sound.end - c.seconds) < .07        # the last packet of AAC is padded
    film = next((tmp_path/"clips/val").glob("*.mp4"))
    heard, = generate(InferSettings(**ask | dict(given_video=str(film), out_dir=str(tmp_path/"heard")), clip=dict(experts=[str(ltx)])), kit, **quiet)
    assert len(heard.frames) == 17 and len(heard.wave) == 22667


def test_the_configs_for_it_belong_together():
    from pathlib import Path
    from jointdit.assets.catalogue import PARTS
    from jointdit.sample.request import InferSettings
    from jointdit.settings import load_settings
    from jointdit.train.trainer import TrainSettings
    root = Path(__file__).parents[1]/"configs/ltx"
    cache, a, i = (load_settings(k, root/f"{n}.yaml", env={}).settings for n, k in (("cache", CacheSettings), ("stage_a", TrainSettings), ("infer", InferSettings)))
    assert a.data.cache_dir == cache.cache_dir and cache.video_vae_path == i.video_vae_path and cache.clip.experts == i.clip.experts
    assert cache.video_vae_path.removeprefix("assets/models/") in PARTS and a.output.sample_cfg == "configs/ltx/infer.yaml" and i.ckpt.endswith(a.output.ckpt_suffix)
    clock = Timeline.from_seconds(cache.seconds, cache.fps, video=VideoGrid(32, 128, 1, 8, cache.height, cache.width))
    assert (clock.n_frames, clock.video_shape) == (49, (7, 128, 10, 18))


@pytest.mark.parametrize("latents,frames", [(8, 64), (8, 57), (3, 17), (24, 24), (1, 1)])
def test_the_apps_preview_of_a_long_step_keeps_its_shape(latents, frames):
    "A codec with many frames to a latent does not squeeze them all into one row."
    import numpy as np
    from types import SimpleNamespace as Some
    from jointdit.studio.kits import _frames_row
    drawn = lambda z: np.zeros((max(1, round(frames * len(z) / latents)), 16, 16, 3), np.uint8)
    kit = Some(model=Some(video=Some(denormalize=lambda v: v)), video=Some(decode=drawn))
    row = _frames_row(Some(kit=kit, n=8, width=512), torch.zeros(1, latents, 4, 2, 2))
    assert row.shape[1] == 512 and 64 <= row.shape[0] <= 512


def test_t5_in_half_the_bytes(folder):
    "It says nearly the same, in a cache of its own."
    from pathlib import Path
    from jointdit.assets.clip import ClipSettings
    from jointdit.assets.conditioner import load_conditioner
    one, half = (load_conditioner(ClipSettings(experts=[str(folder)], ltx_dtype=d)) for d in ("fp32", "bf16"))
    assert {p.dtype for p in half.voices[0].pipe.text_encoder.parameters()} == {torch.bfloat16} and one.fingerprint != half.fingerprint
    a, b = (c.text(["a ball"]).more["ltx.t5"] for c in (one, half))
    assert a.dtype == b.dtype == torch.float32 and 0 < (a - b).norm() < .03 * a.norm()
    for f in ("cache", "infer"): assert "ltx_dtype: bf16" in (Path(__file__).parents[1]/f"configs/ltx/{f}.yaml").read_text()
