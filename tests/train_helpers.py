"A cache and a model so small that a training run takes a second."
from fractions import Fraction

from jointdit.data.store import fake_cache
from jointdit.timeline import AudioGrid, Timeline, VideoGrid
from jointdit.train.trainer import TrainSettings

CLOCK = Timeline(6, Fraction(6), 16000, VideoGrid(height=16, width=16), AudioGrid(hop=800, mel_bins=16))
TINY = dict(width_v=32, width_a=32, depth=2, heads=1, head_dim=32, patch_a=[1, 4], text_dim=16, image_dim=16, cond_width=32)


def make_cache(folder, n=12, **more):
    for split, k in (("train", n), ("val", 4)): fake_cache(folder, k, split, timeline=CLOCK, text_dim=16, **more)
    return folder


def tiny_dict(root, name="run", **more):
    said = dict(data=dict(cache_dir=str(root / "cache"), batch_size=4), model=TINY, max_steps=12, schedule=dict(warmup=3),
                groups=[dict(match="*", lr=3e-3)], runtime=dict(device="cpu", dtype="fp32", seed=0, threads=1), ema_decay=.95,
                output=dict(ckpt_root=str(root / "checkpoints"), log_root=str(root / "logs"), ckpt_suffix=name, log_suffix=name,
                            save_every=4, eval_clips=0, tensorboard=False, samples=0))
    for k, v in more.items(): said[k] = {**said[k], **v} if isinstance(said.get(k), dict) and isinstance(v, dict) else v
    return said


def tiny_settings(root, name="run", **more): return TrainSettings(**tiny_dict(root, name, **more))
