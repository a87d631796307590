"""configs/svd: the settings for the real codecs are valid, point where `make assets` puts things, and run on stand-ins of their classes."""
import json, shutil
from pathlib import Path

import pytest
import torch

from jointdit.assets.catalogue import PARTS
from jointdit.core import toy_path
from jointdit.data.cache import CacheSettings, build_cache
from jointdit.data.media import write_video
from jointdit.sample.infer import generate
from jointdit.sample.request import InferSettings
from jointdit.settings import load_settings
from jointdit.toyworld import write_dataset
from jointdit.train.run import TrainSettings
from jointdit.train.stage import stage_settings, train_stage

ROOT = Path(__file__).parents[1]
FILES = {"day02_cache": CacheSettings, "day05_train": TrainSettings, "day07_trainB": TrainSettings, "day06_infer": InferSettings,
         "ui_infer": InferSettings}


def load(name, **over): return load_settings(FILES[name], ROOT/f"configs/svd/{name}.yaml", env={}, overrides=over).settings


@pytest.mark.parametrize("name", FILES)
def test_every_toy_config_has_a_counterpart(name):
    assert (ROOT/f"configs/{name}.yaml").is_file()
    s = load(name).model_dump()
    paths = [v for k, v in s.items() if k.endswith("_vae_path")] + [v for v in (s.get("clip") or {}).values() if "/" in str(v)]
    for p in paths: assert p.removeprefix("assets/models/") in PARTS, p
    assert "toy:" not in json.dumps(s, default=str)


def test_they_belong_together():
    cache, a, b, i, ui = (load(n) for n in FILES)
    assert a.data.cache_dir == b.data.cache_dir == cache.cache_dir != "data/cache"
    assert cache.video_vae_path == i.video_vae_path == ui.video_vae_path and cache.clip.variant == i.clip.variant == ui.clip.variant
    assert b.init == f"checkpoints/day05_stage_a_{a.output.ckpt_suffix}" and i.ckpt == f"checkpoints/day07_stage_b_{b.output.ckpt_suffix}"
    latent = (cache.height//8, cache.width//8)
    assert all(n % p == 0 for n, p in zip(latent, a.model.patch_v[1:])) and 16 % a.model.patch_a[1] == 0


def stand_ins(folder):
    "Untrained models of the real classes, latents of the real shape, narrow; CLIP is the toy one under the real one's folder."
    from diffusers import AutoencoderKLTemporalDecoder
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(latent_channels=4, block_out_channels=(32,)*4, down_block_types=("DownEncoderBlock2D",)*4,
                                       layers_per_block=1)
    vae.half().save_pretrained(folder/"svd/vae")
    for name in ("audioldm2/vae", "audioldm2/vocoder"): shutil.copytree(toy_path(f"toy:{name}"), folder/name)
    return {f"{k}_vae_path": str(folder/p) for k, p in (("video", "svd/vae"), ("audio", "audioldm2/vae"))}


def test_cache_train_and_sample_on_stand_ins(tmp_path):
    paths = stand_ins(tmp_path/"models")
    write_dataset(tmp_path/"clips", 2, 1, write_video=write_video)
    clip = {"clip.variant": "toy-ViT-8", "clip.pretrained": "toy:clip"}
    cache = load("day02_cache", data_root=str(tmp_path/"clips"), cache_dir=str(tmp_path/"cache"), height=32, width=64, **paths, **clip)
    report = build_cache(cache, "train")
    assert len(report.clips) == 2
    small = {"model.width_v": 64, "model.width_a": 64, "model.depth": 1, "model.heads": 2, "model.head_dim": 32, "model.cond_width": 32}
    out = {"output.ckpt_root": str(tmp_path/"ckpt"), "output.log_root": str(tmp_path/"logs"), "output.eval_clips": 0, "output.samples": 0,
           "output.tensorboard": False, "data.cache_dir": str(tmp_path/"cache"), "data.batch_size": 2, "data.accumulate": 1, "max_steps": 2}
    a = train_stage(stage_settings("A", ROOT/"configs/svd/day05_train.yaml", {**out, **small}).settings)
    b = train_stage(stage_settings("B", ROOT/"configs/svd/day07_trainB.yaml", {**out, "init": str(tmp_path/"ckpt/day05_stage_a_svd")}).settings)
    assert a.step == b.step == 2
    got, = generate(load("day06_infer", ckpt=str(tmp_path/"ckpt/day07_stage_b_svd"), steps=1, out_dir=str(tmp_path/"out"), **paths, **clip))
    assert got.frames.shape == (24, 32, 64, 3) and got.v.shape[1] == 4 and got.files["mp4"].is_file()
