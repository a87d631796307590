"The whole model: modes, times, conditions, gradients, groups, counts."
import copy
import math

import pytest
import torch
from hypothesis import given, settings as hyp, strategies as st
from torch.utils.flop_counter import FlopCounterMode

from jointdit.core import Context, ModelError
from jointdit.model.layers import GatedAdd, NormModulate, patchify, unpatchify
from jointdit.model.joint import ModelSettings, build_model
from jointdit.settings import Knobs
from jointdit.timeline import Timeline

CLOCK = Timeline(6, 12)
SMALL = dict(width_v=32, width_a=48, depth=2, heads=2, head_dim=16, cond_width=16, text_dim=12, image_dim=10, n_text=5, n_image=3, patch_v=[2, 4, 4])
B = 4


def model(opened=True, knobs=None, **over):
    m = build_model(ModelSettings(**{**SMALL, **over}), knobs, seed=0)
    if opened:
        g = torch.Generator().manual_seed(1)
        for n, p in m.named_parameters():
            if not p.any(): p.data.normal_(std=.2, generator=g)
    return m


def context(dim, n, real=None, seed=0, b=B):
    g = torch.Generator().manual_seed(seed)
    real = torch.tensor(real if real is not None else [n] * b)
    return Context(torch.randn(b, dim, generator=g), torch.randn(b, n, dim, generator=g), torch.arange(n)[None] < real[:, None])


def batch(clock=CLOCK, b=B, seed=0, times="sample"):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g)
    x_v, x_a = r(b, *clock.video_shape), r(b, *clock.audio_shape)
    n = [(b,), (b,)] if times == "sample" else [(b, clock.n_video_latents), (b, clock.n_audio_latents)]
    return dict(x_v=x_v, x_a=x_a, t_v=torch.rand(n[0], generator=g), t_a=torch.rand(n[1], generator=g), clock=clock,
                t_ctx=context(12, 5, [5, 3, 1, 2][:b], b=b), i_ctx=context(10, 3, b=b))


def near(a, b, tol=1e-4):
    for x, y in zip(a, b):
        assert (x is None) == (y is None)
        if x is not None: torch.testing.assert_close(x, y, rtol=tol * 10, atol=tol)


def rows(args, i):
    pick = lambda v: v.index(i) if isinstance(v, Context) else v[i] if torch.is_tensor(v) else v
    return {k: pick(v) for k, v in args.items()}


@torch.no_grad()
@pytest.mark.parametrize("times", ["sample", "latent"])
@pytest.mark.parametrize("over", [{}, dict(patch_v=[1, 4, 4], patch_a=[2, 8], mixer_v="conv", mixer_a="conv"), dict(patch_v=[4, 3, 3], patch_a=[4, 5])])
def test_shapes_come_back_for_any_patch(over, times):
    args = batch(times=times)
    v, a = model(**over)(**args)
    assert v.shape == args["x_v"].shape and a.shape == args["x_a"].shape and v.isfinite().all() and a.isfinite().all()
    assert v.dtype == a.dtype == torch.float32


@torch.no_grad()
def test_an_untrained_model_says_zero():
    v, a = model(opened=False)(**batch())
    assert not v.any() and not a.any()


@torch.no_grad()
def test_iso_equals_each_stream_alone():
    m, args = model(), batch()
    iso = m(**args, mode="iso")
    near((iso[0], None), m(**{**args, "x_a": None, "t_a": None}))
    near((None, iso[1]), m(**{**args, "x_v": None, "t_v": None}))
    full = m(**args)
    assert (full[0] - iso[0]).abs().max() > 1e-4 and (full[1] - iso[1]).abs().max() > 1e-4


