"""Write toy clips (H.264 + AAC in MP4, with captions and event times) that the cache reads like anybody's clips."""
import os
from pathlib import Path

import typer

from jointdit.core import user_errors


def main(out: Path = typer.Option(Path("data/toy"), help="Folder to write: {train,val,test}/*.mp4 and metadata.jsonl."),
         train: int = typer.Option(800, min=0, help="Clips of the train split."),
         val: int = typer.Option(67, min=0, help="Clips of the val split; one in three shows a held-out combination."),
         test: int = typer.Option(0, min=0, help="Clips of the test split, as val."),
         seed: int = typer.Option(0, help="The same seed makes the same clips."),
         workers: int = typer.Option(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), min=1,
                                     help="Processes.")):
    """Write the toy data set, or finish one that was interrupted."""
    with user_errors():
        from jointdit.data.media import write_video
        from jointdit.toyworld import write_dataset
        files = write_dataset(out, train, val, test, seed, write_video=write_video, workers=workers)
        for split, path in files.items():
            typer.echo(f"{split}: {sum(1 for _ in path.open())} clips, {path}")


if __name__ == "__main__":
    typer.run(main)
