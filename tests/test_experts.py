"""Pretrained experts: closed gates leave them untouched, whatever the cut; open ones join the streams; wrong settings are answered with lists."""
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import expert_helpers as H
from jointdit.core import ModelError
from jointdit.model.cut import default_meetings
from jointdit.model.protocol import Cut
from jointdit.sample.solvers import _model_device

torch.set_num_threads(1)
CONFIGS = {"svd": H.SVD, "svd3": H.SVD3, "ltx": H.LTX}


def ask(m, c, B=2, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    x_v, x_a = torch.randn(B, *c.video_shape, generator=g), torch.randn(B, *c.audio_shape, generator=g)
    t = torch.tensor([.3, .8, .6][:B])
    t_v, t_a = m.video.time_map(t, 100), m.audio.time_map(t, 100)
    t_ctx, i_ctx = H.text(B), H.image(B, c)
    with torch.no_grad(): out = m(x_v, x_a, t_v, t_a, c, t_ctx, i_ctx, **more)
    return out, (x_v, x_a), (t_v, t_a), (t_ctx, i_ctx)


@pytest.mark.parametrize("video", CONFIGS)
@pytest.mark.parametrize("size", [(3, 64, 64), (2, 40, 72)])
def test_closed_gates_are_exact(video, size):
    c = H.clock(*size[:1], height=size[1], width=size[2])
    m = H.model(CONFIGS[video], H.ALD3 if video == "svd3" else H.ALD)
    got, x, t, ctx = ask(m, c)
    for e, out, x, t in zip((m.video, m.audio), got, x, t): assert torch.equal(out, H.untouched(e, x, t, c, *ctx)), e.name


def alone(kind, dtype=torch.float32):
    "One expert by itself, in the numbers of `dtype`."
    audio = CONFIGS.get(kind) is None
    m = H.model(None, {"ald": H.ALD, "ald3": H.ALD3}[kind], depth=1) if audio else H.model(CONFIGS[kind], None, depth=1)
    e = m.expert("audio" if audio else "video").requires_grad_(False)
    e.settle(dtype)
    return e


def asked(e, c, seed=0):
    "Latents, times, contexts, and the conditions as an expert gets them."
    x = torch.randn(2, *getattr(c, e.name + "_shape"), generator=torch.Generator().manual_seed(seed))
    ctx = H.text(2), H.image(2, c)
    return x, e.time_map(torch.tensor([.3, .8]), 100), ctx, SimpleNamespace(given={"text": (ctx[0], None), "image": (ctx[1], None)})


@torch.no_grad()
def walk(e, c, x, t, cond, delta=lambda s, tokens: torch.zeros_like(tokens)):
    "Through an expert with its meetings, each of which brings `delta`."
    s = e.begin(x, e.token_times(t), cond, e.layout(x, c))
    for i in range(len(e.meet)):
        s = e.step(i, s)
        tokens, l = e.tokens(s)
        assert tokens.shape == (2, len(l), e.widths[i])
        s = e.add(s, delta(s, tokens))
    return e.finish(s)


WAYS = {"fp32": (torch.float32, (2, 64, 64)), "fp32, odd": (torch.float32, (3, 40, 72)), "bf16": (torch.bfloat16, (2, 64, 64))}


@pytest.mark.parametrize("kind,way", [(k, "fp32") for k in ("svd", "svd3", "ald", "ald3", "ltx")] + [(k, w) for k in ("svd3", "ald3", "ltx") for w in ("fp32, odd", "bf16")])
def test_every_cut_is_exact(kind, way):
    "A meeting after every single layer, and after each alone, and every input before the last: nothing changes."
    dtype, (n, h, w) = WAYS[way]
    e, c = alone(kind, dtype), H.clock(n, height=h, width=w)
    x, t, ctx, cond = asked(e, c)
    want, chain = H.untouched(e, x, t, c, *ctx, dtype=dtype), [l.name for l in e.chain[:-1]]
    cuts = [Cut(meet=chain)] + [Cut(meet=[n]) for n in chain]
    if way == "fp32": cuts += [Cut(meet=chain[-1:], input=n) for n in chain[:-1]]
    for cut in cuts:
        e.settings.cut = cut; e.open()
        if cut.input: assert e.inlet == chain.index(cut.input) + 1
        assert torch.equal(walk(e, c, x, t, cond), want), cut


PLACES = {("svd", "in"): "conv_in", ("svd", "down.0.0"): "down_blocks.0.attentions.0", ("svd", "down.0.down"): "down_blocks.0.downsamplers.0",
          ("svd", "mid.0"): "mid_block.resnets.0", ("ald3", "down.1.0"): "down_blocks.1.attentions.2", ("ald3", "up.0.0"): "up_blocks.0.attentions.2"}


@pytest.mark.parametrize("kind,name", PLACES)
def test_what_a_meeting_brings_is_as_if_the_layer_had_said_it(kind, name):
    "The untouched network, one of whose layers is made to say more by a hook: on the way down the skip carries it too."
    e, c = alone(kind), H.clock(2)
    x, t, ctx, cond = asked(e, c)
    e.settings.cut = Cut(meet=[name]); e.open()
    plain, more, g = H.untouched(e, x, t, c, *ctx), [], torch.Generator().manual_seed(2)

    def delta(s, tokens):
        d = torch.randn(tokens.shape, generator=g)
        more.append(e.from_tokens(s, d))
        return d
    got = walk(e, c, x, t, cond, delta)
    hook = e.net.get_submodule(PLACES[kind, name]).register_forward_hook(lambda m, args, out: (out[0] + more[0],) if isinstance(out, tuple) else out + more[0])
    want = H.untouched(e, x, t, c, *ctx)
    hook.remove()
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5) and not torch.allclose(got, plain, atol=1e-2)


