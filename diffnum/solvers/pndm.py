r"""PNDM: pseudo numerical methods (Liu et al. 2022, arXiv:2202.09778).

| paper | here |
|---|---|
| alpha-bar_t | alpha_t^2 |
| phi(x, e, t, t - delta) | transfer(problem, u, e, t, s) |
| e_t, e' | e, bar |

A pseudo method is the gradient part of a classical one followed by the transfer map. In the rescaled variables
:math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha` the ODE reads :math:`dy/d\rho = \epsilon` and the transfer is a
straight line: each method below *is* a classical method for that equation, but with the weights of uniform steps on
nodes :math:`\rho(t_i)` that are not uniform. That one fact caps the order at 2 on every smooth grid not uniform in rho,
and at 1 on rough ones, where neighbouring steps stay unequal however many there are.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffnum.coefficients import adams_bashforth, adams_table, combine
from diffnum.kept import kept
from diffnum.problem import Problem
from diffnum.runner import method, still_start
from diffnum.solvers.ddim import improved_euler, runge_kutta, transfer

PAPER = "Liu et al. 2022, arXiv:2202.09778"
MIDPOINTS = ("t", "sigma")  # as published; in the middle of rho


def middles(process: Any, times: Sequence[float], midpoint: str) -> list[float]:
    """Times of the Runge-Kutta stages in every step: half way in t, as published, or half way in sigma/alpha."""
    if midpoint == "t":
        return [(t + s) / 2 for t, s in pairwise(times)]

    def made() -> list[float]:
        rho = process.rho(torch.tensor(times, dtype=torch.float64, device="cpu"))
        return process.time_of_rho((rho[1:] + rho[:-1]) / 2).tolist()

    return kept.get((middles, process, tuple(times)), made)


def grid_weights(
    process: Any, times: Sequence[float], order: int, variable: str, ramp: bool = False
) -> list[tuple[float, ...]]:
    """Weights of every step of a grid for :func:`pndm_variable`, newest first.

    The first steps have the weights of a ``ramp``, or none, for a start of another kind.
    """
    ratios = process.rho(torch.tensor(times, dtype=torch.float64, device="cpu")).tolist()
    nodes, theta = (ratios, None) if variable == "sigma" else (times, process.time_of_rho)
    kinks = process.rho(process.knots).tolist() if theta and process.unit else ()
    weights = adams_table(nodes, order, ratios, theta, kinks)
    if ramp:
        for q in range(1, min(order, len(times))):
            weights[q - 1] = adams_table(nodes[: q + 1], q, ratios[: q + 1], theta, kinks)[-1]
    return weights


def _in_rho(choice: str, process: Any, in_time: str) -> bool:
    """Whether a choice of grid or midpoint is even in rho: it says so, or is even in time where time is rho (VE)."""
    return choice == "sigma" or (choice == in_time and getattr(process, "time_is_rho", False))


@method(
    order=lambda grid="log_snr", process=None, midpoint="t": 4 if _in_rho(midpoint, process, "t") else 2,
    nfe=lambda n, midpoint="t": 4 * n,
    paper=f"{PAPER}, equation 13",
    exact_for="a point mass",
    reaches_zero=lambda n, midpoint="t": False,
    values={"midpoint": MIDPOINTS},
    register=True,
)
def prk(problem: Problem, u: Tensor, times: list[float], midpoint: str = "t") -> Iterator[Tensor]:
    r"""Pseudo Runge-Kutta at every step.

    .. math:: \bar e = \tfrac16 (e_1 + 2 e_2 + 2 e_3 + e_4), \qquad x_{i+1} = \phi(x_i, \bar e, t_i, t_{i+1})

    Order 2, because the stages stand in the middle of t and not of :math:`\rho`; order 4 with ``midpoint="sigma"``,
    which is the classical method for :math:`dy/d\rho = \epsilon`. Four evaluations a step; it cannot end at t = 0.
    """
    inner = middles(problem.process, times, midpoint)
    problem = problem.on(u, times, inner)
    move = partial(transfer, problem)
    for (t, s), m in zip(pairwise(times), inner, strict=True):
        bar = runge_kutta(problem.eps, move, u, problem.eps(u, t), t, m, s)
        u = transfer(problem, u, bar, t, s)
        del bar
        yield u


@method(
    order=lambda grid="log_snr", process=None: 1 if grid == "rough" else 2,
    nfe=lambda n: n + 1,
    paper=f"{PAPER}, section 3.3",
    exact_for="a point mass",
    reaches_zero=lambda n: n > 1,
    register=True,
)
def s_pndm(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""S-PNDM: second-order pseudo linear multistep.

    .. math:: \bar e_i = \tfrac12 (3 e_i - e_{i-1}), \qquad x_{i+1} = \phi(x_i, \bar e_i, t_i, t_{i+1})

    The first step is pseudo improved Euler. Order 2 on smooth grids, where the ratio of neighbouring steps goes to 1,
    and 1 on rough ones; n + 1 evaluations. State ``(batch, *event)``.
    """
    move, weights, old = partial(transfer, problem), adams_bashforth(2), None
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        bar = improved_euler(problem.eps, move, u, e, t, s) if old is None else combine(weights, (e, old))
        u, old = transfer(problem, u, bar, t, s), e
        del bar  # a state less in memory while the network runs
        yield u


