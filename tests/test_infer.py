"From a request to files: every direction, every override, replay, and what bad input gets."
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jointdit.core import JointDiTError, SampleError, file_hash
from jointdit.data.media import probe, read_clip, write_video, write_wav
from jointdit.data.store import Store
from jointdit.sample.infer import Kit, InferSettings, generate, load_kit, prepare, replay
from jointdit.sample.request import load_request, pick_checkpoint
from jointdit.timeline import Timeline
from sample_helpers import CLOCK, copy_assets, tiny_model, write_tiny

ROOT = Path(__file__).resolve().parents[1]
quiet = lambda line: None
CLICK = np.zeros(CLOCK.n_samples, np.float32)
CLICK[2000:2400] = .5


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Assets, a kit, a checkpoint that fits them, and media."
    root = tmp_path_factory.mktemp("world")
    assets = copy_assets(root / "toy")
    paths = dict(video_vae_path=str(assets / "svd/vae"), audio_vae_path=str(assets / "audioldm2/vae"), runtime=dict(threads=1),
                 clip=dict(variant="toy-ViT-8", pretrained="toy:clip"))
    from jointdit.assets.audio_codec import AudioCodec
    from jointdit.assets.clip import CLIPCondEncoder
    from jointdit.assets.video_codec import VideoCodec
    clip, video, audio = CLIPCondEncoder(), VideoCodec.from_folder(paths["video_vae_path"]), AudioCodec.from_folder(paths["audio_vae_path"])
    recipe = dict(video_codec=video.fingerprint, audio_codec=audio.fingerprint, text_encoder=clip.fingerprint)
    ckpt = write_tiny(root / "checkpoints/day05_stage_a_x", clip.dim, recipe)
    g = np.random.default_rng(0)
    frames = np.repeat(np.repeat(g.integers(0, 255, (8, 8, 8, 3), dtype=np.uint8), 8, 1), 8, 2)
    write_video(root / "clip.mp4", frames, 12, np.concatenate([CLICK, CLICK[:2667]]))
    write_video(root / "silent.mp4", frames, 12)
    write_wav(root / "sound.wav", CLICK)
    from PIL import Image
    Image.fromarray(frames[0]).save(root / "first.png")
    store = Store(root / "cache", "val")
    latents = video.encode(frames[:6]), audio.encode(torch.as_tensor(CLICK))
    store.put(dict(id="clip_0", split="val", caption="x", captions=["x"], timeline=CLOCK.to_dict(), source_key="k"), *latents,
              image=clip.image(frames[:1]), frame=(root / "first.png").read_bytes())
    kit = load_kit(InferSettings(**paths, ckpt=str(ckpt)), say=quiet)
    return dict(root=root, paths=paths, recipe=recipe, ckpt=ckpt, kit=kit, frames=frames, latents=latents, dim=clip.dim,
                meta=str(root / "cache/meta/val/clip_0.json"))


def ask(world, out, **kw):
    kw = {**world["paths"], "steps": 2, "ckpt": str(world["ckpt"]), "out_dir": str(world["root"] / out), **kw}
    return InferSettings(**kw)


def make(world, out, say=quiet, **kw): return generate(ask(world, out, **kw), world["kit"], say)


# -- files, cards, replay

def test_files_and_card(world):
    said = []
    r, = make(world, "text", said.append, prompt="a red ball", negative_prompt="blue")
    assert sorted(p.name for p in r.card_path.parent.iterdir()) == [f"seed000_steps02.{k}" for k in ("json", "mp4", "png", "wav")]
    info = probe(r.files["mp4"])
    assert info.picture.codec == "h264" and info.sound.codec == "aac" and abs(info.picture.end - .5) < .01
    card = json.loads(r.card_path.read_text())
    assert card["direction"] == "text -> both" and card["evaluations"] == 6 and card["branches"] == ["full", "iso", "no_text"]
    assert card["checkpoint"]["sha256"] == file_hash(world["ckpt"]) and card["settings"]["prompt"] == "a red ball"
    assert set(card["seconds"]) >= {"load", "sample", "decode"} and card["peak_memory_gib"]["sample"] > 0
    assert set(card["lag"]) == {"lag_ms", "correlation", "reason"} and (card["lag"]["lag_ms"] is None) == bool(card["lag"]["reason"])
    assert {k: file_hash(p) for k, p in r.files.items()} == card["files"]
    assert any("negative prompt has no effect" in line for line in said) and any("sample" in l and "GiB" in l for l in said)


