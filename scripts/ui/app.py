"The studio: make clips, look after data and watch training in a browser. `make ui`, then open http://127.0.0.1:7860."
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    port: Annotated[int, typer.Option(help="port")] = 7860,
    listen: Annotated[str, typer.Option(help="address to listen on; 127.0.0.1 is this machine only, 0.0.0.0 every network card (needs --auth)")] = "127.0.0.1",
    share: Annotated[bool, typer.Option("--share", help="also make a public link through Gradio's servers (needs --auth)")] = False,
    auth: Annotated[Optional[str], typer.Option(envvar="JOINTDIT_UI_AUTH", help="user:password that visitors must give")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="open to everybody who reaches it, and that is meant")] = False,
    data_root: Annotated[Optional[Path], typer.Option(help="folder of clips that the Data tab may look at and cache, besides data/")] = None,
    ckpts: Annotated[Optional[Path], typer.Option(help="folder of all training runs, instead of checkpoints/")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open a browser")] = False,
):
    "Serve the app from the current folder: it uses configs/, checkpoints/, data/, outputs/ and logs/ there, and nothing else."
    with user_errors():
        from jointdit.studio.app import launch
        from jointdit.studio.context import Studio
        from jointdit.studio.serve import address

        at = address(listen, port, share, auth, no_auth)
        launch(Studio(Path("."), data_root=data_root, ckpts=ckpts), browser=browser, at=at)


if __name__ == "__main__":
    cli()
