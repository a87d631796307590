"Solvers and the walk: exact answers where they are known, given latents bit for bit, samples that do not depend on their company."
import pytest
import torch

from jointdit.core import SampleError
from jointdit.sample.exact import GaussianPair, Library
from jointdit.sample.guidance import Guidance
from jointdit.sample.solvers import SOLVERS, Given, SamplerSettings, euler, heun, sample_latents, start_noise, stream_tokens, time_grid
from jointdit.timeline import AudioGrid, Timeline, VideoGrid
from sample_helpers import CLOCK, one_hot, tiny_model

same = dict(v=lambda u: u, a=lambda u: u)
plain = lambda **k: SamplerSettings(guidance=Guidance(type="none"), **k)
N = 200


def gauss(mean=(3., -1.), corr=0., std=.5): return GaussianPair([list(mean)], corr=corr, std=std)


def run(solver, steps, maps=same, model=None):
    model, g = model or gauss(), torch.Generator().manual_seed(0)
    x = dict(v=torch.randn(N, 1, 1, 1, 1, generator=g), a=torch.randn(N, 1, 1, 1, generator=g))
    field = lambda y, u, t: dict(zip("va", model(y["v"], y["a"], torch.full((N,), t["v"]), torch.full((N,), t["a"]))))
    return x, SOLVERS[solver](field, x, time_grid(steps, maps))


@pytest.mark.parametrize("solver,steps,most", [("euler", 100, .03), ("heun", 64, .01)])
@pytest.mark.parametrize("maps", [same, dict(v=lambda u: 3 * u / (1 + 2 * u), a=lambda u: u), dict(v=lambda u: u**2, a=lambda u: u**.8)])
def test_gaussian_is_exact(solver, steps, most, maps):
    x, out = run(solver, steps, maps)
    assert (out["v"] - (3 + .5 * x["v"])).abs().max() < most * 3
    assert (out["a"] - (-1 + .5 * x["a"])).abs().max() < most * 3


def test_orders():
    err = lambda s, n: (lambda x, o: (o["v"] - (3 + .5 * x["v"])).abs().max().item())(*run(s, n))
    assert 1.7 < err("euler", 32) / err("euler", 64) < 2.3
    assert 3. < err("heun", 16) / err("heun", 32) < 5.


def test_correlation_survives_different_clocks():
    _, out = run("heun", 40, dict(v=lambda u: 4 * u / (1 + 3 * u), a=lambda u: u), gauss(corr=.9))
    assert torch.corrcoef(torch.stack([out["v"].flatten(), out["a"].flatten()]))[0, 1] > .85


def test_grid_ends():
    grid = time_grid(7, dict(v=lambda u: 2 * u / (1 + u)))
    assert len(grid) == 8 and grid[0] == (1., {"v": 1.}) and grid[-1] == (0., {"v": 0.})
    assert all(a[1]["v"] > b[1]["v"] for a, b in zip(grid, grid[1:]))


@pytest.mark.parametrize("solver,want", [("euler", 10), ("heun", 19)])
def test_evaluations(solver, want):
    m = gauss()
    *_, r = sample_latents(m, m.clock, [0], settings=plain(steps=10, solver=solver), bar=iter)
    assert r.evaluations == m.calls == want and r.branches == ["full"]


def test_evaluations_with_branches_and_interval():
    m = GaussianPair([[0., 0.], [3., 3.]])
    s = SamplerSettings(steps=10, guidance=Guidance(interval=(.25, .75)))
    *_, r = sample_latents(m, m.clock, [0], one_hot(0, n=2), settings=s, bar=iter)
    inside = sum(.25 <= 1 - k / 10 <= .75 for k in range(10))
    assert r.evaluations == 3 * inside + (10 - inside) and m.calls == 10


def test_one_step_goes_to_the_mean():
    m = gauss()
    v, a, _ = sample_latents(m, m.clock, range(5), settings=plain(steps=1), bar=iter)
    assert torch.allclose(v.flatten(), torch.full((5,), 3.), atol=1e-4) and torch.allclose(a.flatten(), torch.full((5,), -1.), atol=1e-4)


