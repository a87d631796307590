"The joint model that comes with the package: it fits the codecs and the CLIP beside it, and what it makes is in sync."
from jointdit.core import load_json, toy_path
from jointdit.proof.generate import load_bench
from jointdit.proof.plan import ProofSettings
from jointdit.proof.quick import as_record, quick_sync
from jointdit.sample.infer import InferSettings, load_kit


def test_the_shipped_model_is_in_sync_and_hears_its_caption():
    kit = load_kit(InferSettings(ckpt="shipped"), say=lambda line: None)        # refuses weights that do not fit the encoders
    card = load_json(toy_path("toy:joint/card.json"))
    assert kit.hash in (card["sha256"], card["sha256"][:len(kit.hash)])
    got = as_record(quick_sync(load_bench(ProofSettings(ckpt="shipped"), say=lambda line: None), 16, 15))
    assert got["sync_f1"] > .85 > .6 > got["sync_f1_chance"]
    assert got["sync_correlation"] > .75
    assert got["captions_right"] > .7
