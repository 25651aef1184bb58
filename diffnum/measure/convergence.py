"""Errors over halved steps, local slopes, observed orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from math import log
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.grids import check_times
from diffnum.measure.reference import reference, rms
from diffnum.noise import Seeded
from diffnum.problem import Problem, given_problem
from diffnum.runner import Solution, Solver, draws_noise
from diffnum.solvers import find, solve

# Below this an error says nothing about order: it is a hundred times the tolerance of the reference, and for states of
# size 1 many times what thousands of steps lose by rounding.
FLOOR = 1e-11


def local_slopes(steps: Sequence[int], errors: Sequence[float]) -> list[float]:
    r"""Observed orders :math:`\log(e_k/e_{k+1}) / \log(n_{k+1}/n_k)` between neighbours; NaN where an error is 0."""
    pairs = zip(pairwise(steps), pairwise(errors), strict=True)
    return [(log(a) - log(b)) / log(m / n) if a > 0 and b > 0 else float("nan") for (n, m), (a, b) in pairs]


@dataclass(frozen=True)
class Convergence:
    """Errors of one solver over several step counts.

    Attributes:
        name: the solver and its options, for legends.
        steps: step counts, increasing.
        nfe: evaluations counted at each.
        errors: root mean square error against the reference at each.
        by_start: error of each start state, ``(len(steps), batch)``; ``median`` is its median over starts.
            (From :func:`weak_convergence`: the errors of mean and covariance.)
        claim: the order that the solver claims for this grid and these options, or None.
        ends: noise levels sigma/alpha at both ends of the grids, on images those of their mean.
    """

    name: str
    steps: tuple[int, ...]
    nfe: tuple[int, ...]
    errors: tuple[float, ...]
    by_start: Tensor = field(repr=False, compare=False)
    claim: int | None = None
    ends: tuple[float, float] | None = None

    @property
    def median(self) -> tuple[float, ...]:
        """Median error over the start states."""
        return tuple(self.by_start.median(dim=1).values.tolist())

    @property
    def slopes(self) -> list[float]:
        """Observed order between neighbouring step counts."""
        return local_slopes(self.steps, self.errors)

    @property
    def tail(self) -> list[float]:
        """The slopes whose finer error is above rounding, coarse to fine."""
        return [slope for slope, error in zip(self.slopes, self.errors[1:], strict=True) if error > FLOOR]

    @property
    def order(self) -> float:
        """Observed order: the finest slope above rounding (NaN if there is none)."""
        return self.tail[-1] if self.tail else float("nan")

    def table(self) -> str:
        """Steps, evaluations, errors and slopes as text."""
        rows = [f"{self.name}", f"{'steps':>6} {'NFE':>6} {'error':>10} {'slope':>6}"]
        for i, (n, nfe, error) in enumerate(zip(self.steps, self.nfe, self.errors, strict=True)):
            slope = f"{self.slopes[i - 1] + 0.0:6.2f}" if i else " " * 6
            rows.append(f"{n:6d} {nfe:6d} {error:10.2e} {slope}".rstrip())
        return "\n".join(rows)

    def plot(self, ax: Any = None) -> Any:
        """Shortcut for :func:`diffnum.measure.plots.convergence`."""
        from diffnum.measure import plots

        return plots.convergence([self], ax=ax)


def convergence(
    problem: Problem,
    solver: str | Solver,
    u: Tensor,
    grid: Callable[[int], Tensor],
    steps: Sequence[int] = (10, 20, 40, 80, 160, 320),
    *,
    truth: Tensor | None = None,
    **options: Any,
) -> Convergence:
    """Run a solver with more and more steps and measure its error at the end.

    Args:
        problem: process and denoiser.
        solver: name or generator function.
        u: start states, float64 for anything above order 1.
        grid: ``steps -> times``; all must share both ends.
        steps: increasing step counts.
        truth: the exact final state where it is known; by default :func:`reference` with rtol 1e-13.
        **options: options of the solver.

    Raises:
        ValueError: step counts that do not increase, or grids whose ends differ. Whatever the solver refuses is refused
            before the first evaluation.
    """
    given_problem(problem).check(u)
    steps, truth = arguments.counts("steps", steps), given_truth(truth, u)
    grids = same_ends(grid, steps, problem.process)
    rehearse(problem, solver, u, grids, **options)
    if truth is None:
        truth = reference(problem, u, grids[0][[0, -1]], rtol=1e-13)
    runs = [solve(problem, solver, u, times, **options) for times in grids]
    function = find(solver)
    claimed = claimed_order(function, problem.process, grids[-1], **options)
    return compared(name_of(function, **options), steps, runs, truth, claimed, levels_of(grids[-1], problem.process))


def given_truth(truth: Any, u: Tensor) -> Tensor | None:
    """The exact final state as float64 where u is; None for None.

    Raises:
        TypeError: not an array of numbers. ValueError: not the shape of u, or NaN or infinity inside.
    """
    if truth is None:
        return None
    truth = arguments.array("truth", truth)
    if truth.shape != arguments.state("u", u).shape:
        raise ValueError(f"truth has shape {tuple(truth.shape)}, the states have {tuple(u.shape)}")
    return truth.to(u.device)


def rehearse(problem: Problem, solver: str | Solver, u: Tensor, grids: Sequence[Tensor], **options: Any) -> None:
    """Let a solver refuse what it would refuse: calling a method checks everything and evaluates nothing."""
    function = find(solver)
    problem.check(u)
    if draws_noise(function):
        options = {"noise": Seeded(0), **options}
    for times in grids:
        function(problem, u, times.tolist(), **options)


def compared(
    name: str,
    steps: tuple[int, ...],
    runs: Sequence[Solution],
    truth: Tensor,
    claim: int | None,
    ends: tuple[float, float],
) -> Convergence:
    """Runs with more and more steps against the one state at which they should end."""
    wrong = torch.stack([(run.u.double() - truth).flatten(1).square().mean(1).sqrt() for run in runs])
    errors = tuple(rms(row) for row in wrong)
    return Convergence(name, steps, tuple(run.nfe for run in runs), errors, wrong.cpu(), claim, ends)


def levels_of(times: Tensor, process: Any) -> tuple[float, float]:
    """The noise levels sigma/alpha at both ends of a grid."""
    return process.rho(times[0].item()), process.rho(times[-1].item())


def claimed_order(solver: Solver, process: Any, times: Tensor, what: str = "order", **options: Any) -> int | None:
    """The order a solver claims on a grid, None where it claims none.

    ``what`` names the claim: "order" (of a stochastic solver the weak one) or "strong_order".
    """
    claim = getattr(solver, what, None)
    if claim is None:
        return None
    if "first" in signature(claim).parameters:
        options["first"] = times[0].item()
    return claim(grid=kind_of(times, process), process=process, **options)


def same_ends(grid: Callable[[int], Tensor], steps: Sequence[int], process: Any) -> list[Tensor]:
    """The grid with each step count; all of them share both ends."""
    grids = [check_times(grid(n), process) for n in steps]
    if any(g[0] != grids[0][0] or g[-1] != grids[0][-1] for g in grids):
        raise ValueError("grid gives different ends for different steps; errors are comparable only at a common end")
    return grids


def richardson(coarse: Tensor, fine: Tensor, order: int, ratio: float = 2.0) -> tuple[Tensor, Tensor]:
    r"""Richardson extrapolation: the error of a run without a reference solution.

    .. math:: u_h = u + C h^p + \dots \ \Rightarrow\ u_{h/r} - u \approx \frac{u_h - u_{h/r}}{r^p - 1}

    Args:
        coarse: final state of a run, any shape.
        fine: that of a run on ``ratio`` times as many steps, of the same grid rule, with the same ends and start.
        order: the order p that the method has *on this grid*; with a wrong one the estimate is wrong.
        ratio: r.

    Returns:
        ``(extrapolated, error)``, float64: the fine run without its leading error, and that error, with its sign.

    Raises:
        ValueError: states of different shapes, an order below 1, or a ratio that is not above 1.

    Source: Hairer, Norsett, Wanner 1993, section II.4.
    """
    coarse, fine = arguments.state("coarse", coarse), arguments.state("fine", fine)
    if coarse.shape != fine.shape:
        raise ValueError(f"coarse has shape {tuple(coarse.shape)} and fine {tuple(fine.shape)}; they are one state")
    order, ratio = arguments.whole("order", order, high=20), arguments.number("ratio", ratio, above=1, high=1e6)
    error = (coarse.double() - fine.double()) / (ratio**order - 1)
    return fine.double() - error, error


def ladder(grid: Callable[..., Tensor], process: Any, **ends: float | None) -> Callable[[int], Tensor]:
    """A grid as the function ``steps -> times`` that :func:`convergence` takes."""
    return lambda steps: grid(process, steps, **ends)


def kind_of(times: Tensor, process: Any) -> str:
    """What a grid is uniform in, as claims of order name it: "uniform" (in t), "quadratic" (in its root), "sigma" (in
    sigma/alpha), "log_snr", or "rough": steps in log-SNR by turns longer and shorter, by a factor above 1.2.

    Every other grid counts as "log_snr": on smooth grids the orders of nearly all methods here are the same.
    """
    for kind, variable in (("uniform", times), ("quadratic", times.sqrt()), ("sigma", process.rho(times))):
        steps = variable.diff()
        if (steps - steps.mean()).abs().max() <= 1e-6 * steps.mean().abs():
            return kind
    level = process.rho(times[: -1 if times[-1] == 0 else None]).log()
    ratios = (level[1:-1] - level[2:]).log() - (level[:-2] - level[1:-1]).log()
    if len(ratios) > 1 and bool((ratios.abs() > log(1.2)).all() & (ratios[1:] * ratios[:-1] < 0).all()):
        return "rough"
    return "log_snr"


def name_of(solver: Solver, **options: Any) -> str:
    """The name of a solver and its options, for tables and legends."""
    return ", ".join([getattr(solver, "__name__", repr(solver)), *(f"{k}={v}" for k, v in options.items())])
