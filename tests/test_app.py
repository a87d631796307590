"The app through its API: it generates, stops, queues, refuses, and says what to do."
import socket
import threading
import time
from pathlib import Path

import pytest

from gradio_client import Client, handle_file
from jointdit.core import JointDiTError, load_json
from jointdit.studio import app as studio
from jointdit.studio.context import Studio
from sample_helpers import copy_assets, toy_dim, write_tiny
from studio_helpers import free_port

WISH = dict(config="configs/ui_infer.yaml", prompt="a bell", steps=2, seed=5)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    assets = copy_assets(root / "toy")
    (root / "configs").mkdir()
    (root / "configs/ui_infer.yaml").write_text(f"out_dir: outputs/ui_infer\nsteps: 6\nvideo_vae_path: {assets}/svd/vae\naudio_vae_path: {assets}/audioldm2/vae\n")
    (root / "configs/day06_infer.yaml").write_text("out_dir: /srv/elsewhere\n")
    write_tiny(root / "checkpoints/day05_stage_a_x", toy_dim())
    return root


@pytest.fixture(scope="module")
def app(project):
    app = studio.launch(project, port=free_port(), block=False)
    yield app
    app.close()


@pytest.fixture(scope="module")
def client(app): return Client(app.local_url, verbose=False)


def made(project): return sorted(p.name for p in (project / "outputs/ui_infer").glob("*.mp4"))


def test_generates(client, project):
    live, player, *_ = client.predict(**WISH, api_name="/generate")
    assert made(project) == ["seed005_steps02.mp4"]
    card = load_json(project / "outputs/ui_infer/seed005_steps02.json")
    assert card["seed"] == 5 and card["prompt"] == "a bell" and card["settings"]["steps"] == 2 and card["settings"]["clip"]["image_path"] is None


def test_several_seeds_and_a_name_that_is_taken(client, project):
    client.predict(**{**WISH, "prompt": "a ball", "clips": 2}, api_name="/generate")
    assert len(made(project)) == 3 and "seed006_steps02.mp4" in made(project)       # seed 5 is taken by the other prompt


@pytest.mark.parametrize("change,match", [
    (dict(direction="image"), "Choose a picture"), (dict(prompt="a ball " * 60), "tokens"), (dict(steps=0), "1 to 1000"), (dict(seed=-7), "from -1"),
    (dict(checkpoint="checkpoints/none/ckpt.pt"), "no such checkpoint"), (dict(checkpoint="../x.pt"), "x.pt"), (dict(config="configs/../secret.yaml"), "secret"),
    (dict(config="configs/day06_infer.yaml"), "out_dir|elsewhere"), (dict(config="configs/none.yaml"), "none.yaml"), (dict(direction="like", meta="/etc/passwd"), "passwd"),
    (dict(w_txt=60.), "-1 to 50"), (dict(direction="extend", prefix=.5), "Choose the clip")])
def test_errors_say_what_to_do(client, change, match):
    with pytest.raises(Exception, match=match) as e: client.predict(**{**WISH, **change}, api_name="/generate")
    assert "Traceback" not in str(e.value)


def test_an_upload_that_is_no_video(client, tmp_path):
    fake = tmp_path / "fake.mp4"
    fake.write_text("this is no video")
    with pytest.raises(Exception, match="fake|video|read|open"): client.predict(**WISH, direction="video", video=handle_file(str(fake)), api_name="/generate")


def test_video_to_audio(client, project):
    clip = project / "outputs/ui_infer/seed005_steps02.mp4"
    before = len(made(project))
    client.predict(**{**WISH, "seed": 20}, direction="video", video=handle_file(str(clip)), api_name="/generate")
    assert len(made(project)) == before + 1
    card = load_json(project / "outputs/ui_infer/seed020_steps02.json")
    assert card["direction"] == "video -> audio" and Path(card["settings"]["given_video"]).is_file()


