"A tiny checkpoint, copies of the toy assets, and clips on disk: what the sampler's tests start from."
import shutil
from pathlib import Path

import torch

from jointdit.assets.clip import CLIPCondEncoder
from jointdit.core import Context, toy_path
from jointdit.model.joint import ModelSettings, build_model
from jointdit.timeline import Timeline
from jointdit.train.checkpoint import header_text, write_checkpoint

CLOCK = Timeline(6, 12)


def one_hot(*classes, n=3):
    pooled = torch.nn.functional.one_hot(torch.tensor(classes), n).float()
    return Context(pooled, pooled[:, None], torch.ones(len(classes), 1, dtype=torch.bool))


def copy_assets(folder):
    "The toy assets in a folder of the test's own, so that nothing can change under it."
    for name in ("svd/vae", "audioldm2/vae", "audioldm2/vocoder", "clip"): shutil.copytree(toy_path(f"toy:{name}"), Path(folder) / name)
    return Path(folder)


def tiny_model(dim=64, seed=0, **more):
    shapes = dict(width_v=32, width_a=32, depth=2, heads=1, head_dim=32, text_dim=dim, image_dim=dim, cond_width=32) | more
    model = build_model(ModelSettings(**shapes), seed=seed)
    for n, p in model.named_parameters():      # untrained outlets are zero: wake them, so that conditions matter
        if p.ndim > 1 and not p.any(): torch.nn.init.normal_(p, std=.05, generator=torch.Generator().manual_seed(len(n)))
    return model.eval()


def write_tiny(folder, dim, recipe=None, clock=CLOCK, step=1, knobs=None, **more):
    "A checkpoint as the trainer writes them; returns the path of its .pt."
    model = tiny_model(dim, seed=step, **more)
    data = dict(timeline=clock.to_dict(), recipe=recipe or {})
    header = header_text("A", step, model.settings.model_dump(), knobs or {}, data, {})
    return write_checkpoint(folder, step, dict(model=model.state_dict(), ema={}), model.state_dict(), header)


def toy_dim(): return CLIPCondEncoder().dim
