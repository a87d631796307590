"Make clips with a checkpoint: text, image, video, sound or a beginning to both streams. All settings live in the YAML."
from typing import Annotated, Optional

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cfg: Annotated[str, typer.Option(help="YAML with the request")] = "configs/day06_infer.yaml",
    ckpt: Annotated[Optional[str], typer.Option(help="checkpoint: .pt, .safetensors or a run's folder; otherwise the newest")] = None,
    prompt: Annotated[Optional[str], typer.Option(help="what should be seen and heard")] = None,
    negative_prompt: Annotated[Optional[str], typer.Option(help="what should not (needs guidance.weight_neg_txt)")] = None,
    steps: Annotated[Optional[int], typer.Option(help="steps from noise to data")] = None,
    seed: Annotated[Optional[list[int]], typer.Option(help="seed; repeat for several clips")] = None,
    solver: Annotated[Optional[str], typer.Option(help="euler or heun")] = None,
    out_dir: Annotated[Optional[str], typer.Option(help="where the clips go")] = None,
    ref_meta: Annotated[Optional[str], typer.Option(help="meta of a cached clip: its length, and its first frame with --use-image")] = None,
    use_image: Annotated[Optional[bool], typer.Option("--use-image/--no-use-image", help="start from ref_meta's first frame")] = None,
    image: Annotated[Optional[str], typer.Option(help="start from this picture")] = None,
    given_video: Annotated[Optional[str], typer.Option(help="video that gets a new sound")] = None,
    given_audio: Annotated[Optional[str], typer.Option(help="sound that gets a picture")] = None,
    continue_from: Annotated[Optional[str], typer.Option(help="video whose beginning is continued; ref: ref_meta's clip")] = None,
    prefix_seconds: Annotated[Optional[float], typer.Option(help="how much of --continue-from is given")] = None,
    seconds: Annotated[Optional[float], typer.Option(help="length of the clip")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="any other setting: --set guidance.weight_txt=2 (may be repeated)")] = None,
):
    "Write MP4, WAV, contact sheet and card of every seed to out_dir. Precedence: YAML < JOINTDIT_* < these options."
    from jointdit.sample.infer import generate
    from jointdit.sample.request import load_request

    with user_errors():
        generate(load_request(cfg, {
            "ckpt": ckpt, "prompt": prompt, "negative_prompt": negative_prompt, "steps": steps, "seeds": seed or None, "solver": solver,
            "out_dir": out_dir, "ref_meta": ref_meta, "clip.use_image_firstframe": use_image, "clip.image_path": image,
            "given_video": given_video, "given_audio": given_audio, "continue_from": continue_from,
            "prefix_seconds": prefix_seconds, "seconds": seconds}, set_ or []))


if __name__ == "__main__":
    app()
