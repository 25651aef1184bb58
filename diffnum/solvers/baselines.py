r"""The two methods that most people sample with: DPM-Solver++(2M) and the Heun method of EDM.

| paper | here |
|---|---|
| DPM-Solver++: lambda | log_snr / 2 |
| DPM-Solver++: x_theta(x, t) | problem.x0(u, t) |
| DPM-Solver++: D_i | the mean of two clean predictions, inside `combine` |
| EDM: t, sigma(t) | rho = sigma/alpha |
| EDM: x/s(t) | y = x/alpha |

Both may end at t = 0. Their last step is then of first order: it lands on the clean prediction of the last level
:math:`\rho`, which is wrong by about :math:`\tfrac12 \rho^2 \, d\epsilon/d\rho`. Where that level stays fixed, as on
the `log_snr` and `karras` grids, this is a floor that more steps do not lower. Where it falls like 1/n, as on
`quadratic` for VP, order 2 survives (for `dpmpp_2m` up to a factor log n); where its square falls like 1/n, as on
`uniform` for VP, the order is 1. The orders claimed below are those on grids that end above 0.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import pairwise
from math import expm1
from typing import Any

from torch import Tensor

from diffnum.coefficients import combine
from diffnum.problem import Problem
from diffnum.runner import method
from diffnum.solvers.ddim import improved_euler, transfer


@method(
    order=2,
    nfe=lambda n: n,
    paper="Lu et al. 2022, arXiv:2211.01095, algorithm 2",
    exact_for="a point mass",
    register=True,
)
def dpmpp_2m(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""DPM-Solver++(2M): exponential two-step method for the data prediction, linear in :math:`\lambda`.

    .. math:: D_i = \Big(1 + \frac{1}{2 r_i}\Big) x_0(x_i, t_i) - \frac{1}{2 r_i} x_0(x_{i-1}, t_{i-1}), \qquad
              x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i} x_i - \alpha_{i+1} (e^{-h_i} - 1) D_i

    with :math:`\lambda = \log(\alpha/\sigma)`, :math:`h_i = \lambda_{i+1} - \lambda_i` and
    :math:`r_i = h_{i-1}/h_i`. In the first step, and in a step to :math:`\sigma = 0`, :math:`D_i = x_0(x_i, t_i)`.
    Order 2, one evaluation a step. State ``(batch, *event)``.
    """
    old = u  # any state: its weight in the first step is 0
    for t, w in zip(times, grid_weights(problem.process, tuple(times)), strict=False):
        x0 = problem.x0(u, t)
        u, old = combine(w, (u, x0, old)), x0
        yield u


@lru_cache(maxsize=64)
def grid_weights(process: Any, times: tuple[float, ...]) -> list[tuple[float, float, float]]:
    """Factors of x_i and of the last two clean predictions in every step of :func:`dpmpp_2m`."""
    levels, lam = map(process.levels, times), (process.log_snr(times) / 2).tolist()
    weights, before = [], float("inf")
    for ((_, sigma_t), (alpha_s, sigma_s)), (lam_t, lam_s) in zip(pairwise(levels), pairwise(lam), strict=True):
        h = lam_s - lam_t
        gain = -alpha_s * expm1(-h)
        slope = h / (2 * before) if sigma_s else 0.0  # 1/(2r), which is 0 in the first step
        weights.append((sigma_s / sigma_t, gain * (1 + slope), -gain * slope))
        before = h
    return weights


@method(
    order=2,
    nfe=lambda n, to_zero=False: 2 * n - to_zero,
    paper="Karras et al. 2022, arXiv:2206.00364, algorithm 1",
    exact_for="a point mass",
    register=True,
)
def edm_heun(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""EDM's sampler: Heun's method for :math:`dy/d\rho = \epsilon`, with Euler for a step to :math:`\sigma = 0`.

    .. math:: x_{i+1} = \phi\big(x_i, \tfrac12 (e_i + e'), t_i, t_{i+1}\big), \qquad
              e' = \epsilon\big(\phi(x_i, e_i, t_i, t_{i+1}), t_{i+1}\big)

    with :math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha` and the map :func:`~diffnum.solvers.ddim.transfer`,
    a straight line in these variables. Order 2; 2n evaluations, one fewer where the grid ends at t = 0. State
    ``(batch, *event)``.
    """
    move = partial(transfer, problem)
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        if not problem.process.singular(s):
            e = improved_euler(problem.eps, move, u, e, t, s)
        u = transfer(problem, u, e, t, s)
        yield u
