"""Points for the test cells of a notebook or of an assignment's source: what is asked in them is measured outside.

A test cell whose last line is ``points_for(solver, "checks", most)`` asks for checks of a solver; any other one is
Python that ends in its points, and runs after the student's cells in their sandbox. A course's tool decides where the
points are written, see :mod:`diffnum.classroom.nbgrader`.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffnum.classroom.bench import happened
from diffnum.classroom.find import Cell
from diffnum.classroom.grade import CHECKS, check_cells, share_of
from diffnum.classroom.problems import Problems
from diffnum.classroom.sandbox import Ended, Sandbox
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


@dataclass(frozen=True)
class Mark:
    """What a test cell is worth: points, and the text that says why."""

    points: float
    text: str


def marks(
    pieces: Sequence[Cell],
    worth: Sequence[float],
    problems: Problems,
    sandbox: Sandbox,
    solution: Path | None = None,
) -> list[Mark]:
    """Marks of the test cells among the pieces of a student's work, in their order.

    Args:
        pieces: the student's cells and the test cells, told apart by ``test``.
        worth: the points of each test cell, where its own text does not say them.
        problems: public or secret ones.
        sandbox: where everything runs.
        solution: the assignment's, whose claims are asked for.
    """
    work = [piece for piece in pieces if not piece.test]
    tests = [(piece, asked(piece.text)) for piece in pieces if piece.test]
    found: dict[int, Mark] = {}
    for solver in dict.fromkeys(request.solver for _, request in tests if request):
        mine = {i: request for i, (_, request) in enumerate(tests) if request and request.solver == solver}
        given = problems.of(solution, solver) if solution else problems
        found |= zip(mine, _judge(work, solver, list(mine.values()), given, sandbox), strict=True)
    plain = {i: piece for i, (piece, request) in enumerate(tests) if request is None}
    found |= zip(plain, _run(work, [(piece, worth[i]) for i, piece in plain.items()], sandbox), strict=True)
    return [found[i] for i in range(len(tests))]


def _judge(
    work: list[Cell], solver: str, requests: list[Asked], problems: Problems, sandbox: Sandbox
) -> Iterator[Mark]:
    """A mark for each test cell about one solver."""
    only = [name for name in CHECKS if any(name in request.checks.split() for request in requests)]
    try:
        report = check_cells("notebook", work, solver, problems, sandbox, only=only)
        wrong = "\n".join(report.errors)
        grade = report.grades[0] if report.grades else None
    except DiffnumError as error:
        wrong, grade = str(error), None
    for request in requests:
        if grade is None:
            yield Mark(0.0, wrong)
            continue
        share, lines = share_of(grade, request.checks)
        yield Mark(request.most * share, "\n".join([*lines, wrong] if wrong and share < 1 else lines))


def _run(work: list[Cell], plain: list[tuple[Cell, float]], sandbox: Sandbox) -> Iterator[Mark]:
    """A mark for each other test cell, run after the student's in the sandbox; its value is its points."""
    if not plain:
        return
    place, done = sandbox.open(), 0
    try:
        place.ask({"do": "load", "cells": [{"label": cell.label, "text": cell.text} for cell in work]})
        place.said()
        for piece, most in plain:
            reply, _ = place.ask({"do": "execute", "text": piece.text, "label": piece.label})
            changed = place.ask({"do": "changed"})[0]["changed"]
            said, error, value = place.said(), reply["error"], reply["value"]
            done += 1
            if changed:
                yield Mark(0.0, f"it replaces {changed[0]} of the library: leave the library as it is")
            elif error:
                yield Mark(0.0, f"{said}{happened(error)}")
            else:
                yield Mark(most if value is None else min(most, max(0.0, float(value))), said)
    except Ended as ended:
        for _ in plain[done:]:
            yield Mark(0.0, str(ended))
    finally:
        place.close()
