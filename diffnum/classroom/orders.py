"""Checks of orders: on smooth grids, on rough ones, and where in a run the error comes from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from diffnum.classroom.bench import Bench, Fault, Unclaimed
from diffnum.classroom.problems import GRIDS, LADDER
from diffnum.measure.analysis import Convergence, convergence, local_slopes, reference, rms, weak_convergence
from diffnum.problem import Problem
from diffnum.solvers import registry

FINEST = 1280


def subject(b: Bench, process: str = "") -> Problem:
    """The problem on which errors are told: the mixture, or Gaussian data for a stochastic solver or for blurring."""
    name = process or b.home
    return b.problem(name, "gaussian" if b.stochastic or name == "blurring" else "mixture")


def by_law(b: Bench, problem: Problem) -> bool:
    """Whether mean and covariance are judged: of a stochastic solver, and on blurring, where they tell everything."""
    return b.stochastic or problem.process.family == "blurring"


def told(name: str) -> str:
    """What a message calls a process."""
    names = {"cosine": "the cosine VP", "table": "VP with a table of betas", "blurring": "blurring"}
    return names.get(name, name.upper())


def measured(b: Bench, process: str, grid: str, steps: Sequence[int] = LADDER) -> Convergence:
    """Errors on a ladder of step counts, remembered for the report; finer where the slopes have not settled."""
    problem = subject(b, process)
    key = f"{grid} grid ({told(process)})"
    known = [result for title, result in b.results if title == key]
    if known and steps == LADDER:
        return known[0]
    rung = b.problems.ladder(problem.process, grid)
    claim = b.claims(problem, rung(steps[-1]), rough=grid in ("rough", "uneven"))["order"]
    result = _measure(b, problem, rung, steps)
    while claim and not holds(result, claim) and not settled(result) and result.steps[-1] < FINEST:
        finer = _measure(b, problem, rung, (2 * result.steps[-1],))
        result = replace(
            result, steps=(*result.steps, *finer.steps), nfe=(*result.nfe, *finer.nfe),
            errors=(*result.errors, *finer.errors), by_start=torch.cat([result.by_start, finer.by_start]),
        )  # fmt: skip
    if len(result.tail) < 2 and steps == LADDER:  # rounding is reached too early: judge coarser steps
        return measured(b, process, grid, tuple(n // 4 for n in LADDER))
    result = replace(result, claim=claim)
    b.results.append((key, result))
    return result


def _measure(b: Bench, problem: Problem, rung: Any, steps: Sequence[int]) -> Convergence:
    solver: Any = b.solver
    if by_law(b, problem):
        return weak_convergence(problem, solver, rung, steps)
    u = b.starts(problem)
    return convergence(problem, solver, u, rung, steps, truth=b.problems.truth(problem, u, rung(steps[0])))


def holds(result: Convergence, p: int) -> bool:
    """Whether the last two slopes show order p at least, or one that comes up to it slowly."""
    low, tail = p - (0.15 if p <= 2 else 0.3), result.tail[-2:]
    if len(tail) == 2 and tail[-1] >= low and (tail[0] >= low or result.steps[-1] >= FINEST):
        return True
    return len(tail) == 2 and result.steps[-1] >= FINEST and p - 0.4 < tail[-1] > tail[0]


def settled(result: Convergence) -> bool:
    """Whether the last two slopes agree."""
    return len(result.tail) > 1 and abs(result.tail[-1] - result.tail[-2]) < 0.05


def cases(b: Bench) -> list[tuple[str, str]]:
    """Processes and grids on which the order is judged: smooth grids at home, and one on each other kind of process."""
    if b.home == "blurring":
        return [("blurring", "quadratic")]
    found = [(b.home, grid) for grid in (GRIDS if b.home == "vp" and not b.stochastic else ("log_snr", "uniform"))]
    found += [("ve", "log_snr")] * (b.home == "vp")
    found += [("psld", "uniform")] * ("phase_space" in b.families and b.home != "psld")
    return found + [("blurring", "quadratic")] * ("blurring" in b.families)


def order(b: Bench) -> str:
    """The observed order on every smooth grid is the claimed one."""
    if b.counted:
        raise Unclaimed("an adaptive method is judged by its tolerance")
    shown, low, claimed = [], [], None
    for process, grid in cases(b):
        result = measured(b, process, grid)
        claimed = result.claim
        shown.append(f"{result.order:.2f} ({told(process)}, {grid})")
        if claimed is not None and not holds(result, claimed):
            raise Fault(
                f"order {claimed} is claimed and {result.order:.2f} observed ({told(process)}, {grid} grid, "
                f"{result.steps[-2]} to {result.steps[-1]} steps): {locate(b, process, claimed)}"
            )
        if (process, grid) == (b.home, "log_snr"):
            between(b, result)
        low.append(claimed is not None and all(slope > claimed + 0.5 for slope in result.tail[-2:]))
    if claimed is None:
        return f"observed {', '.join(shown)}; nothing is claimed"
    if all(low) and not b.stochastic:
        raise Fault(f"order {claimed} is claimed and more observed: {', '.join(shown)}; claim what it has")
    weak = "weak " * b.stochastic
    return f"{weak}order {claimed} is claimed, observed {', '.join(shown)}"


def between(b: Bench, result: Convergence) -> None:
    """Numbers of steps that are not twice another: odd, prime, a multiple of 3, 7... err no more than those that are.

    Raises:
        Fault: one errs more.
    """
    n, problem = result.steps[0], subject(b)
    for m in (n + 1, n + 17, n + 18):
        error = _measure(b, problem, b.problems.ladder(problem.process, "log_snr"), (m,)).errors[0]
        if error > 2 * result.errors[0] and error > 1e-10:
            raise Fault(
                f"its error is {result.errors[0]:.2g} with {n} steps and {error:.2g} with {m}, where more steps should "
                "err less: look at what depends on their number (odd or even, a multiple)"
            )


def locate(b: Bench, process: str, p: int) -> str:
    """Where the error comes from: in the first steps, in every step, or in the last; from the states it yielded.

    The error of one step is the distance of a state from the exact solution through the state before. In a method of
    order p it falls like h^(p + 1), and like h^p is enough in a few steps.
    """
    if b.stochastic or process == "blurring":
        return "compare the step with its formula"
    problem, coarse, fine = subject(b, process), 80, 160
    u, wrong = b.starts(problem), {}
    starts = {"first": 0, "second": 1, "third": 2}
    inner = {f"a step {round(100 * part)} % of the way": part for part in (0.5, 0.1, 0.25, 0.75, 0.85, 0.95)}
    odd = (0.25, 0.75, 0.85)  # these are odd steps, the others even ones, for what a solver does in turn
    for n in (coarse, fine):
        times = b.problems.ladder(problem.process)(n)
        b.run(problem, u, times, keep=True)
        states = torch.cat([u[None], b.solver.states[0]])
        places = starts | {where: int(part * n) + (part in odd) for where, part in inner.items()} | {"last": n - 1}
        for where, i in places.items():
            exact = reference(problem, states[i], times[i : i + 2], rtol=1e-12)
            wrong[where, n] = rms(states[i + 1] - exact)
    slopes = {
        where: local_slopes((coarse, fine), (wrong[where, coarse], wrong[where, fine]))[0]
        for where in (*starts, *inner, "last")
    }
    poor = [where for where in inner if slopes[where] < p + 0.6]
    if poor:
        where = poor[0] if len(poor) < len(inner) else "every step"
        right = next((f", and {other} like h^{slopes[other]:.1f}" for other in inner if other not in poor), "")
        look = "what is done there" if right else "the weights, the history and the times of the formula"
        return (
            f"{where} errs like h^{slopes[poor[0]]:.1f}{right}, where order {p} needs h^{p + 1}: "
            f"look at {look}, or claim less"
        )
    for where in (*starts, "last"):
        if slopes[where] < p - 0.4:
            part = "end" if where == "last" else "start"
            return (
                f"a step in the middle is right (h^{slopes[next(iter(inner))]:.1f}), the {where} step errs like "
                f"h^{slopes[where]:.1f}, where order {p} needs h^{p}: look at the {part}"
            )
    return "no single step explains it; compare the error with more steps"


def rough(b: Bench) -> str:
    """The claimed order holds on steps of lengths 1, 3, 1, 3... and 1, 3, 2, 1, 3, 2..., however fine the grid is."""
    if b.counted or b.home == "blurring":
        raise Unclaimed("judged on smooth grids only")
    smooth, *results = (measured(b, b.home, grid) for grid in ("log_snr", "rough", "uneven"))
    p, twin = results[0].claim, b.twin()
    seen = " and ".join(f"{result.order:.2f}" for result in results)
    lengths = "on steps whose lengths alternate 1:3, and go round 1:3:2,"
    if p is None:
        return f"{lengths} {seen} observed, on smooth grids {smooth.order:.2f}; nothing is claimed"
    same = f"; its states are those of the library's {twin}" if twin else ""
    if twin and p == smooth.claim and (b.model is None or b.model is registry[twin]):
        known: Any = registry[twin]
        p = min(p, known.order(grid="rough", process=b.problem().process))  # a number claims what the method claims
    if not all(holds(result, p) for result in results):
        raise Fault(
            f"{lengths} order {p} is claimed and {seen} observed, on smooth grids {smooth.order:.2f}: "
            "the weights must come from the actual times, not from equal steps (or claim smooth "
            "grids only: order=lambda grid='log_snr', process=None: 1 if grid == 'rough' else 2)"
        )
    return f"order {p} holds {lengths} {seen} observed{same}"
