"Guidance: its algebra, which branches run, and that grouping them changes nothing."
import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from jointdit.sample.exact import GaussianPair
from jointdit.sample.guidance import (Branch, Conditions, Guidance, JointCFG, along, ask_branches, combine, guidance_notes, middle, plan_branches,
                                      same_context, times, weight_words)
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


@pytest.mark.parametrize("bad", [dict(type="cfg"), dict(weight_v="much"), dict(rescale=2), dict(weight_text=1), dict(interval=[0]), dict(branch_batch=-1),
                                 dict(weight_img="much"), dict(weight_img=True), dict(weight_img=51), dict(weight_img=[0, 51]), dict(weight_img=[]), dict(weight_img=[0, 1, 2]), dict(weight_img=[0, "1"]),
                                 dict(weight_img=float("nan")), dict(weight_v=[0, 1])])
def test_bad_settings(bad):
    with pytest.raises(ValidationError): Guidance(**bad)


def test_a_pair_of_weights_rises_along_the_time_of_each_stream():
    v, a = along((0., 2.), torch.zeros(2, 3, 4, 8, 8), "v"), along((0., 2.), torch.zeros(2, 8, 5, 16), "a")
    assert v.shape == (1, 3, 1, 1, 1) and v.flatten().tolist() == [0, 1, 2] and a.shape == (1, 1, 5, 1) and a.flatten().tolist() == [0, .5, 1, 1.5, 2]
    assert along((0., 2.), torch.zeros(1, 1, 4, 8, 8), "v").tolist() == [[[[[0.]]]]] and along(1.2, v, "v") == 1.2


def test_a_pair_of_equal_weights_is_that_weight():
    class Loud:                                   # frames and sound that know whether there is a picture
        def __call__(self, v, a, tv, ta, clock, i_ctx=None, drop_image=None, **k):
            heard = torch.ones(len(v)) if drop_image is None else 1 - drop_image.float()
            return v * 0 + heard.view(-1, 1, 1, 1, 1), a * 0 + heard.view(-1, 1, 1, 1)
    x, t = dict(v=torch.randn(2, 3, 1, 2, 2), a=torch.randn(2, 1, 5, 2)), dict(v=torch.full((2,), .5), a=torch.full((2,), .5))
    def guided(w):
        g = Guidance(weight_v=0, weight_a=0, weight_txt=0, weight_img=w, rescale=0)
        return JointCFG(Loud(), None, Conditions(image=one_hot(0, 2)), g)(x, t, .5)[0]
    for s in "va": assert torch.equal(guided([1, 1])[s], guided(1)[s])
    assert guided([0, 2])["v"][0, :, 0, 0, 0].tolist() == [1, 2, 3] and guided([0, 2])["a"][0, 0, :, 0].tolist() == [1, 1.5, 2, 2.5, 3]


@pytest.mark.parametrize("w,runs", [((0, 0), False), ((0, 2), True), ([2, 0], True), ([1], True)])
def test_a_pair_runs_its_branch_unless_it_is_nothing(w, runs):
    g = Guidance(weight_img=w)
    assert ("no_image" in names(g, image=True)) == runs and Guidance(**g.model_dump(mode="json")) == g and Guidance(**g.model_dump()) == g
    assert names(Guidance(weight_v=0, weight_a=0, weight_txt=0, weight_img=w), free=("a",), image=True) == ["full"] + ["no_image"] * runs


def test_words_about_weights():
    assert (weight_words(1.), weight_words((0., 2.)), weight_words([0, 2])) == ("1", "0 to 2", "0 to 2")
    assert times((0., 2.), 2) == (0., 4.) and times(1.5, 2) == 3. and middle((0., 2.)) == 1. and middle(1.2) == 1.2


def test_a_pair_from_the_environment_and_the_command_line(tmp_path):
    from jointdit.sample.request import load_request
    ask = lambda env={}, *told: load_request(tmp_path/"r.yaml", {}, told, env, lambda line: None).guidance.weight_img
    (tmp_path/"r.yaml").write_text("guidance: {weight_img: [0.0, 2.0]}\n")
    assert ask() == (0., 2.) and ask({"JOINTDIT_WI": "5"}) == 5. and ask({"JOINTDIT_WI": "1, 3"}) == (1., 3.) and ask({}, "guidance.weight_img=[0, 1]") == (0., 1.)


def test_the_proof_scales_and_prints_a_pair():
    from jointdit.proof.plan import scaled
    assert scaled(Guidance(weight_img=[0, 2]), 2).weight_img == (0., 4.) and scaled(Guidance(weight_img=[0, 2]), 0).weight_img == (0., 0.)
