"Put a checkpoint through every measure: outputs/proof/index.html and proof.json. The same command goes on where it was stopped."
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cfg: Annotated[str, typer.Option(help="YAML with the settings of the proof")] = "configs/day08_proof.yaml",
    ckpt: Annotated[Optional[str], typer.Option(help="checkpoint: .pt, .safetensors, a run's folder, or shipped; otherwise the newest")] = None,
    clips: Annotated[Optional[int], typer.Option(help="clips from text alone (also PROOF_CLIPS); half for iso, a quarter for every other direction")] = None,
    steps: Annotated[Optional[int], typer.Option(help="steps of the sampler")] = None,
    workers: Annotated[Optional[int], typer.Option(help="processes, each with one core")] = None,
    out: Annotated[Optional[str], typer.Option(help="folder of the page")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any other setting: --set guidance.weight_txt=2 (may be repeated)")] = None,
):
    "Make clips in every direction, measure them beside their controls, and write a page. Precedence: YAML < environment < these options."
    with user_errors():
        from jointdit.proof.report import proof_settings, prove
        prove(proof_settings(cfg, {"ckpt": ckpt, "clips": clips, "steps": steps, "workers": workers, "out": out}, set_ or []))


if __name__ == "__main__":
    app()
