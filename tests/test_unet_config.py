"""U-Net configs: every kind of damage is explained and mended, or refused with a reason; the parameter counts are the proof."""
import functools, importlib.util, json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from jointdit.assets import unet_config as U
from jointdit.assets.unet_config import AUDIOLDM2, LAYOUTS, PARAMETERS, SVD, build_meta, sanitise
from jointdit.assets.unet_weights import clean_folder, disagreements, load_unet_config
from jointdit.core import AssetError

ROOT = Path(__file__).parents[1]
GONE = object()
rows = [[None, 768, 1024]]*4


@functools.cache
def _count(text): return U.count_parameters(json.loads(text))
def count_parameters(config): return _count(json.dumps(config, sort_keys=True))  # many cases mend to the same config


def spoil(layout, **harm): return {k: v for k, v in {**layout, **harm}.items() if v is not GONE}


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_published_layouts(name):
    assert count_parameters(LAYOUTS[name]) == PARAMETERS[name] and sanitise(LAYOUTS[name]) == (LAYOUTS[name], [])


AUDIO = [
    dict(cross_attention_dim=[None, 768, 1024]), dict(cross_attention_dim=(None, 768, 1024)), dict(cross_attention_dim=1024),
    dict(cross_attention_dim=1280), dict(cross_attention_dim=[["null", "768", 1024.0]]*4), dict(cross_attention_dim=rows*2),
    dict(cross_attention_dim=rows[:1]), dict(cross_attention_dim=tuple(rows)), dict(cross_attention_dim=GONE),
    dict(cross_attention_dim=None), dict(cross_attention_dim=GONE, context_dim=[None, 768, 1024]),
    dict(num_attention_heads=8), dict(num_attention_heads=[4, 8, 12, 20]), dict(num_attention_heads=8, attention_head_dim=8),
    dict(num_attention_heads=4, attention_head_dim=8), dict(attention_head_dim=[8]*5), dict(layers_per_block=[2, 2, 2]),
    dict(layers_per_block="2"), dict(up_block_types=["UpBlock2D"]), dict(down_block_types=GONE),
    dict(down_block_types=["DownBlock2D"]), dict(block_out_channels=[128, 256, 384]), dict(block_out_channels=GONE),
    dict(in_channels=GONE), dict(_class_name=GONE), dict(_class_name="UNet2DConditionModel"), dict(_class_name=None),
    dict(nonsense=3), dict(block_out_chanels=[1]), dict(transformer_layers_per_block=[1]*3), dict(only_cross_attention=[False]*5)]


@pytest.mark.parametrize("harm", AUDIO, ids=lambda h: json.dumps(h, default=lambda o: "gone")[:60])
def test_audioldm2_is_mended(harm):
    config = spoil(AUDIOLDM2, **harm)
    before = json.dumps(config)
    clean, findings = sanitise(config)
    assert findings and count_parameters(clean) == PARAMETERS[clean["_class_name"]] == 346_943_496
    assert sanitise(clean) == (clean, []) and json.dumps(config) == before and clean["cross_attention_dim"] == rows
    for f in findings: assert f.key in str(f) and f.problem in str(f)


VIDEO = [
    dict(cross_attention_dim=[1024]*4), dict(cross_attention_dim=[1024]*3), dict(cross_attention_dim=[[1024]]*4),
    dict(cross_attention_dim=1280), dict(cross_attention_dim=None), dict(attention_head_dim=[5, 10, 20, 20], num_attention_heads=GONE),
    dict(attention_head_dim=64, num_attention_heads=GONE), dict(num_attention_heads=64), dict(num_attention_heads=[5, 10, 20]),
    dict(projection_class_embeddings_input_dim=256), dict(_class_name=GONE), dict(up_block_types=SVD["up_block_types"][:2]),
    dict(block_out_channels=(320, 640, 1280, 1280)), dict(in_channels="8"), dict(num_frames=GONE), dict(center_input_sample=False)]


@pytest.mark.parametrize("harm", VIDEO, ids=lambda h: json.dumps(h, default=lambda o: "gone")[:60])
def test_svd_is_mended(harm):
    clean, findings = sanitise(spoil(SVD, **harm))
    assert findings and count_parameters(clean) == 1_524_623_082 and sanitise(clean) == (clean, [])
    assert clean["num_attention_heads"] == [5, 10, 20, 20]      # no weight's shape would tell