def test_seeds_alone_and_together(world):
    together = make(world, "many", seeds=[3, 4])
    alone = make(world, "alone", seeds=[4])
    assert [r.card_path.name for r in together] == ["seed003_steps02.json", "seed004_steps02.json"]
    assert (together[1].frames == alone[0].frames).all() and (together[1].wave == alone[0].wave).all()
    assert together[1].card["files"] == alone[0].card["files"]
    assert not (together[0].frames == together[1].frames).all()


def test_replay(world):
    r, = make(world, "first", prompt="a ball", seeds=[7])
    r.files["mp4"].unlink()
    again = replay(r.card_path, say=quiet)
    assert (again.frames == r.frames).all() and (again.wave == r.wave).all() and again.card["files"] == r.card["files"]
    assert again.files["mp4"].parent == r.card_path.parent / "replay"


def test_replay_refuses_a_changed_checkpoint_input_or_codec(world, tmp_path):
    ckpt = write_tiny(tmp_path / "c", world["dim"], world["recipe"])
    (tmp_path / "in.mp4").write_bytes((world["root"] / "silent.mp4").read_bytes())
    r, = generate(ask(world, "changed", ckpt=str(ckpt), given_video=str(tmp_path / "in.mp4")), None, quiet)
    assert r.card["inputs"] == {str(tmp_path / "in.mp4"): file_hash(tmp_path / "in.mp4")}
    card = json.loads(r.card_path.read_text())
    def refused(match, **change):
        r.card_path.write_text(json.dumps({**card, **change}))
        with pytest.raises(SampleError, match=match): replay(r.card_path, tmp_path / "again", quiet)
    refused("has changed since", checkpoint={**card["checkpoint"], "sha256": "0" * 64})
    refused("not there any more", inputs={str(tmp_path / "gone.mp4"): "0"})
    refused("other codecs", codecs={**card["codecs"], "video": "feed"})
    refused("not the same: the frames differ", content={**card["content"], "frames": "0"})


def test_another_prompt_does_not_destroy_the_clip_before(world):
    a, = make(world, "names", prompt="one")
    kept = file_hash(a.files["mp4"])
    make(world, "names", prompt="one")
    assert len(list(a.card_path.parent.glob("*.mp4"))) == 1
    make(world, "names", prompt="two")
    old = next(p for p in a.card_path.parent.glob("*.mp4") if p.name != "seed000_steps02.mp4")
    assert file_hash(old) == kept and json.loads(old.with_suffix(".json").read_text())["prompt"] == "one"
    assert json.loads(a.card_path.read_text())["prompt"] == "two"


# -- directions

def test_video_to_audio_shows_the_original_frames(world):
    r, = make(world, "v2a", given_video=str(world["root"] / "silent.mp4"))
    original, _ = read_clip(world["root"] / "silent.mp4", 0., CLOCK)
    assert (r.frames == original).all() and torch.equal(r.v, world["kit"].video.encode(original))
    assert r.card["direction"] == "video -> audio" and "iso" in r.card["branches"]


def test_audio_to_video_keeps_the_sound(world):
    r, = make(world, "a2v", given_audio=str(world["root"] / "sound.wav"))
    assert abs(r.wave - CLICK).max() < 1e-3 and r.frames.shape == (6, 64, 64, 3)
    assert torch.equal(r.a, world["kit"].audio.encode(torch.as_tensor(r.wave)))
    from_video, = make(world, "a2v2", given_audio=str(world["root"] / "clip.mp4"), given_start=.05)
    assert from_video.wave.shape == (CLOCK.n_samples,)


def test_continuation_is_bit_exact_and_cut_in_seconds(world):
    r, = make(world, "cont", continue_from=str(world["root"] / "clip.mp4"), prefix_seconds=.25)
    original, wave = read_clip(world["root"] / "clip.mp4", 0., CLOCK)
    assert torch.equal(r.v[:3], world["kit"].video.encode(original[:3]))
    assert torch.equal(r.a[:, :6], world["kit"].audio.encode(torch.as_tensor(wave[:6 * 640]))[:, :6])
    assert not torch.equal(r.v[3:], world["kit"].video.encode(original[3:]))


