"The toy models that are shipped, and the script that makes them."
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jointdit.assets.toy_cards import loudness_error, onset_errors, pitch_error
from jointdit.assets.toy_data import Frames, Waves, dead_leaves
from jointdit.assets.toy_models import BUILD, FOLDERS, save_asset
from jointdit.assets.toy_train import Run, fit, train_toy_assets
from jointdit.core import AssetError, load_json, toy_path

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


def test_all_that_is_shipped_is_under_20_mb_and_has_a_card():
    size = lambda folder: sum(f.stat().st_size for f in toy_path(f"toy:{folder}").rglob("*") if f.is_file())
    assert size("svd") + size("audioldm2") + size("clip") < 20e6 and size("joint") < 20e6 and size("judge") < 3e6
    assert all((toy_path(f"toy:{folder}") / "card.json").is_file() for folder in ("joint", "judge"))
    cards = {name: load_json(toy_path(f"toy:{folder}") / "card.json") for name, folder in FOLDERS.items()}
    assert cards["video"]["measured"]["toy"]["mean_psnr_db"] > 34 and cards["video"]["measured"]["real"]["mean_psnr_db"] > 22
    assert cards["audio"]["measured"]["toy"]["median"]["pitch_cents"] < 50
    assert cards["clip"]["measured"]["toy"]["top1"] > .5
    assert all("make_toy_assets.py" in c["training"]["command"] for c in cards.values())

def test_a_run_goes_on_where_it_was(tmp_path):
    first = Run("audio", tmp_path, 1 / 60)
    fit(first, tmp_path / "toy", say=lambda *a, **k: None)
    second = Run("audio", tmp_path, 2 / 60)
    assert second.step == first.step > 0 and second.seconds == pytest.approx(first.seconds)
    for a, b in zip(first.model.parameters(), second.model.parameters()): assert torch.equal(a, b)
    for o, p in zip(first.opts, second.opts): assert len(o.state) == len(p.state)

def test_a_gradient_that_is_not_finite_spoils_nothing(tmp_path):
    run = Run("audio", tmp_path, 1)
    run.task = lambda model, done: (model.decoder.conv_out.bias.sum() * torch.nan, {})
    with pytest.raises(AssetError, match="loss is nan"): fit(run, tmp_path / "toy", say=lambda *a, **k: None)
    saved = torch.load(tmp_path / "audio.pt", weights_only=True)["model"]
    assert all(torch.isfinite(v).all() for v in saved.values())

def test_a_folder_opens_as_it_was_saved(tmp_path):
    from jointdit.assets.video_codec import VideoCodec
    model = BUILD["video"]()
    codec = VideoCodec.from_folder(save_asset("video", model, tmp_path))
    for (n, a), b in zip(model.named_parameters(), codec.vae.parameters()): assert torch.allclose(a, b, atol=1e-3), n

def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(AssetError, match="there are video"): train_toy_assets(tmp_path, ["vidoe"])

def test_the_script_says_so_in_one_paragraph(tmp_path):
    r = subprocess.run([sys.executable, "scripts/assets/make_toy_assets.py", "--only", "vidoe", "--out", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 2 and "there are video" in r.stderr and "Traceback" not in r.stderr

def test_data_are_functions_of_their_seed():
    assert torch.equal(Frames(1).batch(2, 4), Frames(1).batch(2, 4))
    assert torch.equal(Waves(1).batch(2), Waves(1).batch(2))
    assert not torch.equal(Waves(1).batch(2), Waves(2).batch(2))

def test_dead_leaves_have_no_scale():
    rng = np.random.default_rng(0)
    x = np.stack([dead_leaves(rng) for _ in range(30)]).mean(-1)
    a = np.abs(np.fft.rfft((x - 128) * np.hanning(128), axis=2)).mean((0, 1))[2:60]
    assert -1.8 < np.polyfit(np.log(np.arange(2, 60)), np.log(a), 1)[0] < -.4

def test_measures():
    t = torch.arange(32000) / 16000
    a = torch.sin(2 * np.pi * 440 * t)
    assert loudness_error(a / 10, a) == pytest.approx(-20, abs=.1)
    assert pitch_error(torch.sin(2 * np.pi * 440 * 2 ** (.5 / 12) * t), a) == pytest.approx(50, abs=4)
    assert np.isnan(pitch_error(a, torch.zeros(32000)))
    click = torch.zeros(32000)
    click[8000:8400] = 1
    assert onset_errors(click.roll(320), click, [.5, 1.99]) == [20.]
