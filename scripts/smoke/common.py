"What the smoke scripts share: a temporary folder, one line at the end, and the smallest possible cache, run and request."
import contextlib, io, os, sys, tempfile, time, warnings
from pathlib import Path

os.environ.setdefault("JOINTDIT_QUIET", "1")
warnings.filterwarnings("ignore")
from jointdit.core import user_errors

TINY = dict(width_v=64, width_a=64, depth=2, heads=2, head_dim=32, cond_width=32)


def smoke(check):
    "Run one day's check(folder) -> str in a temporary folder; print its line, or everything it said when it fails."
    name, start, said = Path(sys.argv[0]).stem, time.perf_counter(), io.StringIO()
    with user_errors(), tempfile.TemporaryDirectory(prefix="jointdit-smoke-") as folder:
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said): line = check(Path(folder))
        except Exception:
            print(said.getvalue()[-2000:], f"{name}: failed", sep="\n", file=sys.stderr)
            raise
    print(f"{name}: {line} ({time.perf_counter() - start:.1f} s)")


def tiny_cache(folder, n=4):
    "A few toy clips in a latent cache; returns the cache's folder and both reports."
    from jointdit.data.cache import CacheSettings, build_cache, load_encoders
    from jointdit.data.media import write_video
    from jointdit.toyworld import write_dataset
    write_dataset(folder/"toy", n, 2, write_video=write_video)
    s = CacheSettings(data_root=str(folder/"toy"), cache_dir=str(folder/"cache"))
    encoders = load_encoders(s)
    return folder/"cache", [build_cache(s, split, encoders) for split in ("train", "val")]


def tiny_settings(folder, stage="A", steps=3, **more):
    "Settings of a run that is over in seconds."
    from jointdit.train.run import TrainSettings
    out = dict(ckpt_root=str(folder/"checkpoints"), log_root=str(folder/"logs"), ckpt_suffix="smoke", log_suffix="smoke",
               eval_clips=0, samples=0, tensorboard=False)
    return TrainSettings(**{**dict(stage=stage, max_steps=steps, data=dict(cache_dir=str(folder/"cache"), batch_size=2), output=out,
                                   model=TINY if stage == "A" else None, schedule=dict(warmup=1)), **more})


def tiny_run(folder, steps=3):
    "A cache and a Stage A run on it; returns its TrainResult."
    from jointdit.train.stage import train_stage
    tiny_cache(folder)
    return train_stage(tiny_settings(folder, steps=steps))