def test_video_to_audio_is_the_conditional():
    m, seen = gauss((0., 1.), corr=.9), torch.linspace(-1, 1, N)[:, None, None, None, None]
    v, a, _ = sample_latents(m, m.clock, range(N), given=Given(v=seen, v_mask=torch.ones(1, dtype=torch.bool)), settings=plain(steps=60, solver="heun"), bar=iter)
    left = a.flatten() - (1 + .9 * seen.flatten())
    assert torch.equal(v, seen) and abs(left.mean()) < .06 and abs(left.std() - .5 * .19**.5) < .04


# -- a library of known clips: the right answer is a clip

LIB = Timeline(6, 12, 16000, VideoGrid(8, 2, 1, 1, 32, 32), AudioGrid(channels=2))


@pytest.fixture(scope="module")
def library():
    g = torch.Generator().manual_seed(1)
    v = torch.randn(4, *LIB.video_shape, generator=g) * 3 + 1
    a = torch.randn(4, *LIB.audio_shape, generator=g) * 5 - 2
    return v, a, Library(v, a, one_hot(0, 1, 2, 3, n=4), blur=10.)


near = lambda x, lib: [(y - lib).flatten(1).square().sum(1).argmin().item() for y in x]


def test_library_text(library):
    v, a, m = library
    x, y, _ = sample_latents(m, LIB, range(4), one_hot(2, 0, 3, 1, n=4), settings=plain(steps=20), bar=iter)
    assert near(x, v) == near(y, a) == [2, 0, 3, 1]
    assert (x[0] - v[2]).abs().mean() < .3


