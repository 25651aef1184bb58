r"""How far errors of the noise prediction grow: what a solver makes of them on a grid, tried before a run.

A noise prediction is never exact: single precision rounds it, and a network in single precision is off by about 1e-6.
A step that extrapolates old predictions far, or evaluates where it has left much less noise than it came from, can
magnify that by many powers of ten, and no error of the *method* tells. Stability is a property of solver and grid
together; it is tried on Gaussian data, on which a run is linear in these errors.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.denoisers import Gaussian
from diffnum.errors import StabilityWarning
from diffnum.grids import check_times
from diffnum.problem import Problem

#: What is stable magnifies less. Times the 1e-6 of a network in single precision this is 0.01, a grey level of 256.
BOUND = 1e4

VARIANCES = (0.0, 1 / 16, 1.0)  # of the Gaussian data, one number each: a point, and up to the spread of images
ROWS = 16  # one without errors, the others with random signs
LONGEST = 100  # steps of a grid that is tried before a run: more are stable on grids that anybody takes


class Disturbed(Frozen):
    """Gaussian data; in all rows but the first every noise prediction is off by plus or minus ``size``."""

    shape = (len(VARIANCES),)

    def __init__(self, size: float) -> None:
        self.exact, self.size = Gaussian([0.0] * len(VARIANCES), list(VARIANCES)), size
        self.signs = torch.Generator().manual_seed(0)

    def eps(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The noise prediction, off by the error."""
        off = self.size * (2 * torch.randint(2, (len(x), 1), generator=self.signs, device="cpu") - 1).to(x)
        off[0] = 0
        return self.exact.eps(x, sigma) + off

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The clean prediction that belongs to it."""
        return x - sigma * self.eps(x, sigma)


def growth(
    process: Any, solver: Callable[..., Iterator[Tensor]], times: Any, size: float = 1e-10, **options: Any
) -> float:
    """How many times larger errors of the noise prediction are at the end; see ``analysis.growth``."""
    if arguments.process(process).family == "blurring":
        raise ValueError(f"process={process!r} acts on images; the growth of errors is measured on vectors")
    grid = check_times(times, process).tolist()
    start = process.prior((1, len(VARIANCES)), dtype=torch.float64, seed=0)
    end = u = start.repeat(ROWS, *(1,) * (start.ndim - 1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", StabilityWarning)
        for state in solver(Problem(process, Disturbed(size)), u, grid, **options):
            end = state
    found = (end - end[:1]).abs().max().item() / size
    return found if found == found else float("inf")


@lru_cache(maxsize=256)
def _growth(process: Any, solver: Callable[..., Any], times: tuple[float, ...], options: tuple[Any, ...]) -> float:
    with torch.inference_mode(False):
        return growth(process, solver, list(times), 1e-6, **dict(options))


def look(process: Any, name: str, solver: Callable[..., Any], times: list[float], options: dict[str, Any]) -> None:
    """Warn before a run whose errors grow beyond :data:`BOUND`; tried once for a grid, on data of its own.

    Left out are runs from data to noise, grids of more than :data:`LONGEST` steps and processes of images.
    """
    if times[0] < times[-1] or len(times) - 1 > LONGEST or process.family == "blurring":
        return
    try:
        grown = _growth(process, solver, tuple(times), tuple(options.items()))
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