@hyp(max_examples=12, deadline=None)
@given(mode=st.lists(st.booleans(), min_size=B, max_size=B), chunks=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_mixed_modes_and_chunks_change_nothing(mode, chunks):
    m, args = model(), batch()
    with torch.no_grad():
        full, iso, mode = m(**args), m(**args, mode="iso"), torch.tensor(mode)
        m.knobs = Knobs(q_chunk_v=chunks[0], q_chunk_a=chunks[1])
        out = m(**args, mode=mode)
    want = [torch.where(mode.view(-1, *[1] * (f.ndim - 1)), i, f) for f, i in zip(full, iso)]
    near(out, want)


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_neighbours():
    m, args = model(), batch()
    whole = m(**args, mode=torch.tensor([True, False, False, True]))
    for i, mode in enumerate(["iso", "full", "full", "iso"]): near(m(**rows(args, [i]), mode=mode), [w[i:i + 1] for w in whole])


@torch.no_grad()
@pytest.mark.parametrize("down", [1, 4])
@pytest.mark.parametrize("mode", ["full", "iso"])
def test_fast_paths_equal_the_masked_reference(mode, down):
    m, args, caught = model(knobs=Knobs(kv_downsample=down)), batch(), {}
    m.joint[1].register_forward_hook(lambda mod, a, out: caught.update(a=a, out=out))
    m(**args, mode=mode)
    tokens, vec, cond, views, *_ = caught["a"]
    w, lq, _, (v, gates) = m.joint[1].weights(tokens, vec, cond, views, mode, n_text=5)
    outs = (w @ v).split([x.shape[1] for x in tokens.values()], 2)
    near(caught["out"].values(), [m.joint[1].ports[k].leave(o, gates[k]) for k, o in zip(tokens, outs)])


@torch.no_grad()
def test_times_per_latent_equal_times_per_sample_when_alike():
    m, args = model(), batch()
    spread = {**args, "t_v": args["t_v"][:, None].expand(-1, 6), "t_a": args["t_a"][:, None].expand(-1, CLOCK.n_audio_latents)}
    near(m(**args), m(**spread))


@torch.no_grad()
def test_a_given_first_frame_is_told_from_its_noisy_partner():
    m, args = model(), batch(times="latent")
    swapped = args["t_v"].clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert (m(**args)[0] - m(**{**args, "t_v": swapped})[0]).abs().max() > 1e-5


@torch.no_grad()
def test_times_matter_to_both_streams():
    m, args = model(), batch()
    base = m(**args)
    for key in ("t_v", "t_a"):
        out = m(**{**args, key: 1 - args[key]})
        assert all((o - b).abs().max() > 1e-5 for o, b in zip(out, base))


@torch.no_grad()
def test_conditions_matter_and_dropping_equals_absence():
    m, args = model(), batch()
    yes = torch.ones(B, dtype=torch.bool)
    near(m(**args, drop_text=yes, drop_image=yes), m(**{**args, "t_ctx": None, "i_ctx": None}))
    base = m(**args)
    for drop in ("drop_text", "drop_image"):
        out = m(**args, **{drop: torch.tensor([True, False, False, True])})
        near([o[1:3] for o in out], [b[1:3] for b in base])
        assert all((o[0] - b[0]).abs().max() > 1e-5 for o, b in zip(out, base))


@torch.no_grad()
@pytest.mark.parametrize("down", [2, 8, 64])
def test_pooled_keys_are_an_approximation_not_an_accident(down):
    args = batch()
    base, m = model()(**args), model(knobs=Knobs(kv_downsample=down))
    out = m(**args)
    assert m.knobs.kv_downsample == down
    for o, b in zip(out, base): assert 0 < (o - b).norm() / b.norm() < .5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_tensor_after_a_few_steps(checkpointing):
    m, args, touched = model(opened=False, checkpointing=checkpointing), batch(times="latent"), set()
    target = [torch.randn_like(args[k]) for k in ("x_v", "x_a")]
    opt = torch.optim.Adam(m.parameters(), 1e-2)
    drop = torch.tensor([True, False, False, False])
    for _ in range(4):
        out = m(**args, mode=torch.tensor([False, True, False, False]), drop_text=drop, drop_image=drop.roll(2))
        sum((o - x).square().mean() for o, x in zip(out, target)).backward()
        touched |= {n for n, p in m.named_parameters() if p.grad is not None and p.grad.any()}
        opt.step(); opt.zero_grad()
    assert {n for n, _ in m.named_parameters()} == touched


def test_checkpointing_changes_no_gradient():
    grads = []
    for again in (False, True):
        m = model(checkpointing=again)
        sum(o.square().mean() for o in m(**batch())).backward()
        grads.append({n: p.grad for n, p in m.named_parameters()})
    for n in grads[0]: torch.testing.assert_close(grads[0][n], grads[1][n], msg=n)


def test_hand_written_gradients():
    g = torch.Generator().manual_seed(0)
    r = lambda *s: torch.randn(*s, generator=g, dtype=torch.double).requires_grad_()
    for K in (1, 2, 4):
        assert torch.autograd.gradcheck(NormModulate.apply, (r(2, 4, 6), r(2, K, 6), r(2, K, 6)))
        assert torch.autograd.gradcheck(GatedAdd.apply, (r(2, 4, 6), r(2, 4, 6), r(2, K, 6)))


def test_bf16_autocast_is_near_fp32():
    m, args = model(), batch()
    plain = m(**args)
    with torch.autocast("cpu", torch.bfloat16): half = m(**args)
    for h, p in zip(half, plain): assert h.dtype == torch.float32 and (h - p).norm() / p.norm() < .05
    sum(h.square().mean() for h in half).backward()
    assert all(p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all()) for p in m.parameters())


def test_groups_hold_every_parameter_once():
    m = model(mixer_v="conv")
    groups = m.param_groups_named()
    names = sum(groups.values(), [])
    assert sorted(names) == sorted(n for n, _ in m.named_parameters()) and len(set(names)) == len(names) and all(groups.values())
    assert set(groups) == {"joint", "cond", *(f"{k}.{p}" for k in ("video", "audio") for p in ("in", "blocks", "out"))}


