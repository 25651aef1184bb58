r"""Stochastic exponential Adams methods (SA-Solver: Xue et al. 2023, arXiv:2309.05019; DPM-Solver++, SDE).

| paper | here |
|---|---|
| tau(t), constant | tau |
| lambda, h | log_snr / 2, a step in it |
| s-step SA-Predictor, s-step SA-Corrector | order s; corrector, which adds the node at the end of the step |
| eta of k-diffusion's `dpmpp_2m_sde` | tau^2 |

For every :math:`\tau \ge 0` the reverse SDE with :math:`\tau` times the noise of the reverse-time process has the
marginals of the process. Variation of constants for the data prediction, with :math:`r = \rho_s/\rho_t`, is

.. math:: x_s = \frac{\sigma_s}{\sigma_t} r^{\tau^2} x_t
          + \sigma_s \rho_s^{\tau^2} \int x_0 \, d\bigl(\rho^{-(1 + \tau^2)}\bigr)
          + \sigma_s \sqrt{1 - r^{2 \tau^2}} \, z .

The weights and the loop are those of `exponential_adams`, where :math:`\tau = 0`.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from diffnum.arguments import weight
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import method
from diffnum.solvers.exponential_adams import exponential_adams, multistep
from diffnum.solvers.reverse_sde import frozen_clock


def _order(grid: str = "log_snr", process: Any = None, order: int = 3, tau: float = 1.0, corrector: bool = True,
           first: float | None = None) -> int:  # fmt: skip
    """Weak order; without noise the order of `exponential_adams`."""
    if not tau:
        ode: Any = exponential_adams
        return ode.order(grid, process, order, prediction="data", corrector=corrector, first=first)
    return min(order + corrector, 2)


def _clock(process: Any, tau: float = 1.0, **options: Any) -> Callable[[float], float]:
    return frozen_clock(process, tau)


@method(
    weak_order=_order,
    strong_order=1,
    nfe=lambda n, order=3, tau=1.0, corrector=True: n,
    paper="Xue et al. 2023, arXiv:2309.05019, algorithm 1",
    kind="sde",
    exact_for="the law of data at one point, for every tau, in one step",
    values={"order": (3, 2, 1, 4), "tau": weight, "corrector": (True, False)},
    clock=_clock,
    register=True,
)
def sa_solver(
    problem: Problem,
    u: Tensor,
    times: list[float],
    order: int = 3,
    tau: float = 1.0,
    corrector: bool = True,
    *,
    noise: Noise,
) -> Iterator[Tensor]:
    r"""SA-Solver: an exponential Adams method of the data prediction in :math:`\lambda` for the reverse SDE.

    .. math:: x_{i+1} = \frac{\sigma_s}{\sigma_t} r^{\tau^2} x_i + \alpha_s \bigl(1 - r^{1 + \tau^2}\bigr)
              \sum_{j<q} w_j \, x_{0,i-j} + \sigma_s \sqrt{1 - r^{2 \tau^2}} \, z, \qquad r = \frac{\rho_s}{\rho_t}

    with the mean values :math:`w_j` of the Lagrange polynomials of the last q predictions over
    :math:`\rho^{-(1 + \tau^2)}`, a ramp, and a corrector that uses the prediction of the next step and the draw of
    this one. With noise the strong order is 1, since no node knows the noise of the step, and the weak order 2 as soon
    as two nodes are interpolated; with ``tau=0`` it is :func:`~diffnum.solvers.exponential_adams.exponential_adams`.
    One evaluation and one draw a step. State ``(batch, *event)``.

    Args:
        order: q, from 1 to 4 nodes.
        tau: weight of the noise, at least 0; 1 is the reverse SDE, 0 the probability-flow ODE.
        corrector: correct each step with the prediction of the next.
        noise: source of standard normal draws.
    """
    return multistep(
        problem, u, times, order, "log_snr", "data", corrector=corrector, tau=tau, noise=noise if tau else None
    )


@method(
    weak_order=2,
    strong_order=1,
    nfe=lambda n, eta=1.0: n,
    paper="Lu et al. 2022, arXiv:2211.01095, appendix, SDE-DPM-Solver++(2M); eta as in k-diffusion",
    kind="sde",
    exact_for="the law of data at one point, for every eta, in one step",
    values={"eta": weight},
    clock=lambda process, eta=1.0: frozen_clock(process, eta**0.5),
    register=True,
)
def dpmpp_2m_sde(
    problem: Problem, u: Tensor, times: list[float], eta: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""DPM-Solver++(2M) for the reverse SDE: `sa_solver` of two nodes with the slope times h/2.

    With ``eta=0`` it is :func:`~diffnum.solvers.exponential_adams.dpmpp_2m`. Weak order 2, strong order 1; one
    evaluation and one draw a step. State ``(batch, *event)``.

    Args:
        eta: :math:`\tau^2`, at least 0; 1 is the reverse SDE.
        noise: source of standard normal draws.
    """
    tau = eta**0.5
    return multistep(problem, u, times, 2, "log_snr", "data", rule="bh2", tau=tau, noise=noise if tau else None)
