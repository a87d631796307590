"The studio with a checkpoint between two pretrained experts: its config follows it, a clip is made and made again from the history, and what it needs is said before."
import shutil
from pathlib import Path

import pytest
import torch

import expert_helpers as H
from jointdit.core import JointDiTError, toy_path
from jointdit.model.joint import ModelSettings, build_model
from jointdit.studio.borrowed import expert_bytes, meetings, weight_bytes
from jointdit.studio.context import Studio
from jointdit.studio.form import FIELDS, configs, to_settings
from jointdit.studio.generate import begin_run, estimate_line, suit
from jointdit.studio.history import settings_of
from jointdit.studio.kits import kit_key
from jointdit.studio.models import menu
from jointdit.studio.predict import lent, load_of, predict
from jointdit.studio.training import Wish, merged, train_configs
from jointdit.studio.wishes import read_config
from jointdit.timeline import Timeline
from jointdit.train.checkpoint import header_text, own_tensors, write_checkpoint
from jointdit.train.experts import load_experts, resolve_experts, save_expert
from sample_helpers import toy_dim
from test_experts_pipelines import CLOCK, audioldm2_folder, svd_folder

torch.set_num_threads(1)
ROOT, OWN, OTHER = Path(__file__).parents[1], "configs/svd/experts_infer.yaml", "configs/ui_infer.yaml"
CPU = "runtime: {device: cpu, dtype: fp32, threads: 1}\nsteps: 2\n"


def shapes(v, a):
    return ModelSettings(width_v=32, width_a=32, heads=2, head_dim=16, text_dim=toy_dim(), image_dim=toy_dim(), n_text=24, n_image=8, cond_width=16, expert_v=v, expert_a=a)


def write_joined(folder, v, a, clock=CLOCK, config=OWN):
    "A checkpoint of Stage A that nobody trained: joint blocks alone, and a header that says on what they stand."
    model = load_experts(build_model(resolve_experts(shapes(v, a)), seed=0))
    header = header_text("A", 1, model.settings.model_dump(), {}, dict(timeline=clock.to_dict()), dict(output=dict(sample_cfg=config)))
    write_checkpoint(folder, 1, dict(model=own_tensors(model), ema={}), own_tensors(model), header)
    return model


