r"""The Heun method of EDM. (DPM-Solver++, the other method that most people sample with, is in `exponential_adams`.)

| paper | here |
|---|---|
| EDM: t, sigma(t) | rho = sigma/alpha |
| EDM: x/s(t) | y = x/alpha |

It may end at t = 0. Its last step is then of first order: it lands on the clean prediction of the last level
:math:`\rho`, which is wrong by about :math:`\tfrac12 \rho^2 \, d\epsilon/d\rho`. Where that level stays fixed, as on
the `log_snr` and `karras` grids, this is a floor that more steps do not lower. Where it falls like 1/n, as on
`quadratic` for VP, order 2 survives; where its square falls like 1/n, as on `uniform` for VP, the order is 1. The order
claimed below is that on grids that end above 0.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from torch import Tensor

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
