r"""A grid from the problem itself: a pilot run tells where a step costs most, and the grid puts its steps there.

A method of order p makes an error of about :math:`C h^{p+1}` in a step of length h in :math:`\lambda = -\log\rho`. With
n steps the sum of these is least where all are equal, which asks for steps in proportion to :math:`C^{-1/(p+1)}`: the
errors are *equidistributed* (de Boor 1973). A grid uniform in log-SNR does so where C is constant.
"""

from dataclasses import dataclass, field
from math import comb, inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum import arguments, grids
from diffnum.errors import DiffnumError
from diffnum.problem import Problem, given_problem
from diffnum.runner import steps

FINE: dict[str, Any] = {"order": 4, "corrector": True}
STEPS, STRIDE = 128, 4  # of the pilot; derivatives are differences over the steps of a grid of 32


@dataclass(frozen=True, eq=False)
class Pilot:
    """A family of grids, ``pilot(n)``, as :func:`diffnum.measure.analysis.convergence` takes them.

    Attributes:
        process: the process of the problem.
        times: the pilot's times ``(129,)``.
        density: how many steps the problem asks for, per unit of :math:`\\log\\rho`, up to a factor ``(129,)``.
        order: of the method that the grid is for.
    """

    process: Any
    times: Tensor = field(repr=False)
    density: Tensor = field(repr=False)
    order: int

    def __post_init__(self) -> None:
        times = grids.check_times(self.times, arguments.process(self.process))
        density = arguments.dense("density", self.density)
        if density.shape != times.shape or not (bool((density >= 0).all()) and 0 < density.sum() < inf):
            raise DiffnumError(
                "density must be one number for each time, finite and not negative, and positive somewhere; where a "
                "problem asks for no steps, or for what is no number, take grids.log_snr"
            )
        for name, value in (("times", times), ("density", density), ("order", arguments.whole("order", self.order))):
            object.__setattr__(self, name, value)

    def __call__(self, n: int) -> Tensor:
        """The grid of n steps: half of them as the density asks, half spread evenly, ``(n + 1,)``."""
        n = arguments.whole("n", n)
        level, share = self._share()
        passed = np.concatenate([[0.0], np.cumsum((share[1:] + share[:-1]) / 2 * np.diff(level))])
        inner = np.interp(np.linspace(0, passed[-1], n + 1)[1:-1], passed, level)
        middle = self.process.time_of_log_snr(torch.from_numpy(2 * inner))
        return torch.cat([self.times[:1], middle, self.times[-1:]])

    @property
    def gain(self) -> float:
        r"""How many times smaller the sum of the errors of steps is than on the log-SNR grid, if steps are short.

        .. math:: \frac{\Lambda^p \int D^{p+1} d\lambda}{\int D^{p+1} w^{-p} d\lambda}, \qquad
                  w \propto D + \bar D, \quad \int w \, d\lambda = 1

        with the density D, its mean, and the length :math:`\Lambda` of the range.
        """
        level, share = self._share()
        wanted = self.density.numpy() ** (self.order + 1)
        even = np.full_like(share, share.mean())
        cost = [np.trapezoid(wanted * (s / np.trapezoid(s, level)) ** -self.order, level) for s in (even, share)]
        return float(cost[0] / cost[1])

    def _share(self) -> tuple[np.ndarray, np.ndarray]:
        density = self.density.numpy()
        return self.process.log_snr(self.times).numpy() / 2, density + density.mean()


def equidistributed(
    problem: Problem, u: Tensor, order: int = 2, t_end: float | None = None, t_start: float | None = None
) -> Pilot:
    r"""Grids on which every step adds about the same error: ``grid = equidistributed(problem, u); grid(20)``.

    .. math:: D = (G \rho \, |\partial_\lambda^p \epsilon|)^{1/(p+1)}, \qquad
              \lambda = -\log\rho, \quad \rho = \sigma/\alpha

    :math:`\rho \, \partial^p \epsilon` is what a step leaves of an exponential Adams method in log-SNR with noise
    prediction, up to a constant; G is how many times smaller an error has become at the end, seen on a neighbouring
    run. Both are root mean squares over the rows of u. The pilot costs 385 evaluations, once for a problem, not
    once for a picture; half of the steps stay spread evenly, so that no stretch is left without steps.

    Args:
        problem: on VP, VE or rectified flow.
        u: start states ``(batch, *event)`` of the pilot; better others than those that the grid is for.
        order: p, of the method, from 1 to 6; with 10 to 30 steps 2 serves methods of higher order as well, for their
            errors are not yet those of short steps.
        t_end, t_start: ends of the grids, by default those of the process.

    Returns:
        a :class:`Pilot`, from which ``pilot(n)`` makes grids; ``pilot.gain`` predicts what it is worth.

    Raises:
        ValueError: another process, an order outside 1 ... 6, or an end without noise. DiffnumError: noise predictions
            that are not finite, or that do not change at all.

    Source: the principle is de Boor's (1973, "Good approximation by splines with variable knots"); the monitor is ours.
    """
    process, order = given_problem(problem).process, arguments.whole("order", order, 1, 6)
    if process.family != "isotropic":
        raise ValueError(f"problem={problem!r}: the pilot knows VP, VE and rectified flow, and no other process")
    times = grids.log_snr(process, STEPS, t_end=t_end, t_start=t_start)
    if process.singular(times[-1].item()):
        raise ValueError(f"t_end={t_end} has no noise, and the pilot measures in log-SNR; take an end above 0")
    problem.check(u)
    problem = Problem(process, problem.denoiser)  # the count of evaluations of the one given is left alone
    u = u.float() if u.dtype == torch.bfloat16 else u  # whose rounding hides every curvature
    small = torch.finfo(u.dtype).eps ** (1 / 3)  # as much rounding as curvature
    noise = torch.randn(u.shape, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu")
    with torch.no_grad():
        path, beside = (
            torch.stack([x, *(state.u for state in steps(problem, "exponential_adams", x, times, **FINE))])
            for x in (u, u + small * noise.to(u))
        )
        eps = torch.stack([problem.eps(x, t).double().cpu() for x, t in zip(path, times.tolist(), strict=True)])
    apart = (beside - path).double().flatten(1).square().mean(1).sqrt().cpu() / process.alpha(times)
    span = order * STRIDE
    signs = [(-1) ** (order - j) * comb(order, j) for j in range(order + 1)]
    differences = sum(c * eps[j * STRIDE : STEPS + 1 - span + j * STRIDE] for j, c in enumerate(signs))
    size = differences.flatten(1).square().mean(1).sqrt()
    before = span // 2
    size = torch.cat([size[:1].expand(before), size, size[-1:].expand(span - before)])
    density = (size * process.rho(times) * apart[-1] / apart) ** (1 / (order + 1))
    mean = torch.nn.functional.pad(density[None, None], (STRIDE // 2, STRIDE // 2), mode="replicate")
    return Pilot(process, times, mean.unfold(2, STRIDE + 1, 1).mean(3)[0, 0], order)
