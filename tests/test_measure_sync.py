"Matching, pooling and the controls of sync: constructed cases with known answers."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import linear_sum_assignment

from jointdit.measure.controls import shift_curve, shuffled, timing_group
from jointdit.measure.sync import (ClipSync, Track, clip_sync, correlation, curve_lag, event_sync, match_events, part, peak, pool, sync_of, track,
                                   track_sync)
from jointdit.measure.undefined import Undefined, defined, to_json
from jointdit.toyworld import SPEC, make_clip

FRAME = 1/12
times = st.lists(st.integers(0, 200).map(lambda k: k/100), max_size=7)


def best_by_assignment(s, h, tol):
    "(pairs, total distance) of the best matching, by the Hungarian method."
    if not s or not h: return 0, 0.
    d = np.abs(np.subtract.outer(s, h))
    i, j = linear_sum_assignment(np.where(d <= tol + 1e-9, d, 1e6))
    ok = d[i, j] <= tol + 1e-9
    return ok.sum(), d[i, j][ok].sum()


@settings(max_examples=300, deadline=None)
@given(times, times, st.sampled_from([.05, FRAME, .3]))
def test_matching_is_one_to_one_maximal_and_closest(s, h, tol):
    m = match_events(s, h, tol)
    n, cost = best_by_assignment(s, h, tol)
    assert len(m.pairs) == n and np.abs(m.lags).sum() == pytest.approx(cost, abs=1e-6)
    assert len({i for i, _ in m.pairs}) == len({j for _, j in m.pairs}) == n
    assert m.lags == pytest.approx([h[j] - s[i] for i, j in m.pairs]) and (np.abs(m.lags) <= tol + 1e-6).all()


@settings(max_examples=100, deadline=None)
@given(times, times)
def test_matching_is_symmetric_and_does_not_care_for_order(s, h):
    a, b = match_events(s, h), match_events(h, s)
    assert len(a.pairs) == len(b.pairs) and np.abs(a.lags).sum() == pytest.approx(np.abs(b.lags).sum())
    c = match_events(s[::-1], h[::-1])
    assert len(a.pairs) == len(c.pairs) and np.abs(a.lags).sum() == pytest.approx(np.abs(c.lags).sum())


def test_known_answers_of_event_sync():
    s = event_sync([.5, 1., 1.5], [.5, 1.05, 1.8])
    assert (s.n_matched, s.recall, s.precision) == (2, pytest.approx(2/3), pytest.approx(2/3)) and s.lags == pytest.approx([0, .05])
    assert event_sync([.5], [.5 + FRAME]).n_matched == 1 and event_sync([.5], [.5 + FRAME + .001]).n_matched == 0
    assert event_sync([.5], []).recall == 0 and not defined(event_sync([.5], []).precision) and event_sync([.5], []).f1 == 0
    assert event_sync([], [.5]).precision == 0 and not defined(event_sync([], [.5]).recall)
    assert not defined(event_sync([], [])) and not defined(event_sync([np.nan], [1.])) and event_sync(Undefined("x"), []) == Undefined("x")


def test_known_answers_of_curves():
    x = np.sin(np.arange(24)/3)
    assert correlation(x, 5*x + 2) == pytest.approx(1) and correlation(x, -x) == pytest.approx(-1)
    assert "constant" in correlation(x, x*0).reason and "NaN" in correlation(x, x*np.nan).reason and "fewer" in correlation(x[:3], x[:3]).reason
    assert peak([0, 1, 2, 1, 0]) == 2 and peak([0, 2, 2, 0]) == pytest.approx(1.5) and peak([3, 2, 1]) == 0


@pytest.mark.parametrize("late", [-3., -1.5, -.25, 0., .5, 2., 3.3])
def test_the_lag_of_a_curve_that_was_delayed(late):
    at = lambda d: np.exp(-((np.arange(24) - d - 11)/3)**2)
    t = Track("swell", "curve", at(0), at(late), 2., 12.)
    assert curve_lag(t) == pytest.approx(late/12, abs=.01)


