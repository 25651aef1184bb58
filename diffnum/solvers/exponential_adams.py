r"""Exponential Adams methods on VP and VE: one loop, one table of weights, and the names by which people know them.

| paper | here |
|---|---|
| DPM-Solver, UniPC: lambda, h | log_snr / 2, a step in it |
| DEIS, LMS: rho, sigma | rho = sigma/alpha |
| UniPC: B(h), D_m, a_m, r_m | inside the weights of :func:`table` |
| order p of UniPC's predictor | order |

Variation of constants has one integral for the noise and one for the data,

.. math:: \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t} + \int \epsilon \, d\rho, \qquad
          \frac{x_s}{\sigma_s} = \frac{x_t}{\sigma_t} + \int x_0 \, d(1/\rho),

and a method says which prediction it interpolates, in which variable, and how it starts. Every weight is a mean value
of a Lagrange polynomial over the step, so that the weights of a step sum to 1 and no closed form cancels:

=====================  ==========  ===========  ==================================================================
name                   prediction  variable     what else
=====================  ==========  ===========  ==================================================================
`ddim`                 either      any          order 1
`deis`                 noise       t            tAB-DEIS; `rho` and `log_snr` are its rhoAB and logrho
`gddim`                noise       t            the same on every linear process
`lms`                  noise       rho          Adams-Bashforth for dy/drho, `pndm_variable(start="ramp")`
`ipndm`                noise       rho          with the weights of uniform steps: order 2
`dpmpp_2m`             data        log_snr      the slope times h/2
`dpmpp_3m`             data        log_snr      exact weights; `published`: the curvature halved, order 2
`unipc`                either      log_snr      a corrector without evaluations; two nodes: the slope times h/2
azula's `zEAB, xEAB`   either      log_snr      the ramp
`sa_solver`            data        log_snr      noise in every step, a corrector without evaluations
`dpmpp_2m_sde`         data        log_snr      the same with the slope times h/2
=====================  ==========  ===========  ==================================================================
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import exp, expm1, inf, log1p, prod
from typing import Any

import torch
from torch import Tensor

from diffnum.coefficients import combine, lagrange, time_quadrature
from diffnum.kept import kept
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import method, still_start
from diffnum.solvers.ddim import runge_kutta, transfer

VARIABLES, PREDICTIONS = ("log_snr", "rho", "t"), ("noise", "data")
ORDERS = (1, 2, 3, 4)


def _order(
    grid: str = "log_snr",
    process: Any = None,
    order: int = 3,
    variable: str = "log_snr",
    prediction: str = "noise",
    start: str = "ramp",
    corrector: bool = False,
    first: float | None = None,
) -> int:
    """Observed order: that of the weights, capped by the start where the predictions change there (see `gddim`)."""
    if start == "analytic":
        return 1  # the guess is wrong by an amount that does not shrink; from the prior by so little that it hides
    capped = start == "ramp" and not still_start(grid, process, first)
    return min(order, 2 if capped else 4) + corrector


def _cost(n: int, order: int = 3, start: str = "ramp", **options: Any) -> int:
    return n + {"ramp": 0, "analytic": -1, "runge_kutta": 3 * min(n, order - 1)}[start]


@method(
    order=_order,
    nfe=_cost,
    paper="Hochbruck and Ostermann 2010, section 2.5; noise: Zhang and Chen 2023, arXiv:2204.13902",
    exact_for="a point mass",
    reaches_zero=lambda n, order=3, start="ramp", **options: start != "runge_kutta" or n >= order,
    values={
        "order": ORDERS, "variable": VARIABLES, "prediction": PREDICTIONS,
        "start": ("ramp", "analytic", "runge_kutta"), "corrector": (False, True),
    },
    register=True,
)  # fmt: skip
def exponential_adams(
    problem: Problem,
    u: Tensor,
    times: list[float],
    order: int = 3,
    variable: str = "log_snr",
    prediction: str = "noise",
    start: str = "ramp",
    corrector: bool = False,
) -> Iterator[Tensor]:
    r"""The exponential Adams method of any prediction in any variable.

    .. math:: x_{i+1} = \frac{\alpha_{i+1}}{\alpha_i} x_i + \alpha_{i+1} (\rho_{i+1} - \rho_i)
              \sum_{j<q} w_j \, \epsilon_{i-j}, \qquad
              w_j = \frac{1}{\rho_{i+1} - \rho_i} \int_{\rho_i}^{\rho_{i+1}} l_j(\theta) \, d\rho

    for the noise; for the data :math:`x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i} x_i + \alpha_{i+1}
    (1 - \frac{\rho_{i+1}}{\rho_i}) \sum_j w_j x_{0,i-j}` with mean values over :math:`1/\rho`. The Lagrange
    polynomials :math:`l_j` are those of the last q nodes in :math:`\theta`.

    The corrector costs nothing: the prediction at :math:`t_{i+1}`, which the next step needs anyway, joins the nodes of
    step i, and the next step starts from the state so corrected. (States are yielded before their correction; the last
    one is never corrected, which no order notices.) Order q, with the corrector q + 1, from a good start; the ramp caps
    it as it does for `gddim`. A step to :math:`\sigma = 0` in log_snr uses the newest prediction alone. State
    ``(batch, *event)``.

    Args:
        order: q, from 1 to 4 nodes.
        variable: of the polynomial: "log_snr", "rho" (sigma/alpha) or "t".
        prediction: what is interpolated, "noise" or "data".
        start: "ramp" has fewer nodes in the first steps, n evaluations; "analytic" is a ramp whose first prediction is
            that of white data, :math:`\epsilon = \sigma x/(\alpha^2 + \sigma^2)`, n - 1 evaluations; "runge_kutta" has
            classical steps in rho, n + 3 (q - 1).
        corrector: correct each step with the prediction of the next.

    Source of the analytic start: Dockhorn, Vahdat and Kreis 2022, arXiv:2210.05475, section 4.
    """
    return multistep(problem, u, times, order, variable, prediction, start, corrector)


def multistep(
    problem: Problem,
    u: Tensor,
    times: list[float],
    order: int,
    variable: str,
    prediction: str,
    start: str = "ramp",
    corrector: bool = False,
    rule: str | None = None,
    tau: float = 0.0,
    noise: Noise | None = None,
) -> Iterator[Tensor]:
    """The one loop of the family; the arguments of :func:`exponential_adams`, ``rule`` and ``tau`` of :func:`table`.

    A draw of the noise belongs to its step: the corrector uses that of the predictor.
    """
    field = problem.eps if prediction == "noise" else problem.x0
    known = (problem.process, tuple(times), order, variable, prediction)
    predict, correct = (
        kept.get((table, *known, ahead, rule, tau), partial(table, *known, ahead, rule, tau))
        if ahead <= corrector
        else []
        for ahead in (False, True)
    )
    classical = order - 1 if start == "runge_kutta" else 0
    length = order if corrector else order - 1  # of the past, while the network runs
    past: list[Tensor] = []
    draw: tuple[Tensor, ...] = ()
    before: Any = u if corrector else None  # where the last step began, once corrected
    for i, (t, s) in enumerate(pairwise(times)):
        new = white(problem, u, t, prediction) if start == "analytic" and i == 0 else field(u, t)
        if corrector:
            before = u = combine(correct[i - 1], (before, new, *past, *draw)) if i > classical else u
            past = past[: order - 1]
        draw = () if noise is None else (noise(u),)
        if i < classical:
            u = classical_step(problem, u, new, t, s, prediction)
        else:
            u = combine(predict[i], (u, new, *past, *draw))
        past = [new, *past][:length]
        draw = draw if corrector else ()
        del new
        yield u


def table(
    process: Any,
    times: tuple[float, ...],
    order: int,
    variable: str,
    prediction: str,
    ahead: bool = False,
    rule: str | None = None,
    tau: float = 0.0,
) -> list[tuple[float, ...]]:
    r"""For every step the factors of the state, of the predictions, newest first, and with a ``tau`` of the noise.

    Args:
        process, times: an isotropic process and the grid.
        order: largest number of nodes; the first steps have only those of the grid.
        variable, prediction: as for :func:`exponential_adams`.
        ahead: begin with the node at the end of the step, as a corrector does, and one node more.
        rule: None for exact mean values; "bh1" or "bh2" for UniPC's weights of two nodes, which multiply their slope by
            ``h B(h)/2``; "3m" for those of DPM-Solver++(3M) as published, "bh2" with half the curvature.
        tau: of the data prediction alone, how much noise (see `sa_solver`): with the ratio r of the levels rho the
            state has the factor :math:`r^{\tau^2} \sigma_s/\sigma_t` and mean values are over
            :math:`\rho^{-(1 + \tau^2)}`.
    """
    rows, log_ratio = [], (process.log_snr(times) / 2).tolist()
    if rule and order == 2 and not ahead:
        means = [(1.0, 0.0)[: i + 1] for i in range(len(times) - 1)]  # only how many they are
    else:
        means = mean_values(process, times, order, variable, prediction, ahead, 1 + tau**2)
    levels = list(zip(*(level(list(times)).tolist() for level in (process.alpha, process.sigma)), strict=True))
    steps = process.steps(times[:-1], times[1:])
    for i, ((psi, c), w) in enumerate(zip(steps, means, strict=True)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = levels[i], levels[i + 1]
        back = len(w) - ahead  # nodes from t on
        if rule and len(w) == 2 and sigma_s:
            w = _two_nodes(log_ratio[i - back + 1 : i + 2][::-1], prediction, ahead, "bh1" if rule == "bh1" else "bh2")
        elif rule == "3m" and back == 3 and sigma_s:
            w = _less_curved(w, log_ratio[i - 2 : i + 1][::-1])
        state, gain = (psi, c) if prediction == "noise" else (sigma_s / sigma_t, -c * alpha_t / sigma_t)
        amount: tuple[float, ...] = ()
        if tau:
            shrunk = log1p(-gain / alpha_s) if sigma_s else -inf  # log r
            state, gain = state * exp(tau**2 * shrunk), -alpha_s * expm1((1 + tau**2) * shrunk)
            amount = (sigma_s * (-expm1(2 * tau**2 * shrunk)) ** 0.5,)
        rows.append((state, *(gain * weight for weight in w), *amount))
    return rows


def mean_values(
    process: Any,
    times: Sequence[float],
    order: int,
    variable: str,
    prediction: str,
    ahead: bool,
    power: float = 1.0,
) -> list[tuple[float, ...]]:
    r"""Mean values of the Lagrange polynomials over every step: over rho for the noise, over 1/rho^power for the data.

    Gauss-Legendre quadrature in time with the density :math:`d \rho^{\pm 1} = \pm \rho^{\pm 1} \frac{G^2}{2 \sigma^2}
    d \tau`, scaled by its value at the start of the step, for all steps at once.
    """
    grid, n = torch.tensor(times, dtype=torch.float64, device="cpu"), len(times) - 1
    theta = {"log_snr": process.log_snr, "rho": process.rho, "t": lambda t: t}[variable]
    tau, weights, owner = time_quadrature(list(pairwise(times)), process.knots.tolist())
    ratio = process.rho(tau) / process.rho(grid)[owner, None]
    density = weights * (process.G(tau)[..., 0, 0] / process.sigma(tau)) ** 2
    density = density * ratio if prediction == "noise" else density * ratio**-power
    places, at, means = theta(grid), theta(tau), []
    for size in range(1, min(order, n) + 1):  # the steps whose history has this length
        first, last = size - 1, size if size < order else n
        inside = ((owner >= first) & (owner < last)).nonzero().flatten()
        i = owner[inside]
        nodes = places[i - torch.arange(-ahead, size, device="cpu")[:, None], None]
        parts = (lagrange(nodes, at[inside]) * density[inside]).sum(2).mT
        total = parts.new_zeros(last - first, len(nodes)).index_add_(0, i - first, parts)
        means += [tuple(row) for row in (total / total.sum(1, keepdim=True)).tolist()]
    if process.singular(times[-1]):  # log_snr is infinite there, and so is 1/rho
        past = list(places[max(n - order, 0) : n].flip(0))
        if variable == "log_snr":
            means[-1] = (1.0, *(0.0 for _ in past[1:]))
        elif prediction == "data":
            means[-1] = tuple(lagrange(past, places[n]).tolist())
    return means


def _two_nodes(lam: Sequence[float], prediction: str, ahead: bool, rule: str) -> tuple[float, float]:
    """UniPC's weights of two nodes: where the mean of the way is asked for, h/2, with bh1 times h/(e^h - 1)."""
    h = lam[0] - lam[1]
    full = expm1(h) if prediction == "noise" else -expm1(-h)
    way = h / 2 if rule == "bh2" else h / 2 * h / full
    if ahead:
        return way / h, 1 - way / h
    return 1 + way / (lam[1] - lam[2]), -way / (lam[1] - lam[2])


