"CLIP through open_clip: names, settings, texts, images."
import json
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from jointdit.assets import clip as C
from jointdit.assets.clip import CLIPCondEncoder, ClipSettings, check_pair
from jointdit.assets.toy_cards import measure_clip, toy_clips
from jointdit.core import AssetError, toy_path

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip(): return CLIPCondEncoder(*C.TOY_CLIP)


@pytest.mark.parametrize("name, hint", [("ViT-L/14", "ViT-L-14"), ("ViT-B/16", "ViT-B-16"), ("ViT-H/14", "ViT-H-14"),
                                        ("VIT_B_16", "ViT-B-16"), ("resnet", "ViT-L-14")])
def test_wrong_variants_are_put_right(name, hint):
    with pytest.raises(AssetError, match=hint): check_pair(name, "openai")

def test_wrong_pairs_list_the_valid_ones():
    with pytest.raises(AssetError, match="laion2b_s32b_b79k"): check_pair("ViT-H-14", "openai")
    with pytest.raises(AssetError, match="toy:clip"): check_pair("toy-ViT-8", "openai")
    with pytest.raises(AssetError, match="openai"): check_pair("ViT-B-16", "toy:clip")

def test_right_pairs_pass():
    for pair in (("ViT-B-16", "openai"), ("ViT-L-14", "openai"), ("ViT-H-14", "laion2b_s32b_b79k"), C.TOY_CLIP): check_pair(*pair)

def test_a_path_that_is_not_there(tmp_path):
    for p in (tmp_path / "nothing", "assets/nowhere/clip", "toy:clap", "weights.safetensors"):
        with pytest.raises(AssetError, match="do not exist"): CLIPCondEncoder("ViT-B-16", str(p))

def test_an_empty_folder(tmp_path):
    with pytest.raises(AssetError, match="expected open_clip_model.safetensors"): CLIPCondEncoder("ViT-B-16", str(tmp_path))

def test_a_broken_file(tmp_path):
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AssetError, match="could not be loaded"): CLIPCondEncoder("ViT-B-16", str(tmp_path))

def test_a_local_folder(tmp_path, clip):
    folder = shutil.copytree(toy_path("toy:clip"), tmp_path / "mine")
    mine = CLIPCondEncoder("toy-ViT-8", str(folder))
    assert mine.fingerprint == clip.fingerprint and torch.equal(mine.text(["a"]).pooled, clip.text(["a"]).pooled)

def test_a_fetched_pair_is_used(tmp_path, monkeypatch):
    shutil.copytree(toy_path("toy:clip"), tmp_path / C.CLIP_HOME / "ViT-B-16")
    monkeypatch.chdir(tmp_path)
    assert CLIPCondEncoder("ViT-B-16", "openai").context_length == 24

def test_without_a_network_the_way_out_is_said(monkeypatch, tmp_path):
    import open_clip
    monkeypatch.chdir(tmp_path)
    def fail(*a, **k): raise OSError("no route to host")
    monkeypatch.setattr(open_clip, "create_model", fail)
    monkeypatch.setattr(C.socket, "create_connection", fail)
    with pytest.raises(AssetError, match="assets/models/clip/ViT-L-14"): CLIPCondEncoder("ViT-L-14", "openai")


def test_text(clip):
    c = clip.text(["a small red ball", "", "a rotor"])
    assert c.pooled.shape == (3, clip.dim) and c.tokens.shape == (3, 24, clip.dim) and c.mask.shape == (3, 24)
    assert torch.allclose(c.pooled.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert c.mask.sum(1).tolist() == [6, 2, 4]
    assert torch.allclose(clip.text(["a rotor"]).tokens[0], c.tokens[2], atol=1e-4)

def test_pooled_text_is_open_clips(clip):
    ids = clip.tokenizer(["a green lamp"])
    with torch.no_grad(): theirs = clip.model.encode_text(ids, normalize=True)
    assert torch.allclose(clip.text(["a green lamp"]).pooled, theirs, atol=1e-5)

def test_a_prompt_that_is_too_long(clip):
    with pytest.raises(AssetError, match="24"): clip.text(["very " * 30 + "long"])
    clip.text([" ".join(["red"] * 22)])

def test_image(clip):
    x = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    c = clip.image(x)
    assert c.pooled.shape == (2, clip.dim) and c.tokens.shape == (2, 65, clip.dim) and c.mask.all()
    with torch.no_grad(): theirs = clip.model.encode_image(clip.preprocess(x), normalize=True)
    assert torch.allclose(c.pooled, theirs, atol=1e-5)

@pytest.mark.parametrize("shape", [(64, 64), (200, 120), (30, 90)])
def test_images_of_any_size(clip, shape):
    assert clip.preprocess(torch.zeros(1, *shape, 3, dtype=torch.uint8)).shape == (1, 3, 64, 64)

@pytest.mark.parametrize("bad", [torch.zeros(1, 64, 64, 3), torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)])
def test_images_that_are_refused(clip, bad):
    with pytest.raises(AssetError): clip.image(bad)

def test_frames_find_their_captions(clip):
    found = measure_clip(clip, toy_clips(12, "test clip"))
    assert found["top1"] > 3 * found["chance"]


def test_settings_and_their_aliases():
    assert ClipSettings().variant == C.TOY_CLIP[0]
    s = ClipSettings(model="ViT-B-16", model_path="openai")
    assert (s.variant, s.pretrained, s.enabled) == ("ViT-B-16", "openai", True)
    assert ClipSettings(model="ViT-B-16", variant="ViT-B-16").variant == "ViT-B-16"

@pytest.mark.parametrize("bad", [dict(model="ViT-B-16", variant="ViT-L-14"), dict(pretraned="openai"), dict(enabled="perhaps")])
def test_settings_that_are_refused(bad):
    with pytest.raises(ValidationError): ClipSettings(**bad)

def test_settings_round_trip():
    s = ClipSettings(model="ViT-B-16")
    assert ClipSettings(**json.loads(s.model_dump_json())) == s
