"Stage B: tune a part of a Stage A model. `--help` lists the options; all settings live in the YAML."
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cfg: Annotated[str, typer.Option(help="YAML with the settings of the run")] = "configs/day07_trainB.yaml",
    max_steps: Annotated[Optional[int], typer.Option(help="optimiser steps")] = None,
    max_minutes: Annotated[Optional[float], typer.Option(help="stop after so many minutes, if that is sooner")] = None,
    log_suffix: Annotated[Optional[str], typer.Option(help="logs go to logs/day07_stage_b_<suffix>")] = None,
    ckpt_suffix: Annotated[Optional[str], typer.Option(help="checkpoints go to checkpoints/day07_stage_b_<suffix>")] = None,
    resume: Annotated[Optional[bool], typer.Option("--resume/--no-resume", help="go on from this run's last checkpoint, or put it aside and start over")] = None,
    init: Annotated[Optional[str], typer.Option(help="Stage A checkpoint to start from; otherwise the newest there is")] = None,
    samples: Annotated[Optional[int], typer.Option(help="clips to make at the end")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any other setting: --set optim.clip=0.5 (may be repeated)")] = None,
):
    "Train Stage B; the same command goes on where it stopped."
    from common import sample_at_end, sync_on_the_way
    from jointdit.train.stage import run_stage

    with user_errors():
        run_stage("B", cfg, {"max_steps": max_steps, "max_minutes": max_minutes, "output.log_suffix": log_suffix, "output.ckpt_suffix": ckpt_suffix,
                             "resume": resume, "init": init, "output.samples": samples}, set_ or [], [sample_at_end, sync_on_the_way])


if __name__ == "__main__":
    app()