def _less_curved(w: Sequence[float], lam: Sequence[float]) -> tuple[float, ...]:
    """The weights of three nodes with half the second divided difference."""
    square = sum(weight * (x - lam[0]) ** 2 for weight, x in zip(w, lam, strict=True))  # its mean over the step
    divided = (1 / prod(x - y for y in lam if y != x) for x in lam)
    return tuple(weight - square / 2 * d for weight, d in zip(w, divided, strict=True))


def white(problem: Problem, u: Tensor, t: float, prediction: str) -> Tensor:
    """The exact prediction for white data of variance 1: what the start state alone suggests; no evaluation."""
    alpha, sigma = problem.process.levels(t)
    return combine(((sigma if prediction == "noise" else alpha) / (alpha**2 + sigma**2),), (u,))


def classical_step(problem: Problem, u: Tensor, new: Tensor, t: float, s: float, prediction: str) -> Tensor:
    """A classical Runge-Kutta step for dy/drho = eps, whose first slope is at hand as that prediction."""
    process = problem.process
    alpha, sigma = process.levels(t)
    e = new if prediction == "noise" else combine((1 / sigma, -alpha / sigma), (u, new))
    middle = process.time_of_rho((process.rho(t) + process.rho(s)) / 2)
    return transfer(problem, u, runge_kutta(problem.eps, partial(transfer, problem), u, e, t, middle, s), t, s)