def test_continuation_of_the_reference_clip_comes_from_the_cache(world):
    r, = make(world, "ref", ref_meta=world["meta"], continue_from="ref", prefix_seconds=.25)
    v, a = world["latents"]
    assert torch.equal(r.v[:3], v[:3]) and torch.equal(r.a[:, :6], a[:, :6]) and r.card["inputs"]


@pytest.mark.parametrize("kw", [dict(image_path="first.png"), dict(use_image_firstframe=True)])
def test_image_to_both(world, kw):
    kw = {k: str(world["root"] / v) if k == "image_path" else v for k, v in kw.items()}
    r, = make(world, "i2b", ref_meta=world["meta"], clip=kw)
    want = world["kit"].video.encode(world["frames"][:1]) if "image_path" in kw else world["latents"][0][:1]
    assert torch.equal(r.v[:1], want) and r.card["branches"] == ["full", "iso", "no_image"]


def test_image_and_sound_together(world):
    r, = make(world, "both", given_audio=str(world["root"] / "sound.wav"), clip=dict(image_path=str(world["root"] / "first.png")))
    assert torch.equal(r.v[:1], world["kit"].video.encode(world["frames"][:1])) and abs(r.wave - CLICK).max() < 1e-3


def test_clip_disabled_works_everywhere(world):
    said = []
    kit = Kit(**{**vars(world["kit"]), "clip": None})
    s = ask(world, "noclip", prompt="a ball", clip=dict(enabled=False, image_path=str(world["root"] / "first.png")))
    r, = generate(s, kit, said.append)
    assert any("clip.enabled is false" in l for l in said) and r.card["branches"] == ["full", "iso"]
    assert torch.equal(r.v[:1], world["kit"].video.encode(world["frames"][:1])) and load_kit(s, say=quiet).clip is None


# -- clocks and knobs

def test_max_t_shortens_both(world):
    said = []
    r, = make(world, "short", said.append, knobs=dict(max_t=3))
    assert r.v.shape[0] == 3 and r.a.shape[1] == 7 and len(r.wave) == 4000 and any("of both streams" in l for l in said)


def test_shapes_by_hand_that_contradict_give_way(world):
    said = []
    shapes = dict(T=4, fps=12, sr=44100, video=dict(c=4, h=40, w=72), audio=dict(c=8, h=20, w=16))
    c = prepare(ask(world, "hand", manual_shapes=shapes, mp4_fps=30), world["kit"], said.append).clock
    assert c.video_shape == (4, 8, 8, 8) and c.audio_shape == (8, 9, 16) and c.fps == 12
    assert [l.split(":")[0] for l in said] == ["manual_shapes.sr", "manual_shapes.video", "manual_shapes.audio", "mp4_fps"]


def test_clock_of_ref_meta_and_of_seconds(world):
    clock = lambda **kw: prepare(ask(world, "x", **kw), world["kit"], quiet).clock
    assert clock(ref_meta=world["meta"]) == clock() == CLOCK
    assert clock(seconds=1, mp4_fps=24).n_frames == 24
    write_video(world["root"] / "brief.mp4", world["frames"][:4], 12)
    assert clock(given_video=str(world["root"] / "brief.mp4")).n_frames == 4


def test_knobs_come_from_the_checkpoint_unless_set(world, tmp_path):
    ckpt = str(write_tiny(tmp_path / "k", world["dim"], world["recipe"], knobs=dict(kv_downsample=2, q_chunk_v=16)))
    k = load_kit(ask(world, "x", ckpt=ckpt), say=quiet).model.knobs
    assert (k.kv_downsample, k.q_chunk_v) == (2, 16)
    with pytest.warns(UserWarning, match="kv_downsample"):
        k = load_kit(ask(world, "x", ckpt=ckpt, knobs=dict(kv_downsample=1)), say=quiet).model.knobs
    assert (k.kv_downsample, k.q_chunk_v) == (1, 16)


