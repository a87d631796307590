"A checkpoint to give away: half precision, a header, a card, a limit."
import pytest
import torch

from jointdit.core import CheckpointError, load_json
from jointdit.train.checkpoint import load_model, read_info
from jointdit.train.export import export_checkpoint, halved
from jointdit.train.trainer import train
from train_helpers import make_cache, tiny_settings


def test_vectors_stay_and_matrices_must_fit():
    kept = halved({"w": torch.randn(3, 4), "v": torch.tensor([1e6, 1e-8])})
    assert kept["w"].dtype == torch.float16 and kept["v"].dtype == torch.float32
    with pytest.raises(CheckpointError, match="w: its numbers do not fit"): halved({"w": torch.full((2, 2), 1e6)})
    with pytest.raises(CheckpointError, match="w: its numbers do not fit"): halved({"w": torch.tensor([[float("nan")]])})


def test_the_small_file_is_the_same_model(tmp_path):
    make_cache(tmp_path / "cache")
    ckpt = train(tiny_settings(tmp_path, "small", max_steps=2)).checkpoint
    out = export_checkpoint(ckpt, tmp_path / "out", dict(command="here"))
    (a, info), (b, _) = load_model(out), load_model(ckpt)
    assert all(torch.allclose(x, y, rtol=2e-3, atol=1e-4) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    card = load_json(tmp_path / "out/card.json")
    assert card["command"] == "here" and card["step"] == info.step == read_info(ckpt).step == 2 and card["bytes"] == out.stat().st_size
    with pytest.raises(CheckpointError, match="given away"): export_checkpoint(ckpt, tmp_path / "big", {}, limit=10)
    assert not (tmp_path / "big").exists()
