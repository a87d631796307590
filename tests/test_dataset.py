"Batches: deterministic, fair, of one shape, and nothing lost on the way."
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from jointdit.core import CacheError
from jointdit.data.dataset import BatchSampler, LatentDataset, collate, fake_cache
from jointdit.data.store import Moments, Store
from jointdit.timeline import Timeline

MIX = ((True, True), (True, True), (True, False), (False, True))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory): return LatentDataset(fake_cache(tmp_path_factory.mktemp("mixed"), 13, presence=MIX))


def same(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "tokens"): return all(torch.equal(getattr(a, k), getattr(b, k)) for k in ("pooled", "tokens", "mask"))
    return a == b


def test_batch_k_depends_on_seed_and_k_alone(mixed):
    one, two = BatchSampler(mixed, 4, 7), BatchSampler(LatentDataset(mixed.store.root), 4, 7)
    for k in (30, 3, 17, 0): two.batch(k)                       # what was asked before changes nothing
    for k in (0, 5, 11): assert all(same(one.batch(k)[n], two.batch(k)[n]) for n in one.batch(k))
    assert any(one.picks(k) != BatchSampler(mixed, 4, 8).picks(k) for k in range(3))
    it = iter(BatchSampler(mixed, 4, 7))
    assert all(same(next(it)["v_latents"], one.batch(k)["v_latents"]) for k in range(3))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 9), seed=st.integers(0, 5), parts=st.integers(1, 4))
def test_every_clip_comes_equally_often_and_batches_are_full(n, size, seed, parts):
    class Fake:
        buckets = list(filter(None, ([i for i in range(n) if i % parts == p] for p in range(parts))))
        def __len__(self): return n
    sampler = BatchSampler(Fake(), size, seed)
    steps = max(1, 12 * n // size)
    seen = Counter()
    for k in range(steps):
        picks = [i for i, _ in sampler.picks(k)]
        assert len(picks) == size and len({i % parts for i in picks}) == 1
        seen.update(picks)
    fair = steps * size / n
    assert all(abs(seen[i] - fair) <= 2 + 2 * parts * size / max(1, n) + size / len(Fake.buckets[i % parts]) for i in range(n))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 9), seed=st.integers(0, 5), times=st.integers(2, 5))
def test_repeated_clips_come_so_often_and_never_as_the_same_exercise(mixed, size, seed, times):
    sampler, plain = BatchSampler(mixed, size, seed, {"2": times}), BatchSampler(mixed, size, seed)
    loud = [any("2" in c.split() for c in mixed.captions(i)) for i in range(len(mixed))]
    total = sum(times if x else 1 for x in loud)
    assert sampler.each == [times if x else 1 for x in loud] and 0 < sum(loud) < len(loud)
    steps = 20 * total // size
    uses = [u for k in range(steps) for u in sampler.picks(k)]
    seen = Counter(i for i, _ in uses)
    assert len(set(uses)) == len(uses)                      # a copy has a turn of its own, hence a task, a time and a noise of its own
    for i, x in enumerate(loud): assert abs(seen[i] / (steps * size / total) - (times if x else 1)) < .25 * (times if x else 1) + size / 9
    assert BatchSampler(mixed, size, seed, {"2": times}).picks(steps) == sampler.picks(steps)
    assert BatchSampler(mixed, size, seed, {"2": 1}).picks(7) == plain.picks(7)


def test_repeat_wants_whole_words_that_somebody_said(mixed):
    with pytest.raises(CacheError, match="'zebra'.*Captions are like"): BatchSampler(mixed, 4, 0, {"zebra": 2})
    with pytest.raises(CacheError, match="'num'"): BatchSampler(mixed, 4, 0, {"num": 2, "Number": 2})
    assert set(BatchSampler(mixed, 4, 0, {"Number": 2, "2": 3}).each) == {2, 3}      # the larger one, not their product


@pytest.mark.parametrize("word, said, heard", [("drum", "a drum, loud", 1), ("drum", "drums", 0), ("drum", "a drum-roll", 1), ("C#", "a C# clip", 1), ("#drum", "#drum solo", 1), ("C", "a C# clip", 1),
                                               ("鼓", "鼓の音", 1), ("caf", "un café", 0), ("big drum", "the Big Drum", 1), ("กลอง", "เสียงกลองดัง", 1), ("북", "북 소리", 1), ("a.b", "axb", 0)])
def test_what_a_word_of_a_caption_is(word, said, heard):
    from jointdit.data.dataset import times_each
    class Some:
        store = type("", (), dict(root="x"))
        def __len__(self): return 2
        def captions(self, i): return [said] if i else [word]
    assert times_each(Some(), {word: 3}) == [3, 3 if heard else 1]


