#!/usr/bin/env python
"""Train the joint toy model that the package ships: clips, cache, Stage A, Stage B, small file with its card."""
from pathlib import Path
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "make toy-joint"


def run_facts(log_dir):
    "Minutes, steps and held-out losses of a run, from its metrics."
    from jointdit.train.metrics import read_metrics

    rows = read_metrics(Path(log_dir) / "metrics.jsonl")
    held = [r for r in rows if "heldout_v" in r]
    return dict(steps=max(r["step"] for r in rows), minutes=round(max(r.get("elapsed", 0) for r in rows) / 60, 1),
                heldout={k: [round(held[0][f"heldout_{k[0]}"], 4), round(held[-1][f"heldout_{k[0]}"], 4)] for k in ("video", "audio")})


def main(
    out: Annotated[Optional[Path], typer.Option(help="folder of the result; default: the package's assets/toy/joint")] = None,
    only: Annotated[Optional[str], typer.Option(help="cache, a, b or export; default: all, one after the other")] = None,
    configs: Annotated[Path, typer.Option(help="folder with cache.yaml, stage_a.yaml and stage_b.yaml")] = ROOT / "configs/toy_joint",
    ckpt: Annotated[Optional[Path], typer.Option(help="checkpoint to export; default: the newest of this Stage B")] = None,
    logs: Annotated[Path, typer.Option(help="folder of the logs that the card quotes")] = Path("logs"),
    export: Annotated[bool, typer.Option(help="write the result (no: only train)")] = True,
):
    "About two hours on two cores. Interrupted, the same command goes on."
    from jointdit.data.cache import cache_command
    from jointdit.settings import load_settings
    from jointdit.train.export import export_checkpoint
    from jointdit.train.run import TrainSettings
    from jointdit.train.stage import run_stage

    steps = ("cache", "a", "b", "export") if only is None else (only,)
    with user_errors():
        if "cache" in steps:
            for split in ("train", "val"): cache_command(configs / "cache.yaml", split, {})
        if "a" in steps: run_stage("A", configs / "stage_a.yaml", {}, [], [])
        if "b" in steps: run_stage("B", configs / "stage_b.yaml", {}, [], [])
        if "export" in steps and export:
            settings = load_settings(TrainSettings, configs / "stage_b.yaml", env={}).settings.model_dump(mode="json")
            runs = {s: run_facts(logs / f"{name}_toy_joint") for s, name in (("A", "day05_stage_a"), ("B", "day07_stage_b")) if (logs / f"{name}_toy_joint").exists()}
            path = export_checkpoint(ckpt or "checkpoints/day07_stage_b_toy_joint", out or ROOT / "jointdit/assets/toy/joint",
                                     dict(command=COMMAND, configs="configs/toy_joint", clips=7750, runs=runs), settings)
            print(f"wrote {path} and its card")


if __name__ == "__main__":
    typer.run(main)
