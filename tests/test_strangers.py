"""The acts of the toy experiment, chained on networks that are tiny: experts apart, joint blocks between them, Stage B, and their measures."""
import pytest
import torch
import yaml
from pathlib import Path
from safetensors import safe_open

from jointdit.core import AssetError, CheckpointError, load_json
from jointdit.model.joint import JointDiT
from jointdit.proof import strangers
from jointdit.proof.strangers import ACTS, CONFIGS, LIMIT, RUNS, act, export_experts, measure_acts, share_of_real, ship
from jointdit.train.checkpoint import load_model, read_info
from jointdit.train.trainer import train
from train_helpers import CLOCK, make_cache, tiny_settings

torch.set_num_threads(1)
FEW = {"max_steps": 2, "data.cache_dir": "cache", "data.batch_size": 2, "runtime.device": "cpu", "runtime.threads": 1, "schedule.warmup": 1, "ema_decay": .5,
       "output.tensorboard": False, "output.eval_clips": 0, "output.proof_every": 0, "data.repeat": {"thing": 2}}


def shrunk(y):
    "The YAML of an act, with networks a quarter as wide."
    if not (m := y.get("model")): return y
    m |= dict(width_v=32, width_a=32, heads=2, head_dim=16, cond_width=16, n_text=12, n_image=5)
    for e in (m["expert_v"], m["expert_a"]):
        if "net" in e: e["net"] |= dict(block_out_channels=[32, 32])
    return y


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with the experiment's own settings and a cache of noise; we stand in it."
    root, here = tmp_path_factory.mktemp("strangers"), Path(__file__).parent.parent/CONFIGS
    (root/CONFIGS).mkdir(parents=True)
    for name in {c for _, c in ACTS.values()}: (root/CONFIGS/f"{name}.yaml").write_text(yaml.safe_dump(shrunk(yaml.safe_load((here/f"{name}.yaml").read_text()))))
    from jointdit.data.store import fake_cache
    for split, k in (("train", 4), ("val", 2)): fake_cache(root/"cache", k, split, timeline=CLOCK, text_dim=64)
    with pytest.MonkeyPatch.context() as m:
        m.chdir(root); m.setattr(JointDiT, "flops", None)
        yield root


@pytest.fixture(scope="module")
def acts(place):
    "All three acts, one after the other."
    return {name: act(name, FEW) for name in ACTS}


