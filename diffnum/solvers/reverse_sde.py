r"""Reverse SDEs without a paper of their own: Euler-Maruyama, and the step that freezes the data prediction.

For every :math:`\lambda \ge 0` the equation

.. math:: du = \bigl(F u - \tfrac{1 + \lambda^2}{2} G G^T \nabla \log p_t(u)\bigr) dt + \lambda G \, d\bar w,

solved from large t to small t, has the marginals of the process (Song et al. 2021, arXiv:2011.13456, for 0 and 1).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffnum.arguments import share, weight
from diffnum.coefficients import combine, lower_root, on_grid
from diffnum.kept import kept
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import EVERY, method


@method(
    weak_order=1,
    strong_order=1,
    nfe=lambda n, lam=1.0: n,
    paper="Maruyama 1955; Kloeden and Platen 1992, section 10.2",
    kind="sde",
    families=EVERY,
    values={"lam": weight},
    clock=lambda process, lam=1.0: lambda t: -t,
    exact_for=None,
    register=True,
)
def euler_maruyama(
    problem: Problem, u: Tensor, times: list[float], lam: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Euler-Maruyama for the reverse SDE of weight lambda.

    .. math:: u_{i+1} = u_i - h \bigl(F u_i + \tfrac{1 + \lambda^2}{2} G G^T R^{-T} \epsilon_R\bigr)
              + \lambda \sqrt h \, G z, \qquad h = t_i - t_{i+1}

    with all coefficients at the start of the step. Weak order 1, and strong order 1 because the noise is additive.
    One evaluation and one draw a step. State ``(batch, *event)``, on phase space ``(batch, 2, *event)``.

    Args:
        lam: weight of the noise, at least 0; 1 is the reverse SDE, 0 Euler's method for the probability-flow ODE.
        noise: source of standard normal draws.
    """
    table = on_grid(euler_weights, problem.process, times, u, lam)
    for t, coefficients in zip(times, table, strict=False):
        u = combine(coefficients, (u, problem.eps(u, t), noise(u)))
        yield u


def euler_weights(process: Any, times: Sequence[float], lam: float) -> tuple[Tensor, ...]:
    """For all steps of :func:`euler_maruyama` the coefficients of state, noise prediction and draw."""
    grid = torch.tensor(times, dtype=torch.float64, device="cpu")
    F = process.F(grid[:-1])
    h = -grid.diff().reshape(-1, *(1,) * (F.ndim - 1))
    unit = torch.eye(F.shape[-1], dtype=torch.float64, device="cpu")
    return unit - h * F, -h * (1 + lam**2) * process.gain(grid[:-1]), lam * h.sqrt() * process.G(grid[:-1])


def frozen_data(problem: Problem, u: Tensor, times: list[float], lam: float, noise: Noise) -> Iterator[Tensor]:
    r"""Steps of the reverse SDE of weight lambda with the data prediction frozen, exact in mean and covariance.

    .. math:: u_{i+1} = \Psi u_i + (\hat\Psi - \Psi) R_{t_i} \epsilon_R + P^{1/2} z, \qquad
              P = \Sigma_{t_{i+1}} - \hat\Psi \Sigma_{t_i} \hat\Psi^T

    with :math:`\hat\Psi` and P from ``process.reverse_step`` and the lower Cholesky factor of P.
    """
    table = on_grid(frozen_weights, problem.process, times, u, lam)
    for t, coefficients in zip(times, table, strict=False):
        u = combine(coefficients, (u, problem.eps(u, t), noise(u)))
        yield u


def frozen_weights(process: Any, times: Sequence[float], lam: float) -> tuple[Tensor, ...]:
    """For all steps of :func:`frozen_data` the coefficients of state, noise prediction and draw."""
    grid = torch.tensor(times, dtype=torch.float64, device="cpu")
    frm, to = grid[:-1], grid[1:]
    through, P = process.reverse_step(to, frm, lam)
    direct = process.transition(to, frm)
    gain = (through - direct) @ process.rotation_root(frm)
    return direct, gain, lower_root(P)