def bursts(n=20, jitter=0., seed=0, scene="ball", **other):
    "Tracks whose sound is off by at most `jitter`."
    rng, out = np.random.default_rng(seed), []
    for _ in range(n):
        s = np.cumsum(rng.uniform(.25, .6, 4))*.8
        out.append(Track(scene, "events", s, s + rng.uniform(-jitter, jitter, 4), 2., 12.))
    return out


def waves(n=20, seed=0, scene="swell"):
    rng = np.random.default_rng(seed)
    curves = [np.convolve(rng.normal(size=30), np.ones(7)/7, "valid") for _ in range(n)]
    return [Track(scene, "curve", c, 3*c + .01*rng.normal(size=24), 2., 12.) for c in curves]


def test_pooling_counts_events_together_and_names_the_worst():
    clips = [ClipSync("ball", "events", 1, 1, 1, np.array([.02])), ClipSync("ball", "events", 9, 10, 3, np.array([-.01, .03, .05])),
             ClipSync("mallet", "events", 4, 4, 4, np.zeros(4)), ClipSync("rotor", "curve", correlation=.5, lag_s=Undefined("no")),
             ClipSync("rotor", "curve", correlation=.9, lag_s=.02), Undefined("the sound is silent"), Undefined("the sound is silent"), None]
    p = pool(clips)
    assert (p.n, p.n_undefined, p.reasons) == (8, 3, {"the sound is silent": 2, "the clip is missing": 1})
    b = p.scenes["ball"]
    assert (b.recall, b.precision, b.f1) == (pytest.approx(.4), pytest.approx(4/11), pytest.approx(8/21)) and b.lag_ms == pytest.approx(25)
    assert b.low <= b.f1 <= b.high and p.scenes["mallet"].f1 == 1 and not defined(p.scenes["mallet"].low)
    assert p.scenes["rotor"].correlation == pytest.approx(.7) and p.scenes["rotor"].lag_ms == pytest.approx(20)
    assert p.worst == {"events": "ball", "curve": "rotor"} and p.events.n_seen == 14 and p.curves.n == 2
    assert to_json(p)["scenes"]["mallet"]["low"] == {"undefined": "too few clips for an interval"}
    assert pool(clips).scenes["ball"].low == b.low, "the bootstrap is seeded"


def test_nothing_to_pool_is_undefined():
    p = pool([Undefined("x")])
    assert not defined(p.events) and not defined(p.curves) and p.scenes == {} and p.worst == {} and p.n_undefined == 1
    assert not defined(pool([]).events)
    c = shuffled([Undefined("x")], ["a"])
    assert not defined(c.events) and not defined(c.curves)
    s = shift_curve([], [0, .1])
    assert not any(map(defined, s.f1 + s.correlation))


def test_delays_peak_at_zero_and_fall_on_both_sides():
    s = shift_curve(bursts(jitter=.02) + waves() + [Undefined("x")], np.arange(-6, 7)/12)
    for y in (s.f1, s.correlation):
        assert np.argmax(y) == 6 and y[6] > .99 and max(y[:4] + y[9:]) < .75
        assert y[6] > y[5] > y[4] and y[6] > y[7] > y[8]


def test_chance_is_far_below_sync_and_does_not_move_when_sync_does():
    t = bursts(40) + waves(40)
    g = [x.scene for x in t]
    real, chance = sync_of(t), shuffled(t, g)
    assert real.events.f1 == 1 and real.curves.correlation > .99
    for mean, low, high in (chance.events, chance.curves, *chance.scenes.values()): assert low <= mean <= high < .6
    unrelated = [Track(a.scene, a.kind, a.seen, b.heard, 2., 12.) for a, b in zip(bursts(40), bursts(40, seed=9))]
    mean, low, high = shuffled(unrelated, ["ball"]*40).events
    assert low - .06 <= sync_of(unrelated).events.f1 <= high + .06
    assert shuffled(t, g, seed=1) == shuffled(t, g, seed=1) != shuffled(t, g, seed=2)


