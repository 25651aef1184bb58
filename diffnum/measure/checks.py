"""Checks of a solver: the same functions for the library's tests, for chapters and for a reader's own method.

Each raises ``AssertionError`` with the table of what was measured, and returns what it measured. :func:`points` turns
several of them into points for a test cell.

Two computations of one number differ by rounding, on every processor by other digits. What a check allows follows from
its size: unit roundoff, times :data:`MARGIN`, times what the computation magnifies it by (:func:`rounding` of a run).
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.coefficients import act
from diffnum.denoisers import PointMass
from diffnum.errors import NotAsClaimed, NotCaught
from diffnum.grids import check_times
from diffnum.measure.convergence import Convergence, convergence, local_slopes
from diffnum.measure.standard import RANGES, standard_grid
from diffnum.measure.work import evaluations
from diffnum.noise import Seeded
from diffnum.problem import Problem
from diffnum.runner import Solver, draws_noise
from diffnum.solvers import find, solve

#: Roundings that may add up in one number. Behind a coefficient stand about a hundred operations (a quadrature of 24
#: points, an exponential), behind a noise prediction as many, and every kernel sums them in another order.
MARGIN = 2**8

#: The relative difference that rounding explains in float64 where nothing magnifies it, 2.8e-14.
ROUNDED = MARGIN * 2.0**-53


def roundoff(dtype: torch.dtype = torch.float64) -> float:
    """Unit roundoff of a dtype: half its distance from 1 to the next number, 2**-53 for float64."""
    return torch.finfo(dtype).eps / 2


def rounding(process: Any, times: Tensor, dtype: torch.dtype = torch.float64, stages: int = 1) -> float:
    r"""What rounding may do to the final state of a run along a grid, on data of size 1.

    .. math:: u \sum_i \Bigl(2^8 + (2^8 + 16 \kappa_i) \max |M_i| \, |\Psi(t_{i+1}, t_i)| \, |R_{t_i}|
              \, \Bigl(\frac{\rho_i}{\rho_{i+1}}\Bigr)^{m - 1}\Bigr)

    Step i adds numbers of the size of the state, data and noise, and what their rounding loses is brought to the end
    by :math:`M_i`: the transition, if later noise predictions do not answer to it, or :math:`R_{t_n} R_{t_{i+1}}^{-1}`
    if they do; the larger one counts. On VP and VE the term is :math:`\alpha_n \rho_i`: where a step removes nearly all
    noise, what is left carries the rounding of what was there. A time is a rounded number too, some units where it is
    a node of a quadrature, and :math:`\kappa_i = d \log \rho / d \log t` is what a level makes of it: much where
    rho has a pole, as at the end of the cosine schedule. Each further stage of a step divides by the less noise at
    which it evaluates, and multiplies by the length of the step.

    Args:
        process, times: the process and the grid.
        dtype: of the state.
        stages: m, evaluations of the method within one step.
    """
    times = check_times(times, process)
    here, there, R = times[:-1], times[1:], process.rotation_root(times).abs()
    added = process.transition(there, here).abs() @ R[:-1]
    lost = (process.transition(times[-1], there).abs() @ added).flatten(1).amax(1)
    back = R[-1] @ torch.linalg.inv(process.rotation_root(there[:-1])).abs() @ added[:-1]
    lost[:-1] = torch.maximum(lost[:-1], back.flatten(1).amax(1))
    steep = (process.rho(here) / process.rho(here * (1 - 1e-6))).log() / 1e-6
    levels = process.rho(times)
    ratios = torch.where(levels[1:] > 0, levels[:-1] / levels[1:], 1.0)  # nothing is evaluated where noise is 0
    parts = MARGIN + (MARGIN + 16 * steep) * lost * ratios ** (stages - 1)
    return roundoff(dtype) * parts.sum().item()


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
        said = f"order {p} is claimed, slopes {_two(judged)} are not in [{low:.2f}, {high:.2f}]"
        if len(result.steps) == 1:
            said = f"order {p} is claimed, and one number of steps, {result.steps[0]}, shows no slope: give two or more"
        raise AssertionError("\n".join([said, *_few(result, low, high, len(judged)), *_beyond(result), result.table()]))
    return result.order


def assert_nfe(problem: Problem, solver: str | Solver, u: Tensor, times: Tensor, **options: Any) -> int:
    """The evaluations counted by the problem are those that the solver claims; an adaptive one claims none."""
    adaptive = getattr(find(solver), "nfe", 0) is None
    claimed = None if adaptive else evaluations(problem.process, solver, len(times) - 1, float(times[-1]), **options)
    counted = solve(problem, solver, u, times, **options).nfe
    if not adaptive and counted != claimed:
        raise AssertionError(f"{find(solver).__name__}: {counted} evaluations counted, {claimed} claimed")
    return counted


def assert_close(
    a: Tensor, b: Tensor, tolerance: float | None = None, what: str = "states", magnified: float = 1.0
) -> float:
    """The largest difference is at most the tolerance (max norm, so errors cannot cancel).

    Args:
        a, b: what to compare.
        tolerance: by default what rounding explains: :data:`MARGIN` units of roundoff (of the narrower dtype) of the
            largest entry of b, times ``magnified``.
        what: for the message.
        magnified: the factor by which the computation magnifies a relative error of its input.

    Returns:
        the largest difference.
    """
    units = [roundoff(x.dtype) for x in (a, b) if isinstance(x, Tensor) and x.is_floating_point()]
    a, b = arguments.dense("a", a), arguments.dense("b", b)
    if a.shape != b.shape:
        raise AssertionError(f"{what} have shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if tolerance is None:
        tolerance = MARGIN * max(units, default=roundoff(torch.float64)) * magnified * b.abs().max().item()
    difference = (a - b).abs().max().item()
    if not difference <= tolerance:
        raise AssertionError(f"{what} differ by {difference:.3g}, more than {tolerance:.3g}")
    return difference


def assert_exact(
    process: Any,
    solver: str | Solver,
    times: Tensor,
    tolerance: float | None = None,
    event: Sequence[int] = (4,),
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> float:
    """The solver transports a point mass exactly along the given grid: its noise prediction is constant there.

    Exactly up to a tolerance, by default the :func:`rounding` of the grid, in the dtype of the state and for as many
    stages as the solver claims evaluations in a run of one step (4, if it claims none).
    """
    if tolerance is None:
        tolerance = rounding(process, times, dtype, _stages(process, solver, times, options))
    x0 = torch.linspace(-1, 1, prod(event), dtype=torch.float64, device="cpu").reshape(1, *event)
    noise = Seeded(1).normal(process.state_shape((3, *event), data=True))
    first, last = (
        act(process.mean(t), process.coordinates(x0)) + act(process.rotation_root(t), noise)
        for t in (times[0].item(), times[-1].item())
    )
    end = solve(Problem(process, PointMass(x0[0])), solver, first.to(dtype), times, **options).u
    return assert_close(end, last, tolerance, f"{find(solver).__name__} on a point mass: exact and computed states")


def assert_reduces_to(
    problem: Problem, solver: str | Solver, other: str | Solver, u: Tensor, times: Tensor,
    tolerance: float | None = None,
    options: dict[str, Any] | None = None, other_options: dict[str, Any] | None = None,
) -> float:  # fmt: skip
    """Two solvers, each with its options, give the same final state, by default up to :func:`rounding`."""
    if tolerance is None:
        each = ((solver, options or {}), (other, other_options or {}))
        stages = max(_stages(problem.process, method, times, given) for method, given in each)
        tolerance = rounding(problem.process, times, u.dtype, stages)
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
    again = solve(problem, solver, u, times, noise=Seeded(0) if noise else None, **options).u
    if not torch.equal(again, seen[-1][0]):
        raise AssertionError("two runs from one start differ")


def assert_precision(
    problem: Problem, solver: str | Solver, u: Tensor, times: Tensor, tolerance: float | None = None, **options: Any
) -> float:
    r"""The solver computes in float64 when its state is float64: no step rounds the state to fewer digits on the way.

    .. math:: |\Phi(u + \delta) - 2 \Phi(u) + \Phi(u - \delta)| \le \text{tolerance}, \qquad \delta = 10^{-6}

    for the map :math:`\Phi` from start to end. A smooth map leaves about :math:`\delta^2 = 10^{-12}`, one that passes
    through float32 about :math:`10^{-7}`; by default a curvature of 100 is allowed, and the :func:`rounding` of four
    runs. Order and exactness checks on coarse grids miss such a cast. They alone see
    *coefficients* of low precision, which leave the map smooth.

    Returns:
        the largest second difference.
    """
    if u.dtype != torch.float64:
        raise ValueError(f"u is {u.dtype}; only a float64 state shows whether precision is lost")
    if tolerance is None:
        stages = _stages(problem.process, solver, times, options)
        tolerance = 100 * 1e-6**2 + 4 * rounding(problem.process, times, stages=stages)
    ends = [solve(problem, solver, u + shift, times, **options).u for shift in (1e-6, 0.0, -1e-6)]
    name = f"{find(solver).__name__}: mean of runs from u + 1e-6 and u - 1e-6, and the run from u,"
    return 2 * assert_close((ends[0] + ends[2]) / 2, ends[1], tolerance / 2, name)


def assert_catches(check: Callable[[], Any]) -> str:
    """The check fails, as it must on a solver broken on purpose; returns what it said."""
    try:
        check()
    except AssertionError as error:
        return str(error)
    raise NotCaught("the check passed although the solver is broken")


def points(most: float, *tests: Callable[[], Any]) -> float:
    """Points for a test cell of nbgrader: as the last line of the cell they are its partial credit.

    Each test is a function without arguments, such as ``lambda: assert_nfe(problem, solver, u, times)``, and is worth
    the same. One that raises earns nothing, and its first line is printed. Nothing is raised, and nothing goes to
    stderr, where a single line would cost all points.

    Args:
        most: points if every test passes.
        *tests: functions that return if all is well, and raise if not.

    Returns:
        the points earned.
    """
    if not tests:
        raise ValueError("tests is empty; give functions such as lambda: assert_order(result)")
    passed = 0
    for test in tests:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                test()
            passed += 1
        except Exception as error:  # whatever the solver under test does
            print(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    return most * passed / len(tests)


def measure(
    problem: Problem, solver: str | Solver, u: Tensor | None = None,
    grid: str | Callable[[int], Tensor] = "log_snr", steps: Sequence[int] = (160, 320, 640),
    within: float | None = None, **options: Any,
) -> Convergence:  # fmt: skip
    """Measure a solver's convergence and assert the order it claims; see :func:`assert_order`.

    Args:
        problem: process and denoiser.
        solver: name or generator function.
        u: start states, by default 8 prior draws in float64.
        grid: ``steps -> times``, or a kind of grid on its standard range, see
            :func:`diffnum.measure.analysis.standard_problem`; its name also gives the steps.
        steps: increasing step counts, where ``grid`` is a function.
        within: as in :func:`assert_order`.
        **options: options of the solver.
    """
    if isinstance(grid, str):
        grid, steps = standard_grid(grid, problem.process)
    if u is None:
        u = problem.prior((8, *problem.denoiser.shape), dtype=torch.float64, seed=0)
    result = convergence(problem, solver, u, grid, steps, **options)
    try:
        assert_order(result, within=within)
    except AssertionError as error:
        raise NotAsClaimed(str(error), result) from None
    return result


def _stages(process: Any, solver: str | Solver, times: Tensor, options: dict[str, Any]) -> int:
    """Evaluations within one step, as the solver claims; 4, those of classical Runge-Kutta, where it claims none."""
    claims = getattr(find(solver), "nfe", None) is not None
    chosen = {name: value for name, value in options.items() if name != "noise"}
    return evaluations(process, solver, 1, float(times[-1]), **chosen) if claims else 4


def _few(result: Convergence, low: float, high: float, last: int) -> list[str]:
    """A sentence where a few starts hide the order that the others show: an rms error belongs to the worst of them."""
    slopes = local_slopes(result.steps, result.median)[len(result.steps) - 1 - last :]
    if not slopes or not all(low <= slope <= high for slope in slopes):
        return []
    return [
        f"the median start shows {_two(slopes)}: a start that passes between two parts of the data comes to its tail "
        "later, and its error is most of the mean; take more steps or other starts"
    ]


def _beyond(result: Convergence) -> list[str]:
    """A sentence where the ends lie outside the range on which a few hundred steps show the order."""
    start, end = RANGES["log_snr"].start, RANGES["log_snr"].end
    if result.ends is None or (result.ends[0] <= 1.01 * start and result.ends[1] >= 0.99 * end):
        return []
    return [
        f"the grids run from a noise level sigma/alpha of {result.ends[0]:.3g} to {result.ends[1]:.3g}; between "
        f"{start:g} and {end:g} a few hundred steps show the order (analysis.standard_problem), here it can take more"
    ]


def _two(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.2f}" for v in values) or "(none above rounding)"