@pytest.fixture(scope="module")
def ctx(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts") / "project"
    (root / "configs/svd").mkdir(parents=True)
    experts = dict(v=svd_folder(root / "models/svd"), a=audioldm2_folder(root / "models/audioldm2", root))
    (root / OTHER).write_text(CPU)
    (root / OWN).write_text(f"{CPU}out_dir: outputs/experts\nprompt: a ball\nguidance: {{weight_img: [0, 2]}}\nvideo_vae_path: {experts['v']}/vae\naudio_vae_path: {experts['a']}/vae\n"
                            f"clip: {{experts: [{experts['v']}, {experts['a']}]}}\n")
    shutil.copyfile(ROOT / "configs/svd/experts_train_a.yaml", root / "configs/svd/experts_train_a.yaml")
    ctx = Studio(root)
    ctx.model = write_joined(root / "checkpoints/day05_stage_a_experts", *(dict(folder=str(f)) for f in experts.values()))
    return ctx


def wait(ctx, run):
    for _ in ctx.jobs.follow(run): pass
    if run.error: raise run.error
    return run.results[0]


def test_its_config_is_offered_and_follows_it(ctx):
    assert configs(ctx) == [OTHER, OWN] and {OTHER, OWN} <= set(configs(Studio(ROOT))) and configs(Studio(ROOT))[0] == OTHER
    assert suit(ctx, "", OTHER) == OWN and suit(ctx, menu(ctx)[1][1], OTHER) == OWN and suit(ctx, "", OWN) != OWN      # the last one is: leave it
    with pytest.raises(JointDiTError, match=f"Config: choose {OWN}. .*models/svd and models/audioldm2"): to_settings(ctx, read_config(ctx, OTHER), env={})
    assert f"choose {OWN}" in estimate_line(ctx, read_config(ctx, OTHER))


def test_a_clip_is_made_and_made_again_from_the_history(ctx):
    values = read_config(ctx, OWN) | dict(seed=4)
    s = to_settings(ctx, values, env={})
    assert values["w_img"] is None and s.guidance.weight_img == (0, 2) and to_settings(ctx, values | dict(w_img=1.5), env={}).guidance.weight_img == 1.5
    before = predict(ctx, s)
    assert before["seconds"] is None and "time known after" in estimate_line(ctx, values)
    run, s, expected = begin_run(ctx, values, "me")
    r = wait(ctx, run)
    assert len(r.frames) == CLOCK.n_frames and r.card["evaluations"] == before["evaluations"] and r.files["mp4"]
    got = max(r.card["peak_memory_gib"].values())
    assert abs(expected / got - 1) < .15 and predict(ctx, s)["seconds"] > 0, (expected, got)
    kit = ctx.kits.kit
    used = {k: u["value"] for k, u in zip(FIELDS, settings_of(ctx, "experts/seed004_steps02")) if "value" in u}
    assert used["config"] == OWN and used["prompt"] == "a ball" and used["seed"] == 4
    again = wait(ctx, begin_run(ctx, read_config(ctx, OTHER) | used, "me")[0])       # the form was at another config
    assert again.card["content"] == r.card["content"] and again.card_path == r.card_path and ctx.kits.kit is kit


def test_what_they_weigh_and_how_many_meet(ctx):
    w = load_of(ctx, s := to_settings(ctx, read_config(ctx, OWN), env={}))
    nets = sum(4*p.numel() for e in (ctx.model.video, ctx.model.audio) for p in e.net.parameters())
    assert expert_bytes(w.model, w.ckpt, 2) == (nets, nets/2)
    assert sum(lent(s, w)[:2]) > nets + weight_bytes(ctx.root / "models/audioldm2/text_encoder", stored=True)
    assert [widths for _, widths in w.meetings] == list(zip(ctx.model.video.widths, ctx.model.audio.widths)) and len({t for t, _ in w.meetings}) > 1
    assert kit_key(s, w.ckpt) != kit_key(s.model_copy(update=dict(clip=s.clip.model_copy(update=dict(experts=[])))), w.ckpt)


def test_memory_is_not_known_rather_than_wrong(ctx, monkeypatch):
    monkeypatch.setattr("jointdit.studio.predict.meetings", lambda *a: 1/0)
    values = read_config(ctx, OWN)
    assert predict(ctx, to_settings(ctx, values, env={}))["peak_gib"] is None and "not known" in estimate_line(ctx, values)


def test_a_missing_folder_says_what_to_fetch(ctx):
    away = ctx.root / "models/elsewhere"
    (ctx.root / "models/svd/unet").rename(away)
    try: assert "not there" in estimate_line(ctx, read_config(ctx, OWN))
    finally: away.rename(ctx.root / "models/svd/unet")


def test_the_train_tab_offers_stage_a_between_them(ctx):
    assert train_configs(ctx, "A") == ["configs/svd/experts_train_a.yaml"]
    assert merged(ctx, Wish("A", "configs/svd/experts_train_a.yaml", "mine")).settings.model.expert_v.folder == "assets/models/svd"


def test_what_came_with_the_package_stays_in_the_menu(ctx):
    assert "shipped" in [name for _, name in menu(ctx)]
    for name in ("shipped", "toy:experts/model.safetensors"):
        assert to_settings(ctx, read_config(ctx, OTHER) | dict(checkpoint=name), env={}).ckpt == name
    with pytest.raises(JointDiTError): to_settings(ctx, read_config(ctx, OTHER) | dict(checkpoint="toy:judge/model.safetensors"), env={})


def strangers(root):
    "Two tiny networks that were taught to listen to the toy CLIP, as the package's own were: (video, audio) settings."
    words, taught = toy_dim(), dict(v=dict(embedding="text.tokens", latent="given"), a=dict(generated="text.tokens"))
    nets = dict(v=H.SVD | dict(in_channels=16, out_channels=8, cross_attention_dim=words), a=H.ALD | dict(cross_attention_dim=[[None, words]]*2))
    fresh = build_model(shapes(*(dict(net=n, noise=H.NOISE[n["_class_name"]], sources=taught[k]) for k, n in nets.items())).model_copy(update=dict(channels_v=8)), seed=0)
    for k, e in (("v", fresh.video), ("a", fresh.audio)): save_expert(e, root / e.name)
    return [dict(folder=str(root / e.name), sources=taught[k]) for k, e in (("v", fresh.video), ("a", fresh.audio))]


def test_strangers_with_the_toy_codecs_need_no_config_of_their_own(ctx):
    write_joined(ctx.root / "checkpoints/day05_stage_a_strangers", *strangers(ctx.root / "models"), Timeline(6, 12), "configs/day06_infer.yaml")
    path = "checkpoints/day05_stage_a_strangers/ckpt_step_000001.pt"
    assert suit(ctx, path, OWN) == OTHER
    r = wait(ctx, begin_run(ctx, read_config(ctx, OTHER) | dict(checkpoint=path, prompt="a ball"), "me")[0])
    assert len(r.frames) == 6 and r.card["checkpoint"]["file"].endswith("ckpt_step_000001.pt")


@pytest.mark.skipif(not toy_path("toy:experts/model.safetensors").is_file(), reason="this package comes without joined strangers")
def test_the_strangers_of_the_package_make_a_clip(ctx):
    name = "toy:experts/model.safetensors"
    assert name in [value for _, value in menu(ctx)] and suit(ctx, name, OWN) == OTHER
    r = wait(ctx, begin_run(ctx, read_config(ctx, OTHER) | dict(checkpoint=name, prompt="a ball bounces", seconds=.5), "me")[0])
    assert len(r.frames) == 6
    used = {k: u["value"] for k, u in zip(FIELDS, settings_of(ctx, r.card_path.relative_to(ctx.out.resolve()).with_suffix("").as_posix())) if "value" in u}
    assert used["checkpoint"] == name
