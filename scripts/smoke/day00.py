"Day 0: settings, the clock, and one clip of every toy scene."
from common import smoke


def check(folder):
    from jointdit.settings import Knobs, load_settings
    from jointdit.timeline import Timeline
    from jointdit.toyworld import make_clip, spec
    clock = Timeline.from_seconds(2, 12)
    short = clock.clamp(6)
    assert short.n_video_latents == 6 and abs(short.n_audio_latents - 25*short.seconds) < 1   # both streams, or none
    (folder/"knobs.yaml").write_text("max_t: 6\n")
    assert load_settings(Knobs, folder/"knobs.yaml", env={}).settings.max_t == 6
    clips = [make_clip(0, scene) for scene in spec()]
    assert all(c.events and len(c.frames) == clock.n_frames and len(c.wave) == clock.n_samples for c in clips)
    return f"{clock.describe()}; {len(clips)} scenes, e.g. {clips[0].caption!r} with {len(clips[0].events)} events"


smoke(check)
