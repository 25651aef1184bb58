"""Measuring: reference solutions, errors over halved steps, local slopes, observed orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from diffnum.errors import DiffnumError
from diffnum.grids import check_times
from diffnum.problem import Problem
from diffnum.runner import Solver, find, solve

FLOOR = 1e-11  # below this an error may be rounding, in the solver or in the reference, and says nothing about order


def reference(
    problem: Problem, u: Tensor, times: Tensor | list[float], rtol: float = 1e-12, trajectory: bool = False
) -> Tensor:
    r"""The probability-flow ODE solved by an adaptive Runge-Kutta method of order 8 (DOP853), in float64.

    It integrates :math:`dy/d\rho = \epsilon` with :math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha`, which is not
    singular where the raw ODE is. Where the grid ends without noise the last stretch, from :math:`\rho = 10^{-9}`,
    is one straight line.

    Args:
        problem: process and denoiser; its count of evaluations is left alone.
        u: start state at ``times[0]``, ``(batch, *event)``.
        times: decreasing times.
        rtol: relative tolerance per step; the absolute one is a tenth of it.
        trajectory: return the states at all times, stacked on a new first axis.

    Returns:
        float64 state at the last time, or at all times.

    Raises:
        DiffnumError: the integrator gave up.
    """
    twin, process = Problem(problem.process, problem.denoiser), problem.process
    problem.check(u)
    times = check_times(times, process)
    ratios = process.rho(times).numpy()
    ends = np.maximum(ratios, 1e-9)
    start = u.double() / process.levels(times[0].item())[0]

    def field_of(rho: float, y: np.ndarray) -> np.ndarray:
        t = process.time_of_rho(float(rho))
        state = torch.from_numpy(y).reshape(start.shape).to(u.device) * process.levels(t)[0]
        return twin.eps(state, t).double().cpu().numpy().ravel()

    with torch.no_grad():
        y0 = start.cpu().numpy().ravel()
        run = solve_ivp(
            field_of, (ends[0], ends[-1]), y0, method="DOP853", t_eval=ends, rtol=max(rtol, 3e-14), atol=rtol / 10
        )
        if not run.success:
            raise DiffnumError(f"the reference solution stopped early ({run.message}); use a larger rtol than {rtol:g}")
        states = torch.from_numpy(run.y.T.copy()).reshape(len(times), *start.shape).to(u.device)
        if ratios[-1] < ends[-1]:
            slope = torch.from_numpy(field_of(ends[-1], run.y[:, -1])).reshape(start.shape).to(u.device)
            states[-1] += (ratios[-1] - ends[-1]) * slope
    alpha = process.alpha(times).to(u.device).reshape(-1, *(1,) * start.ndim)
    return alpha * states if trajectory else alpha[-1] * states[-1]


def rms(x: Tensor) -> float:
    """Root mean square of all entries."""
    return x.double().square().mean().sqrt().item()


def local_slopes(steps: Sequence[int], errors: Sequence[float]) -> list[float]:
    r"""Observed orders :math:`\log(e_k/e_{k+1}) / \log(n_{k+1}/n_k)` between neighbours; NaN where an error is 0."""
    pairs = zip(pairwise(steps), pairwise(errors), strict=True)
    return [log(a / b) / log(m / n) if a > 0 and b > 0 else float("nan") for (n, m), (a, b) in pairs]


@dataclass(frozen=True)
class Convergence:
    """Errors of one solver over several step counts.

    Attributes:
        name: the solver and its options, for legends.
        steps: step counts, increasing.
        nfe: evaluations counted at each.
        errors: root mean square error against the reference at each.
        by_start: error of each start state, ``(len(steps), batch)``; ``median`` is its median over starts.
        claim: the order that the solver claims for this grid and these options, or None.
    """

    name: str
    steps: tuple[int, ...]
    nfe: tuple[int, ...]
    errors: tuple[float, ...]
    by_start: Tensor = field(repr=False, compare=False)
    claim: int | None = None

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
        """Error against evaluations, log-log; see :func:`diffnum.plots.convergence`."""
        from diffnum import plots

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
        ValueError: step counts that do not increase, or grids whose ends differ.
    """
    steps = tuple(steps)
    if not steps or any(n < 1 for n in steps) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"steps={steps} must be positive and increase")
    grids = [check_times(grid(n), problem.process) for n in steps]
    if any(g[0] != grids[0][0] or g[-1] != grids[0][-1] for g in grids):
        raise ValueError("grid gives different ends for different steps; errors are comparable only at a common end")
    if truth is None:
        truth = reference(problem, u, grids[0][[0, -1]], rtol=1e-13)
    if truth.shape != u.shape:
        raise ValueError(f"truth has shape {tuple(truth.shape)}, the states have {tuple(u.shape)}")
    runs = [solve(problem, solver, u, times, **options) for times in grids]
    wrong = torch.stack([(run.u.double() - truth).flatten(1).square().mean(1).sqrt() for run in runs])
    function = find(solver)
    name = ", ".join([getattr(function, "__name__", repr(function)), *(f"{k}={v}" for k, v in options.items())])
    claim = getattr(function, "order", None)
    claimed = claim(grid=kind_of(grids[-1], problem.process), process=problem.process, **options) if claim else None
    errors = tuple(rms(row) for row in wrong)
    return Convergence(name, steps, tuple(run.nfe for run in runs), errors, wrong.cpu(), claimed)


def ladder(grid: Callable[..., Tensor], process: Any, **ends: float) -> Callable[[int], Tensor]:
    """A grid as the function ``steps -> times`` that :func:`convergence` takes."""
    return lambda steps: grid(process, steps, **ends)


def kind_of(times: Tensor, process: Any) -> str:
    """What a grid is uniform in, as claims of order name it: "uniform" (in t), "sigma" (in sigma/alpha) or "log_snr".

    Every other grid counts as "log_snr": on smooth grids the orders of all methods here are the same.
    """
    for kind, variable in (("uniform", times), ("sigma", process.rho(times))):
        steps = variable.diff()
        if (steps - steps.mean()).abs().max() <= 1e-6 * steps.mean().abs():
            return kind
    return "log_snr"
