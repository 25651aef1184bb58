"""A class: every file of a folder, graded one after the other into one table, which goes on where it was stopped."""

import csv
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from html import escape
from pathlib import Path
from typing import Any

from diffnum import __version__
from diffnum.classroom.grade import CHECKS, check_file
from diffnum.classroom.problems import Problems
from diffnum.classroom.report import Report, as_dict, link, number, page
from diffnum.classroom.sandbox import Limits, Sandbox
from diffnum.errors import DiffnumError
from diffnum.files import write


def files_in(folder: Path) -> list[Path]:
    """The Python files and notebooks of a folder, hidden ones and checkpoints left out.

    Raises:
        DiffnumError: there is none.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".ipynb")
        and path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise DiffnumError(f"{folder} holds no .py file and no notebook")
    return found


def grade_folder(
    folder: Path,
    out: Path,
    problems: Problems,
    *,
    name: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    options: dict[str, Any] | None = None,
    jobs: int = 1,
    book: str = "",
    tell: Callable[[str, int, int], None] = lambda file, done, total: None,
) -> list[dict[str, Any]]:
    """Grade every file of a folder and write the tables ``out`` (CSV) and its twins ``.html`` and ``.jsonl``.

    The last holds a line for each file, as it is finished: a run that was stopped goes on from there. A file that has
    changed since, or other problems, are graded anew.

    Args:
        folder: the submissions, in any subfolders.
        out: the CSV file.
        problems: on which all are graded.
        name: of the solver, by default all that are found.
        limits: of each solver.
        options: of each solver.
        jobs: files at a time.
        book: address of the book, for links.
        tell: called with a file's name, and how many are done, when one is finished.

    Returns:
        the reports as dictionaries, in the order of the files.
    """
    paths, record = files_in(folder), out.with_suffix(".jsonl")
    known = dict(_read(record))
    setting = json.dumps([problems.values, name, options, __version__], sort_keys=True, default=str)
    keys = {path: hashlib.sha256(path.read_bytes() + setting.encode()).hexdigest() for path in paths}
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    reports = {path: known[names[path], keys[path]] for path in paths if (names[path], keys[path]) in known}
    mine, sandboxes = threading.local(), []

    def grade(path: Path) -> tuple[Path, dict[str, Any]]:
        if not hasattr(mine, "sandbox"):
            mine.sandbox, mine.problems = Sandbox(limits), problems.copy()
            sandboxes.append(mine.sandbox)
        try:
            report = check_file(path, name, mine.problems, sandbox=mine.sandbox, options=options)
        except Exception as error:  # whatever a file does, the others are graded
            kind = "" if isinstance(error, DiffnumError) else f"{type(error).__name__}: "
            report = Report(names[path], [], [" ".join(f"{kind}{error}".split())])
        report.file = names[path]
        return path, as_dict(report)

    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = [pool.submit(grade, path) for path in paths if path not in reports]
        with open(record, "a", encoding="utf-8") as file:
            for future in as_completed(waiting):
                path, report = future.result()
                reports[path] = report
                file.write(json.dumps([names[path], keys[path], report], default=str) + "\n")
                file.flush()
                os.fsync(file.fileno())
                tell(names[path], len(reports), len(paths))
    finally:
        pool.shutdown(cancel_futures=True)
        for sandbox in sandboxes:
            sandbox.stop()
    ordered = [reports[path] for path in paths]
    write(out, lambda file: file.write(table(ordered).encode()))
    write(out.with_suffix(".html"), lambda file: file.write(html_table(folder.name, ordered, book).encode()))
    return ordered


def _read(record: Path) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """What a run before this one has finished; a last line that was cut off does not count."""
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else ():
        try:
            name, key, report = json.loads(line)
        except ValueError:
            continue
        yield (name, key), report


def rows(reports: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A header, and a row for each solver, or for a file without one."""
    yield ["file", "solver", "passed", "points", "of", "seconds", "reason", *CHECKS]
    for report in reports:
        for grade in report["solvers"]:
            worth = {v["check"]: number(v["points"]) if v["of"] else "" for v in grade["checks"]}
            reason = grade["reason"] or "; ".join(report["errors"])
            yield [
                report["file"], grade["name"], "yes" if grade["passed"] else "no", number(grade["points"]),
                number(grade["of"]), f"{grade['seconds']:.0f}", reason, *(worth.get(c, "") for c in CHECKS),
            ]  # fmt: skip
        if not report["solvers"]:
            yield [report["file"], "", "no", "0", "", "", "; ".join(report["errors"]), *[""] * len(CHECKS)]


def table(reports: list[dict[str, Any]]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    csv.writer(file).writerows(rows(reports))
    return file.getvalue()


def html_table(title: str, reports: list[dict[str, Any]], book: str = "") -> str:
    """The table as one HTML page, without the columns of the single checks; those unfold below each reason."""
    head, *lines = rows(reports)
    grades = [grade for report in reports for grade in report["solvers"] or [None]]
    body = []
    for line, grade in zip(lines, grades, strict=True):
        failed = [v for v in grade["checks"] if v["status"] == "failed"] if grade else []
        more = "".join(f"<li>{escape(v['title'])}: {escape(v['reason'])} ({link(v['see'], book)})</li>" for v in failed)
        reason = f"<details><summary>{escape(line[6])}</summary><ul>{more}</ul></details>" if more else escape(line[6])
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (line[2], *line[:2], *line[3:6]))
        body.append(f"<tr class='{'passed' if line[2] == 'yes' else 'failed'}'>{cells}<td>{reason}</td></tr>")
    header = "".join(f"<th>{escape(cell)}</th>" for cell in (head[2], *head[:2], *head[3:7]))
    return page(title, f"<table><tr>{header}</tr>{''.join(body)}</table>")
