"""Frechet distances: known answers, intervals that contain their value, floors, and words instead of numbers for what has no distance."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from jointdit.measure.frechet import Frechet, frechet, frechet_floor, gaussian, gaussian_distance, principal
from jointdit.measure.undefined import Undefined


def heap(n=200, d=6, seed=0, mean=0., scale=1.):
    return mean + scale*np.random.default_rng(seed).normal(size=(n, d))


# ---- known answers

@pytest.mark.parametrize("shift,scale", [(0, 1), (3, 1), (0, 2), (1.5, .25)])
def test_closed_form_in_one_dimension(shift, scale):
    one = lambda v: np.array([[float(v)]])
    got = gaussian_distance(np.zeros(1), one(1), np.array([float(shift)]), one(scale**2))
    assert got == pytest.approx(shift**2 + (scale - 1)**2, abs=1e-12)


def test_agrees_with_the_matrix_root_of_scipy():
    x, y = heap(seed=1) @ np.random.default_rng(2).normal(size=(6, 6)), heap(seed=3, mean=.4)
    (mx, cx), (my, cy) = gaussian(x), gaussian(y)
    book = ((mx - my)**2).sum() + np.trace(cx + cy - 2*np.real(sqrtm(cx @ cy)))
    assert frechet(x, y, 0).value == pytest.approx(book, rel=1e-6)


def test_singular_covariances_stay_real():
    x = heap(d=3) @ np.ones((3, 6))  # rank 1
    assert 0 <= frechet(x, x + 2., 0).value == pytest.approx(24, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(.1, 3))
def test_symmetric_zero_for_itself_and_unmoved_by_rotation(seed, mean, scale):
    x, y = heap(60, 4, seed), heap(70, 4, seed + 1, mean, scale)
    q = np.linalg.qr(heap(4, 4, seed))[0]
    d = frechet(x, y, 0).value
    assert frechet(y, x, 0).value == pytest.approx(d, rel=1e-6, abs=1e-9)
    assert frechet(x @ q, y @ q, 0).value == pytest.approx(d, rel=1e-6, abs=1e-9)
    assert frechet(x, x[::-1], 0).value < 1e-8


# ---- intervals and floors

def test_interval_holds_its_value_and_is_reproducible():
    a, b = heap(seed=1), heap(seed=2, mean=.3)
    f = frechet(a, b, 100, seed=4)
    assert f.low <= f.value <= f.high and f.low < f.high and (f.n, f.m, f.dim) == (200, 200, 6)
    assert f == frechet(a, b, 100, seed=4) and float(f) == f.value
    assert frechet(a, b, 0).low == frechet(a, b, 0).high


def test_interval_narrows_with_more_clips():
    width = lambda n: (lambda f: f.high - f.low)(frechet(heap(n, seed=1), heap(n, seed=2, mean=.5), 100))
    assert width(1600) < .6*width(100)


def test_order_of_known_cases():
    real = heap(400)
    worse = [frechet(real, heap(400, seed=9, mean=m), 0).value for m in (0, .3, .6, 1.2)]
    assert worse == sorted(worse)


def test_floor_falls_with_the_number_of_clips_and_lies_below_a_real_difference():
    real = heap(800)
    few, many = frechet_floor(real, 50), frechet_floor(real, 400)
    assert many.value < few.value/4 and many.value < frechet(real[:400], heap(400, seed=5, mean=.5), 0).value
    assert many.low <= many.value <= many.high and many.n == 400


def test_principal_is_fitted_on_the_reference_alone():
    x = heap(50, 300)*np.geomspace(1, 1e-3, 300)
    p = principal(x, 10)
    assert p(x).shape == (50, 10) and isinstance(frechet(p(x), p(x + 1.), 20), Frechet)
    assert np.allclose(p(x).mean(0), 0, atol=1e-9)


# ---- what must not become a number

@pytest.mark.parametrize("bad,word", [
    (heap(6), "too few"), (heap(0), "too few"), (heap()*np.nan, "NaN"), (np.where(heap() > 2, np.inf, 0.), "infinity"),
    (np.ones((200, 6)), "constant"), (heap(d=5), "dimensions"), (np.ones(200), "shape"), (np.zeros((3, 4, 5)), "shape")])
def test_undefined_with_its_reason(bad, word):
    for pair in ((heap(), bad), (bad, heap())):
        got = frechet(*pair, 20)
        assert isinstance(got, Undefined) and word in got.reason and not got
        with pytest.raises(TypeError): float(got)


def test_floor_says_when_there_are_too_few():
    assert "two sets of 30" in frechet_floor(heap(40), 30).reason
    assert "too few" in frechet_floor(heap(8)).reason
    assert "NaN" in frechet_floor(heap()*np.nan).reason


def test_fewest_clips_can_be_chosen():
    assert "at least 100" in frechet(heap(60), heap(60), min_clips=100).reason
