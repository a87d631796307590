#!/usr/bin/env python
"""Train the toy codecs and the toy CLIP that the package ships."""
import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

VIDEO = {".mp4", ".webm", ".mov", ".mkv", ".avi"}


def clips_of(folder):
    "(name, frames, wave) of two seconds from the first third of each video: for the cards, never for training."
    from jointdit.core import MediaError
    from jointdit.data.media import probe, read_clip
    from jointdit.timeline import AudioGrid, Timeline, VideoGrid
    clock = Timeline.from_seconds(2.0, 12, 16000, VideoGrid(), AudioGrid())
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO):
        try:
            info = probe(path)
            start, end = info.span
            yield path.name, *read_clip(info, max(start, min(start + (end - start) / 3, end - 2.05)), clock)
        except MediaError as e:
            print(f"left out: {e}")


def main(
    out: Annotated[Optional[Path], typer.Option(help="root for the model folders; default: the package's assets/toy")] = None,
    only: Annotated[Optional[list[str]], typer.Option(help="video, audio, vocoder or clip; repeat for several; default: all")] = None,
    minutes: Annotated[Optional[float], typer.Option(help="minutes for each model; default: 70, 12, 17 and 8.5")] = None,
    work: Annotated[Path, typer.Option(help="training state, from which an interrupted run goes on")] = Path("build/toy_assets"),
    threads: Annotated[int, typer.Option(help="processor threads; 1 a process is most efficient")] = 1,
    seed: Annotated[int, typer.Option(help="seed of weights and data")] = 0,
    real: Annotated[Optional[Path], typer.Option(help="folder of real videos to measure with (they are never trained on)")] = None,
):
    """About two hours on one core in all. Two processes with different --only share the work between two cores
    (the vocoder after the audio VAE). A second run of a model that is finished only writes its card again."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with user_errors():
        import torch
        from jointdit.assets.toy_train import train_toy_assets
        torch.set_num_threads(threads)
        train_toy_assets(out, only or None, minutes, work, seed, list(clips_of(real)) if real else ())


if __name__ == "__main__":
    typer.run(main)
