"The app reads and writes in its own folders only: functions one by one, then requests against a running server."
import os
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from jointdit.core import JointDiTError, SettingsError
from jointdit.studio.app import build_app
from jointdit.studio.context import Studio
from jointdit.studio.paths import Door, PathRefused, Roots, inside, listed, plain_name
from jointdit.studio.serve import Address, address, own_uploads, serve
from studio_helpers import free_port, make_configs

SECRET = "the-secret-words"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with a secret beside it, and links that lead there from every folder."
    root = tmp_path_factory.mktemp("studio") / "project"
    for d in ("checkpoints/day05_stage_a_x", "data/cache/meta/val", "data/clips", "outputs/ui_infer", "logs/day05_stage_a_x", ".git"): (root / d).mkdir(parents=True)
    make_configs(root)
    (root / "configs/ui_infer.yaml").write_text("out_dir: outputs/ui_infer\nsteps: 2\n")
    (root / "configs/out_infer.yaml").write_text("out_dir: /srv/elsewhere\n")
    secret = root.parent / "secret.txt"
    secret.write_text(SECRET)
    for place in ("outputs/link.png", "logs/link.png", "data/clips/link.mp4", "configs/link.yaml", "data/cache/meta/val/link.json"): os.symlink(secret, root / place)
    os.symlink("/etc", root / "outputs/etc")
    (root / "outputs/ui_infer/clip.json").write_text('{"fine": 1}')
    (root / "outputs/.env").write_text(SECRET)
    (root / "outputs/notes.txt").write_text(SECRET)
    (root / "pyproject.toml").write_text(SECRET)
    (root / ".git/config").write_text(SECRET)
    (root / "data/cache/index_val.json").write_text("{}")
    (root / "logs/day05_stage_a_x/metrics.jsonl").write_text('{"step": 1, "loss_v": 1.0, "loss_a": 1.0, "lr": 0.1}\n')
    return root


@pytest.fixture(scope="module")
def server(project):
    own_uploads()
    ctx, a = Studio(project), Address(port=free_port())
    page = build_app(ctx)
    with page:
        video = gr.Video()
        video.change(lambda v: str(v), video, gr.Textbox(), api_name="echo")
    serve(page.queue(), ctx, a, block=False)
    yield f"http://127.0.0.1:{a.port}", project
    page.close()


# -- files over HTTP

def attacks(root):
    "Paths that a stranger may ask the server for."
    r, up = root.as_posix(), root.parent.as_posix()
    return ["/etc/passwd", f"{up}/secret.txt", f"{r}/outputs/../../secret.txt", f"{r}/outputs/link.png", f"{r}/logs/link.png", f"{r}/outputs/etc/passwd",
            "../secret.txt", "..%2f..%2fsecret.txt", f"{r}/outputs/%2e%2e/%2e%2e/secret.txt", f"{r}/outputs/%252e%252e/%252e%252e/secret.txt",
            f"{r}/outputs/..%5c..%5csecret.txt", f"{r}/pyproject.toml", f"{r}/.git/config", f"{r}/outputs/.env", f"{r}/outputs/notes.txt", f"{r}/configs/day05_train.yaml",
            f"{r}/data/clips/link.mp4", "/proc/self/environ", "/proc/self/cwd/pyproject.toml", "file:///etc/passwd", "http://127.0.0.1:22/", "https://example.com/x.png",
            f"{r}/outputs/link.png%00.png", f"{r}/outputs", f"{r}//outputs//..//..//secret.txt", "~/.ssh/id_rsa", f"{r}/outputs/ui_infer/../../pyproject.toml", "\\\\host\\share\\x.png",
            f"/dev/../{up}/secret.txt"]


def test_at_least_twenty_attacks(project): assert len(attacks(project)) >= 20


@pytest.mark.parametrize("form", ["/gradio_api/file={}", "/gradio_api/file/{}", "/file={}", "/gradio_api/proxy={}"])
def test_no_file_outside_is_served(server, form):
    url, root = server
    for path in attacks(root):
        for said in (path, path.replace("/", "%2f")):
            r = httpx.get(url + form.format(said))
            assert r.status_code in (400, 403, 404, 405), (path, r.status_code)
            assert SECRET not in r.text and "root:x" not in r.text, path


