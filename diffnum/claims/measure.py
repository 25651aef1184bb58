"""What several claims measure alike: errors and orders on the exact problems, one common set of starts for all."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from diffnum import named
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, interval, not_tried, several
from diffnum.denoisers import targets
from diffnum.measure import analysis
from diffnum.problem import Problem
from diffnum.solvers import solve

#: Noise-to-signal ratios between which claims of order are asymptotic with a few hundred steps.
SMOOTH_ENDS = (3.0, 0.05)


@lru_cache(maxsize=32)
def problem(target: str = "smooth", process: str = "vp") -> Problem:
    """An exact problem by the names of its target and process; its count of evaluations is nobody's."""
    return Problem(named.process(process), targets.target(target))


def ends(process: Any, first: float = SMOOTH_ENDS[0], last: float = SMOOTH_ENDS[1]) -> dict[str, Any]:
    """``t_start`` and ``t_end`` at two noise-to-signal ratios."""
    return {"t_start": process.time_of_rho(first), "t_end": process.time_of_rho(last)}


@lru_cache(maxsize=64)
def truth(target: str, process: str, t_start: float, t_end: float, count: int = 8) -> tuple[Tensor, Tensor]:
    """Start states of an exact problem at ``t_start`` and the exact solution at ``t_end``."""
    exact = problem(target, process)
    u = targets.starts(exact.process, count)
    return u, analysis.reference(exact, u, [t_start, t_end], rtol=1e-13)


def converge(
    solver: Any, steps: tuple[int, ...], grid: str = "uniform", *, target: str = "smooth", process: str = "vp",
    t_start: float | None = None, t_end: float | None = None, **options: Any,
) -> analysis.Convergence:  # fmt: skip
    """Errors of a solver on an exact problem, from common starts; the ends are the grid's own unless given."""
    exact = problem(target, process)
    between = {key: t for key, t in (("t_start", t_start), ("t_end", t_end)) if t is not None}
    rule = analysis.ladder(named.grid(grid), exact.process, **between)
    u, end = truth(target, process, *rule(1)[[0, -1]].tolist())
    return analysis.convergence(exact, solver, u, rule, steps, truth=end, **options)


def error(solver: Any, steps: int, grid: str = "uniform", **settings: Any) -> float:
    """The error of one run; arguments as for :func:`converge`."""
    return converge(solver, (steps,), grid, **settings).errors[0]


def two(values: Any) -> str:
    """The last two slopes of a result, or any numbers, in words."""
    values = values.slopes[-2:] if hasattr(values, "slopes") else list(values)
    return " and ".join(f"{v + 0.0:.2f}" for v in values)


def table(values: Mapping[Any, float], form: str = ".1e") -> str:
    """``name 1.0e-2, name 2.0e-2, ...``."""
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def quality(better: tuple[str, int], worse: tuple[str, int]) -> Verdict:
    """The stored verdict of `make quality` on a pair of cells, recomputed from its interval."""
    for pair in results("quality.json")["claims"]:
        if (tuple(pair["better"]), tuple(pair["worse"])) == (better, worse):
            names = " against ".join(f"{name} with {n}" for name, n in (better, worse))
            saw = (
                f"{names} evaluations: {pair['limit']:.1f} [{pair['low']:.1f}, {pair['high']:.1f}], {pair['n']} images"
            )
            return interval(pair["low"], pair["high"], saw, {k: pair[k] for k in ("limit", "low", "high", "n")})
    return not_tried(f"no images of {better[0]} and {worse[0]} with {better[1]} are drawn; make quality draws them")


def distances(pairs: Mapping[str, Verdict], what: str, form: str = ".1f") -> Verdict:
    """Several pairs of :func:`quality`, named "cell against cell", as one verdict that tells all intervals."""
    cells = {name: [format(pair.numbers[k], form) for k in ("limit", "low", "high")] for name, pair in pairs.items()}
    saw = f"{what}: " + ", ".join(f"{name} {limit} [{low}, {high}]" for name, (limit, low, high) in cells.items())
    return several(pairs, saw, {name.replace(" against ", "_"): pair.numbers["limit"] for name, pair in pairs.items()})


def gaussian_line(std: float, process: Any) -> Problem:
    """One-dimensional Gaussian data of mean 0."""
    from diffnum.denoisers import Gaussian

    return Problem(process, Gaussian([0.0], [std**2]))


def local_slope(solver: Any, t: float, h: float, halvings: int = 3, **options: Any) -> float:
    """Order of the one-step error on the smooth target from an exact state at time t, from the last halving of h."""
    exact = problem()
    x = analysis.reference(exact, targets.starts(exact.process), [exact.process.t_max, t])
    errors = []
    for k in range(halvings + 1):
        times = torch.tensor([t, t - h / 2**k], dtype=torch.float64)
        run = solve(exact, solver, x, times, **options).u
        errors.append(analysis.rms(run - analysis.reference(exact, x, times, rtol=1e-13)))
    return analysis.local_slopes([1, 2], errors[-2:])[0]


def slopes(result: analysis.Convergence) -> float:
    """Mean slope from the first to the last number of steps, for errors that carry noise."""
    return analysis.local_slopes((result.steps[0], result.steps[-1]), (result.errors[0], result.errors[-1]))[0]


def zero(*residuals) -> bool:
    """Whether SymPy left nothing of residuals and matrices of them."""
    entries = (entry for r in residuals for entry in (r if isinstance(r, sp.MatrixBase) else (r,)))
    return all(entry == 0 for entry in entries)


def left(rest: bool) -> str:
    """What :func:`zero` found, in words."""
    return f"SymPy leaves {'nothing' if rest else 'a rest'}"
