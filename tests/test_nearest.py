"""Memorisation: a copied clip is found wherever it starts, and honest clips are not accused."""
import numpy as np
import pytest

from jointdit.measure.nearest import Memorisation, describe, memorisation, nearest, nearest_clips
from jointdit.measure.undefined import Undefined


def latents(n, seed=0, T=24, drift=True):
    "Latents of n clips: (n, T, 8, 8, 8) and (n, 8, 50, 16), changing smoothly from frame to frame."
    g = np.random.default_rng(seed)
    v, a = g.normal(size=(n, T, 8, 8, 8)), g.normal(size=(n, 8, 50, 16))
    smooth = lambda x, axis: np.cumsum(x, axis)/5
    return smooth(v, 1).astype(np.float32), smooth(a, 2).astype(np.float32)


def test_nearest_by_brute_force():
    g = np.random.default_rng(0)
    q, b = g.normal(size=(17, 5)).astype(np.float32), g.normal(size=(40, 5)).astype(np.float32)
    d, i = nearest(q, b, chunk=4)
    full = np.sqrt(((q[:, None] - b[None])**2).mean(2))
    assert (i == full.argmin(1)).all() and np.allclose(d, full.min(1), atol=1e-6)


def test_a_copy_has_distance_zero_even_far_from_the_origin():
    b = 1000 + np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    d, i = nearest(b[3:5], b)
    assert (d == 0).all() and list(i) == [3, 4]


def test_describe_weighs_both_streams_alike():
    v, a = latents(6)
    one = np.ones_like
    x = describe(one(v), 0*a), describe(0*v, one(a))
    assert x[0].shape[:2] == (6, 24) and np.allclose((x[0]**2).sum(2), 1, atol=1e-5) and np.allclose((x[1]**2).sum(2), 1, atol=1e-5)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_copy_is_found_wherever_it_starts(shift):
    v, a = latents(12, T=26)
    bank = describe(v[:, 1:25], a)
    copy = describe(v[5:6, 1 + shift:25 + shift], np.roll(a[5:6], -round(shift*50/24), 2))
    honest = describe(*[x[:1] for x in latents(1, seed=9)])
    d, i, s = nearest_clips(np.concatenate([copy, honest]), bank)
    assert i[0] == 5 and s[0] == -shift and d[0] < .5*d[1]


def test_one_shift_alone_misses_it():
    v, a = latents(12, T=26)
    bank, late = describe(v[:, 1:25], 0*a), describe(v[5:6, 0:24], 0*a[5:6])
    assert nearest_clips(late, bank, shifts=(0,))[0][0] > .02 and nearest_clips(late, bank)[0][0] < 1e-6


def test_honest_clips_are_not_accused_and_thieves_are():
    g = np.random.default_rng(1)
    held, honest = g.uniform(.8, 1.2, 60), g.uniform(.8, 1.2, 60)
    assert not memorisation(honest, held).copied
    crowd = memorisation(honest - .2, held)
    assert crowd.copied and crowd.high < 0 and crowd.difference < 0
    thief = honest.copy()
    thief[:2] = .05
    one = memorisation(thief, held)
    assert one.copied and one.copies == 2 and one.high > 0
    assert isinstance(one, Memorisation) and one == memorisation(thief, held)


@pytest.mark.parametrize("g,h,word", [(np.ones(3), np.ones(60), "too few"), (np.ones(60), [], "too few"), (np.full(60, np.nan), np.ones(60), "NaN")])
def test_undefined_with_its_reason(g, h, word):
    got = memorisation(g, h)
    assert isinstance(got, Undefined) and word in got.reason