def test_own_files_are_served(server):
    url, root = server
    r = httpx.get(f"{url}/gradio_api/file={root}/outputs/ui_infer/clip.json")
    assert r.status_code == 200 and r.json() == {"fine": 1}


@pytest.mark.parametrize("path", ["/gradio_api/run-history/records", "/monitoring", "/gradio_api/vibe-edit/", "/gradio_api/dev/reload"])
def test_routes_without_use_are_closed(server, path): assert httpx.get(server[0] + path).status_code in (401, 403, 404, 405)


def test_only_under_its_own_name(server):
    url, _ = server
    assert httpx.get(f"{url}/config", headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(f"{url}/config", headers={"host": "127.0.0.1"}).status_code == 200
    r = httpx.post(f"{url}/gradio_api/queue/join", headers={"origin": "http://evil.example"}, json={})
    assert r.headers.get("access-control-allow-origin") != "http://evil.example"


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/../secret.txt", "{root}/pyproject.toml", "{root}/outputs/link.png"])
def test_a_file_that_was_not_uploaded_is_no_input(server, path):
    url, root = server
    data = {"data": [{"path": path.format(root=root), "meta": {"_type": "gradio.FileData"}}]}
    event = httpx.post(f"{url}/gradio_api/call/echo", json=data)
    said = httpx.get(f"{url}/gradio_api/call/echo/{event.json()['event_id']}", timeout=20).text if event.status_code == 200 else event.text
    assert "event: error" in said or event.status_code != 200
    assert SECRET not in said and "root:x" not in said


def test_an_upload_stays_in_its_folder(server):
    url, root = server
    for name in ("../../../evil.png", "/etc/evil.png", "..\\evil.png"):
        r = httpx.post(f"{url}/gradio_api/upload", files={"files": (name, b"x")})
        for p in r.json() if r.status_code == 200 else []: inside(p, own_uploads(), hidden=True)
    assert not list(root.rglob("evil*")) and not list(root.parent.glob("evil*"))


# -- the interface for programs

CALLS = [("data_table", ["cache:../..:train"]), ("data_table", ["cache:/etc:train"]), ("data_table", ["cache:data/cache:../../x"]), ("data_table", ["folder:/"]),
         ("data_table", ["folder:configs"]), ("data_table", ["folder:data/../.git"]), ("data_table", ["nonsense"]), ("data_table", ["cache:data/cache:val"]),
         ("data_clip", ["cache:data/cache:val", "link"]), ("data_clip", ["cache:data/cache:val", "../../../../secret"]), ("data_clip", ["folder:data/clips", "link"]),
         ("data_clip", ["folder:/etc", "passwd"]), ("cache_start", ["/etc/passwd"]), ("cache_start", ["configs/link.yaml"]), ("cache_start", ["configs/day02_cache.yaml", "../x"]),
         ("cache_start", ["configs/day02_cache.yaml", "train", "/etc"]), ("cache_start", ["configs/day02_cache.yaml", "train", "", "../../x"]),
         ("cache_start", ["configs/day02_cache.yaml", "train", "", "", "cache_dir=/etc/x"]), ("cache_start", ["configs/day02_cache.yaml", "train", "", "", "video_vae_path=/etc"]),
         ("cache_progress", ["../../x"]), ("train_settings", ["A", "/etc/passwd"]), ("train_settings", ["A", "configs/../pyproject.toml"]), ("train_settings", ["A", "configs/link.yaml"]),
         ("train_start", ["A", "configs/day05_train.yaml", "../../x"]), ("train_start", ["A", "configs/day05_train.yaml", "x; rm -rf /"]), ("train_start", ["A", "configs/day05_train.yaml", "--help"]),
         ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "/etc/passwd"]), ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "", "/etc"]),
         ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "", "", 1, 0, "output.ckpt_root=/etc/x"]),
         ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "", "", 1, 0, "output.log_root=../x"]),
         ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "", "", 1, 0, "output.sample_cfg=/etc/passwd"]),
         ("train_start", ["A", "configs/day05_train.yaml", "x", 1, 0, True, "", "", 1, 0, "data.val_split=../../x"]),
         ("train_start", ["Z", "configs/day05_train.yaml"]), ("train_status", ["../../x"]), ("train_status", ["/etc"]), ("train_stop", ["../x"]),
         *((name, [p]) for name in ("card", "delete_clip") for p in ("../../secret", "/etc/passwd", "link", "etc/passwd", "ui_infer/../../../secret", "..%2f..%2fsecret", "")),
         ("compare_clips", ["../../secret", "/etc/passwd"])]
