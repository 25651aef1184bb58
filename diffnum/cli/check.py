"""``diffnum check``."""

import os
from pathlib import Path
from typing import Any

import typer

from diffnum.arguments import choose
from diffnum.classroom import report as reports
from diffnum.classroom.find import cells, hopeless
from diffnum.classroom.report import Report
from diffnum.cli.common import app, explained, read_value, whole, writable
from diffnum.files import place, write


@app.command()
@explained
def check(
    file: Path = typer.Argument(help="A .py file or a notebook; or a folder of them, with --out."),
    name: str = typer.Argument(None, help="The one solver to check; by default all that the file defines."),
    json: Path = typer.Option(None, help="Write the report as JSON, a .json file, or - for standard output."),
    html: Path = typer.Option(None, help="Write the report as one HTML page with plots, a .html file."),
    style: str = typer.Option("diffnum", "--format", help="Of --json: diffnum, gradescope or prairielearn."),
    problems: Path = typer.Option(None, help="Secret problems, a .toml file; `diffnum problems` makes one."),
    solution: Path = typer.Option(
        None, help="The assignment's solution, a .py file: what NAME there claims is asked for."
    ),
    book: str = typer.Option("", help="Address of the book, for the links of --html and of the table."),
    option: list[str] = typer.Option([], help="Option of the solver as key=value; repeat for several."),
    seconds: int = typer.Option(60, min=1, help="Seconds of computing that one solver may take."),
    memory: int = typer.Option(1024, min=64, help="Megabytes that one solver may take."),
    out: Path = typer.Option(None, help="Of a folder: the table, a .csv file; .html and .jsonl go beside it."),
    jobs: int = typer.Option(1, min=1, help="Of a folder: files at a time."),
) -> None:
    """Check a solver of your own: every claim is measured, and each fault told with what shows it.

    The exit status is 0 only if every solver that is found passes:

        diffnum check my_solver.py

    A class, which goes on where it was stopped:

        diffnum check submissions --out table.csv --problems secret.toml

    A solver runs in a process of its own with limits. That is no security boundary.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
    for flag, asked, most in (("--seconds", seconds, 86_400), ("--memory", memory, 2**30), ("--jobs", jobs, 1000)):
        whole(flag, asked, 1, most)
    given = {}
    for text in option:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text!r} is not of the form key=value, such as --option order=3")
        given[key] = read_value(key, value, None)
    file = place(file)
    if not file.exists():
        raise ValueError(f"{file} does not exist")
    if file.is_dir() != (out is not None):
        raise ValueError("a folder needs --out table.csv" if file.is_dir() else "--out is for a folder of files")
    if str(json) != "-" and json is not None:
        writable(json, ".json", option="--json")
    if html is not None:
        writable(html, ".html", option="--html")

    if solution is not None and name is None:
        raise ValueError("--solution needs the NAME of the solver, the same in both files")
    choose("format", style, ("diffnum", "gradescope", "prairielearn"))
    if out is None and (wrong := hopeless(cells(file))) is not None:  # told before torch is imported
        raise typer.Exit(0 if _tell(Report(file.name, [], wrong), json, html, style, book) else 1)

    from rich.console import Console

    from diffnum.classroom.bench import solution as claims_of
    from diffnum.classroom.grade import points_of
    from diffnum.classroom.problems import read
    from diffnum.classroom.sandbox import Limits
    from diffnum.classroom.supervise import unlimited

    limits, chosen, errors = Limits(seconds=seconds, memory=memory << 20), read(problems), Console(stderr=True)
    for missing in unlimited():
        errors.print(f"diffnum: not limited on this system: {missing}", markup=False)
    if solution is not None and name is not None:
        chosen = chosen.of(solution, name)
    claims_of(chosen)
    points_of(chosen)
    if out is not None:
        passed = _folder(file, writable(out, ".csv"), chosen, name, limits, given, jobs, errors, book)
    else:
        passed = _tell(_file(file, name, chosen, limits, given, errors), json, html, style, book)
    raise typer.Exit(0 if passed else 1)


def _file(
    file: Path, name: str | None, problems: Any, limits: Any, options: dict[str, Any], errors: Any
) -> Report:  # fmt: skip
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from diffnum.classroom.grade import CHECKS, check_file
    from diffnum.classroom.sandbox import Sandbox

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[title]}"), TimeElapsedColumn())
    order = [check.title for check in CHECKS.values()]
    with (
        Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar,
        Sandbox(limits) as box,
    ):
        task = bar.add_task(file.name, total=len(order), title="starting")

        def tell(solver: str, title: str) -> None:
            bar.update(task, description=solver, completed=order.index(title), title=title)

        return check_file(file, name, problems, sandbox=box, options=options, tell=tell)


def _tell(report: Report, json: Path | None, html: Path | None, style: str, book: str) -> bool:
    from rich.console import Console

    if json is not None and str(json) != "-":
        write(json, lambda file: file.write(reports.dumps(report, style).encode()))
    if html is not None:
        text = reports.html(report, book)
        write(html, lambda file: file.write(text.encode()))
    if str(json) == "-":
        typer.echo(reports.dumps(report, style), nl=False)
    else:
        reports.text(report, Console())
    return report.passed


def _folder(
    folder: Path,
    out: Path,
    problems: Any,
    name: str | None,
    limits: Any,
    options: dict[str, Any],
    jobs: int,
    errors: Any,
    book: str,
) -> bool:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from diffnum.classroom.folder import grade_folder

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(folder.name, total=None)

        def tell(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)
            if not errors.is_terminal:
                errors.print(f"{done}/{total} {name}", markup=False, highlight=False)

        given: dict[str, Any] = {"limits": limits, "options": options, "jobs": jobs, "book": book}
        found = grade_folder(folder, out, problems, name=name, tell=tell, **given)
    passed = sum(report["passed"] for report in found)
    typer.echo(f"{passed} of {len(found)} files passed -> {out}, {out.with_suffix('.html')}")
    return passed == len(found)
