"Layouts, visibility, rotary positions in seconds."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from jointdit.core import ModelError
from jointdit.model.positions import (AUDIO, IMAGE, TEXT, VIDEO, SplitHeads, cat_layouts, condition_layout, make_layout, pool_layout,
                                      rotary_split, rotary_table, rotate, sees, stream_layout)
from jointdit.timeline import Timeline

CLOCK = Timeline.from_seconds(2, 12)


def layouts(clock=CLOCK, patch_v=(2, 2, 2)):
    return (stream_layout(clock, VIDEO, (clock.n_video_latents, 8, 8), patch_v),
            stream_layout(clock, AUDIO, (clock.n_audio_latents, 16, 1), (1, 16, 1)))


places = st.lists(st.tuples(st.floats(0, 60), st.floats(-8, 8), st.floats(-8, 8), st.floats(-8, 8)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(place=places, head_dim=st.sampled_from([16, 32, 64, 128]), seed=st.integers(0, 99))
def test_rotation_keeps_lengths(place, head_dim, seed):
    x = torch.randn(len(place), head_dim, generator=torch.Generator().manual_seed(seed))
    y = rotate(x, rotary_table(torch.tensor(place), head_dim))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))


@settings(max_examples=40, deadline=None)
@given(place=places, shift=st.tuples(st.floats(0, 30), *[st.floats(-4, 4)] * 3))
def test_scores_depend_on_offsets_only(place, shift):
    place = torch.tensor(place)
    q, k = torch.randn(2, len(place), 64, generator=torch.Generator().manual_seed(1))
    score = lambda p: rotate(q, rotary_table(p, 64)) @ rotate(k, rotary_table(p, 64)).T
    torch.testing.assert_close(score(place), score(place + torch.tensor(shift)), rtol=1e-3, atol=2e-2)


def test_tokens_of_one_moment_have_one_phase_in_both_streams():
    t = rotary_split(64)[0]
    at = lambda row: rotary_table(torch.tensor([row]), 64)[0][0, :t]
    assert torch.equal(at([.7, 3., -1., 0.]), at([.7, 0., 0., 5.]))


@pytest.mark.parametrize("start", [0., 30.])
def test_neighbouring_frames_can_be_told_apart(start):
    place = torch.tensor([[start, 0, 0, 0], [start + 1 / 12, 0, 0, 0], [start + .04, 0, 0, 0]])
    x = torch.ones(64)
    a, b, c = rotate(x.expand(3, 64), rotary_table(place, 64))
    assert torch.cosine_similarity(a, b, 0) < .95 and torch.cosine_similarity(a, c, 0) < .99


def test_a_token_without_an_axis_is_not_turned_by_it():
    cos, sin = rotary_table(torch.zeros(1, 4), 64)
    assert torch.equal(cos, torch.ones_like(cos)) and not sin.any()
    assert sum(rotary_split(64)) == 32 and rotary_split(64)[0] == 16


@pytest.mark.parametrize("head_dim", [7, 8, 33])
def test_a_head_that_cannot_be_split_is_refused(head_dim):
    with pytest.raises(ModelError, match=f"got {head_dim}"): rotary_split(head_dim)


def test_layouts_lie_on_the_clock():
    v, a = layouts()
    assert len(v) == 192 and len(a) == 50
    torch.testing.assert_close(v.seconds.unique(), CLOCK.video_times.view(12, 2).mean(1))
    torch.testing.assert_close(a.seconds, CLOCK.audio_times)
    assert not v.place[:, 3].any() and not a.place[:, 1:3].any()
    torch.testing.assert_close(v.place[:, 1:3].mean(0), torch.zeros(2))


@pytest.mark.parametrize("frames", [1, 5, 24])
def test_lengths_that_do_not_divide_are_covered(frames):
    clock = Timeline(frames, 12)
    v, _ = layouts(clock, (2, 3, 3))
    assert v.grid == (-(-frames // 2), 3, 3)
    assert v.seconds.max() <= clock.seconds


def test_a_crop_keeps_its_remainder():
    cut, _, _ = CLOCK.crop(3, 6)
    _, a = layouts(cut)
    torch.testing.assert_close(a.seconds[0], torch.tensor(.02 - cut.audio_offset))


def test_latents_against_the_clock_are_refused():
    with pytest.raises(ModelError, match="have 7 steps in time, but the clock has 24"): stream_layout(CLOCK, VIDEO, (7, 8, 8), (1, 2, 2))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_pooled_keys_lie_at_mean_places(factor):
    for l in layouts():
        pooled, p = pool_layout(l, factor)
        torch.testing.assert_close(pooled.place, p @ l.place)
        assert len(l) / factor <= len(pooled) < len(l)
    assert pool_layout(layouts()[0], 1)[1] is None
    assert len(pool_layout(layouts()[1], 8)[0]) == 25, "8 audio latents would blur 0.3 s"


def test_iso_and_full():
    v, a = layouts()
    q, k = cat_layouts([v, a]), cat_layouts([v, a, condition_layout(3, TEXT), condition_layout(2, IMAGE)])
    assert sees(q, k).all()
    iso = sees(q, k, "iso")
    assert iso[:192, :192].all() and not iso[:192, 192:242].any() and not iso[192:, :192].any() and iso[:, 242:].all()


def test_windows_are_seconds_across_streams():
    v, a = layouts()
    m = sees(a, v, window=.2)
    assert ((a.seconds[:, None] - v.seconds[None]).abs() <= .2).equal(m)


@settings(max_examples=30, deadline=None)
@given(segments=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_causal_order_never_shows_the_future_or_the_answer(segments):
    l = cat_layouts([make_layout(VIDEO, torch.zeros(1, 4), segment=s, clean=c) for s, c in segments])
    m = sees(l, l, order="causal")
    for i, (si, ci) in enumerate(segments):
        for j, (sj, cj) in enumerate(segments):
            assert bool(m[i, j]) == (((si == sj) and ci == cj) or (cj and sj < si))
    assert m.diagonal().all()


@pytest.mark.parametrize("bad", [dict(mode="both"), dict(order="backwards")])
def test_unknown_rules_are_refused(bad):
    v, _ = layouts()
    with pytest.raises(ModelError, match="must be"): sees(v, v, **bad)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dtype,tol", [(torch.double, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 6e-2)])
def test_fused_heads_equal_the_clear_version(turned, dtype, tol):
    g = torch.Generator().manual_seed(0)
    v, _ = layouts()
    y, s = torch.randn(2, 192, 3 * 2 * 32, generator=g, dtype=torch.double), torch.rand(2, 32, generator=g, dtype=torch.double) + .5
    table = rotary_table(v.place, 32)
    p = y.view(2, 192, 3, 2, 32).permute(2, 0, 3, 1, 4)
    clear = p[:2] / (p[:2].square().mean(-1, keepdim=True) + 1e-6).sqrt() * s[:, None, None, None]
    if turned:
        a, b = clear.chunk(2, -1)
        cos, sin = (t.double()[:, :16] for t in table)
        clear = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    fast = SplitHeads.apply(y.to(dtype), 2, tuple(t.to(dtype) for t in table) if turned else None, *s.to(dtype))
    for x, z in zip(fast, [*clear, p[2]]): torch.testing.assert_close(x.double(), z, rtol=tol, atol=tol)
