"What both training scripts do beside training: measure sync on the way, and make clips now and then and at the end."
from pathlib import Path

from jointdit.core import JointDiTError


def sample_at_end(run, event):
    "A callback of the trainer: `output.samples` clips for held-out captions at the end, in logs/<run>/samples, and on the way if asked for."
    o = run.settings.output
    if event == "end" and o.samples: make_samples(run, run.result.checkpoint, run.log_dir / "samples")
    on_the_way = event == "save" and o.samples and o.sample_every and o.save_every and run.step % o.save_every == 0     # not when it is being stopped
    if on_the_way and run.step // o.sample_every > getattr(run, "sampled", 0):
        run.sampled = run.step // o.sample_every
        make_samples(run, run.saved, run.log_dir / "samples" / f"step_{run.step:06d}")


def make_samples(run, ckpt, folder):
    "Clips of a checkpoint; the run's own random numbers do not notice."
    import torch
    from jointdit.sample.infer import InferSettings, generate, load_kit
    from jointdit.settings import load_settings

    kit, cfg = None, run.settings.output.sample_cfg
    try:
        with torch.random.fork_rng():
            for i, prompt in enumerate((run.about["captions"] or [""])[:run.settings.output.samples]):
                own = {"ckpt": str(ckpt), "prompt": prompt, "seeds": [i], "ref_meta": "", "manual_shapes": None,
                       "out_dir": str(folder), "runtime.device": str(run.device), "clip.use_image_firstframe": False}
                request = load_settings(InferSettings, cfg if cfg and Path(cfg).is_file() else None, env={}, overrides=own).settings
                kit = kit or load_kit(request, say=run.say)
                generate(request, kit, say=run.say)
    except (JointDiTError, torch.OutOfMemoryError) as e:  # the run itself goes on, or is finished and saved
        run.say(f"no samples: {e}")


def sync_on_the_way(run, event):
    "A callback of the trainer: a quick measure of sync every `output.proof_every` steps, a curve beside the loss."
    if event != "proof": return
    from jointdit.proof.quick import measure_run

    measure_run(run)
