"""The mirror against a hub on 127.0.0.1: resume, damage, offline, licences, full disks, and its command line."""
import errno, importlib.util, json, os, signal, subprocess, sys, threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from jointdit.assets import catalogue, mirror as M
from jointdit.assets.catalogue import PARTS, PROFILES, choices, local_file, parts_of, shape_fault
from jointdit.assets.hub import HubFetcher, partial_path
from jointdit.assets.loopback import LoopbackHub
from jointdit.core import AssetError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT/"scripts/assets/fetch_assets.py"
VAE = "stabilityai/stable-video-diffusion-img2vid/vae/diffusion_pytorch_model.fp16.safetensors"
quiet = dict(say=lambda line: None)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub that has all parts of the catalogue, with tiny weights; nothing ever sleeps in it."
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda s: None)
    for part in PARTS.values():
        for entry in part.files:
            fill(tmp_path/"hub"/part.repo/part.subfolder/choices(entry)[0])
    fill(tmp_path/"hub"/VAE, 400_000)
    (tmp_path/"hub"/VAE.replace("fp16.safetensors", "bin")).write_bytes(b"a pickle")
    with LoopbackHub(tmp_path/"hub") as h: yield h


def fill(path, n=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors": save_file({"w": torch.randint(0, 255, (n,), dtype=torch.uint8)}, path)
    else: path.write_text(json.dumps({"name": path.name}))


def fetch(hub, root, profile="svd", **k):
    k = {**quiet, **k}
    return M.fetch_profile(profile, root, fetcher=HubFetcher(hub.endpoint, token=False), **k)


def asked(hub, what="resolve"): return [r for r in hub.log if what in r[0]]


def test_whole_profile_then_offline(hub, tmp_path):
    said = []
    folders = fetch(hub, tmp_path/"m", say=said.append)
    assert [f.name for f in folders][:2] == ["vae", "unet"] and all(any(f.iterdir()) for f in folders)
    text = "\n".join(said)
    for licence in ("Stability AI", "CC BY-NC-SA", "MIT"): assert licence in text
    names = {p.name for p in (tmp_path/"m").rglob("*") if p.is_file()}
    assert not any(n.endswith((".bin", ".pkl")) or "fp16" in n for n in names)
    assert len(asked(hub, "api/models")) == 3                      # a repository is asked once
    assert (tmp_path/"m/audioldm2/tokenizer/vocab.json").is_file()  # optional files come too
    n = len(hub.log)
    M.fetch_profile("svd", tmp_path/"m", offline=True, endpoint="http://127.0.0.1:9", **quiet)
    fetch(hub, tmp_path/"m")
    assert len(hub.log) == n                                       # complete: nobody is asked


def test_lockfile_records_hub_hashes(hub, tmp_path):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    lock = json.loads((tmp_path/"m"/M.LOCK).read_text())["files"]
    rec = lock["svd/vae/diffusion_pytorch_model.safetensors"]
    told = next(s for s in hub.listing(rec["repo"])["siblings"] if s["rfilename"] == rec["path"])
    assert rec["sha256"] == told["lfs"]["sha256"] and rec["size"] == told["size"] and len(rec["commit"]) == 40
    assert rec["licence"] == "svd" and rec["verified"] == "hash of the hub"


def test_falls_back_to_full_precision(hub, tmp_path):
    full = tmp_path/"hub"/VAE.replace(".fp16", "")
    (tmp_path/"hub"/VAE).rename(full)
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    assert (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").read_bytes() == full.read_bytes()


def test_only_pickles_are_refused(hub, tmp_path):
    (tmp_path/"hub"/VAE).unlink()
    with pytest.raises(AssetError, match="pickles .*diffusion_pytorch_model.bin"): fetch(hub, tmp_path/"m", only=["svd/vae"])


@pytest.mark.parametrize("fault", ["cut:1000", "cut:399000", "no-range"])
def test_dropped_line_resumes(hub, tmp_path, fault):
    remote = HubFetcher(hub.endpoint, False).listing(PARTS["svd/vae"])[1][VAE.split("/", 2)[2]]
    temp = partial_path(tmp_path/"m", remote)
    temp.parent.mkdir(parents=True)
    temp.write_bytes((tmp_path/"hub"/VAE).read_bytes()[:200_000])
    hub.faults[VAE] = [fault]
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    assert (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").read_bytes() == (tmp_path/"hub"/VAE).read_bytes()
    assert [r for _, r in asked(hub, "fp16")][0] == "bytes=200000-" and not list((tmp_path/"m/.partial").iterdir())


def test_damage_on_the_way_is_fetched_again(hub, tmp_path, capsys):
    hub.faults[VAE] = ["flip"]
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    assert len(asked(hub, "fp16")) == 2
    assert (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").read_bytes() == (tmp_path/"hub"/VAE).read_bytes()


def test_damage_twice_is_an_error(hub, tmp_path):
    hub.faults[VAE] = ["flip", "flip"]
    with pytest.raises(AssetError, match="damaged twice .*sha256"): fetch(hub, tmp_path/"m", only=["svd/vae"])
    assert not (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").exists()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "json"])
def test_damaged_local_file_is_fetched_again(hub, tmp_path, harm):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    path = tmp_path/"m/svd/vae"/("config.json" if harm == "json" else "diffusion_pytorch_model.safetensors")
    good, said = path.read_bytes(), []
    if harm == "delete": path.unlink()
    else: path.write_bytes({"flip": good[:-1] + b"!", "truncate": good[:-9], "json": b"{}"}[harm])
    fetch(hub, tmp_path/"m", only=["svd/vae"], say=said.append)
    assert path.read_bytes() == good and (harm == "delete" or "fetched again" in "\n".join(said))


def test_verify_finds_a_silent_flip(hub, tmp_path):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    path = tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors"
    good, st = path.read_bytes(), path.stat()
    path.write_bytes(good[:-1] + b"!"); os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    fetch(hub, tmp_path/"m", only=["svd/vae"], verify=True)
    assert path.read_bytes() == good


def test_placed_by_hand(hub, tmp_path):
    folder = tmp_path/"m/svd/vae"; folder.mkdir(parents=True)
    source = (tmp_path/"hub"/VAE).parent
    for name in ("config.json", "diffusion_pytorch_model.fp16.safetensors"): (folder/name).write_bytes((source/name).read_bytes())
    M.fetch_profile("svd", tmp_path/"m", only=["svd/vae"], offline=True, **quiet)
    rec = json.loads((tmp_path/"m"/M.LOCK).read_text())["files"]["svd/vae/diffusion_pytorch_model.safetensors"]
    assert "structure only" in rec["verified"] and not hub.log
    fetch(hub, tmp_path/"m", only=["svd/vae"], verify=True)         # now compared with the hub, not fetched
    rec = json.loads((tmp_path/"m"/M.LOCK).read_text())["files"]["svd/vae/diffusion_pytorch_model.safetensors"]
    assert rec["verified"] == "hash of the hub" and not asked(hub)


def test_half_a_file_placed_by_hand_is_noticed(hub, tmp_path):
    folder = tmp_path/"m/svd/vae"; folder.mkdir(parents=True)
    (folder/"config.json").write_text("{}")
    (folder/"diffusion_pytorch_model.safetensors").write_bytes((tmp_path/"hub"/VAE).read_bytes()[:1000])
    with pytest.raises(AssetError, match="1,000 bytes where its own header says"):
        M.fetch_profile("svd", tmp_path/"m", only=["svd/vae"], offline=True, **quiet)


def test_offline_and_missing_lists_everything(tmp_path):
    with pytest.raises(AssetError) as e:
        M.fetch_profile("svd", tmp_path/"m", offline=True, endpoint="https://huggingface.co", **quiet)
    text = str(e.value)
    for part in parts_of("svd"):
        for entry in part.files:
            if entry.endswith("?"): continue
            assert f"{tmp_path/'m'}/{part.name}/{local_file(entry)}" in text
            assert f"https://huggingface.co/{part.repo}/resolve/main/{part.subfolder}" in text
    assert "about 3.05 GB" in text and "CC BY-NC-SA" in text and not (tmp_path/"m").exists()


def test_exact_size_is_told_when_known(hub, tmp_path):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(AssetError, match=r"missing; 400 kB"): M.fetch_profile("svd", tmp_path/"m", only=["svd/vae"], offline=True, **quiet)


def test_gated_unknown_and_unreachable(hub, tmp_path):
    hub.gated.add(PARTS["svd/vae"].repo)
    with pytest.raises(AssetError, match="licence has not been accepted.*hf auth login"): fetch(hub, tmp_path/"m", only=["svd/vae"])
    (tmp_path/"hub"/PARTS["clip/ViT-H-14"].repo).rename(tmp_path/"gone")
    with pytest.raises(AssetError, match="not found on this hub"): fetch(hub, tmp_path/"m", only=["clip"])
    with pytest.raises(AssetError, match="cannot be asked"):
        M.fetch_profile("svd", tmp_path/"m", only=["svd/vae"], endpoint="http://127.0.0.1:9", **quiet)


def test_no_room(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(M.shutil, "disk_usage", lambda p: usage(10, 10, 1000))
    with pytest.raises(AssetError, match="1 kB free, 64.* needed"): fetch(hub, tmp_path/"m", only=["svd/vae"])


def test_disk_fills_up_on_the_way(hub, tmp_path, monkeypatch):
    real = HubFetcher.stream
    def full(self, part, commit, remote, file, start, bar):
        if not remote.path.endswith("safetensors"): return real(self, part, commit, remote, file, start, bar)
        file.write(b"\0" * 100); raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(HubFetcher, "stream", full)
    with pytest.raises(AssetError, match="disk is full.*continues"): fetch(hub, tmp_path/"m", only=["svd/vae"])
    assert (tmp_path/"m/svd/vae/config.json").is_file() and list((tmp_path/"m/.partial").iterdir())


def test_folder_that_cannot_be_made(hub, tmp_path):
    (tmp_path/"m").write_text("a file")
    with pytest.raises(AssetError, match="cannot be written"): fetch(hub, tmp_path/"m/models", only=["svd/vae"])


def test_read_only_complete_mirror_works(hub, tmp_path, monkeypatch):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    (tmp_path/"m"/M.LOCK).unlink()
    def refuse(*a): raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(M, "save_json", refuse)
    said = []
    assert M.fetch_profile("svd", tmp_path/"m", only=["svd/vae"], offline=True, say=said.append)
    assert any("used as they are" in s for s in said)


def test_two_fetches_at_once(hub, tmp_path):
    with M.writable(tmp_path/"m"), pytest.raises(AssetError, match="another fetch"): fetch(hub, tmp_path/"m", only=["svd/vae"])


def test_broken_lock_file_is_made_anew(hub, tmp_path):
    fetch(hub, tmp_path/"m", only=["svd/vae"])
    (tmp_path/"m"/M.LOCK).write_text("{ half")
    said = []
    fetch(hub, tmp_path/"m", only=["svd/vae"], say=said.append)
    assert any("verified anew" in s for s in said) and json.loads((tmp_path/"m"/M.LOCK).read_text())["files"]


def test_names():
    for profile, only in (("sdv", None), ("svd", ["svd/vea"]), ("toy", ["svd"])):
        with pytest.raises(AssetError): parts_of(profile, only)
    assert parts_of("toy") == [] and {p.name for p in parts_of("codecs")} == set(PROFILES["codecs"])
    assert [p.name for p in parts_of("svd", ["svd/vae", "clip/"])] == ["svd/vae", "clip/ViT-H-14"]
    assert all(p.licence in catalogue.LICENCES for p in PARTS.values())


@pytest.mark.parametrize("data,says", [(b"", "cut"), (b"\x10\0\0", "cut"), (b"\xff"*9, "cut"), (b"\x04\0\0\0\0\0\0\0abcd", "header")])
def test_shapes_of_broken_safetensors(tmp_path, data, says):
    (tmp_path/"x.safetensors").write_bytes(data)
    assert says in shape_fault(tmp_path/"x.safetensors")


def run(*args):
    "The script in this process: exit status and everything it said."
    spec = importlib.util.spec_from_file_location("fetch_assets", SCRIPT)
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    r = CliRunner().invoke(module.app, list(map(str, args)))
    return r.exit_code, r.output


def test_command_line_in_a_process_of_its_own(hub, tmp_path):
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "JOINTDIT_QUIET": ""}
    r = subprocess.run([sys.executable, SCRIPT, "--profile", "codecs", "--root", tmp_path/"m"], capture_output=True, text=True, env=env)
    assert r.returncode == 0 and "4 folders complete" in r.stdout and "CC BY-NC-SA" in r.stdout, r.stderr
    assert "100%" in r.stderr and "B/s" in r.stderr                 # the progress bar


@pytest.mark.parametrize("args,status,says", [
    (["--profile", "toy"], 0, "nothing to fetch"),
    (["--profile", "list"], 0, "audioldm2/language_model"),
    (["--profile", "codecs", "--offline"], 2, "svd/vae/config.json"),
    (["--profile", "nonsense"], 2, "There is no profile 'nonsense'"),
    (["--profile", "svd", "--only", "svd/vea"], 2, "no such part")])
def test_command_line(tmp_path, args, status, says):
    code, said = run(*args, "--root", tmp_path/"m")
    assert code == status and says in said and "Traceback" not in said


def test_kill_nine_then_resume(hub, tmp_path):
    "The program is killed in the middle of a file; the next one asks for the rest only."
    big = tmp_path/"hub"/VAE
    fill(big, 30_000_000)
    hub.faults[VAE] = ["full-stop:24000000"]
    args = [sys.executable, SCRIPT, "--profile", "svd", "--only", "svd/vae", "--root", str(tmp_path/"m"), "--endpoint", hub.endpoint]
    env = {**os.environ, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    p = subprocess.Popen(args, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def held(): return sum(f.stat().st_size for f in (tmp_path/"m/.partial").glob("*.safetensors"))
    for _ in range(4000):
        if held() > 1_000_000 or p.poll() is not None: break
        threading.Event().wait(.05)  # time.sleep is silenced in these tests
    p.send_signal(signal.SIGKILL); p.wait()
    before = held()
    assert before > 1_000_000 and not (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").exists()
    r = subprocess.run(args, env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert asked(hub, "fp16")[-1][1] == f"bytes={before}-"
    assert (tmp_path/"m/svd/vae/diffusion_pytorch_model.safetensors").read_bytes() == big.read_bytes()
