"""``diffnum problems``."""

import secrets
from pathlib import Path

import typer

from diffnum.cli.common import app, explained, writable


@app.command()
@explained
def problems(
    file: Path = typer.Argument(help="The file to write, .toml; keep it outside of what students see."),
    seed: int = typer.Option(None, min=0, help="Makes the same problems again; by default it is drawn."),
) -> None:
    """Make secret problems for `diffnum check --problems FILE`: mixtures, ends of grids, processes, start states.

    They are drawn until solvers of the library show the orders they claim on them, so that no right solution fails:

        diffnum problems secret.toml
    """
    file = writable(file, ".toml", option="FILE")
    if file.exists():
        raise ValueError(f"{file} exists already; remove it, or name another file")

    from diffnum.classroom.problems import make

    seed = secrets.randbelow(2**31) if seed is None else seed
    typer.echo(f"seed {seed} -> {make(file, seed)}")