def frozen_clock(process: Any, lam: float = 1.0) -> Callable[[float], float]:
    """Variance of the martingale that drives :func:`frozen_data` on VP and VE, :math:`\\rho^{-2\\lambda^2}`."""
    return lambda t: process.rho(t) ** (-2 * lam**2)


@method(
    weak_order=1,
    strong_order=1,
    nfe=lambda n: n,
    paper="Ho et al. 2020, arXiv:2006.11239, equation 7 and algorithm 2",
    kind="sde",
    families=EVERY,
    exact_for="the law of data at one point, in one step",
    clock=frozen_clock,
    register=True,
)
def ancestral(problem: Problem, u: Tensor, times: list[float], *, noise: Noise) -> Iterator[Tensor]:
    r"""Ancestral sampling: draws from the Gaussian posterior of the next state, given state and predicted data.

    .. math:: u_{i+1} \sim q(u_{t_{i+1}} \mid u_{t_i}, x_0(u_{t_i}, t_i))

    This is DDPM's sampler with the posterior variance, on any process, and stochastic gDDIM with lambda = 1. Weak and
    strong order 1. One evaluation and one draw a step. State ``(batch, *event)``, on phase space
    ``(batch, 2, *event)``.

    Args:
        noise: source of standard normal draws.
    """
    return frozen_data(problem, u, times, 1.0, noise)


@method(
    weak_order=1,
    nfe=lambda n, eta=1.0: n,
    paper="Song et al. 2021, arXiv:2010.02502, equations 12 and 16",
    kind="sde",
    exact_for="the law of data at one point, for every eta, in one step",
    values={"eta": share},
    register=True,
)
def ddim_eta(problem: Problem, u: Tensor, times: list[float], eta: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""DDIM with its :math:`\eta`: between DDIM (0) and ancestral sampling (1).

    .. math:: x_{i+1} = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2} \, \hat\epsilon + c z, \qquad
              c = \eta \, \sigma_s \sqrt{1 - q^2}, \quad q = \frac{\rho_s}{\rho_t}

    On VP :math:`c^2` is :math:`\eta^2` times the posterior variance
    :math:`\frac{\sigma_s^2}{\sigma_t^2} \bigl(1 - \frac{\alpha_t^2}{\alpha_s^2}\bigr)`, as published. A step is that of
    :func:`~diffnum.solvers.gddim.gddim_sde` with the lambda for which :math:`\eta^2 = P(\lambda)/P(1)`, another one in
    each step. So a fixed :math:`\eta` is a noise that vanishes with the step like that of lambda = eta: weak order 1.
    One evaluation and one draw a step. State ``(batch, *event)``.

    Args:
        eta: from 0 to 1.
        noise: source of standard normal draws.
    """
    key = problem.process, tuple(times), eta
    for t, w in zip(times, kept.get((eta_weights, *key), lambda: eta_weights(*key)), strict=False):
        u = combine(w, (u, problem.eps(u, t), noise(u)))
        yield u


def eta_weights(process: Any, times: tuple[float, ...], eta: float) -> list[tuple[float, float, float]]:
    """For every step of :func:`ddim_eta` the factors of state, noise prediction and draw."""
    weights, sigma = [], process.sigma(list(times)).tolist()
    for (keep, gain), (sigma_t, sigma_s) in zip(process.steps(times[:-1], times[1:]), pairwise(sigma), strict=True):
        q = sigma_s / (keep * sigma_t)  # the ratio of the levels rho
        # sqrt(1 - eta^2 (1 - q^2)) - 1 without its cancellation
        lost = eta**2 * (1 - q**2)
        weights.append((keep, gain - sigma_s * lost / (1 + (1 - lost) ** 0.5), sigma_s * lost**0.5))
    return weights
