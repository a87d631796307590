"The noise path: algebra, tasks, and dice that depend on names only."
import collections

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from jointdit.core import TrainError
from jointdit.train.path import (TASKS, DropSettings, TaskMix, TimeSettings, add_noise, cut_plan, draw_u, given_latents, like,
    noise_from_velocity, plan_batch, possible_task, shift_time, spoil, stream_losses, velocity, x0_from_velocity)
from jointdit.core import named_rng
from train_helpers import CLOCK

SAME = (lambda u: u, lambda u: u)


def batch_of(ids, v=True, a=True, **more):
    return dict(v_latents=torch.zeros(len(ids), *CLOCK.video_shape) if v else None, a_latents=torch.zeros(len(ids), *CLOCK.audio_shape) if a else None,
                meta=[{"id": i} for i in ids], timeline=CLOCK, **more)


def plan_of(ids, turns=None, seed=0, mix=TaskMix(), drop=DropSettings(), **more):
    return plan_batch(batch_of(ids, **more), turns or [0] * len(ids), SAME, mix, TimeSettings(), drop, seed)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.sampled_from([(2, 6, 8, 2, 2), (2, 8, 5, 4)]))
def test_both_ends_from_any_point(t, shape):
    x0, eps, t = torch.randn(shape), torch.randn(shape), torch.tensor([t, 1 - t])
    x_t, v = add_noise(x0, eps, t), velocity(x0, eps)
    assert torch.allclose(x0_from_velocity(x_t, v, t), x0, atol=1e-5)
    assert torch.allclose(noise_from_velocity(x_t, v, t), eps, atol=1e-5)


def test_times_per_latent_go_to_the_time_axis():
    v, a = torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 2, 3, 4)
    t = torch.tensor([[0., .5, 1.]])
    for x, axis in ((v, 1), (a, 2)):
        y = add_noise(x, torch.ones_like(x), t).movedim(axis, 0).flatten(1)
        assert [r.unique().tolist() for r in y] == [[0.], [.5], [1.]]
    assert like(torch.zeros(3), torch.zeros(3, 1, 1, 1, 1)).shape == (3, 1, 1, 1, 1)


def test_given_latents_are_exactly_the_data():
    x0 = torch.randn(2, *CLOCK.video_shape)
    x_t, _ = spoil(x0, torch.randn_like(x0), torch.tensor([[0.] * 3 + [.7] * 3] * 2))
    assert torch.equal(x_t[:, :3], x0[:, :3]) and not torch.equal(x_t[:, 3:], x0[:, 3:])


def test_a_prefix_ends_at_the_same_second_in_both_streams():
    for cut in (.2, .37, .5, .7):
        v, a = given_latents("prefix", CLOCK, cut)
        end_v = CLOCK.video_times[v].max() if v.any() else 0.
        end_a = CLOCK.audio_times[a].max() if a.any() else 0.
        assert end_v < cut * CLOCK.seconds and end_a < cut * CLOCK.seconds
        assert abs(end_v - end_a) <= max(1 / 6, .2)


def test_plans_do_not_depend_on_batch_or_order():
    ids = [f"c{i}" for i in range(9)]
    whole = plan_of(ids)
    back = plan_of(ids[::-1])
    for i, name in enumerate(ids):
        one = plan_of([name])
        for f in ("t_v", "t_a", "learn_v", "iso", "drop_text", "drop_image", "noise_v", "noise_a"):
            assert torch.equal(getattr(one, f)[0], getattr(whole, f)[i]) and torch.equal(getattr(back, f)[-1 - i], getattr(whole, f)[i])


def test_turn_and_seed_change_the_dice():
    a, b, c = plan_of(["x"]), plan_of(["x"], [1]), plan_of(["x"], seed=1)
    assert not torch.equal(a.noise_v, b.noise_v) and not torch.equal(a.noise_v, c.noise_v)
    assert not torch.equal(a.noise_v.flatten()[:50], a.noise_a.flatten()[:50])


