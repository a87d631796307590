"The app: it builds, serves, generates through its API, and turns errors into toasts."
import shutil
import socket
from pathlib import Path

import pytest
import torch

import gradio as gr
from gradio_client import Client
from jointdit.core import JointDiTError, SampleError
from jointdit.sample.solvers import sample_latents
from jointdit.studio import app as studio
from sample_helpers import copy_assets, toy_dim, write_tiny

ROOT = Path(__file__).resolve().parents[1]
VALUES = dict(cfg="configs/ui_infer.yaml", ckpt="", meta="", profile=studio.AS_EXPORTED, prompt="a bell", negative="", steps=2, seed=5, fps=None,
              w_v=1., w_a=1., w_txt=1., w_neg=0., w_img=0., use_image=False)
fields = lambda **kw: [{**VALUES, **kw}[k] for k in studio.FIELDS]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    assets = copy_assets(root / "toy")
    (root / "configs").mkdir()
    (root / "configs/ui_infer.yaml").write_text(f"out_dir: outputs/ui_infer\nsteps: 6\nvideo_vae_path: {assets}/svd/vae\naudio_vae_path: {assets}/audioldm2/vae\n")
    (root / "configs/day06_infer.yaml").write_text("out_dir: /tmp/elsewhere\n")
    write_tiny(root / "checkpoints/day05_stage_a_x", toy_dim())
    return root


@pytest.fixture(scope="module")
def client(project):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    app = studio.launch(project, port=port, block=False)
    yield Client(f"http://127.0.0.1:{port}", verbose=False)
    app.close()


def test_choices(project):
    c = studio.choices(project)
    assert c == dict(cfg=["configs/ui_infer.yaml", "configs/day06_infer.yaml"], meta=[], ckpt=["checkpoints/day05_stage_a_x/ckpt_step_000001.pt"])
    assert studio.choices(project / "nothing") == dict(cfg=[], meta=[], ckpt=[])


def test_generates_through_the_api(client, project):
    video, sheet, card, log = client.predict(*fields(), api_name="/run")
    path = Path(video["video"] if isinstance(video, dict) else video)
    assert path.stat().st_size > 500 and path.suffix == ".mp4" and Path(sheet).suffix == ".png"
    assert card["seed"] == 5 and card["prompt"] == "a bell" and card["settings"]["steps"] == 2
    assert "evaluations" in log and (project / "outputs/ui_infer/seed005_steps02.mp4").is_file()


@pytest.mark.parametrize("change,match", [
    (dict(use_image=True), "ref_meta"), (dict(prompt="a ball " * 60), "tokens"), (dict(steps=0), "less than minimum")])
def test_errors_reach_the_browser(client, change, match):
    with pytest.raises(Exception, match=match): client.predict(*fields(**change), api_name="/run")


@pytest.mark.parametrize("change", [dict(cfg="configs/../secret.yaml"), dict(ckpt="../x.pt"), dict(meta="/etc/passwd"), dict(cfg="configs/day06_infer.yaml")])
def test_only_its_own_folders(project, change):
    with pytest.raises(SampleError, match="only uses files in"): studio.to_request(project, {**VALUES, **change}, env={})


def test_the_page_wins_over_environment_and_file(project):
    env = dict(JOINTDIT_PROMPT="from env", JOINTDIT_MAX_T="3")
    s = studio.to_request(project, VALUES, env=env)
    assert (s.prompt, s.steps, s.seeds, s.knobs.max_t) == ("a bell", 2, [5], 3)
    said = []
    s = studio.to_request(project, {**VALUES, "profile": "Conservative"}, said.append, env)
    assert s.knobs.max_t == 3 and s.knobs.kv_downsample == 8 and any("MAX_T=3" in l for l in said)


def test_stop(project):
    s = studio.Studio(project)
    s.stopped.set()
    with pytest.raises(SampleError, match="stopped"): s.watch(lambda *a, **k: None, 3)(0, 1., {}, {})


def test_kit_is_kept_until_the_checkpoint_changes(project):
    s, r = studio.Studio(project), studio.to_request(project, VALUES, env={})
    kit = s.load(r, lambda line: None)
    assert s.load(r, lambda line: None) is kit
    write_tiny(project / "checkpoints/day05_stage_a_x", toy_dim())
    assert s.load(r, lambda line: None) is not kit


def test_toasts():
    assert studio.toast(SampleError("too long")).message == "too long"
    assert "bug" in studio.toast(KeyError("x")).message


def test_port_in_use(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(JointDiTError, match="cannot be used"): studio.launch(tmp_path, port=s.getsockname()[1], block=False)