def test_checkpoint_of_either_kind_and_the_newest(world, monkeypatch):
    pt = load_kit(ask(world, "x"), say=quiet)
    st = load_kit(ask(world, "x", ckpt=str(world["ckpt"].with_suffix(".safetensors"))), say=quiet)
    assert all(torch.equal(a, b) for a, b in zip(pt.model.state_dict().values(), st.model.state_dict().values()))
    said = []
    b = write_tiny(world["root"] / "checkpoints/day07_stage_b_y", world["dim"], world["recipe"], step=5)
    kit = load_kit(ask(world, "x", ckpt=None), world["root"] / "checkpoints", said.append)
    assert kit.path == b and "the newest" in said[0]


# -- settings

DOC = """
runtime: {device: "cuda", dtype: "fp32"}
out_dir: "outputs/ui_infer"
ref_meta: "data/cache/meta/val/your_clip.json"
video_vae_path: "assets/models/svd/vae"
audio_vae_path: "assets/models/audioldm2/vae"
ckpt: "checkpoints/.../ckpt_step_000100.pt"
mp4_fps: 12
audio_sr: 16000
steps: 30
seeds: [0]
guidance: {type: "jointcfg", weight_v: 1.2, weight_a: 1.2, weight_txt: 1.5, weight_neg_txt: 0.0, weight_img: 1.0}
clip: {enabled: true, use_image_firstframe: true, model: ViT-B-16, pretrained: openai}
manual_shapes: {T: 12, fps: 12, sr: 16000, video: {c: 4, h: 40, w: 72}, audio: {c: 8, h: 20, w: 16}}
"""


def test_every_key_and_variable_of_the_document(tmp_path):
    (tmp_path / "doc.yaml").write_text(DOC)
    env = dict(JOINTDIT_PROMPT="a baby laughing", JOINTDIT_NEG_PROMPT="", JOINTDIT_CKPT="c.pt", JOINTDIT_REF_META="m.json", JOINTDIT_STEPS="31",
               JOINTDIT_SEED="4", JOINTDIT_WV="1", JOINTDIT_WA="2", JOINTDIT_WT="3", JOINTDIT_WNT="4", JOINTDIT_WI="5", JOINTDIT_USE_IMG="0",
               JOINTDIT_MAX_T="6", JOINTDIT_Q_CHUNK_V="64", JOINTDIT_Q_CHUNK_A="0", JOINTDIT_KV_DOWNSAMPLE="8")
    s = load_request(tmp_path / "doc.yaml", env=env, say=quiet)
    g = s.guidance
    assert (g.weight_v, g.weight_a, g.weight_txt, g.weight_neg_txt, g.weight_img) == (1, 2, 3, 4, 5)
    assert (s.prompt, s.negative_prompt, s.ckpt, s.ref_meta, s.steps, s.seeds) == ("a baby laughing", "", "c.pt", "m.json", 31, [4])
    assert not s.clip.use_image_firstframe and s.clip.variant == "ViT-B-16"
    assert s.knobs.model_dump() == dict(max_t=6, q_chunk_v=64, q_chunk_a=0, kv_downsample=8)
    assert load_request(tmp_path / "doc.yaml", dict(prompt="cli", seeds=[1, 2]), env=env, say=quiet).prompt == "cli"
    alias = (tmp_path / "alias.yaml")
    alias.write_text("clip: {variant: ViT-L-14, model_path: openai}\nseeds: 3\n")
    s = load_request(alias, env={}, say=quiet)
    assert (s.clip.variant, s.clip.pretrained, s.seeds) == ("ViT-L-14", "openai", [3])


@pytest.mark.parametrize("name", ["day06_infer.yaml", "ui_infer.yaml"])
def test_shipped_configs(name):
    s = load_request(ROOT / "configs" / name, env={}, say=quiet)
    assert s.clip.variant == "toy-ViT-8" and s.steps == 30 and s.guidance.type == "jointcfg"


# -- bad input: a paragraph that names it and the way out

BAD = [
    (dict(ckpt="checkpoints/nowhere/ckpt_step_000100.pt"), "there is no such checkpoint"),
    (dict(ckpt="{root}/clip.mp4"), "cannot be read as a checkpoint"),
    (dict(video_vae_path="assets/models/svd/vae_missing"), "make assets"),
    (dict(clip=dict(variant="ViT-B/16")), "ViT-B-16"),
    (dict(runtime=dict(device="gpu")), "not a device"),
    (dict(runtime=dict(dtype="fp16", device="cpu")), "refused on the CPU"),
]


