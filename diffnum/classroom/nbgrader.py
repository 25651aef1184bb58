"""nbgrader grades with this in place of its kernel: the student's cells become a file that runs in a sandbox.

In ``nbgrader_config.py``, as ``diffnum course`` writes it::

    c.Autograde.autograde_preprocessors = [
        "diffnum.classroom.nbgrader.Check",
        "nbgrader.preprocessors.SaveAutoGrades",
        "nbgrader.preprocessors.AssignLatePenalties",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]

Nothing of a submission runs in the grader's process, so it can neither read the hidden tests nor replace what judges.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Integer, Unicode

from diffnum.classroom.find import Cell, cell_of
from diffnum.classroom.grade import CHECKS, check_cells, share_of
from diffnum.classroom.problems import Problems, read
from diffnum.classroom.sandbox import Ended, Limits, Sandbox
from diffnum.errors import DiffnumError


@dataclass(frozen=True)
class Asked:
    """What a test cell asks of the grader: ``points_for(solver, checks, most)`` in its last line."""

    solver: str
    checks: str
    most: float


def asked(text: str) -> Asked | None:
    """The request in a test cell, None where it is ordinary Python."""
    try:
        last = ast.parse(text).body[-1]
    except (SyntaxError, ValueError, IndexError):
        return None
    call = last.value if isinstance(last, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "points_for"):
        return None
    values = dict(zip(("solver", "checks", "most"), call.args, strict=False)) | {
        k.arg or "": k.value for k in call.keywords
    }
    solver = values["solver"]
    assert isinstance(solver, ast.Name), "the first argument of points_for is the solver itself"
    return Asked(solver.id, ast.literal_eval(values["checks"]), float(ast.literal_eval(values["most"])))


class Check(NbGraderPreprocessor):
    """Runs a submission outside of any kernel and writes report and points into its test cells."""

    problems = Unicode("", help="A file made by `diffnum problems`; by default the public problems.").tag(config=True)
    solutions = Unicode("solutions", help="Folder with a file NAME.py for each notebook, if any.").tag(config=True)
    seconds = Integer(60, help="Seconds of computing that one solver may take.").tag(config=True)
    memory = Integer(1024, help="Megabytes that one solver may take.").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Grade one notebook."""
        codes = [cell for cell in nb.cells if cell.cell_type == "code"]
        pieces = [cell_of(f"cell {i}", cell) for i, cell in enumerate(codes, 1)]
        work = [piece for piece in pieces if not piece.test]
        tests = [(cell, asked(piece.text), piece) for cell, piece in zip(codes, pieces, strict=True) if piece.test]
        problems = read(Path(self.problems)) if self.problems else Problems()
        solution = Path(self.solutions) / f"{resources['metadata']['name']}.py"
        limits = Limits(seconds=self.seconds, memory=self.memory << 20)
        with Sandbox(limits) as sandbox:
            for solver in {request.solver for _, request, _ in tests if request}:
                mine = [(cell, request) for cell, request, _ in tests if request and request.solver == solver]
                given = problems.of(solution, solver) if solution.exists() else problems
                for cell, (points, text) in zip(
                    [c for c, _ in mine], _judge(work, solver, mine, given, sandbox), strict=True
                ):
                    _put(cell, points, text)
            plain = [(cell, piece) for cell, request, piece in tests if request is None]
            for (cell, _), (points, text) in zip(plain, _run(work, plain, sandbox), strict=False):
                _put(cell, points, text)
        return nb, resources


def _judge(
    work: list[Cell], solver: str, mine: list[tuple[Any, Asked]], problems: Problems, sandbox: Sandbox
) -> Iterator[tuple[float, str]]:
    """Points and a text for each test cell about one solver."""
    only = [name for name in CHECKS if any(name in request.checks.split() for _, request in mine)]
    try:
        report = check_cells("notebook", work, solver, problems, sandbox, only=only)
        wrong = "\n".join(report.errors)
        grade = report.grades[0] if report.grades else None
    except DiffnumError as error:
        wrong, grade = str(error), None
    for _, request in mine:
        if grade is None:
            yield 0.0, wrong
            continue
        share, lines = share_of(grade, request.checks)
        yield request.most * share, "\n".join([*lines, wrong] if wrong and share < 1 else lines)


def _run(work: list[Cell], plain: list[tuple[Any, Cell]], sandbox: Sandbox) -> Iterator[tuple[float, str]]:
    """Points and a text for each other test cell, run after the student's in the sandbox; its value is its points."""
    if not plain:
        return
    place, most = sandbox.open(), 0.0
    try:
        place.ask({"do": "load", "cells": [{"label": cell.label, "text": cell.text} for cell in work]})
        place.said()
        for cell, piece in plain:
            most = float(cell.metadata.nbgrader.points)
            reply, _ = place.ask({"do": "execute", "text": piece.text, "label": piece.label})
            changed = place.ask({"do": "changed"})[0]["changed"]
            said, error, value = place.said(), reply["error"], reply["value"]
            if changed:
                yield 0.0, f"it replaces {changed[0]} of the library: leave the library as it is"
            elif error:
                yield 0.0, f"{said}{error['type']}: {error['text']}"
            else:
                yield most if value is None else min(most, max(0.0, float(value))), said
    except Ended as ended:
        for _ in plain:
            yield 0.0, str(ended)
    finally:
        place.close()


def _put(cell: Any, points: float, text: str) -> None:
    """Write what nbgrader reads: the text, and the points as the value of the cell."""
    cell.execution_count = 1
    cell.outputs = [new_output("stream", name="stdout", text=text.rstrip("\n") + "\n")] if text.strip() else []
    cell.outputs.append(new_output("execute_result", {"text/plain": f"{points:.6g}"}, execution_count=1))
