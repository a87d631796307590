"Day 6: a clip with sound from a model of three steps (noise, but a whole file), and its replay."
from common import smoke, tiny_run


def check(folder):
    from jointdit.data.media import probe
    from jointdit.sample.infer import InferSettings, generate
    run = tiny_run(folder)
    clip, = generate(InferSettings(prompt="a large red ball bounces", ckpt=str(run.checkpoint), steps=2, out_dir=str(folder/"out")))
    info = probe(clip.files["mp4"])
    assert clip.files["wav"].is_file() and clip.card_path.is_file()
    return f"{clip.files['mp4'].name}: {len(clip.frames)} frames, {len(clip.wave)/16000:.2f} s of sound, {clip.card['evaluations']} evaluations"


smoke(check)
