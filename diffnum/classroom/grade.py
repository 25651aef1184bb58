"""Grade a solver: every check in turn, each with a measured reason, points, and where the book explains it."""

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from diffnum.arguments import choose, number
from diffnum.classroom import accuracy, behaviour, orders
from diffnum.classroom.bench import Bench, Fault, Solver, Unclaimed, happened
from diffnum.classroom.find import NO_SOLVER, Cell, cells, hopeless
from diffnum.classroom.problems import Problems
from diffnum.classroom.report import Grade, Report, Verdict
from diffnum.classroom.sandbox import Direct, Ended, Limits, Sandbox
from diffnum.errors import DiffnumError


@dataclass(frozen=True)
class Check:
    """One check: what it asks, how much it is worth, which checks it builds on, and where the book explains it."""

    title: str
    points: int
    measure: Callable[[Bench], str]
    needs: tuple[str, ...]
    see: str


#: Every check by name, in the order in which they are made.
CHECKS: dict[str, Check] = {
    "runs": Check("runs at all", 5, behaviour.runs, (), "checking#check-runs"),
    "states": Check("yields its states", 5, behaviour.states, ("runs",), "checking#check-states"),
    "own": Check("computes itself", 5, behaviour.own, ("states",), "checking#check-own"),
    "unchanged": Check("writes into no state", 5, behaviour.unchanged, ("states",), "checking#check-unchanged"),
    "repeatable": Check("repeats itself", 5, behaviour.repeatable, ("states",), "checking#check-repeatable"),
    "rows": Check("keeps rows apart, any shape", 5, behaviour.rows, ("repeatable",), "checking#check-rows"),
    "evaluations": Check("evaluations as claimed", 5, behaviour.evaluations, ("states",), "checking#check-evaluations"),
    "end": Check("states at their times", 5, accuracy.end, ("own", "repeatable"), "checking#check-end"),
    "precision": Check("float64 all the way", 5, behaviour.precision, ("end",), "linear_sde#linear-sde-digits"),
    "limit": Check("right limit", 10, accuracy.limit, ("end",), "order#order-protocol"),
    "order": Check("order on smooth grids", 10, orders.order, ("limit",), "order#order-theory"),
    "rough": Check("order on rough grids", 5, orders.rough, ("order",), "pndm#pndm-repair"),
    "grids": Check("every kind of grid", 5, accuracy.every_grid, ("limit",), "checking#check-grids"),
    "processes": Check("every process it is for", 5, accuracy.processes, ("limit",), "linear_sde#linear-sde-scalar"),
    "point": Check("exact on a point", 5, accuracy.point, ("limit",), "ddim#ddim-theory"),
    "steps": Check("any number of steps", 5, behaviour.steps, ("limit",), "checking#check-steps"),
    "error": Check("error for its cost", 5, accuracy.error, ("limit",), "work#work-theory"),
    "zero": Check("ends at t = 0", 5, accuracy.zero, ("limit",), "pndm#pndm-singularity"),
    "clean": Check("leaves nothing behind", 5, behaviour.clean, ("runs",), "checking#check-clean"),
}


def points_of(problems: Problems) -> dict[str, float]:
    """What each check is worth.

    Raises:
        DiffnumError: the assignment gives points to a check that there is not, or no points.
    """
    worth = {name: float(check.points) for name, check in CHECKS.items()}
    try:
        for name, points in problems.values["assignment"].get("points", {}).items():
            worth[choose("check", name, CHECKS)] = number(f"points of {name}", points, 0.0, 1e6)
    except (ValueError, AttributeError) as error:
        raise DiffnumError(f"the assignment's points: {error}") from None
    return worth


def examine(
    solver: Solver,
    problems: Problems,
    tell: Callable[[str], None] = lambda title: None,
    only: Collection[str] = tuple(CHECKS),
) -> Grade:
    """Make every check on a solver that has been chosen, or ``only`` some.

    ``tell`` is called with the title of each as it begins.
    """
    grade, begun = Grade(solver.__name__), perf_counter()
    worth = points_of(problems)
    b, failed, over = Bench(solver, problems), set[str](), ""
    for name in [name for name in CHECKS if name in only]:
        check, earned, of = CHECKS[name], 0.0, worth[name]
        blocked = next((need for need in check.needs if need in failed), None)
        if over or blocked:
            status, said = "skipped", over or f"not tried, because {CHECKS[blocked].title!r} failed"  # type: ignore[index]
        else:
            tell(check.title)
            try:
                status, said, earned = "passed", check.measure(b), of
            except Unclaimed as nothing:
                status, said, of = "unclaimed", str(nothing), 0.0
            except (Fault, Ended) as fault:
                status, said = "failed", str(fault)
                over = "not tried, because its process has ended" if isinstance(fault, Ended) else ""
            except Exception as error:  # what nobody thought of fails one check, and not the whole class
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                status, said = "failed", f"this cannot be measured: {why}"
        if status in ("failed", "skipped"):
            failed.add(name)
        grade.verdicts.append(Verdict(name, status, said, earned, of, check.title, check.see))
    grade.results, grade.seconds = b.results, perf_counter() - begun
    return grade


