"How fast is a training step here? Prints clips/s and the share of this process's own matrix-product peak."
import time
from tempfile import TemporaryDirectory
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cfg: Annotated[str, typer.Option(help="YAML of the run to measure")] = "configs/day05_train.yaml",
    steps: Annotated[int, typer.Option(help="steps that are timed")] = 10,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any setting: --set data.batch_size=64")] = None,
):
    "Times training steps on made-up latents of the toy shape (no cache needed)."
    from jointdit.data.store import fake_cache
    from jointdit.train.metrics import matmul_peak
    from jointdit.train.stage import stage_settings
    from jointdit.train.trainer import Trainer

    with user_errors(), TemporaryDirectory() as tmp:
        s = stage_settings("A", cfg, {"data.cache_dir": tmp + "/cache", "output.eval_clips": 0, "output.ckpt_root": tmp, "output.log_root": tmp,
                                      "output.tensorboard": False}, set_ or []).settings
        fake_cache(s.data.cache_dir, s.data.batch_size)
        run, times = Trainer(s), []
        for k in range(steps + 3):
            t0 = time.perf_counter()
            run.train_step(k)
            times.append(time.perf_counter() - t0)
        best, middle = min(times[3:]), sorted(times[3:])[len(times[3:]) // 2]
        peak, B = matmul_peak(run.device, run.dtype, 1.), s.data.batch_size
        flops = 3 * run.model.flops(run.data.timelines[0], B)
        for name, t in (("best", best), ("median", middle)):
            print(f"{name:>6}: {1000 * t:.0f} ms a step, {B / t:.1f} clips/s, {flops / t / 1e9:.0f} GFLOP/s, {flops / t / peak:.2f} of the peak")
        print(f"  peak: {peak / 1e9:.0f} GFLOP/s ({str(run.dtype)[6:]} matrix product); {flops / B / 1e9:.2f} GFLOP per clip and step; "
              f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    app()
