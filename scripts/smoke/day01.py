"Day 1: the toy codecs and CLIP on one clip; a fetch from a hub on this machine; a U-Net config mended."
from common import smoke


def check(folder):
    import numpy as np
    from jointdit.assets.audio_codec import AudioCodec
    from jointdit.assets.clip import CLIPCondEncoder
    from jointdit.assets.unet_config import AUDIOLDM2, count_parameters, sanitise
    from jointdit.assets.video_codec import VideoCodec
    from jointdit.toyworld import make_clip
    clip, video, audio = make_clip(0), VideoCodec.from_folder("toy:svd/vae"), AudioCodec.from_folder("toy:audioldm2/vae")
    back, sound = video.decode(video.encode(clip.frames)), audio.decode(audio.encode(clip.wave), len(clip.wave))
    assert back.shape == clip.frames.shape and len(sound) == len(clip.wave)
    db = 10*np.log10(255**2/np.square(np.asarray(back, float) - clip.frames).mean())
    text = CLIPCondEncoder().text([clip.caption])
    n = count_parameters(sanitise({**AUDIOLDM2, "cross_attention_dim": [None, 768, 1024]})[0])
    assert n == 346_943_496
    fetched = fetch(folder)
    return f"picture back at {db:.1f} dB, text condition {tuple(text.pooled.shape)}, {fetched} files fetched, U-Net config mended"


def fetch(folder):
    from jointdit.assets.catalogue import PARTS, choices
    from jointdit.assets.hub import HubFetcher
    from jointdit.assets.loopback import LoopbackHub
    from jointdit.assets.mirror import fetch_profile
    part = PARTS["svd/scheduler"]
    path = folder/"hub"/part.repo/part.subfolder/choices(part.files[0])[0]
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with LoopbackHub(folder/"hub") as hub:
        folders = fetch_profile("svd", folder/"models", [part.name], fetcher=HubFetcher(hub.endpoint, token=False))
    return sum(len(list(f.iterdir())) for f in folders)


smoke(check)