def test_the_default_is_small():
    assert sum(p.numel() for p in build_model(ModelSettings()).parameters()) <= 10e6


def test_seed_state_and_copy():
    a, b = build_model(SMALL, seed=3), build_model(SMALL, seed=3)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    m, args = model(), batch()
    m.video.set_statistics(torch.arange(8.), torch.ones(8) * 2)
    b.load_state_dict(m.state_dict())
    with torch.no_grad(): near(b(**args), m(**args)); near(copy.deepcopy(m)(**args), m(**args))
    assert torch.equal(b.video.mean, torch.arange(8.))


@pytest.mark.parametrize("down", [1, 4])
def test_flops_agree_with_torchs_counter(down):
    m, args = model(knobs=Knobs(kv_downsample=down)), batch()
    with FlopCounterMode(display=False) as counter, torch.no_grad(): m(**args)
    assert abs(counter.get_total_flops() / m.flops(CLOCK, B) - 1) < .01
    assert "parameters" in m.describe(CLOCK) and "tokens" in m.describe(CLOCK)


@hyp(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 7)] * 4), patch=st.tuples(*[st.integers(1, 4)] * 3))
def test_patches_come_back(shape, patch):
    x = torch.randn(2, *shape)
    assert torch.equal(unpatchify(patchify(x, patch), patch, shape), x)


@hyp(max_examples=30, deadline=None)
@given(u=st.floats(0, 1), n=st.integers(0, 10**6))
def test_time_map_is_monotone_and_capped(u, n):
    e = EXPERT
    t = e.time_map(u, n)
    assert u - 1e-9 <= t <= 1 and e.time_map(0., n) == 0 and math.isclose(e.time_map(1., n), 1)
    assert e.time_map(.5, n) <= 4 / 5 + 1e-9
EXPERT = build_model(SMALL).video


def test_normalisation_goes_both_ways():
    m = model()
    for e, x in ((m.video, torch.randn(2, 6, 8, 8, 8) * 3 + 1), (m.audio, torch.randn(2, 8, 13, 16) * 3 + 1)):
        e.set_statistics(torch.randn(8), torch.rand(8) + .5)
        torch.testing.assert_close(e.denormalize(e.normalize(x)), x)


BAD = {
    "no stream": (dict(x_v=None, x_a=None), "at least one stream"),
    "video of another clock": (dict(x_v=torch.randn(B, 5, 8, 8, 8)), "5 steps in time"),
    "video channels": (dict(x_v=torch.randn(B, 6, 4, 8, 8)), r"expected \(B, T, C, H, W\) with C = 8, got \(4, 6, 4, 8, 8\)"),
    "audio rank": (dict(x_a=torch.randn(B, 1, 8, 13, 16)), r"expected \(B, C, L, F\) with C = 8"),
    "batch": (dict(x_a=torch.randn(2, *CLOCK.audio_shape), t_a=torch.rand(2)), "same batch"),
    "times": (dict(t_v=torch.rand(B, 5)), r"expected \(4,\) or \(4, 6\), got \(4, 5\)"),
    "time as a number": (dict(t_a=.5), r"audio noise times: expected .* got 0.5"),
    "mode name": (dict(mode="both"), "'full', 'iso'"),
    "mode mask": (dict(mode=torch.ones(B)), "bool"),
    "text features": (dict(t_ctx=context(11, 3)), r"expected 12 features \(text_dim\)"),
    "text length": (dict(t_ctx=context(12, 9)), r"at most 5 tokens \(n_text\), got 9"),
    "text batch": (dict(t_ctx=context(12, 3, b=2)), "expected a batch of 4, got 2"),
    "image features": (dict(i_ctx=context(12, 3)), "image_dim"),
    "drop": (dict(drop_text=torch.zeros(3, dtype=torch.bool)), "drop_text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_expected_and_got(case):
    change, message = BAD[case]
    with pytest.raises(ModelError, match=message): EXPERT_MODEL(**{**batch(), **change})
EXPERT_MODEL = build_model(SMALL)


@pytest.mark.parametrize("mean,std", [([0.] * 7, [1.] * 8), ([0.] * 8, [0.] * 8), ([math.nan] * 8, [1.] * 8)])
def test_bad_statistics_are_refused(mean, std):
    with pytest.raises(ModelError, match="video statistics"): EXPERT.set_statistics(mean, std)


def test_bad_patches_are_refused():
    with pytest.raises(ModelError, match="patch_v"): build_model({**SMALL, "patch_v": [0, 2, 2]})


def test_freed_memory_can_be_kept():
    from jointdit.model.joint import keep_freed_memory
    assert keep_freed_memory() in (True, False)
    assert torch.ones(1 << 22).sum() == 1 << 22