@method(
    order=_order,
    nfe=lambda n, order=3, variable="t": n,
    paper="Zhang and Chen 2023, arXiv:2204.13902, equation 15 and algorithm 1",
    exact_for="a point mass",
    values={"order": ORDERS, "variable": ("t", "rho", "log_snr")},
    register=True,
)
def deis(problem: Problem, u: Tensor, times: list[float], order: int = 3, variable: str = "t") -> Iterator[Tensor]:
    """DEIS: :func:`exponential_adams` of the noise; tAB-DEIS, or in "rho" or "log_snr". n evaluations.

    In t it is `gddim` on VP and VE; in log_snr the `DEISMultistepScheduler` of diffusers.
    """
    return multistep(problem, u, times, order, variable, "noise")


@method(
    order=lambda grid="log_snr", process=None, order=4, first=None: _order(grid, process, order, first=first),
    nfe=lambda n, order=4: n,
    paper="linear multistep of k-diffusion: Hairer, Norsett, Wanner 1993, section III.5",
    exact_for="a point mass",
    values={"order": (4, 3, 2, 1)},
    register=True,
)
def lms(problem: Problem, u: Tensor, times: list[float], order: int = 4) -> Iterator[Tensor]:
    """LMS: :func:`exponential_adams` of the noise in rho, with the ramp. n evaluations."""
    return multistep(problem, u, times, order, "rho", "noise")


