"Day 4: both streams together; iso is deaf and blind, full is not."
from common import TINY, smoke


def check(folder):
    import torch
    from jointdit.model.joint import ModelSettings, build_model
    from jointdit.timeline import Timeline
    clock, model = Timeline(6, 12), build_model(ModelSettings(**TINY)).eval()
    for n, p in model.named_parameters():                     # gates and outlets begin at zero: open them
        if p.ndim > 1 and not p.any(): torch.nn.init.normal_(p, std=.05)
    v, a, t = torch.randn(1, *clock.video_shape), torch.randn(1, *clock.audio_shape), torch.full((1,), .5)
    with torch.no_grad():
        heard = {m: (model(v, a, t, t, clock, mode=m)[0] - model(v, a + 1, t, t, clock, mode=m)[0]).abs().max().item()
                 for m in ("full", "iso")}
    assert heard["iso"] == 0 and heard["full"] > 0, heard
    n = sum(p.numel() for p in model.parameters())
    return f"{n:,} parameters; another sound moves the picture by {heard['full']:.1e} in full, by 0 in iso"


smoke(check)
