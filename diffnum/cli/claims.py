"""``diffnum claims``."""

from pathlib import Path
from typing import Any

import typer

from diffnum import named
from diffnum.cli.common import app, explained, writable

PAPERS = ("foundations", "pndm", "gddim", "er_sde", "integrators", "folklore")
KINDS = ("theorem", "proposition", "headline", "implicit")
NEEDS = ("exact", "network", "results")
WORDS = ("holds", "holds if", "does not hold", "not shown", "not tried")


@app.command()
@explained
def claims(
    claim: str = typer.Argument(None, help="One claim, by its number or its name.", show_default=False),
    paper: str = typer.Option(None, help=f"Only of {', '.join(PAPERS)}."),
    kind: str = typer.Option(None, help=f"Only of kind {', '.join(KINDS)}."),
    verdict: str = typer.Option(None, help=f"Only with the verdict {', '.join(WORDS)}."),
    needs: str = typer.Option(None, help="Only what needs: exact (seconds), network (a minute), results (a file)."),
    run: bool = typer.Option(False, "--run", help="Measure anew and compare with what is stored."),
    why: bool = typer.Option(False, "--why", help="Where it is said, proved, derived, and the lines that measure it."),
    as_json: bool = typer.Option(False, "--json", help="Rows as JSON on standard output."),
    out: Path = typer.Option(None, help="With --run: write the rows measured into this .json file, over the old ones."),
) -> None:
    """List what the papers say, with verdicts; measure it again.

    Verdicts are computed from measured numbers, which the repository stores. What needs no network takes seconds:

        diffnum claims --paper pndm

        diffnum claims --run --needs exact

    Exit status 1 says that a verdict differs from the stored one. One claim, with the lines of Python that decide it:

        diffnum claims er-sde-third-order --why
    """
    for what, value, known in (("paper", paper, PAPERS), ("kind", kind, KINDS), ("verdict", verdict, WORDS),
                               ("needs", needs, NEEDS)):  # fmt: skip
        if value is not None:
            named.choose(what, value, known)
    if out is not None:
        if not run:
            raise ValueError(f"--out {out} is written by --run; add it")
        writable(out, ".json")
    import json

    from diffnum.claims import find, registry
    from diffnum.claims import rows as listed
    from diffnum.claims.store import moved, store, stored
    from diffnum.claims.store import run as measured

    chosen = [find(claim)] if claim is not None else list(registry.values())
    rows = listed(chosen)
    keep = [
        i
        for i, row in enumerate(rows)
        if all(want in (None, row[key]) for key, want in
               (("paper", paper), ("kind", kind), ("verdict", verdict), ("needs", needs)))
    ]  # fmt: skip
    chosen, rows = [chosen[i] for i in keep], [rows[i] for i in keep]
    changes: list[str] = []
    if run:
        before = stored()
        with Progress(len(chosen)) as bar:
            rows = measured(chosen, bar.tell)
        changes = moved(before, rows)
        if out is not None:
            store(rows, out)
    numbers = {name: i for i, name in enumerate(registry, 1)}
    if as_json:
        typer.echo(json.dumps([{"number": numbers[row["name"]], **row} for row in rows], indent=1))
    elif why:
        for entry, row in zip(chosen, rows, strict=True):
            typer.echo(explanation(numbers[entry.name], entry, row))
    else:
        show(rows, numbers)
    for line in changes:
        typer.echo(f"moved: {line}", err=as_json)
    if run:
        seconds = sum(row["seconds"] or 0.0 for row in rows)
        typer.echo(f"{len(rows)} claims measured in {seconds:.0f} s, {len(changes)} moved", err=as_json)
    raise typer.Exit(1 if changes else 0)


def text_of(row: dict[str, Any]) -> str:
    """The verdict of a row with its condition."""
    return f"{row['verdict'] or 'not measured yet'} {row['condition']}".strip()


def show(rows: list[dict[str, Any]], numbers: dict[str, int]) -> None:
    """The table of claims."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("no.", "claim", "verdict", "what was seen"):
        table.add_column(header, no_wrap=header == "no.")
    for row in rows:
        table.add_row(str(numbers[row["name"]]), f"{row['paper']}: {row['claim']}", text_of(row), row["saw"])
    console = Console()
    console.print(table, markup=False) if console.is_terminal else Console(width=220).print(table, markup=False)


def explanation(number: int, entry: Any, row: dict[str, Any]) -> str:
    """All about one claim, the lines that measure it last."""
    lines = [
        f"{number}. {entry.sentence} ({entry.paper}, {entry.kind})",
        f"   said in      {entry.where}",
        f"   in the book  {entry.page}",
        f"   derived by   {entry.derived or '-'}",
        f"   measured by  {entry.place} (needs: {entry.needs})",
        f"   verdict      {text_of(row)}",
        f"   seen         {row['saw'] or '-'}",
        "",
        *(f"    {line}".rstrip() for line in entry.source.splitlines()),
        "",
    ]
    return "\n".join(lines)


class Progress:
    """A bar over claims on stderr; silent off a terminal."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self.bar = Bar(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
        self.task, self.done = self.bar.add_task("", total=total), -1

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def tell(self, claim: Any) -> None:
        """A claim begins."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, description=claim.name)
