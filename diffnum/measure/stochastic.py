"""Weak order from the law of a run, without Monte Carlo, and strong order on common Brownian paths."""

from collections.abc import Callable, Sequence
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.coefficients import act
from diffnum.denoisers import Gaussian
from diffnum.grids import check_times
from diffnum.measure.convergence import Convergence, claimed_order, compared, levels_of, name_of, same_ends
from diffnum.noise import Brownian
from diffnum.problem import Problem, given_problem
from diffnum.runner import Solver, draws_noise
from diffnum.solvers import find, solve


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
    times = check_times(times, given_problem(problem).process)
    mean, cov = exact_law(problem, times[0].item())
    shape, d = problem.process.state_shape((1, *problem.denoiser.shape), data=True), len(mean)
    draws = _Impulses(0, d)
    zero = torch.zeros(shape, dtype=torch.float64, device="cpu")
    solve(problem, solver, zero, times, **_with(solver, draws), **options)
    count = draws.count
    start = zero.new_zeros(1 + d + count * d, d)
    start[1 : 1 + d].fill_diagonal_(1.0)
    noise = _with(solver, _Impulses(1 + d, d))
    final = solve(problem, solver, start.reshape(-1, *shape[1:]), times, **noise, **options).u.reshape(len(start), d)
    response = (final[1:] - final[0]).mT
    A, B = response[:, :d], response[:, d:]
    return final[0] + A @ mean, A @ cov @ A.mT + B @ B.mT


def exact_law(problem: Problem, t: float) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of the noisy data at time t, for a ``Gaussian`` denoiser."""
    if not isinstance(given_problem(problem).denoiser, Gaussian):
        raise TypeError(
            f"denoiser={arguments.shown(problem.denoiser)}: the law is known for Gaussian data alone, use dn.Gaussian"
        )
    process, event = problem.process, problem.denoiser.shape
    mean, cov = problem.denoiser.moments()
    state = process.state_shape((1, *event), data=True)[1:]
    inputs, units = (torch.eye(n, dtype=torch.float64, device="cpu") for n in (len(mean), prod(state)))
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
    steps, function = arguments.counts("steps", steps), find(solver)
    grids = same_ends(grid, steps, given_problem(problem).process)
    mean, cov = exact_law(problem, grids[0][-1].item())
    wrong, nfe = [], []
    for times in grids:
        run = problem.run(mean)  # counts by itself, whatever other threads do with the problem
        m, C = law(run, function, times, **options)
        wrong.append(torch.stack([(m - mean).abs().max(), (C - cov).abs().max()]))
        nfe.append(run.nfe // 2)  # the solver runs twice: once to count the draws
    by_start = torch.stack(wrong)
    claimed = claimed_order(function, problem.process, grids[-1], **options)
    errors = tuple(by_start.amax(1).tolist())
    ends = levels_of(grids[-1], problem.process)
    return Convergence(name_of(function, **options), steps, tuple(nfe), errors, by_start, claimed, ends)


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
    steps, function = arguments.counts("steps", steps), find(solver)
    finest = 16 * steps[-1] if finest is None else arguments.whole("finest", finest)
    given_problem(problem).check(u)
    clock = getattr(function, "clock", None)
    if clock is None:
        raise ValueError(f"{name_of(function)} has no clock, so its noise cannot be coupled; decorate it with one")
    grids = same_ends(grid, (*steps, finest), problem.process)
    known = {k: v for k, v in options.items() if k in signature(clock).parameters}
    path = Brownian(grids[-1], clock(problem.process, **known), seed)
    last = solve(problem, function, u, grids[-1], noise=path.on(grids[-1]), **(options if truth is None else truth)).u
    runs = [solve(problem, function, u, times, noise=path.on(times), **options) for times in grids[:-1]]
    claimed = claimed_order(function, problem.process, grids[-1], "strong_order", **options)
    ends = levels_of(grids[-1], problem.process)
    return compared(name_of(function, **options), steps, runs, last.double(), claimed, ends)


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