@pytest.mark.parametrize("i", [0, 3])
def test_library_directions(library, i):
    v, a, m = library
    T, L = len(LIB.video_times), len(LIB.audio_times)
    all_v, all_a = torch.ones(T, dtype=torch.bool), torch.ones(L, dtype=torch.bool)
    first, half = torch.arange(T) < 1, (torch.arange(T) < T // 2, torch.arange(L) < L // 2)
    for g in (Given(v=v[i:i+1], v_mask=all_v), Given(a=a[i:i+1], a_mask=all_a), Given(v=v[i:i+1], v_mask=first), Given(v[i:i+1], a[i:i+1], *half)):
        x, y, _ = sample_latents(m, LIB, [5, 6], given=g, settings=plain(steps=12), bar=iter)
        assert near(x, v) == near(y, a) == [i, i]
        if g.v is not None: assert torch.equal(x[:, g.v_mask], v[[i, i]][:, g.v_mask])
        if g.a is not None: assert torch.equal(y[:, :, g.a_mask], a[[i, i]][:, :, g.a_mask])


# -- the real model

def test_noise_is_named_by_seed_and_stream():
    a, b = start_noise(CLOCK, [7, 8]), start_noise(CLOCK, [1, 2, 8])
    assert torch.equal(a["v"][1], b["v"][2]) and torch.equal(a["a"][1], b["a"][2])
    assert not torch.equal(a["v"][0], a["v"][1])
    assert abs(a["v"].std() - 1) < .05


def test_a_sample_does_not_depend_on_the_batch():
    m, s = tiny_model(4), SamplerSettings(steps=3)
    alone = sample_latents(m, CLOCK, [8], one_hot(1, n=4), settings=s, bar=iter)
    crowd = sample_latents(m, CLOCK, [1, 8, 3], one_hot(1, n=4), settings=s, bar=iter)
    again = sample_latents(m, CLOCK, [8], one_hot(1, n=4), settings=s, bar=iter)
    assert torch.equal(alone[0], again[0]) and torch.equal(alone[1], again[1])
    assert torch.allclose(alone[0][0], crowd[0][1], atol=1e-4) and torch.allclose(alone[1][0], crowd[1][1], atol=1e-4)


def test_prompts_of_a_batch_are_each_ones_own():
    m, s = tiny_model(4), SamplerSettings(steps=2)
    both = sample_latents(m, CLOCK, [8, 8], one_hot(1, 2, n=4), settings=s, bar=iter)[0]
    two = sample_latents(m, CLOCK, [8], one_hot(2, n=4), settings=s, bar=iter)[0]
    assert torch.allclose(both[1], two[0], atol=1e-4) and not torch.allclose(both[0], both[1], atol=1e-3)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_given_latents_stay_clean_in_the_real_model(solver):
    m, seen = tiny_model(4), []
    m.video.set_statistics([.3] * 8, [1.7] * 8)
    v = torch.randn(1, *CLOCK.video_shape)
    mask = torch.arange(CLOCK.n_video_latents) < 2
    hook = m.register_forward_pre_hook(lambda mod, args: seen.append((args[0][:, :2].clone(), args[2], args[3])))
    x, y, _ = sample_latents(m, CLOCK, [0, 1], given=Given(v=v, v_mask=mask), settings=SamplerSettings(steps=3, solver=solver), bar=iter)
    hook.remove()
    assert torch.equal(x[:, :2], v[:, :2].expand(2, -1, -1, -1, -1)) and not torch.equal(x[:, 2:], v[:, 2:].expand(2, -1, -1, -1, -1))
    clean = m.video.normalize(v)[:, :2]
    for start, t_v, t_a in seen:
        assert torch.equal(start, clean.expand_as(start))
        assert (t_v[:, :2] == 0).all() and (t_v[:, 2:] > 0).all() and t_a.ndim == 1


def test_the_time_map_is_the_streams_own():
    m, times = tiny_model(4, shift_tokens=8, patch_v=[1, 2, 2]), []
    assert stream_tokens(m, CLOCK, "v") == 6 * 4 * 4 and stream_tokens(m, CLOCK, "a") == CLOCK.n_audio_latents
    hook = m.register_forward_pre_hook(lambda mod, a: times.append((a[2][0].item(), a[3][0].item())))
    sample_latents(m, CLOCK, [0], settings=plain(steps=4), bar=iter)
    hook.remove()
    want = [(m.video.time_map(u, 96), m.audio.time_map(u, CLOCK.n_audio_latents)) for u in (1, .75, .5, .25)]
    assert all(abs(g - w) < 1e-6 for got, w2 in zip(times, want) for g, w in zip(got, w2))
    assert times[1][0] > times[1][1]


def test_one_stream_alone():
    v, a, r = sample_latents(tiny_model(4), CLOCK, [0], settings=SamplerSettings(steps=2), streams=("v",), bar=iter)
    assert v.shape[1:] == CLOCK.video_shape and a is None and r.branches == ["full"]


def test_watch_sees_every_step_and_may_stop_it():
    m, seen = gauss(), []
    sample_latents(m, m.clock, [0], settings=plain(steps=5), watch=lambda k, u, x, clean: seen.append((k, round(u, 3), set(clean))), bar=iter)
    assert seen == [(k, round(1 - k / 5, 3), {"v", "a"}) for k in range(5)]
    def stop(k, *_):
        if k == 2: raise SampleError("enough")
    with pytest.raises(SampleError, match="enough"): sample_latents(m, m.clock, [0], settings=plain(steps=5), watch=stop, bar=iter)


def test_not_finite_is_an_error_that_says_where():
    m = tiny_model(4)
    with torch.no_grad(): next(m.audio.outlet.parameters()).fill_(float("nan"))
    with pytest.raises(SampleError, match="non-finite audio velocities at u = 1.000"):
        sample_latents(m, CLOCK, [0], settings=SamplerSettings(steps=2), bar=iter)


@pytest.mark.parametrize("given,match", [
    (Given(v=torch.zeros(1, 5, 8, 8, 8), v_mask=torch.ones(5, dtype=torch.bool)), "another codec or timeline"),
    (Given(a=torch.zeros(3, *CLOCK.audio_shape), a_mask=torch.ones(CLOCK.n_audio_latents, dtype=torch.bool)), "another codec or timeline"),
    (Given(torch.zeros(1, *CLOCK.video_shape), torch.zeros(1, *CLOCK.audio_shape), torch.ones(6, dtype=torch.bool),
           torch.ones(CLOCK.n_audio_latents, dtype=torch.bool)), "nothing to generate"),
])
def test_bad_given(given, match):
    with pytest.raises(SampleError, match=match): sample_latents(tiny_model(4), CLOCK, [0, 1], given=given, settings=SamplerSettings(steps=1), bar=iter)
