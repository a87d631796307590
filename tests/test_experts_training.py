"""Stage A on frozen experts, Stage B into them, checkpoints that stand on published weights, and refusals."""
import pytest
import torch
from safetensors import safe_open

import expert_helpers as H
from jointdit.core import AssetError, CheckpointError, ModelError, TrainError
from jointdit.model.joint import JointDiT, build_model
from jointdit.train.checkpoint import load_model, read_info
from jointdit.train.experts import load_experts, resolve_experts
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


def test_frozen_experts_shrink_to_the_format_of_the_products(root):
    t = Trainer(settings(root, "bf16", runtime=dict(device="cpu", dtype="bf16", seed=0, threads=1)))
    assert {p.dtype for p in t.model.video.net.parameters()} == {torch.bfloat16} and {p.dtype for p in t.params.values()} == {torch.float32}
    assert t.train_step(0)["loss_v"] > 0
    part = Trainer(settings(root, "part", groups=[dict(match="video.blocks", lr=1e-3)]))
    assert {p.dtype for p in part.model.video.net.parameters()} == {torch.float32}


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