CUTS = [(["down.0.0", "mid"], ["down.0", "up.1.0"]), (["mid"], ["mid"]), (["up.1.0"], ["down.1.0"])]


@pytest.mark.parametrize("meet", CUTS)
def test_closed_gates_of_the_joint_model_are_exact_at_other_cuts(meet):
    c, (v, a) = H.clock(2), meet
    m = H.model(expert_v={"cut": Cut(meet=v)}, expert_a={"cut": Cut(meet=a)})
    assert len(m.joint) == len(v)
    got, x, t, ctx = ask(m, c)
    for e, out, x, t in zip((m.video, m.audio), got, x, t): assert torch.equal(out, H.untouched(e, x, t, c, *ctx)), e.name


@pytest.mark.parametrize("video", ["svd", "ltx"])
def test_closed_gates_are_exact_in_bf16(video):
    c, m = H.clock(2), H.model(CONFIGS[video], H.ALD).requires_grad_(False)
    m.settle(torch.bfloat16)
    assert next(m.video.net.parameters()).dtype == torch.bfloat16
    got, x, t, ctx = ask(m, c)
    for e, out, x, t in zip((m.video, m.audio), got, x, t): assert torch.equal(out, H.untouched(e, x, t, c, *ctx, dtype=torch.bfloat16)), e.name


def test_open_gates_join_and_iso_parts():
    c, m = H.clock(2), H.open_gates(H.model())
    full, x, t, ctx = ask(m, c)
    iso, *_ = ask(m, c, mode="iso")
    with torch.no_grad(): other = m(x[0], x[1] + 1, *t, c, *ctx)[0], m(x[0], x[1] + 1, *t, c, *ctx, mode="iso")[0]
    assert not torch.allclose(full[0], H.untouched(m.video, x[0], t[0], c, *ctx), atol=1e-4)
    assert not torch.allclose(full[0], other[0], atol=1e-5) and torch.allclose(iso[0], other[1], atol=1e-6)


def test_a_mixed_pair_of_native_and_pretrained():
    c = H.clock(2)
    for pair in ((H.SVD, None), (None, H.ALD), (H.LTX, None)):
        m = H.open_gates(H.model(*pair))
        assert len(m.joint) == 3 == len(m.video.widths) == len(m.audio.widths)
        out, *_ = ask(m, c)
        assert all(o.isfinite().all() for o in out)


def test_default_cuts_meet_equally_often():
    for v in (H.SVD, H.SVD3, H.LTX):
        for a in (H.ALD, H.ALD3):
            m = H.model(v, a)
            assert len(m.video.widths) == len(m.audio.widths) == len(m.joint) > 0
            assert default_meetings(m.video.chain, "video")[0] == m.video.chain[m.video.meet[0]].name


def test_no_meeting_at_all_is_two_strangers():
    c, none = H.clock(2), {"cut": Cut(meet=[])}
    m = H.model(expert_v=none, expert_a=none)
    assert len(m.joint) == 0
    got, x, t, ctx = ask(m, c)
    assert torch.equal(got[0], H.untouched(m.video, x[0], t[0], c, *ctx))


@pytest.mark.parametrize("cut,words", [(Cut(meet=["down.9"]), "no such layer"), (Cut(meet=["out"]), "after the last"), (Cut(meet=["mid", "down.0"]), "order"),
                                       (Cut(meet=["down.0.0"], input="mid"), "behind the first meeting")])
