"Encode the clips of a split into the latent cache. `--help` lists the options; all settings live in the YAML."
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cfg: Annotated[str, typer.Option(help="YAML with the settings of the cache")] = "configs/day02_cache.yaml",
    split: Annotated[str, typer.Option(help="train or val (or any split that data_root has)")] = "train",
    data_root: Annotated[Optional[str], typer.Option(help="folder with {split}/metadata.jsonl, or just a folder of videos")] = None,
    cache_dir: Annotated[Optional[str], typer.Option(help="where the latents go")] = None,
    workers: Annotated[Optional[int], typer.Option(help="clips in the making at once")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any other setting: --set clip.enabled=false (may be repeated)")] = None,
):
    "Cache a split; the same command goes on where it stopped."
    with user_errors():
        from jointdit.data.cache import cache_command
        cache_command(cfg, split, {"data_root": data_root, "cache_dir": cache_dir, "workers": workers}, set_ or [])


if __name__ == "__main__":
    app()