def test_only_a_class_name():
    for name in LAYOUTS: assert count_parameters(sanitise({"_class_name": name})[0]) == PARAMETERS[name]
    assert count_parameters({"_class_name": "AudioLDM2UNet2DConditionModel"}) == 872_300_484


@pytest.mark.parametrize("config,says", [
    ({}, "object with keys"), ([], "JSON object"), (None, "JSON object"), ({"a": 1}, "does not say which"),
    (spoil(AUDIOLDM2, block_out_channels=[1, 2, 3], down_block_types=["DownBlock2D"]), "cannot be known"),
    (spoil(AUDIOLDM2, down_block_types=[], up_block_types="000:"), "list of blocks"), (spoil(AUDIOLDM2, num_attention_heads=[[]]), "one for each level"),
    (spoil(AUDIOLDM2, block_out_channels=128), "cannot be understood"), (spoil(AUDIOLDM2, cross_attention_dim="wide"), "cannot be understood|positive"),
    (spoil(AUDIOLDM2, cross_attention_dim=[[None], [768], [1024]]), "which belongs where"),
    (spoil(AUDIOLDM2, attention_head_dim=7), "does not divide"), (spoil(AUDIOLDM2, block_out_channels=[100]*4), "groups"),
    (spoil(SVD, cross_attention_dim=[768, 1024]), "one width for all levels"), (spoil(SVD, num_attention_heads=7), "does not divide")])
def test_what_cannot_be_mended_is_refused(config, says):
    with pytest.raises(AssetError, match=says): sanitise(config)


def test_other_sizes_are_left_alone():
    large = spoil(AUDIOLDM2, block_out_channels=[256, 512, 768, 1280], cross_attention_dim=[[None, 1024]]*4)
    assert sanitise(large) == (large, [])
    assert sanitise(spoil(AUDIOLDM2, norm_eps=1e-5, mid_block_scale_factor=1.0, act_fn="silu"))[1] == []


@given(st.dictionaries(st.sampled_from([*AUDIOLDM2, *SVD, "attention_head_dim", "x"]),
                       st.recursive(st.none() | st.integers(-3, 2000) | st.text(max_size=4), lambda s: st.lists(s, max_size=5), max_leaves=6)))
@settings(max_examples=60, deadline=None)
def test_any_config_is_mended_or_refused(harm):
    try: clean, findings = sanitise({**AUDIOLDM2, **harm})
    except AssetError: return
    assert sanitise(clean) == (clean, [])


def write(folder, config):
    folder.mkdir(exist_ok=True)
    (folder/"config.json").write_text(json.dumps(config))
    return folder


def test_clean_copy_beside_the_original(tmp_path):
    folder = write(tmp_path/"unet", spoil(AUDIOLDM2, cross_attention_dim=[None, 768, 1024]))
    original = (folder/"config.json").read_bytes()
    assert load_unet_config(folder)["cross_attention_dim"] == rows
    said = clean_folder(folder)
    assert "346,943,496" in said and "repeated for every level" in said
    assert (folder/"config.json").read_bytes() == original
    import diffusers
    with torch.device("meta"): model = diffusers.AudioLDM2UNet2DConditionModel.from_config(load_unet_config(folder))
    assert sum(p.numel() for p in model.parameters()) == 346_943_496


def test_weights_have_the_last_word(tmp_path):
    small = spoil(AUDIOLDM2, block_out_channels=[32, 32, 32, 32], cross_attention_dim=[[None, 8]]*4, norm_num_groups=32)
    weights = {k: torch.zeros(v.shape, dtype=torch.float16) for k, v in build_meta(small).state_dict().items()}
    folder = write(tmp_path/"unet", small)
    save_file(weights, folder/"diffusion_pytorch_model.safetensors")
    assert disagreements(small, folder/"diffusion_pytorch_model.safetensors") == []
    assert "exactly the tensors" in clean_folder(folder)
    write(folder, spoil(small, cross_attention_dim=[[None, 16]]*4))
    with pytest.raises(AssetError, match="do not fit the config"): clean_folder(folder)


def test_script(tmp_path):
    spec = importlib.util.spec_from_file_location("sanitise_unet", ROOT/"scripts/assets/sanitise_unet.py")
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    good, bad = write(tmp_path/"a", spoil(SVD, num_attention_heads=64)), write(tmp_path/"b", {"a": 1})
    r = CliRunner().invoke(module.app, [str(good), str(bad)])
    assert r.exit_code == 2 and "1,524,623,082" in r.output and "does not say which" in r.output and "Traceback" not in r.output
