"""From nothing to a page that plays: clips, cache, Stage A, Stage B, samples, outputs/demo/index.html."""
from pathlib import Path

import typer

from jointdit.core import user_errors


def main(minutes: float = typer.Option(6.0, min=0.05, envvar="DEMO_MINUTES", help="Minutes of training, both stages together."),
         data: Path = typer.Option(None, help="Folder of your own clips; without it, the toy world."),
         start: str = typer.Option("", "--from", envvar="DEMO_FROM", help="shipped: tune the model that comes with the package; or a checkpoint of yours. Otherwise from nothing."),
         out: Path = typer.Option(Path("outputs/demo"), help="Folder of the page."),
         clips: int = typer.Option(800, min=8, help="Toy clips to train on."),
         steps: int = typer.Option(30, min=1, help="Steps of the sampler.")):
    """Make clips, cache them, train both stages, measure sync before and after, sample, and write a page with players."""
    with user_errors():
        from jointdit.demo import Demo
        Demo(minutes, str(data) if data else None, out, clips, steps=steps, start=start or None).run()


if __name__ == "__main__":
    typer.run(main)
