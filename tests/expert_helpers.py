"""Tiny random networks of the published classes, and what the untouched ones answer."""
import torch

from jointdit.core import Context
from jointdit.model.joint import build_model
from jointdit.model.layers import ModelSettings
from jointdit.model.protocol import ExpertSettings
from jointdit.model.schedules import NoiseSettings
from jointdit.timeline import AudioGrid, Timeline, VideoGrid

SVD = dict(_class_name="UNetSpatioTemporalConditionModel", in_channels=8, out_channels=4, block_out_channels=[32, 64], layers_per_block=2, num_attention_heads=[2, 4],
           down_block_types=["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"], up_block_types=["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
           cross_attention_dim=24, addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, num_frames=4)
SVD3 = SVD | dict(block_out_channels=[32, 32, 64], num_attention_heads=[2, 2, 4], layers_per_block=1,
                  down_block_types=["CrossAttnDownBlockSpatioTemporal"]*2 + ["DownBlockSpatioTemporal"], up_block_types=["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"]*2)
ALD = dict(_class_name="AudioLDM2UNet2DConditionModel", in_channels=8, out_channels=8, block_out_channels=[16, 32], layers_per_block=2, attention_head_dim=4,
           norm_num_groups=8, cross_attention_dim=[[None, 24, 16]]*2, down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"])
ALD3 = ALD | dict(block_out_channels=[16, 16, 32], cross_attention_dim=[[None, 24, 16]]*3, layers_per_block=1,
                  down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"]*2, up_block_types=["CrossAttnUpBlock2D"]*2 + ["UpBlock2D"])
LTX = dict(_class_name="LTXVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32, num_layers=3,
           caption_channels=16)
NOISE = {"UNetSpatioTemporalConditionModel": NoiseSettings(kind="edm", prediction="v_prediction"), "AudioLDM2UNet2DConditionModel": NoiseSettings(kind="ddpm", prediction="epsilon"),
         "LTXVideoTransformer3DModel": NoiseSettings(kind="flow", shift_len=(1024, 4096), shift_log=(.95, 2.05), terminal=.1)}


def expert(config, **more):
    return ExpertSettings(net=config, noise=NOISE[config["_class_name"]], scaling=more.pop("scaling", .5), **more)


def clock(frames=3, fps=12, height=64, width=64): return Timeline(frames, fps, 16000, VideoGrid(8, 4, 1, 1, height, width), AudioGrid(160, 64, 4, 4, 8))


def text(B, seed=0, words=5):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g)
    mask = torch.arange(words)[None] < torch.tensor([words - (i % 3) for i in range(B)])[:, None]
    return Context(r(B, 12), r(B, 3, 12), torch.ones(B, 3, dtype=torch.bool),
                   {"audioldm2.generated": r(B, 8, 24), "audioldm2.t5": r(B, words, 16), "audioldm2.t5_mask": mask, "ltx.t5": r(B, words, 16), "ltx.t5_mask": mask})


def image(B, c: Timeline, seed=0):
    g = torch.Generator().manual_seed(seed + 1)
    r = lambda *s: torch.randn(*s, generator=g)
    return Context(r(B, 12), r(B, 2, 12), torch.ones(B, 2, dtype=torch.bool), {"svd.embedding": r(B, 1, 24), "svd.latent": r(B, *c.video_shape[1:])})


def settings(video=SVD, audio=ALD, **more):
    s = dict(width_v=32, width_a=32, depth=3, heads=2, head_dim=16, cond_width=16, channels_v=4, text_dim=12, image_dim=12, n_text=8, n_image=2)
    ex = {k: expert(c, **more.pop(k, {})) for k, c in (("expert_v", video), ("expert_a", audio)) if c}
    return ModelSettings(**s | ex | more)


def model(video=SVD, audio=ALD, seed=0, **more):
    m = build_model(settings(video, audio, **more), seed=seed)
    for e in (m.video, m.audio):       # published U-Nets are not zero anywhere; fresh ones are, here and there
        if not hasattr(e, "net"): continue
        g = torch.Generator().manual_seed(seed + 5)
        for p in e.net.parameters():
            if not p.any(): p.data = .02 * torch.randn(p.shape, generator=g)
    return m.eval()


def open_gates(m, seed=0):
    "Joint blocks that do something."
    g = torch.Generator().manual_seed(seed)
    for n, p in m.named_parameters():
        if n.startswith("joint.") and ".mod." in n: p.data = .3 * torch.randn(p.shape, generator=g)
    return m


@torch.no_grad()
def untouched(e, x, t, c, t_ctx, i_ctx, dtype=torch.float32):
    "The velocity that the published forward gives, with times (B,) and nothing dropped."
    z, when = e.noise.enter(x.float(), t[:, None] if e.__class__.__name__ == "LTXExpert" else t)
    z, B, kind = z.to(dtype), len(x), e.__class__.__name__
    if kind == "SVDExpert":
        ids = torch.tensor([[float(c.fps) - 1, e.settings.motion_bucket, e.settings.noise_aug]]*B)
        z = torch.cat([z, i_ctx.more["svd.latent"].to(dtype)[:, None].expand(-1, x.shape[1], -1, -1, -1)], 2)
        out = e.net(z, when, i_ctx.more["svd.embedding"].to(dtype), ids, return_dict=False)[0]
    elif kind == "AudioLDM2Expert":
        out = e.net(z, when, t_ctx.more["audioldm2.generated"].to(dtype), encoder_hidden_states_1=t_ctx.more["audioldm2.t5"].to(dtype),
                    encoder_attention_mask_1=t_ctx.more["audioldm2.t5_mask"], return_dict=False)[0]
    else:
        T, C, h, w = x.shape[1:]
        scale = (c.video.stride/float(c.fps), c.video.down, c.video.down)
        out = e.net(z.permute(0, 1, 3, 4, 2).flatten(1, 3), t_ctx.more["ltx.t5"].to(dtype), when, t_ctx.more["ltx.t5_mask"], T, h, w, scale, return_dict=False)[0]
        out = out.unflatten(1, (T, h, w)).permute(0, 1, 4, 2, 3)
        return e.noise.leave(out, x, t[:, None])
    return e.noise.leave(out, x, t)


def folders(root, video=SVD, audio=ALD, seed=0):
    "Tiny experts saved as diffusers saves them: {video: folder, audio: folder}."
    from jointdit.train.experts import save_expert
    m, out = model(video, audio, seed), {}
    for name, e in (("video", m.video), ("audio", m.audio)):
        if not hasattr(e, "net"): continue
        out[name] = str(root/name)
        e.std.fill_(2.)
        save_expert(e, out[name])
    return out


def cache(folder, c=None, n=6):
    "A cache of noise whose conditions hold what the experts' own encoders would say."
    from jointdit.core import named_rng
    from jointdit.data.store import Store, _fake_latents, _fake_meta
    c = c or clock()
    for split, k in (("train", n), ("val", 3)):
        store, ids = Store(folder, split), [f"clip_{i}" for i in range(k)]
        for i, clip in enumerate(ids):
            said = f"thing number {i % 3}"
            store.put_text("fake", said, text(1, i % 3))
            v, a = _fake_latents(named_rng("cache", split, i), c, True, True)
            store.put(_fake_meta(clip, split, said, False, c), v, a, image(1, c, i))
        store.put_text("fake", "", text(1, 99, words=1))
        store.write_index(ids, {"text_encoder": "fake", "video_codec": "fake", "audio_codec": "fake"})
    return folder
