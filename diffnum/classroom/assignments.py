"""Assignments: one Python file each holds statement, starter, solution and checks; notebooks are made from it.

A source is read cell by cell. ``# %% [markdown]`` begins a cell of text, ``# %%`` one of code, and after that may stand

- ``name=...``: of a cell that is graded or filled in,
- ``points=...``: it is a test, worth so much; with ``[markdown]`` an answer in words, graded by eye.

Between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` stands what a student has to write, and between
``### BEGIN HIDDEN TESTS`` and ``### END HIDDEN TESTS`` what no student sees: nbgrader knows the same marks. The file
itself runs as it is.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffnum.errors import DiffnumError
from diffnum.files import write

STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # as nbgrader writes it
ANSWER = "YOUR ANSWER HERE"
#: What the first cell of code begins with: without the library a notebook has to fetch it, as in Colab.
CLOUD = """\
# In the cloud? First take the # from these two lines; your instructor knows ADDRESS.
# !git clone ADDRESS book
# %pip install ./book
"""
_SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n(?:.*\n)*?[ \t]*### END SOLUTION$", re.MULTILINE)
_HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n(?:.*\n)*?[ \t]*### END HIDDEN TESTS\n?", re.MULTILINE)
_HEAD = re.compile(r"^# %%(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """One cell of a source.

    Attributes:
        kind: ``code`` or ``markdown``.
        text: what stands in it.
        name: of a cell that is graded or filled in, else empty.
        points: what it is worth, None where nothing is graded.
    """

    kind: str
    text: str
    name: str = ""
    points: float | None = None

    @property
    def solution(self) -> bool:
        """Whether a student fills it in."""
        return bool(_SOLUTION.search(self.text)) or (self.kind == "markdown" and self.points is not None)

    @property
    def test(self) -> bool:
        """Whether it is a test cell, no part of a student's work."""
        return self.kind == "code" and self.points is not None


def parts(text: str) -> Iterator[Part]:
    """The cells of a source; what stands before the first mark is a cell of code if it is more than a docstring."""
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        words = head.group(1).split()
        given = dict(word.split("=", 1) for word in words if "=" in word)
        body = text[head.end() : end].strip("\n")
        if "[markdown]" in words:
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        points = float(given["points"]) if "points" in given else None
        yield Part("markdown" if "[markdown]" in words else "code", body, given.get("name", ""), points)


def notebook(text: str, student: bool) -> dict[str, Any]:
    """A source as a notebook, with nbgrader's marks in its cells.

    Args:
        text: the source.
        student: without solutions and hidden checks; else with both, for ``nbgrader generate_assignment``.
    """
    cells, table, cloud = [], rubric_table(text), CLOUD
    for i, part in enumerate(parts(text)):
        body, graded = part.text.replace("{rubric}", table), part.points is not None
        if student:
            body = _HIDDEN.sub("", _SOLUTION.sub(_stub, body)).rstrip("\n")
            body = ANSWER if part.kind == "markdown" and graded else body
        if part.kind == "code":
            body, cloud = cloud + body, ""
        cell: dict[str, Any] = {"cell_type": part.kind, "id": part.name or f"cell-{i}", "metadata": {}}
        if part.name:
            cell["metadata"]["nbgrader"] = {
                "grade": graded, "grade_id": part.name, "locked": part.test, "schema_version": 3,
                "solution": part.solution, "task": False, **({"points": part.points} if graded else {}),
            }  # fmt: skip
        cell["source"] = body.splitlines(keepends=True)
        cells.append(cell | ({"execution_count": None, "outputs": []} if part.kind == "code" else {}))
    language = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells, "metadata": {"kernelspec": kernel, "language_info": language}, "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip


def _stub(found: re.Match[str]) -> str:
    return "\n".join(found.group(1) + line for line in STUB.split("\n"))


def sources(folder: Path | None = None) -> list[Path]:
    """The assignments of a folder, by default those of this checkout, in their order.

    Raises:
        DiffnumError: there are none: the library was installed without its repository.
    """
    folder = Path(__file__).parents[2] / "tests" / "solutions" if folder is None else folder
    found = sorted(folder.glob("a[0-9][0-9]_*.py"))
    if not found:
        raise DiffnumError(f"{folder} holds no assignment (a01_name.py); they come with the repository: clone it")
    return found


def rubric(text: str) -> dict[str, float]:
    """What each graded cell of a source is worth, by name."""
    return {part.name: part.points for part in parts(text) if part.points is not None}


def rubric_table(text: str) -> str:
    """The rubric as a table in Markdown; what a test cell asks stands in its first line, a comment."""
    lines = ["| graded | points | by |", "|---|---|---|"]
    for part in parts(text):
        if part.points is not None:
            what = part.text.partition("\n")[0].lstrip("# ").rstrip(".") if part.test else "the answer in words"
            lines.append(f"| {what} | {part.points:g} | {'machine' if part.test else 'eye'} |")
    return "\n".join([*lines, f"| | **{sum(rubric(text).values()):g}** | |"])


def build(folder: Path, student: bool = True, within: bool = False, origin: Path | None = None) -> list[Path]:
    """Write a notebook for each assignment into a folder.

    Args:
        folder: where to.
        student: without solutions and hidden checks.
        within: each in a folder of its own name, as nbgrader has its assignments.
        origin: folder of the sources.
    """
    written = []
    for source in sources(origin):
        place = folder / source.stem if within else folder
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notebook(source.read_text(encoding="utf-8"), student), indent=1, ensure_ascii=False) + "\n"
        written.append(write(place / f"{source.stem}.ipynb", partial(_put, text)))
    return written


def _put(text: str, file: Any) -> None:
    file.write(text.encode())


if __name__ == "__main__":
    for path in build(Path(sys.argv[1])):
        print(path)
