"""The published networks at their real sizes, on the meta device; and configs/svd for experts."""
from pathlib import Path

import pytest
import torch

from jointdit.assets.catalogue import PARTS
from jointdit.data.cache import CacheSettings
from jointdit.model.cut import transformer_layers
from jointdit.model.joint import build_model
from jointdit.model.memory import Kept, activation_bytes, meetings_table, memory_bill, meta_model, published_settings
from jointdit.sample.request import InferSettings
from jointdit.settings import PROFILES, Knobs, load_settings
from jointdit.timeline import AudioGrid, Timeline, VideoGrid
from jointdit.train.run import TrainSettings

import expert_helpers as H

ROOT = Path(__file__).parents[1]
FILES = {"cache": CacheSettings, "train_a": TrainSettings, "train_b": TrainSettings, "infer": InferSettings}
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def real(): return meta_model(published_settings())


def test_parameter_counts_are_those_of_the_facts(real):
    assert sum(p.numel() for p in real.video.net.parameters()) == 1_524_623_082
    assert sum(p.numel() for p in real.audio.net.parameters()) == 346_943_496
    from diffusers import LTXVideoTransformer3DModel
    with torch.device("meta"): ltx = LTXVideoTransformer3DModel()
    assert sum(p.numel() for p in ltx.parameters()) == 1_923_385_472 and len(transformer_layers(ltx)) == 30


def test_default_cuts_and_shapes_of_every_meeting(real):
    c = Timeline(14, 7, 16000, VideoGrid(8, 4, 1, 1, 576, 1024), AudioGrid())
    lines = meetings_table(real, c).splitlines()[1:]
    assert len(lines) == 11 == len(real.joint)
    assert "down.2.0" in lines[0] and "(14, 18, 32)" in lines[0] and "(25, 8, 1)" in lines[0] and "mid.1" in lines[4]
    groups = real.param_groups_named()
    assert sorted(sum(groups.values(), [])) == sorted(n for n, _ in real.named_parameters())


def test_predicted_memory_of_a_profile(real):
    c = Timeline(14, 7, 16000, VideoGrid(8, 4, 1, 1, 320, 576), AudioGrid())
    knobs = Knobs(**PROFILES["Conservative"])
    a, b = (memory_bill(real, c, g, knobs) for g in (("joint", "cond"), ("joint", "cond", "*.blocks")))
    assert a.frozen == 2*(1_524_623_082 + 346_943_496) and b.frozen > 0 and a.total < 24e9 < b.total < 80e9
    assert a.activations > 0


def test_the_count_of_what_is_kept_is_right():
    "Against autograd's own on a small model, where everything can be seen."
    with torch.device("meta"): m = build_model(H.settings(None, None, depth=2))
    c = H.clock(2)
    one, two = (activation_bytes(m, c, B) for B in (1, 2))
    assert 1.6 < two/one < 2.2
    x = torch.randn(3, 5, requires_grad=True)
    with Kept(torch.nn.Identity()) as kept: (x*2).exp().sum()
    assert kept.bytes == 3*5*4


def load(name, **over): return load_settings(FILES[name], ROOT/f"configs/svd/experts_{name}.yaml", env={}, overrides=over).settings


def test_the_experts_yaml_belong_together():
    cache, a, b, i = (load(n) for n in FILES)
    assert a.data.cache_dir == b.data.cache_dir == cache.cache_dir not in ("data/cache", "data/cache_svd")
    assert cache.clip.experts == i.clip.experts == [a.model.expert_v.folder, a.model.expert_a.folder]
    assert {g.match for g in a.groups} == {"joint", "cond"} and {g.match for g in b.groups} == {"joint", "cond", "*.blocks", "*.in", "*.out"}
    assert b.init == f"checkpoints/day05_stage_a_{a.output.ckpt_suffix}" and i.ckpt == f"checkpoints/day07_stage_b_{b.output.ckpt_suffix}"
    for f in (*cache.clip.experts, cache.clip.pretrained): assert any(p.startswith(f.removeprefix("assets/models/")) for p in PARTS)
