"""The judge: it reads clips through the codecs well enough to measure a model by, notices what it must notice, and says when it cannot say."""
import numpy as np
import pytest
import torch

from jointdit.core import AssetError
from jointdit.measure.frechet import frechet, principal
from jointdit.measure.undefined import Undefined
from jointdit.proof.judge import (AUDIBLE, QUESTIONS, SCENES, Judge, JudgeNet, Reading, caption_accuracy, ear_input, eye_input, marks, save_judge,
                                  share)
from jointdit.proof.judge_train import TIMED, Supply, judge_loss, judge_step, label, load_codecs, readable, through_codecs, wear_frames
from jointdit.toyworld import FPS, RATE, is_held_out, make_clip, render_batch, spec


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def clips():
    return render_batch([f"test judge {k}" for k in range(64)], split="test")


@pytest.fixture(scope="module")
def readings(judge, clips):
    return judge.read(*clips[:2])


# ---- the shipped judge

def test_card_tells_of_errors_small_enough_to_judge_95_percent(judge):
    told = judge.card["measured"]["through_codecs"]
    assert told["n"] >= 130 and told["held_out"]["n"] >= 25 and "make_toy_judge" in judge.card["training"]["command"]
    for k, v in told["both"].items():
        if k not in ("n", "all"): assert v >= .98, k
    for k, v in told["held_out"].items():
        if k not in ("n", "all"): assert v >= .95, k


def test_weights_are_small():
    from jointdit.core import toy_path
    assert (toy_path("toy:judge") / "model.safetensors").stat().st_size < 3e6


def test_reads_new_real_clips(readings, clips):
    told = caption_accuracy(readings, [dict(scene=c.scene, attributes=readable(c)) for c in clips[2]])
    assert float(told["all"]) >= .95 and told["n"] == 64
    unseen = [(r, c) for r, c in zip(readings, clips[2]) if is_held_out(c.scene, c.attributes)]
    assert len(unseen) > 10 and float(caption_accuracy(*zip(*[(r, dict(scene=c.scene, attributes=readable(c))) for r, c in unseen]))["all"]) >= .9


def test_reads_clips_through_the_codecs(judge):
    codecs, some = load_codecs(), [make_clip(f"coded {k}", s, split="test") for k, s in enumerate(SCENES)]
    f, w = zip(*(through_codecs(c, codecs) for c in some))
    told = caption_accuracy(judge.read(f, w), [dict(scene=c.scene, attributes=readable(c)) for c in some])
    assert float(told["all"]) >= .75


def test_ear_and_eye_can_disagree(judge):
    wood, metal = (make_clip("mixed", "ball", dict(material=m, colour="white", size="large")) for m in ("wood", "metal"))
    r = judge.read([wood.frames], [metal.wave])[0]
    assert r.seen["material"] == "wood" and r.heard["material"] == "metal"


def test_silence_is_read_by_the_eye_alone(judge, clips):
    r = judge.read([clips[0][0]], [0 * clips[1][0]])[0]
    assert r.heard == {} and r.sync == 0 and r.scene == clips[2][0].scene and r.attributes == {k: v for k, v in r.seen.items() if k != "scene"}


def test_batches_do_not_matter(judge, clips):
    a, b = judge.features(clips[0][:5], clips[1][:5], 5), judge.features(clips[0][:5], clips[1][:5], 2)
    assert all(np.allclose(a[k], b[k], atol=.15, rtol=.05) for k in a) and set(a) == {"video", "audio", "joint"}
    assert all(v.shape == (5, 48) and v.dtype == np.float32 for v in a.values())


def test_other_sizes_and_lengths(judge, clips):
    big = clips[0][:2].repeat(2, 2).repeat(2, 3)
    assert [r.scene for r in judge.read(big, clips[1][:2])] == [c.scene for c in clips[2][:2]]
    mixed = judge.read([clips[0][0], clips[0][1][:12]], [clips[1][0], clips[1][1][:16000]])
    assert all(isinstance(r, Reading) for r in mixed)


# ---- features notice

def test_features_order_known_cases(judge, clips):
    f, w = clips[:2]
    ref, rng = judge.features(*render_batch([f"ref {k}" for k in range(64)])[:2]), np.random.default_rng(0)
    p = {k: principal(v, 16) for k, v in ref.items()}
    d = lambda got, k: frechet(p[k](ref[k]), p[k](got[k]), 0).value
    noisy = [judge.features(np.clip(f + rng.normal(0, s, f.shape), 0, 255).astype(np.uint8), w) for s in (8, 32)]
    plain, late = judge.features(f, w), judge.features(f, np.roll(w, round(6 * RATE / FPS), 1))
    assert d(plain, "video") < d(noisy[0], "video") < d(noisy[1], "video")
    assert d(late, "joint") > 1.5 * d(plain, "joint")


def test_opinion_on_sync(judge, clips):
    sync = lambda k: np.mean([r.sync for r in judge.read(clips[0], np.roll(clips[1], round(k * RATE / FPS), 1))])
    assert sync(0) > .7 and sync(0) > sync(2) > sync(6)


# ---- counting

def reading(scene="ball", **a):
    return Reading(scene, a, dict(a, scene=scene), {k: v for k, v in dict(a, scene=scene).items() if k in ("scene", *AUDIBLE[scene])}, {}, 1.)