@pytest.mark.parametrize("kw,match", BAD)
def test_bad_requests_while_loading(world, kw, match):
    kw = {k: v.format(root=world["root"]) if isinstance(v, str) else v for k, v in kw.items()}
    with pytest.raises(JointDiTError, match=match): generate(ask(world, "bad", **kw), None, quiet)


def test_no_checkpoint_at_all(world, tmp_path):
    with pytest.raises(SampleError, match="make demo"): pick_checkpoint(ask(world, "bad", ckpt=None), tmp_path, quiet, shipped=str(tmp_path / "none.safetensors"))


def test_the_shipped_model_stands_in(world, tmp_path):
    said = []
    assert pick_checkpoint(ask(world, "bad", ckpt=None), tmp_path, said.append).name == "model.safetensors" and "comes with the package" in said[0]


PREPARE = [
    (dict(prompt="a ball " * 60), "tokens"),
    (dict(negative_prompt="a ball " * 60), "tokens"),
    (dict(ref_meta="data/none.json"), "no such cached clip"),
    (dict(given_video="none.mp4"), "no such file"),
    (dict(given_video="{root}/sound.wav"), "no picture"),
    (dict(given_audio="{root}/silent.mp4"), "no sound"),
    (dict(given_video="{root}/silent.mp4", given_start=9.), "behind its end"),
    (dict(given_video="{root}/silent.mp4", seconds=3.), "ends at"),
    (dict(continue_from="{root}/clip.mp4", prefix_seconds=2.), "nothing is left"),
    (dict(continue_from="{root}/clip.mp4", given_start=.6, prefix_seconds=.3), "ends at"),
    (dict(continue_from="{root}/first.mp3"), "no such file"),
    (dict(clip=dict(image_path="none.png")), "no such image"),
    (dict(clip=dict(image_path="{root}/clip.mp4")), "not a readable image"),
    (dict(seconds=.01), "too short"),
    (dict(mp4_fps="fast"), "not a frame rate"),
]


@pytest.mark.parametrize("kw,match", PREPARE)
def test_bad_requests(world, kw, match):
    fill = lambda v: v.format(root=world["root"]) if isinstance(v, str) else {k: fill(x) for k, x in v.items()} if isinstance(v, dict) else v
    with pytest.raises(JointDiTError, match=match): prepare(ask(world, "bad", **fill(kw)), world["kit"], quiet)


def test_meta_of_another_cache(world, tmp_path):
    store = Store(tmp_path, "val")
    other = Timeline.from_seconds(1, 12, 16000, world["kit"].video.grid(32, 32), world["kit"].audio.grid())
    store.put(dict(id="x", timeline=other.to_dict(), source_key="k"), torch.zeros(other.video_shape))
    with pytest.raises(SampleError, match="another codec, frame size or rate"):
        prepare(ask(world, "bad", ref_meta=str(tmp_path / "meta/val/x.json")), world["kit"], quiet)
    store.put(dict(id="y", timeline=CLOCK.to_dict(), source_key="k"), torch.zeros(CLOCK.video_shape))
    with pytest.raises(SampleError, match="without a picture of its first frame"):
        prepare(ask(world, "bad", ref_meta=str(tmp_path / "meta/val/y.json"), clip=dict(use_image_firstframe=True)), world["kit"], quiet)


@pytest.mark.parametrize("key", ["video_codec", "audio_codec", "text_encoder"])
def test_codec_that_is_not_the_one_of_training(world, tmp_path, key):
    ckpt = write_tiny(tmp_path, world["dim"], {**world["recipe"], key: "feedbeef"})
    with pytest.raises(SampleError, match=f"feedbeef.*is {re.escape(world['recipe'][key])}"): load_kit(ask(world, "bad", ckpt=str(ckpt)), say=quiet)


def test_model_of_other_channels(world, tmp_path):
    ckpt = write_tiny(tmp_path, world["dim"], channels_v=4)
    with pytest.raises(SampleError, match="takes 4 video latents"): load_kit(ask(world, "bad", ckpt=str(ckpt)), say=quiet)