def test_stop_keeps_nothing_and_the_models(client, project, app):
    kit, before, asked = app.studio.kits.kit, made(project), []
    job = client.submit(**{**WISH, "steps": 1000, "seed": 30}, api_name="/generate")
    until = time.time() + 120
    while not ((run := app.studio.jobs.now) and run.step) and time.time() < until: time.sleep(.02)
    plain = run.stop_asked.set
    run.stop_asked.set = lambda: (plain(), asked.append(run.step))       # how far it was when the stop was asked, however long that took to arrive
    client.predict(api_name="/stop")
    job.result(timeout=120)
    assert run is app.studio.jobs.kept[-1] and run.state == "stopped"
    assert run.step <= asked[0] + 1 < 1000                               # the step that was being computed, and no other
    assert made(project) == before and app.studio.kits.kit is kit is not None


def test_two_browsers_wait_for_each_other_and_see_only_their_own(app, project):
    got, clients = {}, [Client(app.local_url, verbose=False) for _ in range(2)]
    def go(i): got[i] = clients[i].predict(**{**WISH, "steps": 12, "seed": 40 + i, "prompt": f"a bell {'ab'[i]}"}, api_name="/generate")
    threads = [threading.Thread(target=go, args=(i,)) for i in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    runs = list(app.studio.jobs.kept)[-2:]
    assert [r.state for r in runs] == ["done", "done"] and runs[0].owner != runs[1].owner and runs[1].began >= runs[0].ended - .01
    for i in range(2): assert f"seed {40 + i}" in str(got[i]) and f"seed {41 - i}" not in str(got[i])


def test_the_second_run_loads_nothing(client, app, monkeypatch):
    client.predict(**{**WISH, "seed": 50}, api_name="/generate")
    kit = app.studio.kits.kit
    def again(*a, **kw): raise AssertionError("loaded again")
    monkeypatch.setattr("jointdit.sample.infer.load_kit", again)
    client.predict(**{**WISH, "seed": 51}, api_name="/generate")
    assert app.studio.kits.kit is kit is not None and app.studio.jobs.kept[-1].state == "done"


def test_the_same_frames_as_the_command_line(client, project):
    from jointdit.sample.infer import generate
    from jointdit.sample.request import load_request
    client.predict(**{**WISH, "seed": 60, "w_txt": 2.}, api_name="/generate")
    ours = load_json(project / "outputs/ui_infer/seed060_steps02.json")
    s = load_request(project / "configs/ui_infer.yaml", dict(ckpt=str(project / "checkpoints/day05_stage_a_x"), prompt="a bell", steps=2, seeds=[60], out_dir=str(project / "outputs/cli")),
                     ["guidance.weight_txt=2"], say=lambda line: None)
    theirs = generate(s, say=lambda line: None)[0].card
    assert ours["content"] == theirs["content"] and ours["files"]["mp4"] == theirs["files"]["mp4"] and ours["request"] == theirs["request"]


def test_kit_is_kept_until_the_checkpoint_changes(project, app):
    from jointdit.sample.request import InferSettings
    s, kits = InferSettings(prompt="x"), Studio(project).kits
    kit = kits.get(s, lambda line: None)
    assert kits.get(s.model_copy(update=dict(steps=9)), lambda line: None) is kit
    write_tiny(project / "checkpoints/day05_stage_a_x", toy_dim())
    assert kits.get(s, lambda line: None) is not kit


def test_out_of_memory_names_the_knob_and_frees(app, client, monkeypatch):
    def full(*a, **kw): raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    monkeypatch.setattr("jointdit.sample.infer.sample_latents", full)
    with pytest.raises(Exception, match="Conservative"): client.predict(**WISH, api_name="/generate")
    assert app.studio.kits.kit is None


def test_every_endpoint_has_a_name_and_types(client):
    for name, api in client.view_api(return_format="dict")["named_endpoints"].items():
        assert name.startswith("/") and all(p["parameter_name"] and p["python_type"]["type"] for p in api["parameters"]), name
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_port_in_use(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(JointDiTError, match="cannot be used"): studio.launch(tmp_path, port=s.getsockname()[1], block=False)
