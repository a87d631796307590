"Attention: exact chunks, safe exponentials, bounded pooling."
import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from jointdit.core import ModelError
from jointdit.model import attention
from jointdit.model.attention import MAX_SPAN, ExpAttention, attend, pool_factors, pool_matrix


def qkv(n, m, d=8, b=2, h=2, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, h, k, d, generator=g).to(dtype) for k in (n, m, m)]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), m=st.integers(1, 20), chunk=st.integers(0, 25), scale=st.sampled_from([.1, 1., 10., 300.]),
       seed=st.integers(0, 99))
def test_attend_is_softmax_attention_for_any_chunk(n, m, chunk, scale, seed):
    q, k, v = qkv(n, m, seed=seed)
    truth = (q.double() * scale @ k.double().mT / math.sqrt(8)).softmax(-1) @ v.double()
    torch.testing.assert_close(attend(q * scale, k, v, q_chunk=chunk).double(), truth, rtol=1e-3, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 9), chunk=st.integers(1, 9), seed=st.integers(0, 99))
def test_chunks_equal_the_whole_in_double(n, chunk, seed):
    q, k, v = qkv(n, 7, seed=seed, dtype=torch.double)
    torch.testing.assert_close(attend(q, k, v, q_chunk=chunk), attend(q, k, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1., 100.])
@pytest.mark.parametrize("chunk", [0, 3])
def test_gradients_equal_torchs(scale, chunk):
    ours, theirs = ([x.double().requires_grad_() for x in qkv(6, 9)] for _ in range(2))
    mask = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) > .4
    mask[:, 0] = True
    a = attend(ours[0] * scale, *ours[1:], q_chunk=chunk, mask=mask)
    b = F.scaled_dot_product_attention(theirs[0] * scale, *theirs[1:], attn_mask=mask)
    torch.testing.assert_close(a, b)
    w = torch.randn_like(a)
    for x, y in zip(torch.autograd.grad(a, ours, w), torch.autograd.grad(b, theirs, w)): torch.testing.assert_close(x, y)


def test_bf16_is_near_and_finite():
    q, k, v = qkv(50, 60, d=64)
    near = attend(*(x.bfloat16() for x in (q, k, v)))
    assert near.dtype == torch.bfloat16
    assert (near.float() - attend(q, k, v)).norm() / attend(q, k, v).norm() < .02
    assert attend(*(x.bfloat16() * 100 for x in (q, k, v))).isfinite().all()


def test_nan_stays_visible():
    q, k, v = qkv(4, 4)
    q[0, 0, 0, 0] = math.nan
    assert attend(q, k, v)[0, 0, 0].isnan().all()


@pytest.mark.parametrize("mask", [torch.ones(3, 3, dtype=torch.bool), torch.ones(4, 5)])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ModelError, match=r"mask must be \(4, 5\) bool"): attend(*qkv(4, 5), mask=mask)


@settings(max_examples=100, deadline=None)
@given(grid=st.tuples(st.integers(1, 60), st.integers(1, 16), st.integers(1, 16)), factor=st.integers(1, 64), step=st.floats(.01, .5))
def test_pooling_is_bounded(grid, factor, step):
    f = pool_factors(grid, factor, step)
    assert math.prod(f) <= factor and all(1 <= a <= n for a, n in zip(f, grid))
    assert f[0] == 1 or f[0] * step <= MAX_SPAN + 1e-5
    assert f[0] == 1 or (2 * f[1] > grid[1] and 2 * f[2] > grid[2]), "time is pooled last"


@settings(max_examples=30, deadline=None)
@given(grid=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)), factor=st.sampled_from([1, 2, 4, 8, 16]))
def test_pool_matrix_is_an_average_of_neighbours(grid, factor):
    f = pool_factors(grid, factor, .04)
    p = pool_matrix(grid, f)
    assert p.shape == (math.prod(-(-n // k) for n, k in zip(grid, f)), math.prod(grid))
    torch.testing.assert_close(p.sum(1), torch.ones(len(p)))
    assert ((p > 0).sum(0) == 1).all()


def test_pooling_by_one_is_exact():
    assert torch.equal(pool_matrix((3, 2, 2), (1, 1, 1)), torch.eye(12))


@pytest.mark.parametrize("factor", [0, -2])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(ModelError, match="at least 1"): pool_factors((4, 4, 4), factor, .1)


def test_networks_of_others_learn_through_attend(monkeypatch):
    "Only where it pays: in bf16, with something to learn, without masks, in short sequences; and again when a layer is recomputed."
    from torch.utils.checkpoint import checkpoint
    seen, own = [], attention.attend
    monkeypatch.setattr(attention, "attend", lambda *a, **k: seen.append(a[0].shape) or own(*a, **k))
    def look(*x, **kw):
        with attention.AttendForThem(): return F.scaled_dot_product_attention(*x, **kw)
    half = [torch.randn(2, 2, 8, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    one = look(*half)
    assert len(seen) == 1
    checkpoint(look, *half, use_reentrant=False).sum().backward()
    assert len(seen) == 3 and half[0].grad is not None
    for kw in ({"attn_mask": torch.zeros(8, 8, dtype=torch.bfloat16)}, {"is_causal": True}, {"scale": .1}): look(*half, **kw)
    look(*(x.float() for x in half)), look(*(x.detach() for x in half))
    with torch.no_grad(): look(*half)
    monkeypatch.setattr(attention, "SHORT", 63)
    torch.testing.assert_close(look(*half), one, rtol=.02, atol=.02)
    assert len(seen) == 3


@pytest.mark.parametrize("spread", [.5, 1., 4., 9.])
def test_networks_of_others_are_answered_about_as_exactly_as_by_torch(spread):
    "Scores are rounded before exp: where they may be large, torch's own attention answers."
    rng = torch.Generator().manual_seed(0)
    x = [torch.randn(2, 2, 96, 32, generator=rng).mul(spread**.5 if i < 2 else 1).bfloat16() for i in range(3)]
    w = torch.linspace(-1, 1, 32)
    def grads(t, mode):
        y = [a.to(t).requires_grad_() for a in x]
        with attention.AttendForThem() if mode else contextlib.nullcontext(): out = F.scaled_dot_product_attention(*y)
        return torch.autograd.grad((out * w.to(t)).sum(), y)
    off = lambda mode: max(float((a.double() - b).norm() / b.norm()) for a, b in zip(grads(torch.bfloat16, mode), grads(torch.double, False)))
    assert off(True) < .012 and (spread < 2 or off(True) == off(False))
