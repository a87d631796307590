"""The published networks at their real sizes, on the meta device; and configs/svd for experts."""
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import expert_helpers as H
from jointdit.assets.catalogue import PARTS
from jointdit.data.cache import CacheSettings
from jointdit.model.cut import transformer_layers
from jointdit.model.memory import Live, activation_bytes, cached_clock, meetings_table, memory_bill, meta_model, published_settings, sampling_bill, trained_groups
from jointdit.model.joint import build_model
from jointdit.sample.request import InferSettings
from jointdit.settings import PROFILES, Knobs, load_settings
from jointdit.timeline import AudioGrid, Timeline, VideoGrid
from jointdit.train.run import TrainSettings

ROOT = Path(__file__).parents[1]
FILES = {"cache": CacheSettings, "train_a": TrainSettings, "train_b": TrainSettings, "infer": InferSettings, "train_b_48gb": TrainSettings, "train_b_24gb": TrainSettings}
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


CARDS = dict(zip(PROFILES, (80, 48, 24)))
STAGE_B = dict(zip(PROFILES, ("train_b", "train_b_48gb", "train_b_24gb")))
CUDA = 2e9      # for CUDA itself, its workspaces and gaps: they are in no prediction


def cfg(name): return ROOT/f"configs/svd/experts_{name}.yaml"


@pytest.mark.parametrize("profile", PROFILES)
def test_predicted_memory_fits_the_card_of_a_profile(real, profile):
    "Who learns and on which clip is read from configs/svd."
    c, knobs, room = cached_clock(cfg("cache")), Knobs(**PROFILES[profile]), CARDS[profile]*1e9 - CUDA
    assert (c.n_video_latents, c.fps) == (14, 7)
    a, b = (memory_bill(real, c, trained_groups(cfg(f)), knobs) for f in ("train_a", STAGE_B[profile]))
    s = sampling_bill(real, c, knobs)
    assert a.total < room and b.total < room and s.total < room, (str(a), str(b), str(s))
    assert a.frozen == 2*(1_524_623_082 + 346_943_496) and a.trained == 22*(110_288_832 + 2_917_376)
    assert b.trained > a.trained and b.activations >= .9*a.activations > 3e8
    assert 8e9 < s.encoders < 11e9 and s.decoding > 1e9 and s.total >= s.frozen + s.codecs + s.encoders


def test_what_does_not_fit_is_known(real):
    "Both experts entirely want more than 48 GB, their blocks alone more than 24: by weights alone."
    size = {g: sum(real.get_parameter(n).numel() for n in names) for g, names in real.param_groups_named().items()}
    assert 22*sum(size.values()) > 43e9
    assert 22*sum(n for g, n in size.items() if g in ("joint", "cond") or g.endswith("blocks")) > 24e9


def test_the_count_of_the_living():
    x = torch.randn(3, 5, requires_grad=True)
    with Live() as live:
        y = (x*2).exp()
        assert live.now == 60
        del y
        assert live.now == 0
    assert live.peak == 120


def load(name, **over): return load_settings(FILES[name], ROOT/f"configs/svd/experts_{name}.yaml", env={}, overrides=over).settings


def test_the_experts_yaml_belong_together():
    cache, a, b, i, *small = (load(n) for n in FILES)
    assert a.data.cache_dir == b.data.cache_dir == cache.cache_dir not in ("data/cache", "data/cache_svd")
    assert cache.clip.experts == i.clip.experts == [a.model.expert_v.folder, a.model.expert_a.folder]
    assert {g.match for g in a.groups} == {"joint", "cond"} and {g.match for g in b.groups} == {"joint", "cond", "*.blocks", "*.in", "*.out"}
    assert [{g.match for g in x.groups} - {"joint", "cond"} for x in small] == [{"*.blocks"}, {"audio.in", "audio.blocks", "audio.out"}]
    for x in small: assert x.model_dump(exclude={"groups", "output"}) == b.model_dump(exclude={"groups", "output"}) and x.output.samples == 0
    shapes = published_settings()
    for k in ("width_v", "width_a", "heads", "head_dim", "n_text", "n_image", "cond_width"): assert getattr(shapes, k) == getattr(a.model, k)
    assert b.init == f"checkpoints/day05_stage_a_{a.output.ckpt_suffix}" and i.ckpt == f"checkpoints/day07_stage_b_{b.output.ckpt_suffix}"
    for f in (*cache.clip.experts, cache.clip.pretrained): assert any(p.startswith(f.removeprefix("assets/models/")) for p in PARTS)


def tiny(device, **more):
    "Three levels a stream, as published, with frozen experts."
    if device == "meta":
        with torch.device("meta"): m = build_model(H.settings(H.SVD3, H.ALD3, **more)).to("meta")    # some constants are born on the CPU all the same
    else: m = H.open_gates(H.model(H.SVD3, H.ALD3, **more))
    for n, p in m.named_parameters(): p.requires_grad_(n.startswith(("joint", "cond")))
    return m


def test_prediction_agrees_with_what_is_really_kept(monkeypatch):
    "Tiny U-Nets: the meta device against tensors that exist, and those against autograd's own list of what it keeps."
    monkeypatch.setattr("jointdit.model.attention._core", lambda q, k, v, mask=None: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))   # as on a GPU
    c, kept, peak = H.clock(6), {}, {}
    for again in (False, True):
        predicted, peak[again] = (activation_bytes(tiny(d, checkpointing=again), c) for d in ("meta", "cpu"))
        assert .8 < predicted/peak[again] < 1.25, (again, predicted, peak[again])
        m, seen = tiny("cpu", checkpointing=again), {}
        own = {p.untyped_storage()._cdata for p in [*m.parameters(), *m.buffers()]}
        keep = lambda x: seen.setdefault(x.untyped_storage()._cdata, x) is None or x
        with Live(m) as live, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = m(torch.randn(1, *c.video_shape), torch.randn(1, *c.audio_shape), torch.tensor([.5]), torch.tensor([.5]), c, H.text(1), H.image(1, c))
            left = live.now
        kept[again] = sum(x.untyped_storage().nbytes() for k, x in seen.items() if k not in own)
        if not again: assert .9 < left/kept[again] < 1.2, (left, kept)
        del out
    assert kept[True] < kept[False]/50 and peak[True] < .7*peak[False], (kept, peak)