def test_batches_hold_one_clock_and_the_same_streams(mixed):
    sampler = BatchSampler(mixed, 3, 0)
    kinds = set()
    for k in range(12):
        b = sampler.batch(k)
        kinds.add((b["v_latents"] is not None, b["a_latents"] is not None))
        assert all((m["has_video"], m["has_audio"]) == (b["v_latents"] is not None, b["a_latents"] is not None) for m in b["meta"])
        if b["v_latents"] is not None: assert b["v_latents"].shape == (3, 24, 8, 8, 8)
        if b["a_latents"] is not None: assert b["a_latents"].shape == (3, 8, 50, 16)
        assert b["t_ctx"].tokens.shape == (3, 12, 64) and b["i_ctx"].tokens.shape == (3, 5, 64) and b["clip_emb"].shape == (3, 64) and b["has_t"].all()
    assert kinds == set(MIX)


@pytest.mark.parametrize("max_t", [1, 6, 24, 99])
def test_max_t_shortens_both_streams_together(mixed, max_t):
    data = LatentDataset(mixed.store.root, max_t=max_t)
    x = data[0]
    t = min(max_t, 24)
    assert x["timeline"].n_video_latents == len(x["v_latents"]) == t
    assert x["a_latents"].shape[2] == x["timeline"].n_audio_latents == -(-round(t / 12 * 16000) // 640)
    assert torch.equal(x["v_latents"], mixed[0]["v_latents"][:t])


def test_clips_of_other_lengths_go_to_other_buckets(tmp_path):
    for i, s in enumerate((2.0, 1.0)): fake_cache(tmp_path / str(i), 3, timeline=Timeline.from_seconds(s, 12), seed=i)
    store, other = Store(tmp_path / "0", "train"), Store(tmp_path / "1", "train")
    ids = [c["id"] for c in store.read_index()["clips"]]
    for c in [c["id"] for c in other.read_index()["clips"]]:
        m = other.get_meta(c)
        store.put(m | {"id": c + "x"}, *other.latents(m))
        ids.append(c + "x")
    store.write_index(ids, store.read_index()["recipe"])
    data = LatentDataset(tmp_path / "0")
    assert sorted(map(len, data.buckets)) == [3, 3] and {b["timeline"].seconds for b in map(BatchSampler(data, 2).batch, range(6))} == {1.0, 2.0}
    assert len(LatentDataset(tmp_path / "0", max_t=6).buckets) == 1         # shortened, they are alike
    with pytest.raises(CacheError, match="one bucket"): collate([data[0], data[5]])


def test_a_missing_condition_says_so(tmp_path):
    data = LatentDataset(fake_cache(tmp_path, 2))
    x, y = data[0], data[1]
    b = collate([x | {"text": None, "clip_tokens": None}, y])
    assert b["has_t"].tolist() == b["has_i"].tolist() == [False, True] and not b["t_ctx"].mask[0].any() and b["t_ctx"].mask[1].all()
    assert not b["t_ctx"].tokens[0].any() and b["clip_emb"][1].equal(y["clip_emb"])
    b = collate([x | {"text": None, "clip_tokens": None}])
    assert b["t_ctx"] is None and b["i_ctx"] is None and b["clip_emb"] is None and not b["has_t"].any()


def test_captions_are_drawn_by_name(tmp_path):
    store = Store(fake_cache(tmp_path, 1), "train")
    said = [f"thing number {i}" for i in range(4)]
    for c in said: store.put_text("fake", c, store.get_text("fake", said[0]))
    m = store.get_meta("fake_0000")
    store.put(m | {"captions": said}, *store.latents(m))
    data = LatentDataset(tmp_path)
    drawn = [data.item(0, 5, epoch)["caption"] for epoch in range(40)]
    assert set(drawn) == set(said) and drawn == [data.item(0, 5, epoch)["caption"] for epoch in range(40)] and data[0]["caption"] == said[0]


def test_little_memory_gives_the_same_items(mixed):
    poor = LatentDataset(mixed.store.root, ram_gib=0)
    assert all(same(poor[i]["v_latents"], mixed[i]["v_latents"]) for i in range(len(poor))) and not poor._kept
    assert mixed[0]["v_latents"].data_ptr() == mixed[0]["v_latents"].data_ptr()
    with pytest.raises(IndexError): mixed[len(mixed)]


def test_an_empty_or_absent_cache_says_what_to_do(tmp_path):
    with pytest.raises(CacheError, match="make cache-train"): LatentDataset(tmp_path)
    Store(tmp_path, "train").write_index([], {}, complete=False)
    with pytest.raises(CacheError, match="no clips"): LatentDataset(tmp_path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-100, 100), st.floats(0.01, 10))
def test_moments_in_pieces_equal_moments_of_the_whole(sizes, mean, std):
    g = torch.Generator().manual_seed(sum(sizes))
    pieces = [torch.randn(n, 3, 2, generator=g, dtype=torch.float64) * std + mean for n in sizes]
    m = Moments()
    for p in pieces: m.add(p, 1)
    whole = torch.cat(pieces).movedim(1, 0).flatten(1)
    assert torch.allclose(m.mean, whole.mean(1)) and torch.allclose((m.m2 / m.n).sqrt(), whole.std(1, correction=0), atol=1e-9)