def test_shuffling_keeps_to_groups_and_never_gives_a_clip_its_own_sound():
    t = [Track("ball", "events", np.array([k/10]), np.array([k/10]), 2., 12.) for k in range(3, 15, 2)]
    c = shuffled(t, list("aabbcd"))
    assert c.left_out == 2 and c.n == 20 and c.events == (0., 0., 0.), "own sounds would match, those of others never do"
    with pytest.raises(ValueError): shuffled(t, ["a"])


def test_only_the_generated_part_counts():
    t = Track("ball", "events", np.array([.3, .8, 1.4]), np.array([.3, .8, 1.7]), 2., 12.)
    assert track_sync(t).n_matched == 2 and track_sync(part(t, 1.)).n_matched == 0 and track_sync(part(t, 1.)).n_seen == 1
    c = Track("swell", "curve", np.arange(24.), np.arange(24.), 2., 12.)
    assert len(part(c, 1.).seen) == 12 and len(part(c, .5, 1.).heard) == 6 and part(Undefined("x"), 1.) == Undefined("x")


def test_clips_of_the_toy_world_and_bad_ones():
    c = make_clip("one", scene="mallet")
    s = clip_sync(c.frames, c.wave, 12, 16000, "mallet")
    assert s.n_seen == s.n_heard == s.n_matched == len(c.events)
    nan = c.wave.copy(); nan[5] = np.nan
    for f, w, scene, why in ((c.frames, c.wave*0, "ball", "silent"), (c.frames[:1], c.wave, "ball", "one frame"), (c.frames, None, "swell", "no sound"),
                             (c.frames[:1].repeat(24, 0), c.wave, "rotor", "never changes"), (c.frames, nan, "ball", "NaN"),
                             (c.frames, np.sign(c.wave), "ball", "clipped"), (c.frames, c.wave[:16000], "ball", "1.00 s"), (c.frames, c.wave, "dog", "dog")):
        for got in (clip_sync(f, w, 12, 16000, scene), track(f, w, 12, 16000, scene)): assert isinstance(got, Undefined) and why in got.reason


@pytest.fixture(scope="module")
def world():
    return {s: [make_clip(f"blind {i}", scene=s) for i in range(110)] for s in SPEC}


@pytest.mark.parametrize("scene", list(SPEC))
def test_caption_and_first_frame_do_not_tell_the_moments(world, scene):
    "A regression from first frame and caption class predicts the first event no better than the class alone; a nearest neighbour is at chance."
    clips, n = world[scene], 70
    first = np.array([c.events[0]["time"] if c.events else np.nan for c in clips])
    x = np.stack([c.frames[0, ::4, ::4].astype(float).ravel() for c in clips])
    g = [timing_group(scene, c.attributes) for c in clips]
    groups = np.array([[a == b for b in sorted(set(g))] for a in g], float)
    x = (x - x[:n].mean(0)) @ np.linalg.svd(x[:n] - x[:n].mean(0), full_matrices=False)[2][:20].T
    x = x/x[:n].std()
    def error(a):
        fit, test = np.isfinite(first) & (np.arange(len(first)) < n), np.isfinite(first) & (np.arange(len(first)) >= n)
        w = np.linalg.solve(a[fit].T @ a[fit] + 3*np.eye(a.shape[1]), a[fit].T @ first[fit])
        return ((a[test] @ w - first[test])**2).mean()
    assert error(np.c_[groups, x]) > .8*error(groups), "the first frame knows when it will happen"
    t = lambda c: np.array([e["time"] for e in c.events])
    def alike(i):
        same = [j for j in range(n) if g[j] == g[i]]
        return min(same, key=lambda j: ((x[j] - x[i])**2).sum())
    blind = [Track("ball", "events", t(clips[i]), t(clips[alike(i)]), 2., 12.) for i in range(n, len(clips))]
    truth = [Track("ball", "events", b.seen, b.seen, 2., 12.) for b in blind]
    got, chance = sync_of(blind).events, shuffled(truth, g[n:])
    assert got.low < chance.events[2] + .02, (scene, got.f1, got.low, chance.events)
