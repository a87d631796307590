#!/usr/bin/env python
"""Train the judge that reads toy clips and that the package ships."""
import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors


def main(
    out: Annotated[Optional[Path], typer.Option(help="folder for model.safetensors and card.json; default: the package's assets/toy/judge")] = None,
    minutes: Annotated[float, typer.Option(help="processor minutes of training; clips through the codecs take about four more")] = 11.,
    seed: Annotated[int, typer.Option(help="seed of weights and data")] = 0,
    work: Annotated[Path, typer.Option(help="clips through the codecs, kept between runs")] = Path("build/toy_judge"),
):
    """About fifteen minutes of one core in all."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with user_errors():
        import torch
        from jointdit.proof.judge_train import train_judge
        torch.set_num_threads(1)
        train_judge(out, minutes, seed, work)


if __name__ == "__main__":
    typer.run(main)