GENERATE = [dict(config="/etc/passwd"), dict(config="configs/../pyproject.toml"), dict(config="configs/link.yaml"), dict(config="configs/out_infer.yaml"), dict(checkpoint="/etc/passwd"),
            dict(checkpoint="../secret.txt"), dict(direction="like", meta="/etc/passwd"), dict(direction="like", meta="data/cache/meta/val/link.json"), dict(direction="like", meta="../secret.txt")]


@pytest.fixture(scope="module")
def client(server): return Client(server[0], verbose=False)


def test_the_interface_touches_nothing_outside(server, client):
    before = sorted(p for p in server[1].parent.rglob("*"))
    for name, args in CALLS:
        with pytest.raises(Exception) as e: client.predict(*args, api_name=f"/{name}")
        assert SECRET not in str(e.value) and "Traceback" not in str(e.value) and "bug in JointDiT" not in str(e.value), (name, args, str(e.value))
    assert sorted(p for p in server[1].parent.rglob("*")) == before


def test_the_form_touches_nothing_outside(server, client):
    before = sorted(p for p in server[1].parent.rglob("*"))
    for wish in GENERATE:
        with pytest.raises(Exception) as e: client.predict(**dict(config="configs/ui_infer.yaml", prompt="a bell") | wish, api_name="/generate")
        assert SECRET not in str(e.value) and "Traceback" not in str(e.value) and "bug in JointDiT" not in str(e.value), (wish, str(e.value))
    assert sorted(p for p in server[1].parent.rglob("*")) == before


def test_endpoints_have_names_and_types(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    for name in ("/data_places", "/data_table", "/data_clip", "/cache_start", "/cache_stop", "/cache_progress", "/train_settings", "/train_start", "/train_stop", "/train_status", "/train_runs"):
        assert all(p["python_type"]["type"] for p in named[name]["parameters"]), name
    assert client.predict(api_name="/train_runs") == ["day05_stage_a_x"]
    assert client.predict("day05_stage_a_x", api_name="/train_status")["step"] == 1


# -- one by one

@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "b.mp4", "", "~", "etc", "\\", "%2e%2e"]), max_size=8).map("/".join))
def test_what_is_allowed_is_inside(tmp_path_factory, path):
    root = tmp_path_factory.getbasetemp()
    try: assert inside(path, root / "outputs", root).is_relative_to((root / "outputs").resolve())
    except PathRefused: pass


def test_menus_do_not_offer_what_is_refused(project):
    assert [p.name for p in listed(Roots.of(project), "configs", "*.yaml")] == ["day02_cache.yaml", "day05_train.yaml", "out_infer.yaml", "ui_infer.yaml"]
    assert listed(Roots.of(project), "data", "clips/*") == []


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", ".hidden", "-flag", "ä", "x" * 65, "a\nb", "$(x)"])
def test_names(name):
    with pytest.raises(PathRefused): plain_name(name)


@pytest.mark.parametrize("kw,match", [(dict(listen="0.0.0.0"), "--auth"), (dict(share=True), "--auth"), (dict(listen="0.0.0.0", auth="anna"), "user:password"), (dict(auth="a:b"), "8 letters"),
                                      (dict(port=0), "--port"), (dict(listen="nowhere"), "--listen"), (dict(auth="anna:longenough", no_auth=True), "exclude")])
def test_addresses_that_are_refused(kw, match):
    with pytest.raises(SettingsError, match=match): address(**kw)


def test_a_password_is_asked_for(project):
    with gr.Blocks(analytics_enabled=False) as page: gr.Markdown("hello")
    a = address(port=free_port(), auth="anna:three-quiet-lamps")
    serve(page, Studio(project), a, block=False)
    url = f"http://127.0.0.1:{a.port}"
    assert httpx.get(f"{url}/config").status_code == 401 and httpx.get(f"{url}/gradio_api/file={project}/outputs/ui_infer/clip.json").status_code == 401
    assert httpx.post(f"{url}/login", data=dict(username="anna", password="wrong-password")).status_code == 400
    with httpx.Client(base_url=url) as c:
        assert c.post("/login", data=dict(username="anna", password="three-quiet-lamps")).status_code == 200 and c.get("/config").status_code == 200
    page.close()
