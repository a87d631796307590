#!/usr/bin/env python3
"""Fetch pretrained weights into assets/models, verified; or say exactly which files to put where."""
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    profile: Annotated[str, typer.Option(help="toy, clip, codecs, svd, ltx, or list to see what each holds")] = "toy",
    root: Annotated[Path, typer.Option(help="folder that holds the models")] = Path("assets/models"),
    only: Annotated[Optional[list[str]], typer.Option(help="a part or the beginning of its name, e.g. svd/vae; may be repeated")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="do not touch the network")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="hash every file, and compare with the hub what never was")] = False,
    endpoint: Annotated[Optional[str], typer.Option(envvar="HF_ENDPOINT", help="another hub, e.g. a company mirror")] = None,
    sanitise: Annotated[bool, typer.Option(help="check U-Net configs after fetching and write clean copies")] = True,
):
    """Fetch a profile's weights: resumes, verifies hashes, prints licences, works offline when they are there."""
    with user_errors():
        from jointdit.assets.mirror import fetch_profile, profile_table
        if profile == "list":
            return print(profile_table(root))
        folders = fetch_profile(profile, root, only, offline, verify, endpoint)
        if sanitise and any(f.name == "unet" for f in folders):
            from jointdit.assets.unet_weights import clean_folder
            for folder in (f for f in folders if f.name == "unet"):
                print(clean_folder(folder))


if __name__ == "__main__":
    app()
