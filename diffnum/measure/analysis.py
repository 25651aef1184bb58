"""Measuring: reference solutions, errors over halved steps, local slopes, observed orders, error against cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from itertools import pairwise
from math import isfinite, log, prod
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from diffnum.coefficients import act
from diffnum.denoisers import Gaussian
from diffnum.errors import DiffnumError
from diffnum.grids import check_times
from diffnum.noise import Brownian, Seeded
from diffnum.problem import Problem
from diffnum.runner import Solution, Solver, draws_noise, find, solve

FLOOR = 1e-11  # below this an error may be rounding, in the solver or in the reference, and says nothing about order


def reference(
    problem: Problem, u: Tensor, times: Tensor | list[float], rtol: float = 1e-12, trajectory: bool = False
) -> Tensor:
    r"""The probability-flow ODE solved by an adaptive Runge-Kutta method of order 8 (DOP853), in float64.

    On VP and VE it integrates :math:`dy/d\rho = \epsilon` with :math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha`,
    which is not singular where the raw ODE is. Where the grid ends without noise the last stretch, from
    :math:`\rho = 10^{-9}`, is one straight line. On other processes the variable is :math:`\sqrt t`.

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
    isotropic = process.family == "isotropic"
    exact = (process.rho(times) if isotropic else times.sqrt()).numpy()
    ends = np.maximum(exact, 1e-9) if process.singular(times[-1].item()) else exact
    scale = process.alpha(times) if isotropic else torch.ones_like(times)

    def field_of(at: float, y: np.ndarray) -> np.ndarray:
        t = process.time_of_rho(float(at)) if isotropic else float(at) ** 2
        state = torch.from_numpy(y).reshape(u.shape).to(u.device)
        if isotropic:
            return twin.eps(state * process.levels(t)[0], t).double().cpu().numpy().ravel()
        return 2 * at * twin.velocity(state, t).double().cpu().numpy().ravel()

    with torch.no_grad():
        y0 = (u.double().cpu() / scale[0]).numpy().ravel()
        run = solve_ivp(
            field_of, (ends[0], ends[-1]), y0, method="DOP853", t_eval=ends, rtol=max(rtol, 3e-14), atol=rtol / 10
        )
        if not run.success:
            raise DiffnumError(f"the reference solution stopped early ({run.message}); use a larger rtol than {rtol:g}")
        states = run.y.T.copy()
        states[-1] += (exact[-1] - ends[-1]) * field_of(ends[-1], states[-1]) if exact[-1] < ends[-1] else 0.0
    states = scale.reshape(-1, *(1,) * u.ndim) * torch.from_numpy(states).reshape(len(times), *u.shape)
    return (states if trajectory else states[-1]).to(u.device)


def rms(x: Tensor) -> float:
    """Root mean square of all entries."""
    return x.double().square().mean().sqrt().item()


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
        """Error against evaluations, log-log; see :func:`diffnum.measure.plots.convergence`."""
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
        ValueError: step counts that do not increase, or grids whose ends differ.
    """
    steps = tuple(steps)
    if not steps or any(n < 1 for n in steps) or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"steps={steps} must be positive and increase")
    grids = _grids(grid, steps, problem.process)
    if truth is None:
        truth = reference(problem, u, grids[0][[0, -1]], rtol=1e-13)
    if truth.shape != u.shape:
        raise ValueError(f"truth has shape {tuple(truth.shape)}, the states have {tuple(u.shape)}")
    runs = [solve(problem, solver, u, times, **options) for times in grids]
    function = find(solver)
    claimed = claimed_order(function, problem.process, grids[-1], **options)
    return _compared(name_of(function, **options), steps, runs, truth, claimed)


def _compared(
    name: str, steps: tuple[int, ...], runs: Sequence[Solution], truth: Tensor, claim: int | None
) -> Convergence:
    """Runs with more and more steps against the one state at which they should end."""
    wrong = torch.stack([(run.u.double() - truth).flatten(1).square().mean(1).sqrt() for run in runs])
    errors = tuple(rms(row) for row in wrong)
    return Convergence(name, steps, tuple(run.nfe for run in runs), errors, wrong.cpu(), claim)


def claimed_order(solver: Solver, process: Any, times: Tensor, what: str = "order", **options: Any) -> int | None:
    """The order a solver claims on a grid, None where it claims none.

    ``what`` names the claim: "order" (of a stochastic solver the weak one) or "strong_order".
    """
    claim = getattr(solver, what, None)
    if claim is None:
        return None
    if "start" in signature(claim).parameters:
        options["start"] = times[0].item()
    return claim(grid=kind_of(times, process), process=process, **options)


def _grids(grid: Callable[[int], Tensor], steps: Sequence[int], process: Any) -> list[Tensor]:
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
    if coarse.shape != fine.shape:
        raise ValueError(f"coarse has shape {tuple(coarse.shape)} and fine {tuple(fine.shape)}; they are one state")
    if order < 1 or not 1 < ratio < float("inf"):
        raise ValueError(f"order={order} must be at least 1, and ratio={ratio} above 1")
    error = (coarse.double() - fine.double()) / (ratio**order - 1)
    return fine.double() - error, error


def ladder(grid: Callable[..., Tensor], process: Any, **ends: float) -> Callable[[int], Tensor]:
    """A grid as the function ``steps -> times`` that :func:`convergence` takes."""
    return lambda steps: grid(process, steps, **ends)


def kind_of(times: Tensor, process: Any) -> str:
    """What a grid is uniform in, as claims of order name it: "uniform" (in t), "quadratic" (in its root), "sigma" (in
    sigma/alpha) or "log_snr".

    Every other grid counts as "log_snr": on smooth grids the orders of nearly all methods here are the same.
    """
    for kind, variable in (("uniform", times), ("quadratic", times.sqrt()), ("sigma", process.rho(times))):
        steps = variable.diff()
        if (steps - steps.mean()).abs().max() <= 1e-6 * steps.mean().abs():
            return kind
    return "log_snr"


# ------------------------------------------------------------------------------------------------------ weak order


def law(problem: Problem, solver: str | Solver, times: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a solver returns on Gaussian data, without Monte Carlo.

    Gaussian data make every field affine in the state, so one run maps start state and noise to the final state by an
    affine map. It is read off by running the solver itself on a batch of unit impulses: one row for the start at 0,
    one for each coordinate of the start, one for each coordinate of each draw of noise. The start has the exact law.

    Args:
        problem: process, and a ``Gaussian`` denoiser.
        solver: name or generator function, deterministic or stochastic.
        times: decreasing times.
        **options: options of the solver.

    Returns:
        float64 mean ``(d,)`` and covariance ``(d, d)``, d the number of numbers in one state.

    Raises:
        TypeError: the denoiser is not a ``Gaussian``.
    """
    times = check_times(times, problem.process)
    mean, cov = exact_law(problem, times[0].item())
    shape, d = problem.process.state_shape((1, *problem.denoiser.shape), data=True), len(mean)
    draws = _Impulses(0, d)
    solve(problem, solver, torch.zeros(shape, dtype=torch.float64), times, **_with(solver, draws), **options)
    count = draws.count
    start = torch.zeros(1 + d + count * d, d, dtype=torch.float64)
    start[1 : 1 + d] = torch.eye(d)
    noise = _with(solver, _Impulses(1 + d, d))
    final = solve(problem, solver, start.reshape(-1, *shape[1:]), times, **noise, **options).u.reshape(len(start), d)
    response = (final[1:] - final[0]).mT
    A, B = response[:, :d], response[:, d:]
    return final[0] + A @ mean, A @ cov @ A.mT + B @ B.mT


def exact_law(problem: Problem, t: float) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of the noisy data at time t, for a ``Gaussian`` denoiser."""
    if not isinstance(problem.denoiser, Gaussian):
        raise TypeError(
            f"denoiser={problem.denoiser!r}: the law is known for Gaussian data, use dn.Gaussian(mean, cov)"
        )
    process, event = problem.process, problem.denoiser.shape
    mean, cov = problem.denoiser.moments()
    state = process.state_shape((1, *event), data=True)[1:]
    inputs, units = torch.eye(len(mean), dtype=torch.float64), torch.eye(prod(state), dtype=torch.float64)
    M = act(process.mean(t), process.coordinates(inputs.reshape(-1, *event))).reshape(len(inputs), -1).mT
    L = act(process.cholesky(t), units.reshape(-1, *state)).reshape(len(units), -1).mT
    return M @ mean, M @ cov @ M.mT + L @ L.mT


def weak_convergence(
    problem: Problem,
    solver: str | Solver,
    grid: Callable[[int], Tensor],
    steps: Sequence[int] = (10, 20, 40, 80, 160, 320),
    **options: Any,
) -> Convergence:
    """Run a solver with more and more steps on Gaussian data and measure the error of its law at the end.

    Every reverse-time equation of the process has the same marginals, so the exact law at the end is known, and the
    law of the solver is computed by :func:`law`, exactly. The error is the largest of all entries of mean and
    covariance.

    Args:
        problem: process, and a ``Gaussian`` denoiser.
        solver: name or generator function; the claim that is recorded is its weak order, for an ODE method its order.
        grid: ``steps -> times``; all must share both ends.
        steps: increasing step counts.
        **options: options of the solver.

    Returns:
        errors of mean and covariance in the columns of ``by_start``, and the larger of both in ``errors``.
    """
    steps, function = tuple(steps), find(solver)
    grids = _grids(grid, steps, problem.process)
    mean, cov = exact_law(problem, grids[0][-1].item())
    before, wrong, nfe = problem.nfe, [], []
    for times in grids:
        m, C = law(problem, function, times, **options)
        wrong.append(torch.stack([(m - mean).abs().max(), (C - cov).abs().max()]))
        nfe.append((problem.nfe - before) // 2)  # the solver runs twice: once to count the draws
        before = problem.nfe
    by_start = torch.stack(wrong)
    claimed = claimed_order(function, problem.process, grids[-1], **options)
    errors = tuple(by_start.amax(1).tolist())
    return Convergence(name_of(function, **options), steps, tuple(nfe), errors, by_start, claimed)


def strong_convergence(
    problem: Problem,
    solver: str | Solver,
    u: Tensor,
    grid: Callable[[int], Tensor],
    steps: Sequence[int] = (16, 32, 64, 128, 256),
    *,
    finest: int | None = None,
    seed: int = 0,
    truth: dict[str, Any] | None = None,
    **options: Any,
) -> Convergence:
    """Run a stochastic solver with more and more steps on the same Brownian paths and measure its error path by path.

    The paths live on the finest grid; a coarse step sees the sum of its increments, with the weights of the solver's
    own variance ``clock`` (:class:`diffnum.noise.Brownian`). The reference is a run on the finest grid.

    Args:
        problem: a problem on VP or VE.
        solver: name or generator function with a ``clock``.
        u: start states; each row is one path.
        grid: ``steps -> times``; the times of each grid must be among those of the finest.
        steps: increasing step counts that divide ``finest``.
        finest: steps of the reference, by default 16 times the last of ``steps``.
        seed: of the Brownian paths.
        truth: options of the reference run, by default ``options``.
        **options: options of the solver.

    Returns:
        root mean square errors over paths; ``claim`` is the strong order.

    Raises:
        ValueError: the solver has no clock, or grids are not nested.
    """
    steps, function = tuple(steps), find(solver)
    clock = getattr(function, "clock", None)
    if clock is None:
        raise ValueError(f"{name_of(function)} has no clock, so its noise cannot be coupled; decorate it with one")
    grids = _grids(grid, (*steps, finest or 16 * steps[-1]), problem.process)
    known = {k: v for k, v in options.items() if k in signature(clock).parameters}
    path = Brownian(grids[-1], clock(problem.process, **known), seed)
    last = solve(problem, function, u, grids[-1], noise=path.on(grids[-1]), **(options if truth is None else truth)).u
    runs = [solve(problem, function, u, times, noise=path.on(times), **options) for times in grids[:-1]]
    claimed = claimed_order(function, problem.process, grids[-1], "strong_order", **options)
    return _compared(name_of(function, **options), steps, runs, last.double(), claimed)


class _Impulses:
    """Noise that is 0 but for one coordinate of one draw in each of the rows from ``first`` on."""

    def __init__(self, first: int, size: int) -> None:
        self.first, self.size, self.count = first, size, 0

    def __call__(self, u: Tensor) -> Tensor:
        z = torch.zeros_like(u)
        rows = z.reshape(len(u), -1)[self.first + self.count * self.size :][: self.size]
        rows.diagonal().fill_(1.0)
        self.count += 1
        return z


def _with(solver: str | Solver, noise: Any) -> dict[str, Any]:
    return {"noise": noise} if draws_noise(find(solver)) else {}


# -------------------------------------------------------------------------------------------------- error and cost


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
    """
    function = find(solver)
    claim = getattr(function, "nfe", None)
    if claim is None:
        raise ValueError(f"{name_of(function)} claims no evaluations; decorate it with diffnum.method")
    if end is not None and "to_zero" in signature(claim).parameters:
        options["to_zero"] = process.singular(end)
    return claim(steps, **options)


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
        """Error against evaluations, log-log; see :func:`diffnum.measure.plots.work_precision`."""
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
    columns = tuple(nfe if steps is None else steps)
    if not columns or columns[0] < 1 or any(a >= b for a, b in pairwise(columns)):
        raise ValueError(f"{'nfe' if steps is None else 'steps'}={columns} must be positive and increase")
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
    times = dict(zip(used, _grids(grid, used, problem.process), strict=True))
    problem.check(u)
    for solver, options, kept in plan:  # calling a method checks everything and evaluates nothing
        function = find(solver)
        noise = _with(function, Seeded(0))
        for n in kept:
            function(problem, u, times[n].tolist(), **noise, **options)
    if truth is None:
        truth = reference(problem, u, times[used[0]][[0, -1]], rtol=1e-13)
    elif callable(truth):
        truth = truth()
    results = [
        convergence(problem, solver, u, times.__getitem__, kept, truth=truth, **options)
        for solver, options, kept in plan
    ]
    return WorkPrecision(tuple(results), columns, "nfe" if steps is None else "steps")


def name_of(solver: Solver, **options: Any) -> str:
    """The name of a solver and its options, for tables and legends."""
    return ", ".join([getattr(solver, "__name__", repr(solver)), *(f"{k}={v}" for k, v in options.items())])