def test_accuracy_by_hand():
    want = [dict(scene="ball", attributes=dict(colour="red", size="small", material="wood"))] * 3 + [dict(scene="rotor", attributes=dict(colour="red", size="small", motion="up"))]
    got = [reading(colour="red", size="small", material="wood"), reading(colour="blue", size="small", material="wood"), Undefined("broken"),
           reading("ball", colour="red", size="small", material="glass")]
    t = caption_accuracy(got, want)
    assert float(t["all"]) == .25 and float(t["attributes"]["scene"]) == .5 and float(t["attributes"]["colour"]) == .25
    assert float(t["scenes"]["ball"]["attributes"]["size"]) == pytest.approx(2 / 3) and float(t["scenes"]["rotor"]["all"]) == 0
    assert isinstance(t["scenes"]["swell"]["all"], Undefined) and t["scenes"]["ball"]["n"] == 3
    heard = caption_accuracy(got, want, "heard")
    assert "colour" not in heard["scenes"]["ball"]["attributes"] and float(heard["scenes"]["ball"]["all"]) == pytest.approx(2 / 3)


def test_as_many_readings_as_captions():
    with pytest.raises(ValueError): caption_accuracy([reading()], [])


@pytest.mark.parametrize("k,n", [(0, 8), (8, 8), (5, 10), (240, 256)])
def test_share_has_an_honest_interval(k, n):
    s = share([True] * k + [False] * (n - k))
    assert 0 <= s.low <= s.value <= s.high <= 1 and s.high > s.low and s.n == n
    assert isinstance(share([]), Undefined)


def test_wrong_scene_makes_all_wrong():
    assert not any(marks(reading("swell", colour="red", shape="circle", tempo="slow"), "ball", dict(colour="red")).values())


# ---- what cannot be judged

@pytest.mark.parametrize("spoil,word", [
    (lambda f, w: (f[:1], w), "moving"), (lambda f, w: (f, None), "no sound"), (lambda f, w: (None, w), "no picture"),
    (lambda f, w: (f, w * np.nan), "NaN"), (lambda f, w: (f, w[:9000]), "differ in length")])
def test_undefined_with_its_reason(judge, clips, spoil, word):
    f, w = spoil(clips[0][0], clips[1][0])
    good, bad = judge.read([clips[0][0], f], [clips[1][0], w])
    assert isinstance(good, Reading) and isinstance(bad, Undefined) and word in bad.reason


def test_no_judge_says_how_to_get_one(tmp_path):
    with pytest.raises(AssetError, match="make_toy_judge"): Judge.load(tmp_path)


# ---- training

def test_labels_answer_only_their_own_questions():
    y = dict(zip(QUESTIONS, label("rotor", dict(colour="white", size="large", motion="down"))))
    assert y[None, "scene"] == 3 and y["rotor", "motion"] == 1 and y["ball", "colour"] == -100
    assert y["rotor", "colour"] == spec()["rotor"]["colour"].index("white") and sum(v >= 0 for v in y.values()) == 4


def test_a_tune_on_one_bar_is_no_example():
    for k in range(60):
        c = make_clip(f"tune {k}", "mallet", dict(colour="many", tempo="slow"))
        assert ("colour" in readable(c)) == (len({e["bar"] for e in c.events}) > 1)


class Small(Supply):
    def load_coded(self, file): self.group, self.first = np.arange(len(self.group)) % 2 * 100, 0


@pytest.fixture(scope="module")
def supply():
    return Small(0, ".", per=1, coded=0)


def test_pairs_are_what_they_say(supply):
    i, j, kind, k = supply.pairs(200)
    assert ((j != i) == (kind == "other")).all() and (supply.group[i] == supply.group[j]).all()
    assert (k[(kind == "true") | (kind == "other")] == 0).all() and set(kind) == {"true", "both", "moved", "other"}
    _, _, b = supply.batch(64)
    assert (b["labels_v"][b["kind"] == "both"][:, TIMED] == -100).all() and (b["labels_a"][b["kind"] == "moved"][:, TIMED] == -100).all()


def test_wear_is_written_down():
    x = torch.rand(6, 8, 3, 16, 16)
    b = dict(wear_v=np.zeros((6, 5), np.float32), labels_v=np.zeros((6, len(QUESTIONS)), int), kind=np.array(["true"] * 6, "<U8"))
    y = wear_frames(x.clone(), b, np.random.default_rng(0))
    changed = (y - x).abs().amax((1, 2, 3, 4)).numpy() > 1e-6
    assert changed.any() and not changed.all() and (changed == (b["wear_v"][:, 2:] > 0).any(1)).all()


def test_a_few_steps_learn_and_save(supply, tmp_path):
    torch.manual_seed(0)
    net = JudgeNet(16, 8).train()
    opt = torch.optim.AdamW(net.parameters(), 3e-3)
    loss = [judge_step(net, supply, opt, 3e-3, 8)["seen"] for _ in range(9)]
    assert np.mean(loss[-3:]) < np.mean(loss[:3]) and all(p.isfinite().all() for p in net.parameters())
    save_judge(net, tmp_path, dict(note="test"))
    back, (f, w, _) = Judge.load(tmp_path), render_batch(range(2))
    assert back.card["note"] == "test" and len(back.read(f, w)) == 2 and back.fingerprint != "unsaved"


def test_every_part_reaches_every_tensor(supply):
    net, (f, w, b) = JudgeNet(16, 8).train(), supply.batch(16)
    loss, parts = judge_loss(net(eye_input(f), ear_input(w, 24)), b)
    loss.backward()
    assert set(parts) == {"seen", "heard", "wear", "sync"} and all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
