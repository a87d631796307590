"Look into a latent cache: a table, and a page on which to watch and hear clips beside what their latents bring back."
from typing import Annotated

import typer

from jointdit.core import user_errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cache: Annotated[str, typer.Option(help="the cache folder")] = "data/cache",
    out: Annotated[str, typer.Option(help="folder for the page")] = "outputs/cache_doctor",
    clips: Annotated[int, typer.Option(help="clips to decode per split")] = 6,
):
    "Print the table and write out/index.html."
    with user_errors():
        from jointdit.data.doctor import doctor
        doctor(cache, out, clips)


if __name__ == "__main__":
    app()
