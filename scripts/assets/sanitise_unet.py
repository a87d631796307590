#!/usr/bin/env python3
"""Check the U-Net config of a model folder, explain what is wrong with it, and write a clean copy beside it."""
from pathlib import Path
from typing import Annotated

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(folders: Annotated[list[Path], typer.Argument(help="folders with a config.json, e.g. assets/models/audioldm2/unet")]):
    """Writes config.clean.json beside each config.json and proves it by building the model without memory."""
    with user_errors():
        from jointdit.assets.unet_weights import clean_folder
        for folder in folders:
            print(clean_folder(folder))


if __name__ == "__main__":
    app()
