"Day 2: toy clips as MP4 files, through the door, into a latent cache, and out again as a batch."
from common import smoke, tiny_cache


def check(folder):
    from jointdit.data.dataset import BatchSampler, LatentDataset
    cache, (train, val) = tiny_cache(folder)
    assert len(train.clips) == 4 and len(val.clips) == 2 and not train.problems
    batch = BatchSampler(LatentDataset(cache, "train"), 2, seed=0).batch(0)
    return f"{train.made + val.made} clips cached; batch video {tuple(batch['v_latents'].shape)}, audio {tuple(batch['a_latents'].shape)}"


smoke(check)
