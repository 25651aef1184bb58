"""``diffnum audit``."""

import json
from pathlib import Path
from typing import Any

import typer

from diffnum.cli.common import app, complain, explained, whole, writable


@app.command()
@explained
def audit(
    library: list[str] = typer.Option(
        [], help="diffusers, k-diffusion, azula, diffnum, or a .py file; repeat. By default the four libraries."
    ),
    solver: str = typer.Option("", help="Only samplers with this in their name."),
    steps: str = typer.Option(None, help="Only these step counts, such as 10,20,40; by default 10 to 1280."),
    into: Path = typer.Option(None, help="Folder in which missing libraries are installed; by default a cache."),
    out: Path = typer.Option(None, help="Also write a page, a .md or .html file."),
    json_: Path = typer.Option(None, "--json", help="Also write what was measured, a .json file."),
) -> None:
    """Measure the samplers of other libraries: order, floor, evaluations and overhead, with remarks.

    Nothing is looked up: every number is measured on one exact problem, against the exact solution between the noise
    levels that a sampler really uses. A library that is missing is installed, at a pinned version, into a folder of its
    own. The whole audit takes some minutes:

        diffnum audit --json audit.json --out audit.html

    One family in every library, and samplers of your own, as generators (problem, u, times) or functions (model, x,
    sigmas):

        diffnum audit --solver dpmpp_3m

        diffnum audit --library my_samplers.py
    """
    from diffnum.errors import DiffnumError
    from diffnum.files import write
    from diffnum.interop.audit import report, session

    for name in library:
        if name not in session.LIBRARIES and not name.endswith(".py"):
            raise ValueError(f"--library {name!r} must be one of {', '.join(session.LIBRARIES)}, or a .py file")
        if name.endswith(".py") and not Path(name).is_file():
            raise ValueError(f"--library {name}: no such file")
    try:
        counts = [int(n) for n in steps.split(",")] if steps is not None else []
    except ValueError:
        raise ValueError(f"--steps {steps!r} must be whole numbers between commas, such as 10,20,40") from None
    for n in counts:
        whole("--steps", n)
    page = None if out is None else writable(out, ".md", ".html")
    data = None if json_ is None else writable(json_, ".json", option="--json")

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    found: list[dict[str, Any]] = []
    failed: list[str] = []
    errors = Console(stderr=True)
    columns = (TextColumn("auditing"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        for name in library or session.LIBRARIES:
            task = bar.add_task("", total=None, state=name)

            def told(i: int, n: int, sampler: str, task: Any = task, name: str = name) -> None:
                bar.update(task, total=n, completed=i, state=f"{name} {i + 1}/{n}: {sampler[:60]}")

            try:
                for row in session.rows(name, solver, counts, into, told):
                    found.append(row)
            except DiffnumError as error:
                failed.append(str(error))
            bar.remove_task(task)
    if data is not None:
        text = json.dumps({"explanation": report.EXPLANATION, "rows": found}, indent=1) + "\n"
        write(data, lambda file: file.write(text.encode()))
    if page is not None:
        shown = report.markdown(found) if page.suffix.lower() == ".md" else report.html(found)
        write(page, lambda file: file.write(shown.encode()))
    console = Console()
    for name, group in report.libraries(found):
        table = Table(title=name, title_justify="left", box=SIMPLE_HEAD)
        for i, header in enumerate(report.HEADERS[1:-1]):
            table.add_column("sampler" if not i else header, justify="right" if i else "left", no_wrap=i > 0)
        for row in group:
            sampler, variant, *numbers, said = report.cells(row)
            lines = [" ".join(filter(None, (sampler, variant))), *([f"  {said}"] if said else [])]
            table.add_row("\n".join(lines), *numbers)
        console.print(table, markup=False)
    written = [str(path) for path in (data, page) if path is not None]
    measured = sum(any(error is not None for error in row["errors"]) for row in found)
    rest = f", {len(found) - measured} not" if measured < len(found) else ""
    print(f"{measured} samplers measured{rest}" + (f" -> {' and '.join(written)}" if written else ""))
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(1)
