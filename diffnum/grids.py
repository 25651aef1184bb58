"""Time grids: where a solver stands at each step.

Each is called as ``grid(process, steps, t_end=None, t_start=None)`` and returns ``steps + 1`` strictly decreasing
times, a CPU float64 tensor from ``t_start`` (default ``process.t_max``) to ``t_end`` (default ``process.t_end``: 1e-3
for VP, 0.002 for VE). ``t_end=0`` must be asked for. Every grid raises ``ValueError`` for bad steps or end points.
"""

from collections.abc import Callable
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments

Grid = Callable[..., Tensor]
PRIOR = 20.0  # sigma/alpha from where on little enough of the data is left to start from pure noise
FLOAT32 = 2**-23  # relative distance of neighbours in float32


def uniform(process: Any, steps: int, t_end: float | None = None, t_start: float | None = None) -> Tensor:
    """Equal steps in t."""
    steps, first, last = _ends(process, steps, t_end, t_start)
    return _decreasing(_fractions(steps, first, last), first, last, "uniform")


def quadratic(process: Any, steps: int, t_end: float | None = None, t_start: float | None = None) -> Tensor:
    r"""Equal steps in :math:`\sqrt t`, which removes the singularity of linear schedules at t = 0."""
    steps, first, last = _ends(process, steps, t_end, t_start)
    return _decreasing(_fractions(steps, first**0.5, last**0.5) ** 2, first, last, "quadratic")


def log_snr(process: Any, steps: int, t_end: float | None = None, t_start: float | None = None) -> Tensor:
    """Equal steps in the log signal-to-noise ratio. With ``t_end=0`` the last step jumps from the default end to 0."""
    steps, first, last = _ends(process, steps, t_end, t_start)
    if last == 0:
        return _jump_to_zero(log_snr, process, steps, first)
    ends = (process.log_snr(t) for t in (first, last))
    return _decreasing(process.time_of_log_snr(_fractions(steps, *ends)), first, last, "log_snr")


def karras(
    process: Any, steps: int, t_end: float | None = None, t_start: float | None = None, rho: float = 7.0
) -> Tensor:
    r"""Equal steps in :math:`(\sigma/\alpha)^{1/\rho}` (Karras et al. 2022, arXiv:2206.00364, equation 5).

    With ``t_end=0`` the last step jumps from the default end to 0, as there.
    """
    rho = arguments.number("rho", rho, 0.1, 1000.0, usual=7)
    steps, first, last = _ends(process, steps, t_end, t_start)
    if last == 0:
        return _jump_to_zero(karras, process, steps, first, rho=rho)
    ends = (process.rho(t) ** (1 / rho) for t in (first, last))
    return _decreasing(process.time_of_rho(_fractions(steps, *ends) ** rho), first, last, "karras")


def sigma(process: Any, steps: int, t_end: float | None = None, t_start: float | None = None) -> Tensor:
    r"""Equal steps in :math:`\sigma/\alpha`, the variable in which PNDM's weights are the right ones."""
    steps, first, last = _ends(process, steps, t_end, t_start)
    ratios = _fractions(steps, process.rho(first), process.rho(last))
    return _decreasing(process.time_of_rho(ratios), first, last, "sigma")


def alternating(
    process: Any, steps: int, t_end: float | None = None, t_start: float | None = None, ratio: float = 3.0
) -> Tensor:
    """Steps in the log signal-to-noise ratio whose lengths alternate, 1 : ``ratio``, however many there are.

    On every other grid here the ratio of neighbouring steps goes to 1 as steps are added, and a method with the weights
    of equal steps profits from that. This one is rough at any number of steps: it shows which orders are those of
    smooth grids. With ``t_end=0`` the last step jumps from the default end to 0.
    """
    ratio = arguments.number("ratio", ratio, 0.01, 100.0, usual=3)
    steps, first, last = _ends(process, steps, t_end, t_start)
    if last == 0:
        return _jump_to_zero(alternating, process, steps, first, ratio=ratio)
    lengths = torch.ones(steps, dtype=torch.float64, device="cpu")
    lengths[1::2] = ratio
    fraction = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]) / lengths.sum()
    start, end = (process.log_snr(t) for t in (first, last))
    return _decreasing(process.time_of_log_snr(start + (end - start) * fraction), first, last, "alternating")


