r"""How far errors of the noise prediction grow: what a solver makes of them on a grid, tried before a run.

A noise prediction is never exact: single precision rounds it, and a network in single precision is off by about 1e-6.
A step that extrapolates old predictions far, or evaluates where it has left much less noise than it came from, can
magnify that by many powers of ten, and no error of the *method* tells. Stability is a property of solver and grid
together; it is tried on Gaussian data, on which a run is linear in these errors.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import cycle, pairwise
from math import log
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.errors import StabilityWarning
from diffnum.grids import check_times
from diffnum.kept import kept
from diffnum.problem import Problem

#: What is stable magnifies less. Times the 1e-6 of a network in single precision this is 0.01, a grey level of 256.
BOUND = 1e4

VARIANCES = (0.0, 1 / 16, 1.0)  # of the Gaussian data, one number each: a point, and up to the spread of images
ROWS = 16  # one without errors, the others with random signs
SHORT = 1.8  # factor by which the noise level may fall in a step that needs no trial
EVEN = 2.0  # and by which the fall of its logarithm may exceed that of the step before
ALIKE = 16  # cells for each factor e of time
LONGEST = 100  # steps of a grid that is tried before a run: more are stable on grids that anybody takes


class Disturbed(Frozen):
    """Gaussian data; in all rows but the first every noise prediction is off by plus or minus ``size``."""

    shape = (len(VARIANCES),)

    def __init__(self, size: float) -> None:
        self.variances = torch.tensor(VARIANCES, dtype=torch.float64, device="cpu")
        self.off = cycle(_errors(size))

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise prediction, off by the error."""
        return x * (sigma / (self.variances + sigma**2)) + next(self.off)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean prediction that belongs to it."""
        return x - sigma * self.eps(x, sigma)


@lru_cache(maxsize=8)
def _errors(size: float) -> tuple[Tensor, ...]:
    """Errors of 512 predictions in a row, each ``(ROWS, 1)``."""
    signs = torch.randint(2, (512, ROWS, 1), generator=torch.Generator().manual_seed(0), device="cpu")
    off = size * (2.0 * signs.double() - 1)
    off[:, 0] = 0
    return off.unbind()


def growth(
    process: Any, solver: Callable[..., Iterator[Tensor]], times: Any, size: float = 1e-10, **options: Any
) -> float:
    """How many times larger errors of the noise prediction are at the end; see ``analysis.growth``."""
    if arguments.process(process).family == "blurring":
        raise ValueError(f"process={process!r} acts on images; the growth of errors is measured on vectors")
    return _tried(process, solver, check_times(times, process).tolist(), size, options)


def _tried(process: Any, solver: Callable[..., Any], grid: list[float], size: float, options: dict[str, Any]) -> float:
    """The same on a grid that has been checked."""
    start = kept.get((_tried, process), lambda: process.prior((1, len(VARIANCES)), dtype=torch.float64, seed=0))
    end = u = start.repeat(ROWS, *(1,) * (start.ndim - 1))
    problem = Problem(process, Disturbed(size))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        for state in solver(problem.run(u).on(u, grid), u, grid, **options):
            end = state
    found = (end - end[:1]).abs().max().item() / size
    return found if found == found else float("inf")


def tame(process: Any, times: list[float]) -> bool:
    """Whether the steps are so short and even that nothing needs to be tried, with options left as they are.

    On VP and VE, where the schedule has no pole at the start, all methods of the library with their default options
    magnify errors less than :data:`BOUND` on grids whose noise level falls by at most :data:`SHORT` in each step, and
    its logarithm by at most :data:`EVEN` times as much as in the step before.
    """
    if process.family != "isotropic" or not process.calm_start or times[-1] == 0:
        return False
    falls = [log(r / s) for r, s in pairwise(process.rho(times).tolist())]
    return max(falls) <= log(SHORT) and all(h <= EVEN * before for before, h in pairwise(falls))


def look(process: Any, name: str, solver: Callable[..., Any], times: list[float], options: dict[str, Any]) -> None:
    """Warn before a run whose errors grow beyond :data:`BOUND`; tried on data of its own, once for all grids alike.

    Left out are runs from data to noise, grids that are :func:`tame` for a method without options, grids of more than
    :data:`LONGEST` steps, and processes of images. Grids are alike if the times of one are within about 6 % of those of
    the other.
    """
    if times[0] < times[-1] or len(times) - 1 > LONGEST or process.family == "blurring":
        return
    if not options and tame(process, times):
        return
    alike = tuple(round(ALIKE * log(t)) if t else None for t in times)
    try:
        key = (growth, process, solver, alike, tuple(options.items()))
        grown = kept.get(key, lambda: _tried(process, solver, times, 1e-6, options))
    except TypeError:  # an option that cannot be a key: nothing of the library has one
        return
    if grown > BOUND:
        first, second = (process.rho(t) for t in times[:2])
        warnings.warn(
            f"{name} in these {len(times) - 1} steps makes errors of the noise prediction {grown:.0e} times larger, "
            f"and those of single precision show (the first step goes from sigma/alpha={first:.3g} to {second:.3g}); "
            "take more steps, the log_snr grid, a lower order, or ddim",
            StabilityWarning,
            stacklevel=4,
        )
