#!/usr/bin/env python
"""Train the toy codecs and the toy CLIP that the package ships."""
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors


def main(
    out: Annotated[Optional[Path], typer.Option(help="root for the model folders; default: the package's assets/toy")] = None,
    only: Annotated[Optional[list[str]], typer.Option(help="video, audio, vocoder or clip; repeat for several; default: all")] = None,
    minutes: Annotated[Optional[float], typer.Option(help="minutes for each model; default: 60, 14, 38 and 8")] = None,
    work: Annotated[Path, typer.Option(help="training state, from which an interrupted run goes on")] = Path("build/toy_assets"),
    threads: Annotated[int, typer.Option(help="processor threads; 1 a process is most efficient")] = 1,
    seed: Annotated[int, typer.Option(help="seed of weights and data")] = 0,
):
    """About two hours on one core in all. Two processes with different --only share the work between two cores."""
    with user_errors():
        import torch
        from jointdit.assets.toy_train import train_toy_assets
        torch.set_num_threads(threads)
        train_toy_assets(out, only or None, minutes, work, seed)


if __name__ == "__main__":
    typer.run(main)
