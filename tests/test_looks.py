"Who looks at whom: maps of a joint attention in seconds."
import pytest
import torch

import expert_helpers as H
from jointdit.core import ModelError
from jointdit.model.looks import Look, look, nearness, overhear
from jointdit.settings import Knobs

torch.set_num_threads(1)


def given(c, B=2):
    g = torch.Generator().manual_seed(0)
    r = lambda *s: torch.randn(B, *s, generator=g)
    return r(*c.video_shape), r(*c.audio_shape), torch.rand(B, generator=g), torch.rand(B, generator=g), c, H.text(B), H.image(B, c)


@pytest.mark.parametrize("kinds", [(H.SVD, H.ALD), (None, None)], ids=["U-Nets", "native"])
@pytest.mark.parametrize("knob", [1, 4])
def test_axes_are_the_clock_and_weights_are_those_of_the_block(kinds, knob):
    c = H.clock(12)
    m = H.model(*kinds, channels_a=8)
    m.knobs.kv_downsample = knob
    heard = overhear(m, *given(c))
    assert len(heard) == len(m.joint) and not any(b._forward_pre_hooks for b in m.joint)
    for block, h in zip(m.joint, heard):
        one, other = (look(block, h, who, whom, m.settings.n_text) for who, whom in (("audio", "video"), ("video", "audio")))
        for x in (one, other):
            assert x.weights.shape == (len(x.who), len(x.whom)) and (x.weights >= 0).all() and (x.weights.sum(1) < 1).all()
            assert all((t.diff() > 0).all() and 0 < t[0] < t[-1] < c.seconds for t in (x.who, x.whom))
        if knob == 1: assert torch.equal(one.who, other.whom) and torch.equal(one.whom, other.who)
        tokens, vec, cond, views, *_ = h
        w, lq, lk, _ = block.weights(tokens, vec, cond, views, "full", m.settings.n_text)
        row = w.mean((0, 1))[:, (lk.stream == 0)][(lq.stream == 1) & (lq.seconds == one.who[1])].mean(0)
        assert one.weights[1].sum().item() == pytest.approx(row.sum().item(), rel=1e-4)


def test_nobody_looks_across_where_streams_are_apart():
    m, c = H.model(), H.clock()
    iso, full = (overhear(m, *given(c), mode=mode) for mode in ("iso", "full"))
    assert not look(m.joint[0], iso[0]).weights.any() and look(m.joint[0], full[0]).weights.sum() > 0
    half = overhear(m, *given(c), mode=torch.tensor([True, False]))[0]       # only the sample that is full counts
    assert look(m.joint[0], half).weights.sum() > 0


def test_hooks_are_gone_after_a_fault():
    m, c = H.model(), H.clock()
    with pytest.raises(ModelError): overhear(m, *given(c), mode="sideways")
    assert not any(b._forward_pre_hooks for b in m.joint)


def test_nearness_of_known_maps():
    t = torch.arange(24) / 12
    assert nearness(Look(torch.ones(24, 24), t, t)) == pytest.approx(1)
    assert nearness(Look(torch.eye(24), t, t)) == pytest.approx(24**2 / 70)
    assert nearness(Look(torch.eye(24).roll(12, 0), t, t)) == 0 and nearness(Look(torch.zeros(24, 24), t, t)) == 0