def test_trained_without_text(world, tmp_path):
    said = []
    ckpt = write_tiny(tmp_path, world["dim"], {**world["recipe"], "text_encoder": None})
    assert load_kit(ask(world, "x", ckpt=str(ckpt), prompt="a ball"), say=said.append).clip is None
    assert any("trained without text" in l for l in said)


@pytest.mark.parametrize("text,match", [
    ("promt: a ball", "prompt"), ("steps: many", "steps"), ("seeds: []", "seeds"), ("seeds: [-1]", "seeds"), ("steps: 0", "steps"),
    ("guidance: {weight_text: 1}", "weight_txt"), ("given_video: a.mp4\ngiven_audio: b.wav", "exclude each other"),
    ("continue_from: ref", "ref_meta"), ("clip: {use_image_firstframe: true}", "ref_meta"), ("solver: rk4", "euler"),
    ("manual_shapes: {T: 0}", "manual_shapes.T"), ("[1, 2]", "key: value"), ("prompt: [", "not valid YAML"),
])
def test_bad_yaml(tmp_path, text, match):
    (tmp_path / "bad.yaml").write_text(text + "\n")
    with pytest.raises(JointDiTError, match=match): load_request(tmp_path / "bad.yaml", env={}, say=quiet)


def test_bad_assignment(): 
    with pytest.raises(JointDiTError, match="name=value"): load_request(None, {}, ["steps"], env={}, say=quiet)


# -- scripts

def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "scripts" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def config(world, folder, **more):
    import yaml
    path = Path(folder) / "infer.yaml"
    path.write_text(yaml.safe_dump({**world["paths"], "ckpt": str(world["ckpt"]), "out_dir": str(Path(folder) / "out"), "steps": 5, **more}))
    return str(path)


def test_command_lines_make_and_replay(world, tmp_path, monkeypatch):
    for k in [k for k in os.environ if k.startswith("JOINTDIT_")]: monkeypatch.delenv(k)
    monkeypatch.setenv("JOINTDIT_PROMPT", "a bell")
    done = CliRunner().invoke(script("infer/infer_joint.py"), ["--cfg", config(world, tmp_path), "--steps", "1", "--seed", "1", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert "env JOINTDIT_PROMPT" in done.output and "evaluations" in done.output
    cards = sorted((tmp_path / "out").glob("*.json"))
    assert [c.name for c in cards] == ["seed001_steps01.json", "seed002_steps01.json"]
    done = CliRunner().invoke(script("infer/replay.py"), [str(cards[1])])
    assert done.exit_code == 0 and "the same again" in done.output


@pytest.mark.parametrize("args,match", [(["--ckpt", "none.pt"], "no such checkpoint"), (["--steps", "0"], "steps"), (["--cfg", "none.yaml"], "none.yaml"),
                                        (["--set", "guidance.weight=1"], "weight"), (["--solver", "rk"], "euler")])
def test_command_line_errors(world, tmp_path, args, match):
    done = CliRunner().invoke(script("infer/infer_joint.py"), ["--cfg", config(world, tmp_path), *args])
    assert done.exit_code == 2 and match in done.output and "Traceback" not in done.output


def test_replay_errors(tmp_path):
    for name, text in (("a.json", "{}"), ("b.json", "not"), ("c.mp4", "")):
        (tmp_path / name).write_text(text)
        done = CliRunner().invoke(script("infer/replay.py"), [str(tmp_path / name)])
        assert done.exit_code == 2 and name.split(".")[0] in done.output
    assert CliRunner().invoke(script("infer/replay.py"), [str(tmp_path / "none.json")]).exit_code == 2


def test_infer_sh(world, tmp_path):
    assert os.access(ROOT / "scripts/finals/infer.sh", os.X_OK)
    env = {k: v for k, v in os.environ.items() if not k.startswith("JOINTDIT_")} | dict(PYTHONPATH=".", JOINTDIT_QUIET="1")
    done = subprocess.run(["scripts/finals/infer.sh", "--cfg", config(world, tmp_path), "--ckpt", str(world["ckpt"]), "--steps", "1", "--seed", "0"],
                          cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out/seed000_steps01.mp4").is_file()
