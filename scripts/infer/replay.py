"Make a clip again from its card and verify that it is the same."
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    card: Annotated[str, typer.Argument(help="the JSON beside a clip, such as outputs/day06/seed000_steps30.json")],
    out_dir: Annotated[Optional[str], typer.Option(help="where the new files go; otherwise a folder `replay` beside the card")] = None,
):
    "Same checkpoint, same settings, same seed: the same frames and samples, or exit status 2 and what differs."
    from jointdit.sample.infer import replay

    with user_errors():
        replay(card, out_dir)


if __name__ == "__main__":
    app()
