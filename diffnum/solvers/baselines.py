r"""The samplers of EDM. (DPM-Solver++, the other method that most people sample with, is in `exponential_adams`.)

| paper | here |
|---|---|
| EDM: t, sigma(t) | rho = sigma/alpha |
| EDM: x/s(t) | y = x/alpha |

They may end at t = 0. The last step is then of first order: it lands on the clean prediction of the last level
:math:`\rho`, which is wrong by about :math:`\tfrac12 \rho^2 \, d\epsilon/d\rho`. Where that level stays fixed, as on
the `log_snr` and `karras` grids, this is a floor that more steps do not lower. Where it falls like 1/n, as on
`quadratic` for VP, order 2 survives; where its square falls like 1/n, as on `uniform` for VP, the order is 1. The order
claimed below is that on grids that end above 0.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor

from diffnum.arguments import weight
from diffnum.coefficients import combine
from diffnum.kept import kept
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import method
from diffnum.solvers.ddim import improved_euler, transfer


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


@method(
    weak_order=2,
    nfe=lambda n, churn=1.0, to_zero=False: 2 * n - to_zero,
    paper="Karras et al. 2022, arXiv:2206.00364, algorithm 2",
    kind="sde",
    exact_for=None,
    values={"churn": weight},
    register=True,
)
def edm_churn(problem: Problem, u: Tensor, times: list[float], churn: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""EDM's stochastic sampler: noise is added, and a step of :func:`edm_heun` removes it and goes on.

    .. math:: \hat\rho = (1 + \gamma) \rho_i, \qquad \gamma = \min\Bigl(\frac{S}{n}, \sqrt2 - 1\Bigr), \qquad
              \hat y = y_i + \sqrt{\hat\rho^2 - \rho_i^2} \, z

    in :math:`y = x/\alpha`, :math:`\rho = \sigma/\alpha`, then Heun's step from :math:`\hat\rho` to
    :math:`\rho_{i+1}`. Both parts keep the law of the process exactly, so nothing is lost by taking them in turn, and
    the weak order is Heun's, 2. Two evaluations (one in a step to 0) and one draw a step. State ``(batch, *event)``.

    Args:
        churn: S, at least 0; 0 is :func:`edm_heun`. The paper's are 30 to 80 for 256 steps or more.
        noise: source of standard normal draws.

    Differs from the paper: no level is raised above that of ``t_max``, where the process ends, and the noise is neither
    inflated (its S_noise is 1) nor kept to a range of levels.
    """
    process, move, n = problem.process, partial(transfer, problem), len(times) - 1
    gamma = min(churn / n, 2**0.5 - 1)
    levels = kept.get((churned, process, tuple(times), gamma), lambda: [churned(process, t, gamma) for t in times[:-1]])
    for (h, factors), s in zip(levels, times[1:], strict=True):
        u = combine(factors, (u, noise(u)))
        e = problem.eps(u, h)
        if not process.singular(s):
            e = improved_euler(problem.eps, move, u, e, h, s)
        u = transfer(problem, u, e, h, s)
        yield u


def churned(process: Any, t: float, gamma: float) -> tuple[float, tuple[float, float]]:
    """The time at which the level is 1 + gamma times as high, and the factors of state and draw that lead there."""
    rho, top = process.rho(t), process.rho(process.t_max)
    more = min(gamma * rho, max(top - rho, 0.0))
    h = min(max(process.time_of_rho(rho + more), t), process.t_max)
    # the draw's factor comes from the levels: a root would magnify the rounding of h to half of the digits
    return h, (process.step(t, h)[0], process.levels(h)[0] * (more * (2 * rho + more)) ** 0.5)