def test_a_wrong_cut_lists_the_layers(cut, words):
    with pytest.raises(ModelError) as e: H.model(expert_v={"cut": cut}, expert_a={"cut": Cut(meet=["mid"])})
    assert words in str(e.value) and "down.1: down.1.0, down.1.1" in str(e.value) and "up.0" in str(e.value)


def test_unequal_meetings_show_both():
    with pytest.raises(ModelError) as e: H.model(expert_v={"cut": Cut(meet=["down.0", "mid"])}, expert_a={"cut": Cut(meet=["mid"])})
    assert "equally often" in str(e.value) and "['down.0.down', 'mid.1']" in str(e.value)


def test_dropped_conditions_are_the_absent_ones():
    c, m, B = H.clock(2), H.model(), 2
    m.video.absent_embedding.normal_(); m.audio.absent_generated.normal_(); m.audio.absent_t5.normal_()
    kept, x, t, ctx = ask(m, c)
    half, *_ = ask(m, c, drop_text=torch.tensor([True, False]), drop_image=torch.tensor([False, True]))
    with torch.no_grad(): none = m(*x, *t, c)
    assert torch.allclose(half[0][0], kept[0][0], atol=1e-5) and torch.allclose(half[1][1], kept[1][1], atol=1e-5)
    assert torch.allclose(half[0][1], none[0][1], atol=1e-5) and torch.allclose(half[1][0], none[1][0], atol=1e-5)
    assert not torch.allclose(half[0][1], kept[0][1], atol=1e-3)


def test_a_condition_without_the_experts_own_encoders_says_so():
    c, m = H.clock(2), H.model()
    bare = H.text(2); bare.more.clear()
    with pytest.raises(ModelError, match="clip.experts"):
        m(torch.randn(2, *c.video_shape), torch.randn(2, *c.audio_shape), torch.full((2,), .5), torch.full((2,), .5), c, bare, H.image(2, c))


def test_given_frames_reach_a_network_with_one_time():
    c, m = H.clock(3), H.model()
    x_v, x_a = torch.randn(1, *c.video_shape), torch.randn(1, *c.audio_shape)
    t_v = torch.tensor([[0., .7, .7]])
    with torch.no_grad(): v, _ = m(x_v, x_a, t_v, torch.tensor([.7]), c)
    y = x_v.clone(); y[:, 0] = .3*x_v[:, 0] + .7*m.video._noise_for(x_v)[0]
    assert torch.allclose(v, H.untouched(m.video, y, torch.tensor([.7]), c, None, H.Context(torch.zeros(1, 12), torch.zeros(1, 1, 12), torch.ones(1, 1, dtype=torch.bool),
                          {"svd.embedding": torch.zeros(1, 1, 24), "svd.latent": torch.zeros(1, 4, 8, 8)})), atol=1e-5)


def test_positions_are_the_middles_of_what_a_cell_covers():
    c, m = H.clock(2), H.model(H.SVD3, H.ALD3)
    whole = m.audio.layout(torch.empty(1, *c.audio_shape), c)
    for k in (1, 2):
        l, f = whole.at(k), 2**k
        n = len(c.audio_times)//f
        assert torch.allclose(l.seconds.unique()[:n], c.audio_times[:n*f].view(n, f).mean(1), atol=1e-6)
    l = m.video.layout(torch.empty(1, *c.video_shape), c).at(2)
    assert l.grid == (2, 2, 2) and torch.allclose(l.seconds.unique(), c.video_times)


@pytest.mark.parametrize("pair", [(H.SVD, H.ALD), (H.LTX, H.ALD3)])
def test_an_offloaded_expert_computes_where_the_model_is(pair):
    "The meta device stands in for an accelerator: it mixes with the CPU as little."
    c, off = H.clock(2), {"offload": True}
    m = H.model(*pair, expert_v=off, expert_a=off).to("meta")
    assert _model_device(m).type == "meta" == next(m.joint.parameters()).device.type
    given = {k: (torch.empty(2, *getattr(c, k + "_shape"), device="meta"), torch.full((2,), .5, device="meta")) for k in ("video", "audio")}
    cond = SimpleNamespace(given={"text": (H.text(2).to("meta"), None), "image": (H.image(2, c).to("meta"), None)})
    with torch.no_grad(): out = m._run(given, c, (None,)*4, 2)
    for k, (x, t) in given.items():
        e = m.expert(k)
        with torch.no_grad(): told = e.finish(e.begin(x, e.token_times(t), cond, e.layout(x, c)))
        assert out[k].device.type == told.device.type == "meta" and out[k].shape == told.shape == x.shape
        assert {p.device.type for p in e.net.parameters()} == {"cpu"} and e.mean.device.type == "meta"


