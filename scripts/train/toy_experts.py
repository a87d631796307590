"""Two small published-class U-Nets, trained apart on the toy world, then joined: alone, join, tune, measure, ship. Every act goes on where it was stopped."""
from enum import Enum
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Act(str, Enum):
    alone, export, join, tune, measure, ship = "alone", "export", "join", "tune", "measure", "ship"


@app.command()
def main(
    what: Annotated[Act, typer.Argument(help="alone: both experts, strangers; export: those of a run that was stopped; join: joint blocks only; tune: Stage B; measure: sync of all; ship: into the package")],
    cache: Annotated[Optional[str], typer.Option(help="latent cache of toy clips")] = None,
    max_steps: Annotated[Optional[int], typer.Option(help="optimiser steps")] = None,
    max_minutes: Annotated[Optional[float], typer.Option(help="stop after so many minutes")] = None,
    clips: Annotated[int, typer.Option(help="clips to measure")] = 64,
    root: Annotated[str, typer.Option(help="folder of all runs")] = "checkpoints",
    logs: Annotated[str, typer.Option(help="folder of all logs")] = "logs",
    note: Annotated[Optional[list[str]], typer.Option(help="ship: ACT=words for the card, what the settings do not say (may be repeated)")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any other setting (may be repeated)")] = None,
):
    "Clips first: make cache-train cache-val CACHE_CFG=configs/toy_joint/cache.yaml. Settings, and how many minutes each takes: configs/toy_experts/*.yaml. Experts go to data/toy_experts, the report to outputs/toy_experts/report.json."
    from common import sync_on_the_way
    with user_errors():
        from jointdit.proof.strangers import RUNS, act, export_experts, measure_acts, ship
        if what is Act.export: print("experts written:", *export_experts(f"{root}/{RUNS['alone']}")); return
        if what is Act.measure: measure_acts(root, n=clips); return
        if what is Act.ship: print(f"wrote {ship(root, logs, notes=dict(n.partition('=')[::2] for n in note or []))}, its card and both experts"); return
        places = {"output.ckpt_root": root, "output.log_root": logs, "data.cache_dir": cache}
        act(what.value, places | {"max_steps": max_steps, "max_minutes": max_minutes}, set_ or [], [sync_on_the_way] if what is not Act.alone else [])


if __name__ == "__main__":
    app()