def test_joining_before_there_are_experts_says_what_is_missing(place, monkeypatch, tmp_path):
    (tmp_path/CONFIGS).mkdir(parents=True); (tmp_path/CONFIGS/"stage_a.yaml").write_text((place/CONFIGS/"stage_a.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssetError, match="data/toy_experts/video.*not there"): act("join", FEW | {"data.cache_dir": str(place/"cache")})


def test_strangers_are_written_as_they_will_be_used(acts, place):
    model, _ = load_model(acts["alone"].checkpoint)
    assert len(model.joint) == 0
    from diffusers import AudioLDM2UNet2DConditionModel, UNetSpatioTemporalConditionModel
    for e, cls in ((model.video, UNetSpatioTemporalConditionModel), (model.audio, AudioLDM2UNet2DConditionModel)):
        folder = place/"data/toy_experts"/e.name/"unet"
        with safe_open(folder/"diffusion_pytorch_model.safetensors", "pt") as f: assert {f.get_tensor(k).dtype for k in f.keys()} == {torch.bfloat16}
        again = cls.from_pretrained(folder).float().state_dict()
        assert all(torch.equal(again[k], v.bfloat16().float()) for k, v in e.net.state_dict().items())


def test_each_act_stands_on_the_one_before(acts, place):
    alone, join, tune = (load_model(acts[n].checkpoint) for n in ACTS)
    assert [i.stage for _, i in (alone, join, tune)] == ["A", "A", "B"]
    assert str(acts["join"].checkpoint.parent) == f"checkpoints/{RUNS['join']}" and len(join[0].joint) == len(tune[0].joint) == 4
    for k in ("video", "audio"):       # frozen in Stage A to the last bit, as written; moved in Stage B
        before, joined, tuned = (m.expert(k).net.state_dict() for m, _ in (alone, join, tune))
        assert all(torch.equal(joined[n], before[n].bfloat16().float()) for n in before)
        assert any(not torch.equal(tuned[n], joined[n]) for n in joined)
    assert any(bool(p.any()) for n, p in join[0].named_parameters() if n.startswith("joint.") and ".mod." in n)


def test_stage_a_of_one_pair_refuses_another_pair(acts, place, tmp_path):
    from jointdit.train.experts import save_expert
    model, _ = load_model(acts["alone"].checkpoint)
    with torch.no_grad(): model.audio.net.conv_in.weight[0, 0, 0, 0] += 1
    kept = place/"data/toy_experts/audio"
    kept.rename(tmp_path/"kept")
    try:
        save_expert(model.audio, kept)
        with pytest.raises(CheckpointError, match="not the weights that the checkpoint stands on"): load_model(acts["join"].checkpoint)
    finally:
        for f in sorted(kept.rglob("*"), reverse=True): f.unlink() if f.is_file() else f.rmdir()
        kept.rmdir(); (tmp_path/"kept").rename(kept)
    assert load_model(acts["join"].checkpoint)


def test_a_second_call_goes_on(acts):
    more = act("tune", FEW | {"max_steps": 3})
    assert read_info(more.checkpoint).step == 3 and read_info(acts["tune"].checkpoint).step == 2


def fake_report(path, join):
    from jointdit.core import file_hash, save_json
    row = dict(sync_f1=.7, sync_f1_chance=.2, captions_right=.5, clips=8, steps=3)
    save_json(path, {"real": dict(sync_f1=.9, sync_correlation=1., clips=8), "alone": row, "join": row | dict(hash=file_hash(join)[:16], checkpoint="/somewhere/else")})
    return path


def test_what_is_given_away_stands_by_itself(acts, place, tmp_path, monkeypatch):
    "Experts byte for byte, joint blocks bit for bit, a card; no place of this machine."
    monkeypatch.setattr(strangers, "SHIPPED", str(tmp_path/"out"))
    path = acts["join"].checkpoint.parent/"ckpt_step_000002.safetensors"
    with pytest.raises(CheckpointError, match="no act 'joined' here"): ship(report=fake_report(tmp_path/"report.json", path), notes=dict(joined="x"))
    made = ship(report=fake_report(tmp_path/"report.json", path), notes=dict(join="with a cold"))
    assert made == tmp_path/"out/model.safetensors" and sum(f.stat().st_size for f in made.parent.rglob("*")) < LIMIT
    for f in (place/"data/toy_experts").rglob("*.*"): assert (made.parent/f.relative_to(place/"data/toy_experts")).read_bytes() == f.read_bytes()
    (given, info), (kept, _) = load_model(made), load_model(path)
    assert all(torch.equal(x, y) for x, y in zip(given.state_dict().values(), kept.state_dict().values()))
    card = load_json(made.with_name("card.json"))
    assert card["experts"]["video"] == info.model["expert_v"]["hash"] and card["measured"]["join"]["share_of_real_f1"] == pytest.approx(5/7)
    assert [r["command"].split()[-1] for r in card["runs"].values()] == list(ACTS) and card["runs"]["join"]["changed"]["max_steps"] == 2 and card["runs"]["join"]["note"] == "with a cold"
    said = (made.with_name("card.json")).read_text() + str(info.settings)
    assert "/somewhere" not in said and str(place) not in said and info.settings["data"]["cache_dir"] == "data/toy_joint_cache"
    assert strangers.shipped_strangers()[0] == made


def test_a_card_is_drawn_and_said_as_it_is():
    row = dict(sync_f1=.7, sync_f1_chance=.2, sync_correlation=None, captions_right=.5)
    card = dict(measured=dict(real=dict(sync_f1=.9, sync_correlation=1.), alone=row | dict(sync_f1=.2, captions_right=.6), join=row | dict(share_of_real_f1=5/7), tune=row | dict(sync_f1=.8)),
                runs=dict(join=dict(steps=9, curve=[dict(step=3, heldout_v=.1), dict(step=4, sync_f1=.3, sync_f1_chance=.2)]), tune=dict(steps=2, curve=[])))
    said = strangers.strangers_words(card)
    for words in ("join: events (F1) 0.78 of real clips, which misses the goal of 0.80; 0.71 of the way from chance", "tune: events (F1) 0.89 of real clips, which reaches the goal",
                  "join: captions right 0.50, by the strangers alone 0.60"): assert words in said
    fig = strangers.strangers_chart(card)
    assert len(fig.axes) == 2 and [t.get_text() for t in fig.axes[1].get_xticklabels()] == ["alone", "join", "tune", "real"]
    strangers.strangers_chart(dict(measured=dict(real=dict(sync_f1=.9)), runs={}))


def test_nothing_is_given_away_that_was_not_measured_or_is_too_large(acts, place, tmp_path):
    path = acts["join"].checkpoint.parent/"ckpt_step_000002.safetensors"
    give = lambda **more: ship(out=tmp_path/"out", **more)
    with pytest.raises(CheckpointError, match="says nothing about .*measure"): give(report=tmp_path/"none.json")
    with pytest.raises(CheckpointError, match="says nothing about"): give(report=fake_report(tmp_path/"other.json", path.with_suffix(".pt")))
    size = sum(f.stat().st_size for f in (place/"data/toy_experts").rglob("*") if f.is_file())
    for limit, why in ((size - 1, "experts alone have .* may be given away"), (size + 1000, "may be given away")):
        with pytest.raises(CheckpointError, match=why): give(report=fake_report(tmp_path/"report.json", path), limit=limit)
    with pytest.raises(CheckpointError, match="no ckpt_step"): (tmp_path/RUNS["join"]).mkdir(); give(root=tmp_path)
    assert not (tmp_path/"out").exists()


@pytest.mark.skipif(strangers.shipped_strangers() is None, reason="this package comes without joined strangers")
def test_the_shipped_strangers_load_and_sample():
    from jointdit.proof.generate import load_bench
    from jointdit.proof.plan import Batch, Part, ProofSettings, proof_clip
    from jointdit.sample.guidance import Guidance
    path, card = strangers.shipped_strangers()
    assert sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file()) < LIMIT and card["measured"]["real"]
    bench = load_bench(ProofSettings(ckpt="toy:experts/model.safetensors", runtime=dict(device="cpu", dtype="fp32")), say=lambda line: None)
    b = Batch(Part("try", "text", 1, "text", Guidance(), steps=2), 0, 1)
    v, a, _ = bench.walk(b, [proof_clip(0, 0)])
    assert v.shape == (1, 24, 8, 8, 8) and a.shape == (1, 8, 50, 16) and v.isfinite().all() and a.isfinite().all()


def test_a_native_model_has_nothing_to_publish(tmp_path):
    make_cache(tmp_path/"cache")
    ckpt = train(tiny_settings(tmp_path, "native", max_steps=1)).checkpoint
    with pytest.raises(CheckpointError, match="its video expert is a native one"): export_experts(ckpt, tmp_path/"out")
    assert not (tmp_path/"out").exists()


def test_what_was_measured_is_kept(acts, tmp_path, monkeypatch):
    asked, real = [], []
    monkeypatch.setattr(strangers, "quick_real", lambda n: real.append(n))
    monkeypatch.setattr(strangers, "as_record", lambda q: dict(sync_f1=.9))
    monkeypatch.setattr(strangers, "look", lambda path, n, steps: asked.append(str(path)) or dict(sync_f1=.5))
    measure = lambda n=8: measure_acts("checkpoints", tmp_path/"report.json", n, 3, say=lambda line: None)
    first = measure()
    assert set(first) == {"real", *RUNS} and len(asked) == 3 and load_json(tmp_path/"report.json") == first
    assert measure() == first and len(asked) == 3 and len(real) == 1
    act("join", FEW | {"max_steps": 3})
    assert measure()["join"]["checkpoint"].endswith("ckpt_step_000003.safetensors") and len(asked) == 4      # only the act that went on
    measure(9)
    assert len(asked) == 7 and real == [8, 9]


def test_real_clips_are_measured_without_any_act(tmp_path, monkeypatch):
    monkeypatch.setattr(strangers, "quick_real", lambda n: n); monkeypatch.setattr(strangers, "as_record", lambda q: dict(sync_f1=.9))
    assert list(measure_acts(tmp_path, tmp_path/"report.json", say=lambda line: None)) == ["real"] and (tmp_path/"report.json").is_file()


@pytest.mark.parametrize("row, real, share", [
    (dict(sync_f1=.8, sync_f1_chance=.2), dict(sync_f1=1.), .75), (dict(sync_f1=.2, sync_f1_chance=.2), dict(sync_f1=1.), 0.), (dict(sync_f1=None, sync_f1_chance=.2), dict(sync_f1=1.), None),
    ({}, {}, None), (dict(sync_f1=.5, sync_f1_chance=.9), dict(sync_f1=.8), None)])
def test_the_way_from_chance_to_real(row, real, share): assert share_of_real(row, real) == (share if share is None else pytest.approx(share))


def test_strangers_that_went_on_say_what_they_went_on_from(acts, place, tmp_path):
    first = str(acts["alone"].checkpoint)
    more = act("alone", FEW | {"max_steps": 1, "init": first, "output.ckpt_suffix": "toy_more"}, folder=tmp_path/"more")
    card = strangers.run_card("alone", more.checkpoint)
    assert card["steps"] == 1 and card["before"]["steps"] == 2 and card["before"]["changed"]["data.batch_size"] == 2 and "before" not in card["before"]
    assert "before" not in strangers.run_card("tune", acts["tune"].checkpoint)


@pytest.mark.skipif(strangers.shipped_strangers() is None, reason="this package comes without joined strangers")
def test_the_readme_says_what_the_card_says():
    "Four rows of numbers, and the file is the one that the card is about."
    import re
    from jointdit.core import file_hash
    path, card = strangers.shipped_strangers()
    assert card["sha256"] == file_hash(path)
    text = (Path(__file__).parents[1]/"README.md").read_text().split("**What two strangers learn")[1]
    rows = {n: [float(x) for x in re.findall(r"\d+(?:\.\d+)?", line.split("|", 2)[2])] for n, line in zip(("real", "alone", "join", "tune"), [l for l in text.splitlines() if l.startswith("| ")][1:5])}
    for n, said in rows.items():
        r = card["measured"][n]
        there = [round(r[k], 2) for k in ("sync_f1", "sync_f1_chance", "sync_correlation", "sync_correlation_chance")] + [round(100*r["captions_right"])]
        far = [r[f"frechet_{k}"] if n != "real" else card["measured"]["join"][f"frechet_{k}_floor"] for k in ("video", "audio", "joint")]
        assert said[:5] == there and said[5:] == [round(x, 1 if x < 100 else None) for x in far], n
