"Day 3: attention in chunks is exact; an untrained expert takes noise and gives a velocity."
from common import TINY, smoke


def check(folder):
    import torch
    from jointdit.model.joint import ModelSettings, build_model
    from jointdit.timeline import Timeline
    clock, model = Timeline(6, 12), build_model(ModelSettings(**TINY)).eval()
    x = torch.randn(1, *clock.video_shape)
    with torch.no_grad():
        v, nothing = model(x, None, torch.full((1,), .5), None, clock)
        model.knobs.q_chunk_v = 5
        again, _ = model(x, None, torch.full((1,), .5), None, clock)
    assert nothing is None and v.shape == x.shape and torch.allclose(v, again, atol=1e-5)
    return f"one expert alone: {tuple(x.shape)} in, the same out; chunks of 5 queries change nothing"


smoke(check)
