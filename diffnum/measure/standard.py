"""Where an order can be measured: the problem, the range and the steps on which the claims of the solvers hold."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from diffnum import grids
from diffnum.denoisers import targets
from diffnum.measure.convergence import ladder
from diffnum.problem import Problem
from diffnum.processes import VP


class Range(NamedTuple):
    """A kind of grid, the noise levels sigma/alpha at its ends, and step counts that are many enough there."""

    grid: grids.Grid
    start: float
    end: float
    steps: tuple[int, ...]


MANY = (40, 80, 160, 320, 640)

#: Where each kind of grid shows an order. Above a level of 3 and below 0.05 the same steps show something else first.
RANGES = {
    "log_snr": Range(grids.log_snr, 3.0, 0.05, MANY),
    "uniform": Range(grids.uniform, 3.0, 0.05, MANY),
    "quadratic": Range(grids.quadratic, 3.0, 0.05, MANY),
    "rough": Range(grids.alternating, 3.0, 0.05, (*MANY[1:], 1280)),  # long steps are half as long again as even ones
    "sigma": Range(grids.sigma, 1.0, 0.1, (*MANY, 1280, 2560)),  # its last steps are long beside the level they reach
}


class Standard(NamedTuple):
    """What :func:`diffnum.measure.analysis.convergence` takes, by its names."""

    problem: Problem
    u: Tensor
    grid: Callable[[int], Tensor]
    steps: tuple[int, ...]


def standard_problem(grid: str = "log_snr", process: Any = None, target: str = "smooth") -> Standard:
    """An exact problem with starts, grid and steps on which the orders that solvers claim can be seen.

    An order is a statement about many steps. How many are many depends on the ends: from the prior to nearly clean
    data the noise prediction turns fastest where few steps stand, and 640 steps of a method of order 4 can show 3.
    Between noise levels :math:`\\sigma/\\alpha` of 3 and 0.05 (a grid uniform in that level: 1 and 0.1) the last two
    slopes of every solver of the library lie in the band of :func:`diffnum.measure.checks.assert_order`.

    Args:
        grid: kind of grid, a key of :data:`RANGES`: "log_snr", "uniform" (in t), "quadratic", "sigma", or "rough"
            (steps in log-SNR that alternate 1 : 3).
        process: a process whose data are vectors; by default ``VP()``.
        target: "smooth", "thin" or "gaussian", see :mod:`diffnum.denoisers.targets`.

    Returns:
        ``(problem, u, grid, steps)``: the problem, 8 start states in float64, ``steps -> times``, and step counts.

    Raises:
        KeyError: an unknown target. ValueError: an unknown kind of grid, or a process of images.
    """
    process = VP() if process is None else process
    if process.family == "blurring":
        raise ValueError(f"process={process!r} acts on images, and the exact problems here are vectors")
    times, steps = standard_grid(grid, process)
    return Standard(Problem(process, targets.target(target)), targets.starts(process), times, steps)


def standard_grid(grid: str, process: Any) -> tuple[Callable[[int], Tensor], tuple[int, ...]]:
    """Grid and steps of :func:`standard_problem` alone, for a problem of one's own on that process."""
    if grid not in RANGES:
        raise ValueError(f"grid={grid!r} must be one of {', '.join(map(repr, RANGES))}: kinds with a standard range")
    kind = RANGES[grid]
    ends = {"t_start": process.time_of_rho(kind.start), "t_end": process.time_of_rho(kind.end)}
    return ladder(kind.grid, process, **ends), kind.steps
