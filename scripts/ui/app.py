"The app: generate clips in a browser. `make ui`, then open http://127.0.0.1:7860."
from typing import Annotated

import typer

from jointdit.core import user_errors

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    host: Annotated[str, typer.Option(help="address to listen on; 127.0.0.1 is this machine only")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port")] = 7860,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser")] = False,
):
    "Serve the app from the current folder (it uses configs/, checkpoints/, data/cache/meta/ and outputs/)."
    with user_errors():
        from jointdit.studio.app import launch

        launch(".", host, port, browser)


if __name__ == "__main__":
    cli()