@method(
    order=lambda grid="log_snr", process=None, midpoint="t": (
        1
        if grid == "rough"
        else 2
        if not _in_rho(grid, process, "uniform")
        else 4
        if _in_rho(midpoint, process, "t")
        else 3
    ),
    nfe=lambda n, midpoint="t": n + 3 * min(n, 3),
    paper=f"{PAPER}, section 3.3 and equation 12",
    exact_for="a point mass",
    reaches_zero=lambda n, midpoint="t": n > 3,
    values={"midpoint": MIDPOINTS},
    register=True,
)
def f_pndm(problem: Problem, u: Tensor, times: list[float], midpoint: str = "t") -> Iterator[Tensor]:
    r"""F-PNDM: the 'fourth-order' pseudo linear multistep method, the headline of the paper.

    .. math:: \bar e_i = \tfrac1{24} (55 e_i - 59 e_{i-1} + 37 e_{i-2} - 9 e_{i-3}), \qquad
              x_{i+1} = \phi(x_i, \bar e_i, t_i, t_{i+1})

    The first three steps are pseudo Runge-Kutta. Order 2 on smooth grids that are not uniform in
    :math:`\rho` (1 on rough ones): the weights average over the steps uniformly, the exact integral with
    :math:`\rho'`. On a grid uniform in :math:`\rho` the
    multistep part is AB4: order 4 with ``midpoint="sigma"``; with the published midpoint the starting steps leave an
    error of order 3, so small from the usual start that 4 is what one sees first. n + 9 evaluations; below four steps
    all are pseudo Runge-Kutta. State ``(batch, *event)``.
    """
    inner = middles(problem.process, times[:4], midpoint)
    problem = problem.on(u, times, inner)
    move, weights, past = partial(transfer, problem), adams_bashforth(4), []
    for i, (t, s) in enumerate(pairwise(times)):
        e = problem.eps(u, t)
        past = [e, *past]
        if i < 3:
            bar = runge_kutta(problem.eps, move, u, e, t, inner[i], s)
        else:
            bar = combine(weights, past)
        u, past = transfer(problem, u, bar, t, s), past[:3]
        del bar
        yield u