def check_file(
    path: Path,
    name: str | None = None,
    problems: Problems = Problems(),  # noqa: B008 (frozen)
    *,
    sandbox: Sandbox | None = None,
    options: dict[str, Any] | None = None,
    tell: Callable[[str, str], None] = lambda solver, title: None,
) -> Report:
    """Grade every solver that is found in a file, each in a process of its own.

    Args:
        path: a ``.py`` file or a notebook.
        name: of the one solver to grade; by default all of them.
        problems: the public ones, or secret ones.
        sandbox: where to run; by default one of its own.
        options: of the solver.
        tell: called with the name of a solver and the title of each check as it begins.

    Raises:
        DiffnumError: a file that cannot be read, or no such solver in it.
    """
    if sandbox is None:
        with Sandbox(Limits()) as own:
            return check_file(path, name, problems, sandbox=own, options=options, tell=tell)
    work = [cell for cell in cells(path) if not cell.test]
    return check_cells(path.name, work, name, problems, sandbox, options=options, tell=tell)


def check_cells(
    label: str,
    work: Sequence[Cell],
    name: str | None,
    problems: Problems,
    sandbox: Sandbox,
    *,
    options: dict[str, Any] | None = None,
    tell: Callable[[str, str], None] = lambda solver, title: None,
    only: Collection[str] = tuple(CHECKS),
) -> Report:
    """Grade the solvers that pieces of text define; see :func:`check_file`. ``only`` names the checks to make."""
    report, names = Report(label), None
    if (wrong := hopeless(work)) is not None:
        return Report(label, [], wrong)
    while names is None or names:
        place, grade = sandbox.open(), None
        try:
            found, _ = place.ask({"do": "load", "cells": [{"label": cell.label, "text": cell.text} for cell in work]})
            if names is None:
                names = [name] if name else list(found["found"])
                report.errors = [f"{e['where'] or label}: {happened(e)}" for e in found["errors"]]
                report.errors += [] if names else [*found["near"], NO_SOLVER]
            if names:
                current = names.pop(0)
                grade = examine(Solver(place, current, problems, options or {}), problems, partial(tell, current), only)
                report.grades.append(grade)
        except Ended as ended:
            report.errors.append(f"{label} did not come to its end: {ended}")
            return report
        finally:
            place.close()
            if grade is not None:
                grade.output = place.output
    return report


def check(
    solver: Callable[..., Any],
    problems: Problems = Problems(),  # noqa: B008 (frozen)
    only: str = " ".join(CHECKS),
    **options: Any,
) -> Grade:
    """Grade a function of one's own in this process, without a sandbox: for a notebook.

    Args:
        solver: generator function ``(problem, u, times, **options)``.
        problems: the public ones by default.
        only: names in :data:`CHECKS`, with blanks between them.
        **options: of the solver.

    Raises:
        KeyError: there is no such check.
    """
    names = [choose("check", name, CHECKS, KeyError) for name in only.split()]
    place, called = Direct(), getattr(solver, "__name__", "solver")
    place.give(**{called: solver})
    return examine(Solver(place, called, problems, options), problems, only=names)


def points_for(solver: Callable[..., Any], checks: str, most: float) -> float:
    """Points for some checks of a solver, for a test cell: as its last line they are its partial credit.

    Each check is worth the same. What they measured is printed; nothing goes to stderr, where nbgrader would take all
    points for a single line. With ``diffnum.classroom.nbgrader`` the checks are made outside of the kernel.

    Args:
        solver: generator function ``(problem, u, times, **options)``.
        checks: names in :data:`CHECKS`, with blanks between them: ``"runs states order"``.
        most: points if all of them pass.

    Raises:
        KeyError: there is no such check.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        grade = check(solver, only=checks)
    share, lines = share_of(grade, checks)
    print("\n".join(lines))
    return most * share


def share_of(grade: Grade, checks: str) -> tuple[float, list[str]]:
    """The share of some checks that pass or do not apply, and a line about each."""
    verdicts = {v.check: v for v in grade.verdicts}
    found, lines = [], []
    for name in checks.split():
        v = verdicts[choose("check", name, verdicts, KeyError)]
        good = v.status in ("passed", "unclaimed")
        found.append(good)
        lines.append(f"{'passed' if good else 'FAILED'}  {v.title}: {v.reason}" + f"  (see {v.see})" * (not good))
    return sum(found) / max(1, len(found)), lines
