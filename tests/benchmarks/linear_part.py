r"""A method that was tried and not kept: the linear part of a Gaussian of width s0, the rest interpolated.

For data N(0, s0^2) the ODE is linear, and :math:`y/\sqrt{s_0^2 + \rho^2}` stands still, with y = x/alpha. In general

.. math:: \frac{d}{d\theta} \frac{y}{\sqrt{s_0^2 + \rho^2}} = F, \qquad \tan\theta = \frac{\rho}{s_0}, \qquad
          F = \frac{c_{skip} y - D}{c_{out}}, \quad c_{skip} = \frac{s_0^2}{s_0^2 + \rho^2}, \quad
          c_{out} = \frac{\rho s_0}{\sqrt{s_0^2 + \rho^2}} .

F is what EDM's network is trained to return, up to its sign. s0 to infinity is the noise prediction, s0 to 0 the data
prediction; between them an exponential Adams method in log-SNR with the free corrector is exact for Gaussian data of
that width, in one step. One would hope for smaller errors on all data of about that width.
"""

from math import ceil

import torch
from torch import Tensor

import diffnum as dn
from diffnum.coefficients import GAUSS_NODES, GAUSS_WEIGHTS, combine, lagrange


def weights(lam: list[float], i: int, nodes: list[float], s0: float) -> list[float]:
    """Mean values over the step from i of the Lagrange polynomials in lambda = -log(rho), with d theta as density."""
    a, b = lam[i], lam[i + 1]
    edges = torch.linspace(a, b, ceil(2 * (b - a)) + 1, dtype=torch.float64)
    x = (edges[1:, None] + edges[:-1, None] + edges.diff()[:, None] * GAUSS_NODES) / 2
    rho = (-x).exp()
    parts = lagrange(nodes, x) * (GAUSS_WEIGHTS * edges.diff()[:, None] * rho / (s0**2 + rho**2))
    means = parts.sum((1, 2))
    return (means / means.sum()).tolist()


def gaussian_part(problem: dn.Problem, u: Tensor, times: list[float], s0: float = 0.5, order: int = 3):
    """The method: order nodes, the ramp, the free corrector; n evaluations."""
    process = problem.process
    rho = process.rho(torch.tensor(times, dtype=torch.float64))
    lam, theta, r = (-rho.log()).tolist(), torch.atan(rho / s0).tolist(), (s0**2 + rho**2).sqrt().tolist()

    def moved(i: int, base: Tensor, values: list[Tensor], nodes: list[float]) -> Tensor:
        """From the state at i, with values of F at the nodes."""
        (a, _), (b, _) = process.levels(times[i]), process.levels(times[i + 1])
        gain = b * r[i + 1] * (theta[i + 1] - theta[i])
        return combine((b * r[i + 1] / (a * r[i]), *(gain * w for w in weights(lam, i, nodes, s0))), (base, *values))

    past, before = [], u
    for i in range(len(times) - 1):
        alpha = process.levels(times[i])[0]
        skip, out = s0**2 / r[i] ** 2, rho[i].item() * s0 / r[i]
        e = problem.eps(u, times[i])
        new = combine(((skip - 1) / (alpha * out), rho[i].item() / out), (u, e))
        if i:
            u = moved(i - 1, before, [new, *past], [lam[i - j] for j in range(len(past) + 1)])
        past, before = [new, *past[: order - 1]], u
        u = moved(i, u, past, [lam[i - j] for j in range(len(past))])
        yield u
