r"""Exponential Runge-Kutta methods in log-SNR: the singlestep DPM-Solvers (Lu et al. 2022, arXiv:2206.00927).

| paper | here |
|---|---|
| lambda | log_snr / 2 |
| epsilon_theta(x, t), x_theta(x, t) | problem.eps(u, t), problem.x0(u, t) |
| r_1, r_2 | the stages: 1/2 of order 2, 1/3 and 2/3 of order 3 |
| D_1, D_2 | differences of predictions, inside `combine` |

In :math:`\lambda` the solution is :math:`x_s = \psi x_t + \int_0^h w(\tau) \, p(\tau) \, d\tau` for either prediction
p. A step freezes p, or lets it run on a straight line through the value of one stage: no history, so that the order is
there from the first step, on any grid, and a step may follow another solver, or be as long as an estimate of its error
allows.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import copysign, factorial, inf
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffnum.arguments import number
from diffnum.coefficients import combine
from diffnum.kept import kept
from diffnum.problem import Problem
from diffnum.runner import method

STAGES = {2: (1 / 2,), 3: (1 / 3, 2 / 3)}  # where in a step they stand, in lambda; 2/3 is a condition of order 3


class Step(NamedTuple):
    """Times of the stages, and for each stage and for the end the weights of the state and of the predictions."""

    times: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]


SERIES = torch.tensor([1 / factorial(k + 1) for k in range(1, 15)], dtype=torch.float64, device="cpu")


def slope_gain(z: Tensor) -> Tensor:
    r""":math:`(e^z - 1 - z)/z = z/2! + z^2/3! + \dots`, what a straight line adds to a frozen prediction."""
    small = z.clamp(-0.5, 0.5)
    series = small[..., None] ** torch.arange(1, 15, device="cpu") @ SERIES
    return torch.where(small == z, series, (torch.expm1(z) - z) / z)


def grid_steps(process: Any, times: tuple[float, ...], order: int, prediction: str) -> list[Step]:
    """The stages and weights of every step of :func:`exponential_rk`; a step to no noise has no stage."""
    grid, shares = torch.tensor(times, dtype=torch.float64, device="cpu"), (*STAGES[order], 1.0)
    n = len(times) - 1 - process.singular(times[-1])
    t, half = grid[:n], process.log_snr(grid[: n + 1]) / 2
    h = half[1:] - half[:-1]
    places = [process.time_of_log_snr(2 * (half[:-1] + r * h)) for r in shares[:-1]] + [grid[1 : n + 1]]
    columns: list[list[list[float]]] = []
    for i, (place, r) in enumerate(zip(places, shares, strict=True)):
        keep, frozen, line = one_step(process, t, place, r * h, prediction)
        line = line * (r / shares[i - 1])  # through the stage before, (r, p)
        # order 2 as published: the prediction in the middle serves the whole step
        new = frozen if order == 2 and i == 1 else line
        row = [keep, frozen - new, *[torch.zeros_like(new)] * (i - 1), new] if i else [keep, frozen]
        columns.append(torch.stack(row, 1).tolist())
    stages = torch.stack(places[:-1], 1).tolist()
    steps = [Step(tuple(inner), tuple(map(tuple, rows))) for inner, *rows in zip(stages, *columns, strict=True)]
    if n < len(times) - 1:
        keep, gain = process.step(*times[-2:])
        steps.append(Step((), ((keep, gain) if prediction == "noise" else (0.0, process.levels(times[-1])[0]),)))
    return steps


def one_step(process: Any, t: Tensor, s: Tensor, h: Tensor, prediction: str) -> tuple[Tensor, Tensor, Tensor]:
    r"""Weights over steps of length h in lambda: of the state, of a frozen prediction, of its change along a line.

    .. math:: \frac{\alpha_s}{\alpha_t}, \quad -\sigma_s (e^h - 1), \quad -\sigma_s \frac{e^h - 1 - h}{h}
              \qquad \text{or} \qquad
              \frac{\sigma_s}{\sigma_t}, \quad \alpha_s (1 - e^{-h}), \quad \alpha_s \frac{e^{-h} - 1 + h}{h}

    for the noise or the data prediction; the change is that from the start of a step to its end.
    """
    sigma = process.sigma(s)
    if prediction == "noise":
        pairs = torch.tensor(process.steps(t.tolist(), s.tolist()), dtype=torch.float64, device="cpu").reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1], -sigma * slope_gain(h)
    alpha = process.alpha(s)
    return sigma / process.sigma(t), -alpha * torch.expm1(-h), -alpha * slope_gain(-h)


@method(
    order=lambda grid="log_snr", process=None, order=3, prediction="noise": order,
    nfe=lambda n, order=3, prediction="noise", to_zero=False: order * n - (order - 1) * to_zero,
    paper="Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; with data arXiv:2211.01095, algorithm 1",
    exact_for="a point mass",
    values={"order": (2, 3), "prediction": ("noise", "data")},
    register=True,
)
def exponential_rk(
    problem: Problem, u: Tensor, times: list[float], order: int = 3, prediction: str = "noise"
) -> Iterator[Tensor]:
    r"""Exponential Runge-Kutta in :math:`\lambda`: DPM-Solver-2 and DPM-Solver-3, step by step.

    .. math:: x^{(1)} &= \psi_1 x + g(r_1 h) \, p_0, \\
              x^{(2)} &= \psi_2 x + g(r_2 h) \, p_0 + \tfrac{r_2}{r_1} \, l(r_2 h) \, (p_1 - p_0), \\
              x_s &= \psi x + g(h) \, p_0 + \tfrac{1}{r_2} \, l(h) \, (p_2 - p_0)

    with the weights g of a frozen prediction and l of its change along a line (:func:`one_step`),
    :math:`r_1 = \tfrac13`, :math:`r_2 = \tfrac23`. Order 2 has one stage, in the middle, whose prediction serves the
    whole step. Order q on any grid, from the first step; q evaluations a step, and one in a step to
    :math:`\sigma = 0`, which is of order 1. State ``(batch, *event)``.

    Args:
        order: q, 2 or 3.
        prediction: what runs on a straight line, "noise" (DPM-Solver) or "data" (DPM-Solver++, singlestep).
    """
    key = problem.process, tuple(times), order, prediction
    steps = kept.get((grid_steps, *key), lambda: grid_steps(*key))
    problem = problem.on(u, times, [place for step in steps for place in step.times])
    predict = problem.eps if prediction == "noise" else problem.x0
    for t, step in zip(times, steps, strict=False):
        past, moved = [predict(u, t)], u
        for place, weights in zip((*step.times, None), step.weights, strict=True):
            moved = combine(weights, (u, *past))
            if place is not None:
                past.append(predict(moved, place))
        u = moved
        yield u


def _tolerance(option: str, value: Any) -> float:
    return number(option, value, high=1e3, above=0)


@method(
    order=3,
    nfe=None,
    paper="Lu et al. 2022, arXiv:2206.00927, appendix C: adaptive step size, DPM-Solver-23",
    exact_for="a point mass",
    values={"tolerance": _tolerance, "prediction": ("noise", "data")},
    register=True,
)
def dpm_adaptive(
    problem: Problem, u: Tensor, times: list[float], tolerance: float = 0.01, prediction: str = "noise"
) -> Iterator[Tensor]:
    r"""DPM-Solver-23: `exponential_rk` of order 3 in steps as long as an estimate of their error allows.

    .. math:: d = \frac{l(h)}{r_2} (p_2 - 2 p_1 + p_0), \qquad
              E = \max_{\text{rows}} \frac{\operatorname{rms} d}{\text{tolerance} \, \sqrt{\alpha_s^2 + \sigma_s^2}}

    d is the difference from the method of order 2 that has the first stage alone, and costs no evaluation. A step with
    :math:`E \le 1` is taken; the next one, or the next attempt, is :math:`0.9 E^{-1/3}` times as long, but at least a
    fifth and at most five times. No step passes a time of the grid, where a state is yielded: a grid of two times
    leaves all of them to the method. Evaluations, 3 for a step and 2 for one that is given up, are counted and not
    claimed. The error follows the tolerance; where the steps of the grid are short enough to be taken as they are, the
    method is that of fixed steps, of order 3. One step serves the whole batch, by its worst row. State
    ``(batch, *event)``.

    Args:
        tolerance: what a step may be wrong by, in units of a noisy state of unit data.
        prediction: "noise" or "data", as for :func:`exponential_rk`.

    Differs from the paper: one tolerance, relative to the level and not to each entry, and no mean over rows.
    """
    process, predict = problem.process, problem.eps if prediction == "noise" else problem.x0
    width, first = inf, None  # of the next step, in lambda; the prediction at its start
    for t, s in pairwise(times):
        while t != s:
            first = predict(u, t) if first is None else first
            now, end = process.log_snr(t) / 2, process.log_snr(s) / 2
            long = min(abs(end - now), width) if end < inf else inf  # a step to no noise is not divided
            place = s if long == abs(end - now) else process.time_of_log_snr(2 * (now + copysign(long, end - now)))
            moved, error = attempt(problem, u, first, t, place, tolerance, prediction)
            wished = long * (min(5.0, max(0.2, 0.9 * error ** (-1 / 3))) if error > 0 else 5.0)
            if error > 1:
                width = wished
            else:
                width = max(wished, width) if place == s else wished  # the grid cut it short
                u, t, first = moved, place, None
        yield u


def attempt(
    problem: Problem, u: Tensor, first: Tensor, t: float, s: float, tolerance: float, prediction: str
) -> tuple[Tensor, float]:
    """The end of one step of order 3, and E of :func:`dpm_adaptive`; ``first`` is the prediction at its start."""
    predict, past = problem.eps if prediction == "noise" else problem.x0, [first]
    step = grid_steps(problem.process, (t, s), 3, prediction)[0]
    for place, weights in zip(step.times, step.weights, strict=False):
        past.append(predict(combine(weights, (u, *past)), place))
    moved = combine(step.weights[-1], (u, *past))
    if not step.times:
        return moved, 0.0
    line, size = step.weights[-1][-1], sum(level**2 for level in problem.process.levels(s)) ** 0.5
    d = combine((line, -2 * line, line), past).flatten(1)
    rms = torch.linalg.vector_norm(d, dim=1, dtype=torch.promote_types(d.dtype, torch.float32)) / d.shape[1] ** 0.5
    return moved, rms.max().item() / (tolerance * size)
