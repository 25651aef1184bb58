"""Checks of a solver: the same functions for the library's tests, for chapters and for a reader's own method.

Each raises ``AssertionError`` with the table of what was measured, and returns what it measured.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.coefficients import act
from diffnum.denoisers import PointMass
from diffnum.grids import check_times
from diffnum.measure.convergence import Convergence, convergence
from diffnum.measure.work import evaluations
from diffnum.noise import Seeded
from diffnum.problem import Problem
from diffnum.runner import Solver, draws_noise
from diffnum.solvers import find, solve


def assert_order(result: Convergence, order: int | None = None, within: float | None = None) -> float:
    """The observed order in the tail is the claimed one.

    The last two slopes above rounding must lie in [p - 0.15, p + 0.3] for p up to 2 and in [p - 0.3, p + 0.4] above,
    or the last one within ``within`` of p. Coarse grids are not judged: there a method can look better than it is.

    Args:
        result: from :func:`diffnum.measure.analysis.convergence`.
        order: the order p; by default the one that the solver claims.
        within: a tighter, symmetric band for the last slope.

    Returns:
        the observed order.
    """
    p = result.claim if order is None else order
    if p is None:
        raise ValueError(f"{result.name} claims no order; give order=")
    low, high = (p - 0.15, p + 0.3) if p <= 2 else (p - 0.3, p + 0.4)
    judged = result.tail[-2:]
    if within is not None:
        low, high, judged = p - within, p + within, result.tail[-1:]
    if not judged or not all(low <= slope <= high for slope in judged):
        raise AssertionError(
            f"order {p} is claimed, slopes {_two(judged)} are not in [{low:.2f}, {high:.2f}]\n{result.table()}"
        )
    return result.order


def assert_nfe(problem: Problem, solver: str | Solver, u: Tensor, times: Tensor, **options: Any) -> int:
    """The evaluations counted by the problem are those that the solver claims."""
    claimed = evaluations(problem.process, solver, len(times) - 1, float(times[-1]), **options)
    counted = solve(problem, solver, u, times, **options).nfe
    if counted != claimed:
        raise AssertionError(f"{find(solver).__name__}: {counted} evaluations counted, {claimed} claimed")
    return counted


def assert_close(a: Tensor, b: Tensor, tolerance: float, what: str = "states") -> float:
    """The largest difference is at most the tolerance (max norm, so errors cannot cancel)."""
    a, b = arguments.dense("a", a), arguments.dense("b", b)
    if a.shape != b.shape:
        raise AssertionError(f"{what} have shapes {tuple(a.shape)} and {tuple(b.shape)}")
    difference = (a - b).abs().max().item()
    if not difference <= tolerance:
        raise AssertionError(f"{what} differ by {difference:.3g}, more than {tolerance:g}")
    return difference


def assert_exact(
    process: Any,
    solver: str | Solver,
    times: Tensor,
    tolerance: float = 1e-12,
    event: Sequence[int] = (4,),
    **options: Any,
) -> float:
    """The solver transports a point mass exactly along the given grid: its noise prediction is constant there.

    Exactly up to rounding, which a step that removes nearly all noise magnifies by the ratio of the noise levels.
    """
    x0 = torch.linspace(-1, 1, prod(event), dtype=torch.float64, device="cpu").reshape(1, *event)
    noise = Seeded(1).normal(process.state_shape((3, *event), data=True))
    first, last = (
        act(process.mean(t), process.coordinates(x0)) + act(process.rotation_root(t), noise)
        for t in (times[0].item(), times[-1].item())
    )
    end = solve(Problem(process, PointMass(x0[0])), solver, first, times, **options).u
    return assert_close(end, last, tolerance, f"{find(solver).__name__} on a point mass: exact and computed states")


def assert_reduces_to(
    problem: Problem, solver: str | Solver, other: str | Solver, u: Tensor, times: Tensor, tolerance: float = 1e-12,
    options: dict[str, Any] | None = None, other_options: dict[str, Any] | None = None,
) -> float:  # fmt: skip
    """Two solvers, each with its options, give the same final state."""
    a = solve(problem, solver, u, times, **(options or {})).u
    b = solve(problem, other, u, times, **(other_options or {})).u
    return assert_close(a, b, tolerance, f"{find(solver).__name__} and {find(other).__name__}")


def assert_pure(problem: Problem, solver: str | Solver, u: Tensor, times: Tensor, **options: Any) -> None:
    """The solver writes into nothing it received or yielded, keeps dtype and device, and repeats itself exactly."""
    start, seen, grid = u.clone(), [], check_times(times, problem.process).tolist()
    noise = {"noise": Seeded(0)} if draws_noise(find(solver)) else {}
    with torch.no_grad():
        for state in find(solver)(problem, u, grid, **noise, **options):
            seen.append((state, state.clone()))
    if not torch.equal(u, start):
        raise AssertionError("the solver wrote into its start state")
    if any(not torch.equal(state, copy) for state, copy in seen):
        raise AssertionError("the solver wrote into a state that it had yielded")
    if len(seen) != len(times) - 1:
        raise AssertionError(f"{len(times) - 1} steps were asked for and {len(seen)} states yielded")
    if (seen[-1][0].dtype, seen[-1][0].device) != (u.dtype, u.device):
        raise AssertionError(f"the state began as {u.dtype} on {u.device} and became {seen[-1][0].dtype}")
    if not torch.equal(solve(problem, solver, u, times, **options).u, seen[-1][0]):
        raise AssertionError("two runs from one start differ")


def assert_precision(
    problem: Problem, solver: str | Solver, u: Tensor, times: Tensor, tolerance: float = 1e-9, **options: Any
) -> float:
    r"""The solver computes in float64 when its state is float64: no step rounds the state to fewer digits on the way.

    .. math:: |\Phi(u + \delta) - 2 \Phi(u) + \Phi(u - \delta)| \le \text{tolerance}, \qquad \delta = 10^{-6}

    for the map :math:`\Phi` from start to end. A smooth map leaves about :math:`\delta^2 = 10^{-12}`, one that passes
    through float32 about :math:`10^{-7}`. Order and exactness checks on coarse grids miss such a cast. They alone see
    *coefficients* of low precision, which leave the map smooth.

    Returns:
        the largest second difference.
    """
    if u.dtype != torch.float64:
        raise ValueError(f"u is {u.dtype}; only a float64 state shows whether precision is lost")
    ends = [solve(problem, solver, u + shift, times, **options).u for shift in (1e-6, 0.0, -1e-6)]
    name = f"{find(solver).__name__}: mean of runs from u + 1e-6 and u - 1e-6, and the run from u,"
    return 2 * assert_close((ends[0] + ends[2]) / 2, ends[1], tolerance / 2, name)


def assert_catches(check: Callable[[], Any]) -> str:
    """The check fails, as it must on a solver broken on purpose; returns what it said."""
    try:
        check()
    except AssertionError as error:
        return str(error)
    raise RuntimeError("the check passed although the solver is broken")


def measure(
    problem: Problem, solver: str | Solver, u: Tensor, grid: Callable[[int], Tensor],
    steps: Sequence[int] = (160, 320, 640), within: float | None = None, **options: Any,
) -> Convergence:  # fmt: skip
    """Measure a solver's convergence and assert the order it claims; see :func:`assert_order`."""
    result = convergence(problem, solver, u, grid, steps, **options)
    assert_order(result, within=within)
    return result


def _two(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.2f}" for v in values) or "(none above rounding)"