def test_each_task_does_what_its_name_says():
    for task in TASKS:
        p = plan_of([f"c{i}" for i in range(12)], mix=TaskMix(**{k: float(k == task) for k in TASKS}))
        assert set(p.tasks) == {task}
        assert p.iso.all() == (task in ("iso", "weak")) and (p.drop_text & p.drop_image).all() == (task == "weak")
        given_v, given_a = ~p.learn_v, ~p.learn_a
        assert ((p.t_v == 0) == given_v).all() and ((p.t_a == 0) == given_a).all()
        assert given_v.all() == (task == "v2a") and given_a.all() == (task == "a2v")
        if task == "first_frame": assert given_v[:, 0].all() and not given_v[:, 1:].any() and not given_a.any()
        if task == "prefix": assert given_v.any() and given_a.any()
        same_u = p.t_v.amax(1) == p.t_a.amax(1)
        if task in ("shared", "iso", "weak", "prefix", "first_frame"): assert same_u.all()
        if task == "independent": assert not same_u.any()


def test_tasks_and_drops_come_at_their_rates():
    p = plan_of([f"c{i}" for i in range(1000)], drop=DropSettings(text=.3, image=.6), v=False, a=False)
    assert abs(p.drop_text.float().mean() - .33) < .04 and abs(p.drop_image.float().mean() - .62) < .04
    both = (p.drop_text & p.drop_image).float().mean() - .05
    assert abs(both - .3 * .6) < .04                      # independently


@pytest.mark.parametrize("has_v, has_a", [(True, False), (False, True)])
def test_one_stream_plays_only_tasks_that_it_can(has_v, has_a):
    for task in TASKS:
        t = possible_task(task, has_v, has_a)
        assert t not in ("v2a", "a2v", "independent") and (has_v or t != "first_frame")
    p = plan_of(["a", "b", "c", "d"] * 5, turns=list(range(20)), v=has_v, a=has_a)
    learn = p.learn_v if has_v else p.learn_a
    assert learn.any(1).all() and (p.noise_v is None) == (not has_v) and (p.noise_a is None) == (not has_a)


def test_a_missing_caption_counts_as_dropped():
    p = plan_of(["a", "b"], drop=DropSettings(text=0, image=0), mix=TaskMix(weak=0), has_t=torch.tensor([True, False]),
                has_i=torch.tensor([False, True]))
    assert p.drop_text.tolist() == [False, True] and p.drop_image.tolist() == [True, False]


def test_loss_is_a_mean_per_clip_over_what_learns():
    pred, target = torch.zeros(2, 8, 5, 4), torch.ones(2, 8, 5, 4)
    target[:, :, 3:] = 3.
    learn = torch.tensor([[True, True, True, False, False], [False, False, False, True, True]])
    assert stream_losses(pred, target, learn).tolist() == [1., 9.]
    assert stream_losses(pred, target, torch.zeros(2, 5, dtype=torch.bool)).tolist() == [0., 0.]


def test_times_stay_away_from_the_ends_and_shift_keeps_them():
    u = [draw_u(TimeSettings(mean=8., std=4.), named_rng(i)) for i in range(300)]
    assert 0 < min(u) and max(u) < 1
    x = torch.linspace(0, 1, 11)
    assert shift_time(x, 3.)[0] == 0 and shift_time(x, 3.)[-1] == 1 and (shift_time(x, 3.)[1:-1] > x[1:-1]).all()


def test_cut_plan_cuts_everything():
    p = cut_plan(plan_of(["a", "b", "c"]), slice(1, 3))
    assert len(p.tasks) == len(p.t_v) == len(p.noise_a) == len(p.iso) == 2


@pytest.mark.parametrize("bad", [{k: 0 for k in TASKS}, {"shared": -1}, {"prefix_min": .6, "prefix_max": .3}, {"sharde": 1}])
def test_bad_mixes_are_refused(bad):
    with pytest.raises(ValidationError): TaskMix(**bad)


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(TrainError, match="timeline"): spoil(torch.zeros(1, 8, 5, 4), torch.zeros(1, 8, 5, 4), torch.zeros(1, 4))


def test_task_counts_follow_the_weights():
    p = plan_of([f"k{i}" for i in range(600)], v=False, a=False)
    n = collections.Counter(p.tasks)
    assert n["shared"] > n["iso"] and set(n) <= set(TASKS)
