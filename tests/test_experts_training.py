"""Stage A on frozen experts, Stage B into them, checkpoints that stand on published weights, and refusals."""
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import expert_helpers as H
from jointdit.assets.expert_folder import old_hash, read_expert_folder
from jointdit.core import AssetError, CheckpointError, ModelError, SettingsError, TrainError, load_json, save_json
from jointdit.model.joint import JointDiT, build_model
from jointdit.train.checkpoint import load_model, read_info
from jointdit.sample.request import InferSettings, load_request, request_hash
from jointdit.train.experts import FREE, ExpertsUse, load_experts, named_as_then, resolve_experts, use_experts
from jointdit.train.stage import train_stage
from jointdit.train.trainer import Trainer, TrainSettings

torch.set_num_threads(1)
MODEL = dict(width_v=32, width_a=32, depth=3, heads=2, head_dim=16, cond_width=16, text_dim=12, image_dim=12, n_text=8, n_image=2)
A_GROUPS = [dict(match="joint", lr=1e-2), dict(match="cond", lr=1e-2)]


@pytest.fixture(scope="module", autouse=True)
def no_count():
    "Operations are counted on the meta device at the start of a run: tested elsewhere, and seconds each time."
    with pytest.MonkeyPatch.context() as m:
        m.setattr(JointDiT, "flops", None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    H.cache(root/"cache")
    H.folders(root/"models")
    return root


def settings(root, name="run", steps=3, **more):
    out = dict(ckpt_root=str(root/"checkpoints"), log_root=str(root/"logs"), ckpt_suffix=name, log_suffix=name, save_every=0, eval_clips=0, tensorboard=False, samples=0)
    models = {f"expert_{k[0]}": dict(folder=str(root/"models"/k)) for k in ("video", "audio")}
    s = dict(data=dict(cache_dir=str(root/"cache"), batch_size=2), model=MODEL | models, max_steps=steps, schedule=dict(warmup=1), groups=A_GROUPS,
             runtime=dict(device="cpu", dtype="fp32", seed=0, threads=1), ema_decay=.5, output=out)
    return TrainSettings(**s | more)


@pytest.fixture(scope="module")
def stage_a(root): return train_stage(settings(root, "a", steps=4))


def test_stage_a_trains_the_joint_blocks_alone(root):
    t = Trainer(settings(root, "grads"))
    names = set(t.params)
    assert names == {n for n, _ in t.model.named_parameters() if n.startswith(("joint.", "cond."))}
    assert not any(p.requires_grad for e in (t.model.video, t.model.audio) for p in e.parameters())
    in_optimiser = {id(p) for o in t.optimizers for g in o.param_groups for p in g["params"]}
    assert in_optimiser == {id(p) for p in t.params.values()}
    for k in range(12): t.train_step(k)
    assert [n for n in t.norms.never() if n.startswith("joint.")] == []


def test_its_checkpoint_holds_what_was_trained_and_says_on_what_it_stands(root, stage_a):
    with safe_open(stage_a.checkpoint.with_suffix(".safetensors"), "pt") as f: names = set(f.keys())
    assert not any(".net." in n for n in names) and any(n.startswith("joint.") for n in names) and "audio.absent_t5" in names
    state = torch.load(stage_a.checkpoint, weights_only=True)
    assert not any(".net." in n for n in state["model"])
    info = read_info(stage_a.checkpoint)
    assert all(len(info.model[f"expert_{s}"]["hash"]) == 16 for s in "va")
    model, _ = load_model(stage_a.checkpoint)
    published = load_experts(build_model(resolve_experts(H.ModelSettings(**info.model))))
    assert all(torch.equal(p, q) for p, q in zip(model.video.net.parameters(), published.video.net.parameters()))
    assert torch.equal(model.audio.absent_t5, H.text(1, 99, 1).more["audioldm2.t5"][0]) and model.video.std[0] == 2


def test_it_refuses_other_weights(root, stage_a, tmp_path):
    other = H.folders(tmp_path, seed=7)
    info = read_info(stage_a.checkpoint)
    e = H.ExpertSettings(**info.model["expert_v"] | {"folder": other["video"]})
    with pytest.raises(CheckpointError, match="not the weights that the checkpoint stands on"):
        resolve_experts(H.ModelSettings(**info.model | {"expert_v": e}))


def test_resume_is_exact(root, stage_a):
    half = settings(root, "half", steps=4)
    train_stage(settings(root, "half", steps=2)); again = train_stage(half)
    whole, parts = (torch.load(r.checkpoint, weights_only=True) for r in (stage_a, again))
    assert all(torch.equal(whole["model"][k], parts["model"][k]) for k in whole["model"])


def test_stage_b_tunes_experts_and_keeps_what_it_tuned(root, stage_a):
    groups = [dict(match="video.blocks", lr=1e-3), dict(match="joint", lr=1e-3)]
    b = train_stage(settings(root, "b", steps=2, stage="B", init=str(stage_a.checkpoint), groups=groups, model=None))
    with safe_open(b.checkpoint.with_suffix(".safetensors"), "pt") as f: names = set(f.keys())
    model, info = load_model(b.checkpoint)
    blocks = set(model.param_groups_named()["video.blocks"])
    assert {n for n in names if ".net." in n} == blocks
    before, _ = load_model(stage_a.checkpoint)
    moved = {n for (n, p), q in zip(model.named_parameters(), before.parameters()) if not torch.equal(p, q)}
    assert moved & blocks and not {n for n in moved if n.startswith(("video.", "audio.")) and n not in blocks}
    tune = Trainer(settings(root, "b2", steps=1, stage="B", init=str(b.checkpoint), groups=[dict(match="joint", lr=1e-3)], model=None))
    assert blocks <= tune.tuned            # tuned once: kept in every later checkpoint


def test_frozen_experts_shrink_to_the_format_of_the_products(root, monkeypatch):
    from jointdit.model import attention
    ours, own = [], attention.attend
    monkeypatch.setattr(attention, "attend", lambda *a, **k: ours.append(a[0].shape) or own(*a, **k))      # joint blocks have the name already: only networks of others come here
    t = Trainer(settings(root, "bf16", runtime=dict(device="cpu", dtype="bf16", seed=0, threads=1)))
    assert {p.dtype for p in t.model.video.net.parameters()} == {torch.bfloat16} and {p.dtype for p in t.params.values()} == {torch.float32}
    assert t.train_step(0)["loss_v"] > 0 and len(ours) >= 4
    part = Trainer(settings(root, "part", groups=[dict(match="video.blocks", lr=1e-3)]))
    assert {p.dtype for p in part.model.video.net.parameters()} == {torch.float32}


def test_what_needs_no_training_may_be_said_anew(root, stage_a, tmp_path):
    "Stage B, whose architecture is its checkpoint's, and sampling take offload, walk, motion bucket, format and another folder."
    moved = shutil.copytree(root/"models", tmp_path/"models")
    free = dict(folder=str(moved/"video"), offload=True, walk="published", motion_bucket=40, frozen_dtype="bf16")
    b = Trainer(settings(root, "free", stage="B", init=str(stage_a.checkpoint), groups=A_GROUPS, model=dict(expert_v=free)))
    e = b.model.video.settings
    assert {k: getattr(e, k) for k in FREE} == free and b.model.settings.width_v == 32 and b.model.audio.settings.offload is False
    assert b.model.video._format() == torch.bfloat16 and b.train_step(0)["loss_v"] > 0
    whole = MODEL | dict(expert_v=free, expert_a=dict(folder=str(moved/"audio"), offload=True))
    assert Trainer(settings(root, "a", steps=4, model=whole)).model.audio.settings.offload      # and a run that goes on
    model, _ = load_model(stage_a.checkpoint, experts=ExpertsUse(video=free))
    assert {k: getattr(model.video.settings, k) for k in FREE} == free
    us = torch.linspace(1, 0, 4)
    assert torch.equal(model.video.walk(us), model.video.noise.walk(us)) and not torch.allclose(model.audio.walk(us), model.audio.noise.walk(us).float(), atol=1e-3)


def test_all_else_is_architecture(root, stage_a):
    cut = MODEL | dict(expert_v=dict(folder=str(root/"models/video"), cut=dict(meet=["mid"])), expert_a=dict(folder=str(root/"models/audio")))
    with pytest.raises(CheckpointError, match="expert_v.cut.meet is None in the checkpoint"): Trainer(settings(root, "a", steps=4, model=cut))
    native = H.ModelSettings(**MODEL)
    with pytest.raises(ModelError, match="native one, which has no offload"): use_experts(native, dict(video=dict(offload=True)))
    fresh = H.settings()
    with pytest.raises(ModelError, match="trained from nothing"): use_experts(fresh, dict(audio=dict(folder="models/audio")))


def test_a_request_says_how_experts_are_used(tmp_path):
    (tmp_path/"infer.yaml").write_text("experts: {video: {offload: true, walk: published}}\n")
    s = load_request(tmp_path/"infer.yaml", assignments=["experts.audio.folder=models/audio"], env={}, say=(said := []).append)
    assert s.experts.said() == dict(video=dict(offload=True, walk="published"), audio=dict(folder="models/audio")) and "experts.video.walk" in said[0]
    assert InferSettings(**s.model_dump(mode="json")).experts == s.experts              # through a card and back
    plain = InferSettings()
    assert request_hash(plain, 0, "c") != request_hash(plain.model_copy(update=dict(experts=s.experts)), 0, "c")
    (tmp_path/"wrong.yaml").write_text("experts: {video: {cut: mid}}\n")
    with pytest.raises(SettingsError, match="known here: folder, walk, motion_bucket, frozen_dtype, offload"): load_request(tmp_path/"wrong.yaml", env={})


def test_the_same_weights_have_one_name(root, stage_a, tmp_path):
    "What diffusers writes about itself is no part of an expert; the name of an older checkpoint holds; the scaling belongs to it."
    folder = Path(shutil.copytree(root/"models/video", tmp_path/"video"))
    then = H.ExpertSettings(**read_info(stage_a.checkpoint).model["expert_v"] | {"folder": str(folder)})
    s, old = H.ModelSettings(expert_v=then), old_hash(folder/"unet")
    config = load_json(folder/"unet/config.json")
    save_json(folder/"unet/config.json", config | {"_diffusers_version": "9.9"})
    assert resolve_experts(s).expert_v.hash == then.hash != old_hash(folder/"unet") != old
    save_json(folder/"unet/config.json", config)
    past = then.model_copy(update=dict(hash=old_hash(folder/"unet")))
    now = resolve_experts(s.model_copy(update=dict(expert_v=past)))
    assert now.expert_v.hash == then.hash and named_as_then(now, {"expert_v": {"hash": past.hash}}).expert_v.hash == past.hash
    save_json(folder/"unet/config.json", config | {"num_frames": 9})
    with pytest.raises(CheckpointError, match="not the weights"): resolve_experts(s)
    save_json(folder/"unet/config.json", config)
    latents = load_json(folder/"latents.json")
    save_json(folder/"latents.json", latents | {"std": [9.]*4})
    with pytest.raises(CheckpointError, match="its latents are not: std"): resolve_experts(s)


def test_an_expert_without_its_codecs_config_is_refused(root, tmp_path):
    "Nothing would say how its latents are scaled; the cache's statistics are no substitute."
    folder = Path(shutil.copytree(root/"models/video", tmp_path/"svd"))
    (folder/"latents.json").unlink()
    with pytest.raises(AssetError) as e: read_expert_folder(folder)
    for words in ("svd/vae/config.json", "stabilityai/stable-video-diffusion-img2vid", "Licences", "make assets PROFILE=svd"): assert words in str(e.value)
    save_json(folder/"vae/config.json", {"scaling_factor": .18215})
    assert read_expert_folder(folder)["scaling"] == .18215


def test_missing_and_wrong_folders(root, tmp_path):
    with pytest.raises(AssetError) as e: resolve_experts(H.ModelSettings(expert_v=dict(folder=str(tmp_path/"svd"))))
    for words in ("svd/unet/diffusion_pytorch_model.safetensors", "3.05 GB", "stabilityai/stable-video-diffusion-img2vid", "Licences", "make assets PROFILE=svd"): assert words in str(e.value)
    with pytest.raises(AssetError) as e: resolve_experts(H.ModelSettings(expert_v=dict(folder=str(tmp_path/"ltx"))))
    for words in ("ltx/transformer/diffusion_pytorch_model-00002-of-00002.safetensors   (missing; about 2.75 GB)", "diffusion_pytorch_model.safetensors.index.json   (missing; small)",
                  "Lightricks/LTX-Video/resolve/main/vae", "licence", "make assets PROFILE=ltx"): assert words in str(e.value)
    with pytest.raises(ModelError, match="makes audio, not video"):
        build_model(resolve_experts(H.ModelSettings(expert_v=dict(folder=str(root/"models/audio")))))
    with pytest.raises(TrainError, match="8 channels"): resolve_experts(H.ModelSettings(expert_v=dict(folder=str(root/"models/video"))), {"channels_v": 8})
    with pytest.raises(ModelError, match="give its folder"): resolve_experts(H.ModelSettings(expert_a={}))


def test_experts_from_nothing_are_trained_and_saved_for_diffusers(root, tmp_path):
    "Two strangers side by side: no meeting, one run."
    from diffusers import AudioLDM2UNet2DConditionModel
    from jointdit.train.experts import save_expert
    fresh = {f"expert_{k[0]}": dict(net=c, noise=H.NOISE[c["_class_name"]].model_dump(), cut=dict(meet=[])) for k, c in (("video", H.SVD), ("audio", H.ALD))}
    r = train_stage(settings(root, "alone", steps=2, model=MODEL | fresh, groups=[dict(match="video.*", lr=1e-3), dict(match="audio.*", lr=1e-3)]))
    model, _ = load_model(r.checkpoint)
    assert len(model.joint) == 0
    save_expert(model.audio, tmp_path/"audio")
    again = AudioLDM2UNet2DConditionModel.from_pretrained(tmp_path/"audio/unet")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.audio.net.parameters()))
    e = resolve_experts(H.ModelSettings(expert_a=dict(folder=str(tmp_path/"audio")))).expert_a
    assert e.mean == pytest.approx(model.audio.mean.tolist()) and e.noise.kind == "ddpm"
