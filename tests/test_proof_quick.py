"The quick form: sync while a model learns, the training bank, and the shipped checkpoint."
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jointdit.core import SampleError
from jointdit.data.encode import CacheSettings
from jointdit.data.store import Store, fake_cache
from jointdit.measure.undefined import Undefined
from jointdit.proof.memory import bank_of, training_cache
from jointdit.proof.quick import Quick, as_record, bench_of_run, measure_run, quick_chart, quick_real, quick_sync, quick_words
from jointdit.sample.request import InferSettings, pick_checkpoint
from jointdit.timeline import Timeline
from jointdit.train.metrics import plot_run, read_metrics
from jointdit.train.trainer import train
from sample_helpers import tiny_model, toy_dim
from train_helpers import make_cache, tiny_settings

torch.set_num_threads(1)


def fake_run(tmp_path, clock=Timeline(24, 12)):
    return SimpleNamespace(model=tiny_model(toy_dim()), device=torch.device("cpu"), dtype=torch.float32, folder=tmp_path, log_dir=tmp_path, about=dict(timeline=clock.to_dict()),
                           data=SimpleNamespace(index=dict(settings=CacheSettings().model_dump(mode="json"))), settings=SimpleNamespace(data=SimpleNamespace(cache_dir="x")))


def test_a_quick_look_at_a_model_is_numbers_or_reasons(tmp_path):
    bench = bench_of_run(fake_run(tmp_path))
    q = quick_sync(bench, 4, 1)
    r = as_record(q)
    assert set(r) >= {"sync_f1", "sync_correlation", "sync_f1_chance", "captions_right"} and q.n == 4
    with torch.no_grad(): next(bench.kit.model.parameters()).fill_(float("nan"))
    q = quick_sync(bench, 4, 1)
    assert isinstance(q.sync, Undefined) and as_record(q)["sync_f1"] is None and "undefined" in quick_words(as_record(q))


def test_real_clips_are_in_sync():
    r = as_record(quick_real(8))
    assert r["sync_f1"] > .9 > r["sync_f1_chance"] and r["sync_correlation"] > .9
    assert "real" in quick_chart({"real clips": r, "nothing": as_record(Quick(*[Undefined("x")] * 3, 4, 1))}, "events")


def test_another_world_is_not_measured_and_training_goes_on(tmp_path):
    with pytest.raises(SampleError, match="toy world's"): bench_of_run(fake_run(tmp_path, Timeline(6, 12)))
    make_cache(tmp_path / "cache")
    events, said = [], []
    def callback(run, event):
        events.append(event)
        run.say = said.append
        if event == "proof": assert measure_run(run, 4, 1) is None
    r = train(tiny_settings(tmp_path, max_steps=4, output=dict(proof_every=2)), [callback])
    assert events.count("proof") == 2 and r.step == 4 and len([x for x in said if "no sync is measured" in x]) == 1


def test_sync_is_a_panel_beside_the_loss(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join('{"step": %d, "sync_f1": %.1f, "sync_f1_chance": 0.3, "sync_correlation": null}' % (k, k / 10) for k in (1, 2, 3)))
    assert len(read_metrics(path)) == 3 and plot_run(path, tmp_path / "loss.png").stat().st_size > 1000


def test_training_clips_are_found_or_the_reason_is_said(tmp_path):
    info = SimpleNamespace(settings=dict(data=dict(cache_dir=str(tmp_path / "gone"))), data=dict(recipe=dict(video_codec="other")))
    assert "not on this machine" in training_cache(info).reason
    fake_cache(tmp_path / "cache", 3)
    assert "another video_codec" in training_cache(info, tmp_path / "cache").reason
    info.data = {}
    assert isinstance(training_cache(info, tmp_path / "cache"), Store)
    assert "does not say" in training_cache(SimpleNamespace(settings={}, data={})).reason


def test_the_bank_is_kept(tmp_path):
    fake_cache(tmp_path / "cache", 3, timeline=Timeline(24, 12))
    same = SimpleNamespace(normalize=lambda x: x)
    model, store = SimpleNamespace(video=same, audio=same), Store(tmp_path / "cache", "train")
    a = bank_of(store, model, tmp_path / "keep", "m")
    for p in (tmp_path / "cache" / "video_latents").rglob("*.safetensors"): p.unlink()
    assert np.array_equal(a, bank_of(store, model, tmp_path / "keep", "m")) and len(a) == 3


def test_the_shipped_model_stands_in(tmp_path):
    shipped, said = tmp_path / "model.safetensors", []
    with pytest.raises(SampleError, match="make demo"): pick_checkpoint(InferSettings(), tmp_path, shipped=shipped)
    with pytest.raises(SampleError, match="without a trained"): pick_checkpoint(InferSettings(ckpt="shipped"), tmp_path, shipped=shipped)
    shipped.touch()
    assert pick_checkpoint(InferSettings(), tmp_path, said.append, shipped) == shipped and "comes with the package" in said[0]
    assert pick_checkpoint(InferSettings(ckpt="shipped"), tmp_path, shipped=shipped) == shipped
