"""DDIM, and the parts every PNDM method is made of: a way to average noise, a way to move.

| paper | here |
|---|---|
| alpha-bar | alpha^2 |
| sigma of the rescaled ODE | rho = sigma/alpha |
| e, e', delta | e, bar, t - s |

A method is a *gradient part*, which averages slopes, and a *transfer part*, which moves along the average. Classical
methods move on a straight line (:func:`straight`), pseudo methods with :func:`transfer`; the gradient parts are shared.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from diffnum.coefficients import HEUN_WEIGHTS, RK4_WEIGHTS, combine
from diffnum.problem import Problem
from diffnum.runner import method

Slope = Callable[[Tensor, float], Tensor]
Move = Callable[[Tensor, Tensor, float, float], Tensor]

DDIM_PAPER = "Song et al. 2021, arXiv:2010.02502, equation 12"


def transfer(problem: Problem, u: Tensor, e: Tensor, t: float, s: float) -> Tensor:
    r"""Exact solution from t to s of the probability-flow ODE with the noise prediction frozen at e.

    .. math:: \phi(x, e, t, s) = \frac{\alpha_s}{\alpha_t} x + \alpha_s (\rho_s - \rho_t) e, \qquad \rho = \sigma/\alpha

    Args:
        problem: gives the process.
        u: state at t, ``(batch, *event)``.
        e: noise prediction, of the same shape.
        t, s: from and to.

    Source: Liu et al. 2022, arXiv:2202.09778, equation 11.
    """
    return combine(problem.step(t, s), (u, e))


def straight(problem: Problem, u: Tensor, k: Tensor, t: float, s: float) -> Tensor:
    """Classical transfer: along the slope k = du/dt on a straight line."""
    return combine((1.0, s - t), (u, k))


def improved_euler(slope: Slope, move: Move, u: Tensor, k1: Tensor, t: float, s: float) -> Tensor:
    """Gradient part of improved Euler (Heun): the mean of the slopes at both ends."""
    k2 = slope(move(u, k1, t, s), s)
    return combine(HEUN_WEIGHTS, (k1, k2))


def runge_kutta(slope: Slope, move: Move, u: Tensor, k1: Tensor, t: float, m: float, s: float) -> Tensor:
    """Gradient part of the classical Runge-Kutta method: Simpson's mean of four slopes, two of them at time m."""
    k2 = slope(move(u, k1, t, m), m)
    k3 = slope(move(u, k2, t, m), m)
    k4 = slope(move(u, k3, t, s), s)
    return combine(RK4_WEIGHTS, (k1, k2, k3, k4))


@method(
    order=1,
    nfe=lambda n: n,
    paper=DDIM_PAPER,
    exact_for="a point mass, in one step; any data whose noise prediction is constant along the path",
    register=True,
)
def ddim(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""DDIM: the exponential Euler method, pseudo Euler in PNDM's terms.

    .. math:: x_{i+1} = \phi(x_i, \epsilon(x_i, t_i), t_i, t_{i+1})

    Order 1, one evaluation a step, exact in a single step for a point mass. State ``(batch, *event)``.

    Source: Song et al. 2021, arXiv:2010.02502, equation 12 with eta = 0.
    """
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u