@method(
    order=2,
    nfe=lambda n: n,
    paper="Lu et al. 2022, arXiv:2211.01095, algorithm 2",
    exact_for="a point mass",
    register=True,
)
def dpmpp_2m(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""DPM-Solver++(2M): two data predictions on a line in :math:`\lambda`, whose slope is multiplied by h/2.

    .. math:: D_i = \Big(1 + \frac{1}{2 r_i}\Big) x_0(x_i, t_i) - \frac{1}{2 r_i} x_0(x_{i-1}, t_{i-1}), \qquad
              x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i} x_i - \alpha_{i+1} (e^{-h_i} - 1) D_i

    with :math:`\lambda = \log(\alpha/\sigma)`, :math:`h_i = \lambda_{i+1} - \lambda_i` and
    :math:`r_i = h_{i-1}/h_i`. In the first step, and in a step to :math:`\sigma = 0`, :math:`D_i = x_0(x_i, t_i)`. That
    last step lands on the clean prediction of the last level :math:`\rho`, which is wrong by about
    :math:`\tfrac12 \rho^2 \, d\epsilon/d\rho`: a floor where that level stays fixed, as on `log_snr` and `karras`
    grids; up to a factor log n still order 2 where it falls like 1/n, as on `quadratic`; order 1 where its square does,
    as on `uniform` (VP). Order 2 on grids that end above 0, one evaluation a step. State ``(batch, *event)``.
    """
    return multistep(problem, u, times, 2, "log_snr", "data", rule="bh2")


@method(
    order=lambda grid="log_snr", process=None, published=False, first=None: (
        2 if published else _order(grid, process, first=first)
    ),
    nfe=lambda n, published=False: n,
    paper="Lu et al. 2022, arXiv:2211.01095, and its released code, multistep of order 3",
    exact_for="a point mass",
    values={"published": (False, True)},
    register=True,
)
def dpmpp_3m(problem: Problem, u: Tensor, times: list[float], published: bool = False) -> Iterator[Tensor]:
    r"""DPM-Solver++(3M): three data predictions on a parabola in :math:`\lambda`.

    The released code multiplies the second divided difference by the weight of a second derivative, which is twice as
    large: half the curvature is missing, and the order is 2. By default the weights are exact.

    Args:
        published: the weights of the released code (the second step is that of :func:`dpmpp_2m`).
    """
    return multistep(problem, u, times, 3, "log_snr", "data", rule="3m" if published else None)


@method(
    order=lambda grid="log_snr", process=None, order=2, prediction="data", variant="bh2", first=None: _order(
        grid, process, order, corrector=True, first=first
    ),
    nfe=lambda n, order=2, prediction="data", variant="bh2": n,
    paper="Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8",
    exact_for="a point mass",
    values={"order": (2, 3, 1), "prediction": PREDICTIONS, "variant": ("bh2", "bh1")},
    register=True,
)
def unipc(
    problem: Problem, u: Tensor, times: list[float], order: int = 2, prediction: str = "data", variant: str = "bh2"
) -> Iterator[Tensor]:
    r"""UniPC: predictor UniP and corrector UniC in :math:`\lambda`; the corrector costs no evaluation.

    UniPC solves a linear system with a free function B(h) for its weights. Wherever it solves it, B cancels and the
    weights are those of :func:`exponential_adams` with ``corrector=True``; the two nodes of UniP-2 and UniC-1 get a
    weight of 1/2 without solving it, and only there the variants B = h (bh1) and e^h - 1 (bh2) differ. Order p + 1 with
    a predictor of order p; n evaluations, none at the last time.

    Args:
        order: p, the predictor's order: 2 as in the released code, 3 where the noise stands still at the start.
        prediction: "data", as UniPC is used for guided sampling, or "noise".
        variant: "bh1" or "bh2".
    """
    return multistep(problem, u, times, order, "log_snr", prediction, corrector=True, rule=variant)
