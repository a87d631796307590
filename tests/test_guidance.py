"Guidance: its algebra, which branches run, and that grouping them changes nothing."
import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from jointdit.sample.exact import GaussianPair
from jointdit.sample.guidance import (Branch, Conditions, Guidance, JointCFG, ask_branches, combine, guidance_notes, plan_branches,
                                      same_context)
from sample_helpers import one_hot

BLOBS = [[-2., -2.], [0., 2.], [2., -2.]]
names = lambda *a, **k: [b.name for b in plan_branches(*a, **k)]


def point(B=3, t=.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (dict(v=torch.randn(B, 1, 1, 1, 1, generator=g), a=torch.randn(B, 1, 1, 1, generator=g)), dict(v=torch.full((B,), t), a=torch.full((B,), t)))


@given(st.lists(st.floats(-2, 5), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_sum_is_the_formula(weights, seed):
    g = torch.Generator().manual_seed(seed)
    f, *others = torch.randn(1 + len(weights), 2, 3, 4, generator=g)
    want = f + sum(w * (f - o) for w, o in zip(weights, others))
    assert torch.allclose(combine(f, others, weights), want, atol=1e-5)
    full = combine(f, others, weights, rescale=1.)
    assert torch.allclose(full.std((1, 2)), f.std((1, 2)), rtol=1e-3, atol=1e-4)


def test_rescale_looks_at_generated_latents_only():
    f, o = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    f[:, 0] = 1000.                               # a given latent's meaningless answer
    mask = torch.tensor([False, True, True, True])[None, :, None, None, None]
    g = combine(f, [o], [2.], 1., mask)
    assert torch.allclose(g[:, 1:].std((1, 2, 3, 4)), f[:, 1:].std((1, 2, 3, 4)), rtol=1e-3)


def test_rescale_of_one_number_is_left_alone():
    f, o = torch.randn(4, 1, 1, 1), torch.randn(4, 1, 1, 1)
    assert torch.equal(combine(f, [o], [1.], 1.), combine(f, [o], [1.], 0.))


@pytest.mark.parametrize("kw,want", [
    (dict(), ["full", "iso", "no_text"]),
    (dict(text=False), ["full", "iso"]),
    (dict(text=False, image=True), ["full", "iso", "no_image"]),
    (dict(streams=("v",), free=("v",)), ["full", "no_text"]),
    (dict(free=("a",)), ["full", "iso", "no_text"]),
    (dict(negative=True), ["full", "iso", "no_text"]),        # weight_neg_txt is 0
])
def test_plan(kw, want): assert names(Guidance(), **kw) == want


def test_every_weight_switches_its_branch():
    w = dict(weight_v="iso", weight_a="iso", weight_txt="no_text", weight_neg_txt="negative", weight_img="no_image")
    for on in itertools.product([0, 1.], repeat=len(w)):
        g = Guidance(**dict(zip(w, on)))
        want = {n for (k, n), x in zip(w.items(), on) if x}
        assert set(names(g, negative=True, image=True)) == want | {"full"}


def test_weights_of_a_given_stream_do_not_count():
    assert names(Guidance(weight_a=0, weight_txt=0), free=("a",)) == ["full"]
    assert names(Guidance(weight_v=0, weight_txt=0), free=("a",)) == ["full", "iso"]


def test_star_costs_two_and_none_one():
    assert names(Guidance(type="jointcfg_star"), negative=True, image=True) == ["full", "weak"]
    weak = plan_branches(Guidance(type="jointcfg_star"), image=True)[1]
    assert weak == Branch("weak", 1.2, 1.2, iso=True, drop_text=True, drop_image=True)
    assert names(Guidance(type="none"), negative=True, image=True) == ["full"]


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_groups_change_calls_not_answers(k):
    model, (x, t) = GaussianPair(BLOBS), point()
    plan = plan_branches(Guidance(weight_neg_txt=1), negative=True)
    cond = Conditions(one_hot(0, 1, 2), one_hot(1, 2, 0))
    whole = ask_branches(model, plan, x, t, None, cond)
    model.calls = 0
    parts = ask_branches(model, plan, x, t, None, cond, k)
    assert model.calls == (1 if k == 0 else -(-len(plan) // k))
    for p, q in zip(whole, parts): assert all(torch.allclose(p[s], q[s], atol=1e-5) for s in "va")


def test_branches_are_what_they_say():
    model, (x, t) = GaussianPair(BLOBS), point()
    text, neg = one_hot(0, 0, 0), one_hot(2, 2, 2)
    full, iso, none, negative = ask_branches(model, plan_branches(Guidance(weight_neg_txt=1), negative=True), x, t, None, Conditions(text, neg))
    ask = lambda **k: dict(zip("va", model(x["v"], x["a"], t["v"], t["a"], **k)))
    for got, want in ((full, ask(t_ctx=text)), (iso, ask(t_ctx=text, mode="iso")), (none, ask()), (negative, ask(t_ctx=neg))):
        assert all(torch.allclose(got[s], want[s], atol=1e-5) for s in "va")


def test_negative_without_prompt_starts_from_no_text():
    model, (x, t) = GaussianPair(BLOBS), point()
    cfg = JointCFG(model, None, Conditions(None, one_hot(1, 1, 1)), Guidance(weight_v=0, weight_a=0, weight_neg_txt=1, rescale=0))
    got, n = cfg(x, t, .5)
    f, neg = (dict(zip("va", model(x["v"], x["a"], t["v"], t["a"], t_ctx=c))) for c in (None, one_hot(1, 1, 1)))
    assert n == 2 and torch.allclose(got["v"], 2 * f["v"] - neg["v"], atol=1e-5)


def test_interval_limits_and_counts():
    cfg = JointCFG(GaussianPair(BLOBS), None, Conditions(one_hot(0, 0, 0)), Guidance(interval=(.3, .8)))
    x, t = point()
    assert [cfg(x, t, u)[1] for u in (1., .8, .5, .3, .2)] == [1, 3, 3, 3, 1]


def test_same_prompt_as_negative_is_not_run():
    cfg = JointCFG(GaussianPair(BLOBS), None, Conditions(one_hot(0), one_hot(0)), Guidance(weight_neg_txt=2))
    assert "negative" not in [b.name for b in cfg.plan]
    assert same_context(None, None) and not same_context(None, one_hot(0)) and not same_context(one_hot(0), one_hot(1))


def test_notes():
    assert "no effect" in guidance_notes(Guidance(), True)[0]
    assert guidance_notes(Guidance(weight_neg_txt=1), True) == guidance_notes(Guidance(), False) == []
    assert "same as the prompt" in guidance_notes(Guidance(weight_neg_txt=1), True, False)[0]
    assert "no negative prompt" in guidance_notes(Guidance(weight_neg_txt=1), False)[0]
    assert "jointcfg_star" in guidance_notes(Guidance(type="jointcfg_star", weight_neg_txt=1), True)[0]


@pytest.mark.parametrize("bad", [dict(type="cfg"), dict(weight_v="much"), dict(rescale=2), dict(weight_text=1), dict(interval=[0]), dict(branch_batch=-1)])
def test_bad_settings(bad):
    with pytest.raises(ValidationError): Guidance(**bad)