@method(
    order=lambda grid="log_snr", process=None: 1 if grid == "rough" else 3 if _in_rho(grid, process, "uniform") else 2,
    nfe=lambda n: n + 1,
    paper=f"{PAPER}, equation 12; ramp start as in Stable Diffusion's PLMS",
    exact_for="a point mass",
    reaches_zero=lambda n: n > 1,
    register=True,
)
def plms(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""PLMS: F-PNDM's multistep formula with a ramp instead of the Runge-Kutta start.

    Pseudo improved Euler, then Adams-Bashforth weights of order 2, 3 and 4. Order 2 on smooth grids and 1 on rough
    ones, or 3 on a grid uniform in sigma/alpha, where only the start is not of order 4; n + 1 evaluations, eight fewer
    than F-PNDM.
    """
    move, past = partial(transfer, problem), []
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        past = [e, *past]
        if len(past) == 1:
            bar = improved_euler(problem.eps, move, u, e, t, s)
        else:
            bar = combine(adams_bashforth(len(past)), past)
        u, past = transfer(problem, u, bar, t, s), past[:3]
        del bar
        yield u


@method(
    order=lambda grid="log_snr", process=None, order=4: 1 if grid == "rough" else 2,
    nfe=lambda n, order=4: n,
    paper="Zhang and Chen 2023, arXiv:2204.13902, section 3.3 (iPNDM), after Liu et al. 2022, arXiv:2202.09778",
    exact_for="a point mass",
    values={"order": (4, 3, 2)},
    register=True,
)
def ipndm(problem: Problem, u: Tensor, times: list[float], order: int = 4) -> Iterator[Tensor]:
    r"""iPNDM: F-PNDM's multistep formula with a ramp that starts with DDIM, at no cost.

    Adams-Bashforth weights of order 1, 2, ..., q for uniform steps, on the transfer map. Order 2 on smooth
    grids, like all uniform weights where steps are not uniform in sigma/alpha (there the first step caps it at 2), and
    1 on rough ones; n evaluations, one fewer than :func:`plms`.

    Args:
        order: q, from 2 to 4.
    """
    past = []
    for t, s in pairwise(times):
        past = [problem.eps(u, t), *past[: order - 1]]
        u = transfer(problem, u, combine(adams_bashforth(len(past)), past), t, s)
        yield u


def _variable_order(
    grid: str = "log_snr",
    process: Any = None,
    order: int = 4,
    variable: str = "sigma",
    start: str = "runge_kutta",
    first: float | None = None,
) -> int:
    """The ramp caps the order at 2 unless the noise stands still at the start; see `gddim`."""
    return order if start == "runge_kutta" or still_start(grid, process, first) else min(order, 2)


@method(
    order=_variable_order,
    nfe=lambda n, order=4, variable="sigma", start="runge_kutta": (
        n + (3 * min(n, order - 1) if start == "runge_kutta" else 0)
    ),
    paper=f"{PAPER}, repaired; variable='t' is tAB of Zhang and Chen 2023, arXiv:2204.13902",
    exact_for="a point mass",
    reaches_zero=lambda n, order=4, variable="sigma", start="runge_kutta": start == "ramp" or n >= order,
    values={"order": (4, 3, 2, 1), "variable": ("sigma", "t"), "start": ("runge_kutta", "ramp")},
    register=True,
)
def pndm_variable(
    problem: Problem,
    u: Tensor,
    times: list[float],
    order: int = 4,
    variable: str = "sigma",
    start: str = "runge_kutta",
) -> Iterator[Tensor]:
    r"""PNDM with the weights of the actual nodes, which restores the order of its Adams-Bashforth formula.

    .. math:: \bar e_i = \frac{1}{\rho_{i+1} - \rho_i}
              \int_{\rho_i}^{\rho_{i+1}} \sum_{j<q} l_j \, e_{i-j} \, d\rho, \qquad
              x_{i+1} = \phi(x_i, \bar e_i, t_i, t_{i+1})

    with Lagrange polynomials in :math:`\rho` or in t. Started with Runge-Kutta steps whose stages stand in the middle
    of :math:`\rho`, order q and n + 3 (q - 1) evaluations; or with the ramp of :func:`ipndm`, n evaluations and order q
    as far as the noise stands still at the start. State ``(batch, *event)``.

    Args:
        order: q, from 1 to 4.
        variable: "sigma" interpolates in sigma/alpha (variable-step Adams-Bashforth for dy/drho), "t" in time.
        start: "runge_kutta", or "ramp": fewer nodes in the first steps.

    Raises:
        ValueError: an option outside these.
    """
    process, key = problem.process, (problem.process, tuple(times), order, variable, start == "ramp")
    inner = middles(process, times[:order], "sigma")
    weights = kept.get((grid_weights, *key), lambda: grid_weights(*key))
    problem = problem.on(u, times, inner)
    move, past = partial(transfer, problem), []
    for i, ((t, s), w) in enumerate(zip(pairwise(times), weights, strict=True)):
        e = problem.eps(u, t)
        past = [e, *past]
        bar = combine(w, past) if w else runge_kutta(problem.eps, move, u, e, t, inner[i], s)
        u, past = transfer(problem, u, bar, t, s), past[: order - 1]
        del bar
        yield u
