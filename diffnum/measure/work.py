"""Error against network evaluations: what a solver claims to cost, and what it gives for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from math import isfinite
from typing import Any

from torch import Tensor

from diffnum import arguments, stability
from diffnum.measure.convergence import Convergence, convergence, given_truth, name_of, rehearse, same_ends
from diffnum.measure.reference import reference
from diffnum.problem import Problem, given_problem
from diffnum.runner import Solver
from diffnum.solvers import find


def evaluations(process: Any, solver: str | Solver, steps: int, end: float | None = None, **options: Any) -> int:
    """Network evaluations that a solver claims.

    Args:
        process: tells whether the end is without noise, for solvers whose claim depends on it (``to_zero``).
        solver: name or function with the claim ``nfe``.
        steps: number of steps.
        end: last time of the grid; by default one above 0.
        **options: options of the solver.

    Raises:
        ValueError: the solver claims nothing.
        TypeError: the solver has no such option.
    """
    function = find(solver)
    claim = getattr(function, "nfe", None)
    if claim is None:
        raise ValueError(f"{name_of(function)} claims no evaluations; decorate it with diffnum.method")
    allowed, taken = signature(function).parameters, signature(claim).parameters
    for option in options:
        if option not in allowed:
            raise TypeError(f"{name_of(function)} has no option {option!r}")
    if end is not None and "to_zero" in taken:
        options["to_zero"] = process.singular(end)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    return claim(steps, **{name: value for name, value in options.items() if open_ended or name in taken})


def growth(process: Any, solver: str | Solver, times: Any, size: float = 1e-10, **options: Any) -> float:
    r"""How many times larger errors of the noise prediction are in the final state, at most.

    Every evaluation of a run on Gaussian data, in three coordinates of variance 0, 1/16 and 1, is off by plus or minus
    ``size`` with random signs; the largest change of the final state over 15 draws of the signs, over ``size``.

    Args:
        process: VP, VE, CLD or PSLD.
        solver: name or function of a deterministic solver.
        times: the grid.
        size: of the errors.
        **options: options of the solver.

    Raises:
        ValueError: a process of images.
    """
    return stability.growth(process, find(solver), times, size, **options)


def steps_within(
    budget: int, process: Any, solver: str | Solver, end: float | None = None, **options: Any
) -> int | None:
    """The most steps whose claimed evaluations fit the budget, or None; arguments as for :func:`evaluations`."""
    fitting = (n for n in range(budget, 0, -1) if evaluations(process, solver, n, end, **options) <= budget)
    return next(fitting, None)


@dataclass(frozen=True)
class WorkPrecision:
    """Errors of several solvers against what they cost, on one problem with one grid rule and one reference.

    Attributes:
        results: one :class:`Convergence` per solver, in the order given; a solver too dear for every budget has none.
        columns: the budgets, or the step counts, that were asked for.
        by: what the columns count: "nfe" or "steps".
    """

    results: tuple[Convergence, ...]
    columns: tuple[int, ...]
    by: str = "nfe"

    def entry(self, result: Convergence, column: int) -> int | None:
        """Index of the run of a result that belongs to a column: the dearest within it; None where there is none."""
        counts = result.nfe if self.by == "nfe" else result.steps
        fitting = [i for i, n in enumerate(counts) if (n <= column if self.by == "nfe" else n == column)]
        return fitting[-1] if fitting else None

    def best(self, budget: int) -> tuple[str, int, float]:
        """``(name, evaluations, error)`` of the most accurate run of at most so many evaluations.

        Raises:
            ValueError: no run of the budget has a finite error.
        """
        runs = [(e, nfe, r.name) for r in self.results for nfe, e in zip(r.nfe, r.errors, strict=True)]
        fitting = [run for run in runs if run[1] <= budget and isfinite(run[0])]
        if not fitting:
            raise ValueError(f"no run with a finite error costs at most {budget} evaluations")
        error, nfe, name = min(fitting)
        return name, nfe, error

    @property
    def lost(self) -> list[tuple[str, int]]:
        """``(name, evaluations)`` of the runs that ended in NaN or infinity."""
        runs = ((r.name, nfe, e) for r in self.results for nfe, e in zip(r.nfe, r.errors, strict=True))
        return [(name, nfe) for name, nfe, error in runs if not isfinite(error)]

    def cells(self) -> list[list[str]]:
        """The table: a header, then a row per solver with evaluations and error for each column ("-": too dear)."""
        sign = "NFE <=" if self.by == "nfe" else "steps ="
        rows = [["solver", *(f"{sign} {column}" for column in self.columns)]]
        for result in self.results:
            indices = [self.entry(result, column) for column in self.columns]
            texts = (
                "-" if i is None else f"{result.nfe[i]:4d} {result.errors[i]:8.1e}"
                if isfinite(result.errors[i]) else f"{result.nfe[i]:4d}     lost" for i in indices
            )  # fmt: skip
            rows.append([result.name, *texts])
        return rows

    def table(self) -> str:
        """Evaluations and error of each solver within each budget as text; runs that ended in NaN or infinity below."""
        rows = self.cells()
        width = max(len(row[0]) for row in rows)
        lines = ["".join([f"{row[0]:{width}}", *(f"  {cell:>13}" for cell in row[1:])]).rstrip() for row in rows]
        return "\n".join([*lines, *self.notes()])

    def notes(self) -> list[str]:
        """One line about the lost runs, if there are any."""
        lost = ", ".join(f"{name} with {nfe}" for name, nfe in self.lost)
        return [f"lost to NaN or infinity: {lost} evaluations"] if lost else []

    def plot(self, ax: Any = None) -> Any:
        """Shortcut for :func:`diffnum.measure.plots.work_precision`."""
        from diffnum.measure import plots

        return plots.work_precision(self, ax=ax)


def work_precision(
    problem: Problem,
    solvers: Sequence[str | Solver | tuple[str | Solver, dict[str, Any]]],
    u: Tensor,
    grid: Callable[[int], Tensor],
    nfe: Sequence[int] = (10, 20, 50, 100),
    *,
    steps: Sequence[int] | None = None,
    truth: Tensor | Callable[[], Tensor] | None = None,
) -> WorkPrecision:
    """Measure error against network evaluations for several solvers, on one problem with one grid rule for all.

    Each solver takes, for each budget, the most steps that its claim allows; the evaluations reported are counted. A
    run that ends in NaN or infinity is reported as lost, and the others go on. Every refusal comes before the first
    evaluation.

    Args:
        problem: process and denoiser.
        solvers: names, functions, or pairs ``(solver, options)``; deterministic ones.
        u: start states.
        grid: ``steps -> times``, such as :func:`ladder` gives; all grids must share both ends.
        nfe: budgets of evaluations.
        steps: step counts, the same for all solvers, in place of budgets.
        truth: the exact final state where it is known, or a function that computes it, called once after all refusals;
            by default :func:`reference` with rtol 1e-13.

    Raises:
        ValueError: nothing to measure, budgets or step counts that do not increase, a solver that claims no
            evaluations or is stochastic, or grids whose ends differ. Whatever a solver refuses is refused here.
    """
    given_problem(problem).check(u)
    columns = arguments.counts("nfe", nfe) if steps is None else arguments.counts("steps", steps)
    truth = truth if callable(truth) else given_truth(truth, u)
    entries = [entry if isinstance(entry, tuple) else (entry, {}) for entry in solvers]
    end, plan = float(grid(1)[-1]), []
    for solver, options in entries:
        function = find(solver)
        if getattr(function, "kind", "ode") == "sde":
            raise ValueError(f"{name_of(function)} is stochastic: the solution of the ODE is not what it aims at")
        counts: Sequence[int | None] = columns
        if steps is None:
            counts = [steps_within(budget, problem.process, solver, end, **options) for budget in columns]
        kept = sorted({n for n in counts if n is not None})
        if kept:
            plan.append((solver, options, kept))
    if not plan:
        raise ValueError("no solver fits any of the budgets" if entries else "solvers is empty; name at least one")
    used = sorted({n for _, _, kept in plan for n in kept})
    times = dict(zip(used, same_ends(grid, used, problem.process), strict=True))
    for solver, options, kept in plan:
        rehearse(problem, solver, u, [times[n] for n in kept], **options)
    if truth is None:
        truth = reference(problem, u, times[used[0]][[0, -1]], rtol=1e-13)
    elif callable(truth):
        truth = truth()
    results = [
        convergence(problem, solver, u, times.__getitem__, kept, truth=truth, **options)
        for solver, options, kept in plan
    ]
    return WorkPrecision(tuple(results), columns, "nfe" if steps is None else "steps")
