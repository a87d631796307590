"What both training scripts do beside training: measure sync on the way, and make a few clips at the end."
from pathlib import Path

from jointdit.core import JointDiTError


def sample_at_end(run, event):
    "A callback of the trainer: `output.samples` clips for held-out captions, in logs/<run>/samples."
    n, cfg = run.settings.output.samples, run.settings.output.sample_cfg
    if event != "end" or not n: return
    from jointdit.sample.infer import InferSettings, generate, load_kit
    from jointdit.settings import load_settings

    kit = None
    try:
        for i, prompt in enumerate((run.about["captions"] or [""])[:n]):
            own = {"ckpt": str(run.result.checkpoint), "prompt": prompt, "seeds": [i], "ref_meta": "", "manual_shapes": None,
                   "out_dir": str(run.log_dir / "samples"), "runtime.device": str(run.device), "clip.use_image_firstframe": False}
            request = load_settings(InferSettings, cfg if cfg and Path(cfg).is_file() else None, env={}, overrides=own).settings
            kit = kit or load_kit(request, say=run.say)
            generate(request, kit, say=run.say)
    except JointDiTError as e:  # the run itself is finished and saved
        run.say(f"no samples: {e}")


def sync_on_the_way(run, event):
    "A callback of the trainer: a quick measure of sync every `output.proof_every` steps, a curve beside the loss."
    if event != "proof": return
    from jointdit.proof.quick import measure_run

    measure_run(run)
