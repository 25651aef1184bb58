"""``diffnum course``."""

from pathlib import Path

import typer

from diffnum.cli.common import app, explained


@app.command()
@explained
def course(
    folder: Path = typer.Argument(help="The new folder."),
    seed: int = typer.Option(None, min=0, help="Of the secret problems; by default it is drawn."),
) -> None:
    """Make a course repository: assignments, solutions, secret problems, grading script, CI file.

        diffnum course my_course

    Its README says how to grade, with nbgrader and without.
    """
    from diffnum.classroom.course import create

    create(folder, seed, lambda text: typer.echo(f"writing {text}", err=True))
    typer.echo(f"{folder}: begin with {folder / 'README.md'}")
