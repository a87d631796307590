"The page is served before anything heavy is imported: what a run needs comes when a run needs it."
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "open_clip", "scipy", "matplotlib", "av", "soundfile", "safetensors", "tensorboard")
SERVE = """import json, socket, sys, urllib.request
from jointdit.studio.app import build_app
from jointdit.studio.serve import Address, serve
from jointdit.studio.theme import look
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    at = Address(port=s.getsockname()[1])
app = build_app(sys.argv[1]).queue(default_concurrency_limit=None)
serve(app, app.studio, at, block=False, **look())
url = f"http://127.0.0.1:{at.port}"
page = urllib.request.urlopen(url).read()
config = json.load(urllib.request.urlopen(url + "/config"))
print(json.dumps(dict(loaded=sorted(set(m.split(".")[0] for m in sys.modules)), bytes=len(page), components=len(config["components"]))))
"""


def test_nothing_heavy_is_imported_for_the_page(tmp_path):
    (tmp_path / "configs").mkdir()
    for name in ("ui_infer", "day05_train", "day02_cache"): (tmp_path / f"configs/{name}.yaml").write_text((ROOT / f"configs/{name}.yaml").read_text())
    r = subprocess.run([sys.executable, "-c", SERVE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert r.returncode == 0, r.stderr[-2000:]
    said = json.loads(r.stdout.strip().splitlines()[-1])
    assert said["bytes"] > 1000 and said["components"] > 100
    assert not [m for m in HEAVY if m in said["loaded"]]


def test_help_needs_no_torch():
    code = "import sys, jointdit.settings, jointdit.timeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