def test_offload_is_for_frozen_weights():
    m = H.model(expert_v={"offload": True})
    with pytest.raises(ModelError, match="offload keeps frozen weights"): m.settle(torch.float32)
    m.video.requires_grad_(False)
    m.settle(torch.float32)


def test_checkpointing_through_experts_keeps_their_inputs_alone():
    kept, none, c = [], {"cut": Cut(meet=[])}, H.clock(2)
    for again in (False, True):
        m = H.model(expert_v=none, expert_a=none, checkpointing=again)
        own, seen = {p.untyped_storage()._cdata for p in m.parameters()}, {}
        note = lambda x: seen.setdefault(x.untyped_storage()._cdata, x.untyped_storage()) is None or x
        with saved_tensors_hooks(note, lambda x: x): m(torch.randn(1, *c.video_shape), torch.randn(1, *c.audio_shape), torch.tensor([.5]), torch.tensor([.5]), c, H.text(1), H.image(1, c))
        kept.append(sum(s.nbytes() for k, s in seen.items() if k not in own))
    assert kept[1] < kept[0] / 100, kept


def test_offload_and_checkpointing_change_nothing():
    c, plain = H.clock(2), H.open_gates(H.model())
    want, *_ = ask(plain, c)
    off = H.model(expert_v={"offload": True}, expert_a={"offload": True}); off.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(want, ask(off, c)[0]))
    grads = []
    for again in (False, True):
        m = H.model(checkpointing=again); m.load_state_dict(plain.state_dict())
        x = torch.randn(1, *c.video_shape, generator=torch.Generator().manual_seed(3))
        out = m(x, torch.ones(1, *c.audio_shape), torch.tensor([.5]), torch.tensor([.5]), c, H.text(1), H.image(1, c))
        sum(o.square().mean() for o in out).backward()
        grads.append(torch.cat([p.grad.flatten() for n, p in m.named_parameters() if p.grad is not None]))
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-6)


def test_parameter_groups_and_flops():
    c, m = H.clock(2), H.model()
    groups = m.param_groups_named()
    assert sorted(sum(groups.values(), [])) == sorted(n for n, _ in m.named_parameters())
    assert all(groups[f"{s}.{p}"] for s in ("video", "audio") for p in ("in", "blocks", "out"))
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as count, torch.no_grad():
        m(torch.randn(1, *c.video_shape), torch.randn(1, *c.audio_shape), torch.tensor([.5]), torch.tensor([.5]), c, H.text(1), H.image(1, c))
    assert abs(count.get_total_flops() / m.flops(c) - 1) < .05
    said = m.describe(c)
    for e, shape in ((m.video, c.video_shape), (m.audio, c.audio_shape)):
        for l, w in zip(e.layouts(e.layout(torch.empty(1, *shape), c)), e.widths): assert f"{len(l)} tokens {l.grid}, width {w}" in said
    assert f"{sum(p.numel() for p in m.parameters())/1e6:.2f} M parameters" in said


@pytest.mark.parametrize("again", [False, True])
def test_brought_weights_do_not_wait_for_the_backward_pass(again, monkeypatch):
    "In training an offloaded layer is computed again, checkpointing or not: autograd keeps none of the copies, and the gradients are those of a network that stays."
    from jointdit.model.pretrained import PretrainedExpert
    c, grads = H.clock(2), {}
    bring = PretrainedExpert._brought
    for offload in (False, True):
        brought, seen = set(), set()
        def copies(self, i, device):
            out = {n: x.detach().clone() for n, x in bring(self, i, device).items()}
            brought.update(x.untyped_storage()._cdata for x in out.values())
            alive.extend(out.values())
            return out
        alive = []                          # so that no two copies have one address
        monkeypatch.setattr(PretrainedExpert, "_brought", copies)
        m = H.open_gates(H.model(expert_v={"offload": offload}, expert_a={"offload": offload}, checkpointing=again))
        for n, p in m.named_parameters(): p.requires_grad_(n.startswith(("joint", "cond")))
        keep = lambda x: seen.add(x.untyped_storage()._cdata) or x
        rng = torch.Generator().manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = m(torch.randn(1, *c.video_shape, generator=rng), torch.randn(1, *c.audio_shape, generator=rng), torch.tensor([.5]), torch.tensor([.5]), c, H.text(1), H.image(1, c))
        assert bool(brought) == offload and not brought & seen
        sum(o.square().mean() for o in out).backward()
        grads[offload] = torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None])
    assert torch.allclose(*grads.values(), rtol=1e-4, atol=1e-6) and grads[True].abs().sum() > 0
