"A small project to run the app in: configs, toy clips, a cache of them, and a tiny checkpoint."
import socket
from pathlib import Path

from jointdit.data.cache import build_cache
from jointdit.data.encode import CacheSettings
from jointdit.data.media import write_video
from jointdit.toyworld import write_dataset

TRAIN = """stage: A
max_steps: 400
data: {cache_dir: data/cache, batch_size: 2}
model: {width_v: 32, width_a: 32, depth: 2, heads: 1, head_dim: 32, patch_v: [1, 4, 4], patch_a: [1, 16], cond_width: 32}
runtime: {device: cpu, dtype: fp32, threads: 1}
groups: [{match: "*", lr: 3.0e-3}]
schedule: {warmup: 3}
output: {ckpt_suffix: toy, log_suffix: toy, eval_clips: 2, samples: 0, tensorboard: false, save_every: 50}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_data(root, clips=4):
    "Toy clips and their cache, with paths relative to the project as the command line would write them."
    root = Path(root)
    write_dataset(root / "data/toy", clips, 2, write_video=write_video, workers=1)
    toy = CacheSettings(data_root=str(root / "data/toy"), cache_dir=str(root / "data/cache"), clip=dict(variant="toy-ViT-8", pretrained="toy:clip"), workers=0)
    for split in ("train", "val"): build_cache(toy, split)
    return root


def make_configs(root):
    configs = Path(root) / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "day05_train.yaml").write_text(TRAIN)
    (configs / "day02_cache.yaml").write_text("data_root: data/toy\ncache_dir: data/cache\ntoy_clips: 3\nworkers: 0\nclip: {variant: toy-ViT-8, model_path: toy:clip}\n")
    return Path(root)