def from_table(
    process: Any,
    steps: int,
    t_end: float | None = None,
    t_start: float | None = None,
    size: int = 1000,
    published: bool | None = None,
) -> Tensor:
    """Strides through a discrete table: every time is a multiple of ``1/N``. Index k stands at ``t = (k + 1)/N``.

    As published, strides are equal, and what does not divide is left out at the *top*: with ``t_end=0`` the step choice
    of PNDM, indices ``(steps - 1) stride, ..., stride, 0`` with ``stride = N // steps`` and then the clean level,
    otherwise equal strides down to the level nearest ``t_end``. So 500 steps of 1,000 levels start at t = 0.501, and a
    state from the prior does not belong there. By default such strides are replaced by the most even ones from the top;
    equal strides stay where they leave out less than a stride and less than a tenth of the table.

    Args:
        process: its own table gives N where it has one.
        steps: at most the number of levels between the two ends.
        t_end: where to end.
        t_start: start at most here.
        size: N for a process without a table.
        published: True for equal strides wherever they start, False for strides from the top.
    """
    steps, first, last = _ends(process, steps, t_end, t_start)
    arguments.option("published", published, (None, False, True))
    unit = getattr(process, "unit", None)
    size = arguments.whole("size", size) if unit is None else round(1 / unit)
    top, bottom = int(first * size + 1e-9), round(last * size)
    if last > 0:
        bottom = max(bottom, 1)  # level 0 is clean data, and only t_end=0 asks for it
    stride = (top - bottom) // steps
    if stride < 1:
        raise ValueError(
            f"steps={steps} exceeds the {top - bottom} levels of the table between the two ends; use fewer"
        )
    down = torch.arange(steps, -1, -1, dtype=torch.float64, device="cpu")
    levels = bottom + stride * down if bottom else torch.where(down > 0, 1 + stride * (down - 1), 0.0)
    if published is False or (published is None and top - levels[0] >= min(stride, top / 10)):
        levels = (bottom + (top - bottom) * down / steps).round()
    return check_times(levels / size, process)


def at_prior(times: Tensor, process: Any) -> Tensor:
    """The times, if a state from the prior belongs to the first of them.

    Raises:
        ValueError: less noise than the prior assumes: sigma/alpha is below 20 there, and data of mean 1 would come out
            with another mean.
    """
    first = float(times[0])
    if first < process.t_max and process.rho(first) < PRIOR:
        raise ValueError(
            f"times start at {first:.6g}, where sigma/alpha is {process.rho(first):.3g}: start states from the prior "
            f"belong to t = {process.t_max:.6g}; take a grid that starts there"
        )
    return times


def check_times(times: Tensor | list[float], process: Any, both_ways: bool = False) -> Tensor:
    """The times as a CPU float64 tensor of our own, if they are a grid for the process.

    They decrease, from noise to data; with ``both_ways`` they may increase instead. A first
    time that float32 has rounded to above ``t_max`` is taken as ``t_max``.

    Raises:
        TypeError: not numbers.
        ValueError: fewer than two, not finite, not strictly decreasing, or outside the process's time.
    """
    times = arguments.dense("times", times)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times has shape {tuple(times.shape)}; a grid is a list of at least two times")
    grid = times.tolist()  # a run starts here: numbers are looked at faster than by operations on a short tensor
    for i, t in enumerate(grid):
        if not isfinite(t):
            raise ValueError(f"times[{i}] is not finite; remove NaN and inf")
    upward = both_ways and grid[0] < grid[1]
    for i, (t, s) in enumerate(pairwise(grid)):
        if not (t < s if upward else s < t):
            raise ValueError(
                f"times[{i}]={t:.6g} is followed by {s:.6g}; sampling runs from large t to small t, so times must "
                "decrease strictly"
                + (
                    " (or all increase, from data to noise)"
                    if both_ways
                    else "; noise is added by process.perturb(x0, t)"
                )
            )
    top = -1 if upward else 0
    if process.t_max < grid[top] <= process.t_max * (1 + FLOAT32):
        times[top] = grid[top] = process.t_max
    if min(grid) < 0 or grid[top] > process.t_max:
        raise ValueError(
            f"times run from {grid[0]:.6g} to {grid[-1]:.6g}; this process lives on 0 ... {process.t_max:.6g}"
        )
    return times


def _ends(process: Any, steps: int, t_end: float | None, t_start: float | None) -> tuple[int, float, float]:
    arguments.process(process)
    steps = arguments.whole("steps", steps)
    first = process.t_max if t_start is None else arguments.number("t_start", t_start)
    last = process.t_end if t_end is None else arguments.number("t_end", t_end)
    if process.t_max < first <= process.t_max * (1 + FLOAT32):
        first = process.t_max
    if not 0 <= last < first <= process.t_max:
        raise ValueError(f"t_start={first:.6g}, t_end={last:.6g}: need 0 <= t_end < t_start <= {process.t_max:.6g}")
    return steps, first, last


def _fractions(steps: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu")


def _decreasing(times: Tensor, first: float, last: float, name: str) -> Tensor:
    times = times.clone()
    times[0], times[-1] = first, last  # the ends are what was asked for, not their image through two maps
    if not bool((times.diff() < 0).all()):
        raise ValueError(f"the {name} grid with {len(times) - 1} steps repeats a time in float64; use fewer steps")
    return times


def _jump_to_zero(grid: Grid, process: Any, steps: int, first: float, **options: float) -> Tensor:
    if steps == 1 or first <= process.t_end:
        return uniform(process, steps, 0.0, first)
    times = grid(process, steps - 1, None, first, **options)
    return torch.cat([times, times.new_zeros(1)])
