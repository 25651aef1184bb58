"""The variance-preserving schedules: how :math:`\\log \\alpha` falls with time. All on float64 tensors.

Each gives ``log_alpha(t)``, ``change(to, frm) = log alpha(to) - log alpha(frm)`` without cancellation,
``beta(t) = -2 d(log alpha)/dt``, its inverse ``time(log_alpha, ratio)``, ``t_max``, and ``t_limit`` up to where the
formulas go on.
"""

from math import atan, cos, log, pi, sqrt, tan

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen

COSINE_RATIO = 2e4  # sigma/alpha at the end of the cosine schedule, where alpha would reach 0
LARGEST_RATIO = 1e18  # of sigma and alpha at the end of any process: single precision still holds its square


class Linear(Frozen):
    r"""Linear rate :math:`\beta(t) = \beta_0 + (\beta_1 - \beta_0) t` (Song et al. 2021, arXiv:2011.13456)."""

    t_max, t_limit = 1.0, LARGEST_RATIO

    def __init__(self, beta_min: float, beta_max: float) -> None:
        self.beta_min = arguments.number("beta_min", beta_min, above=0, usual=0.1)
        pair = f"beta_min={self.beta_min:g}, beta_max"
        self.beta_max = arguments.number(pair, beta_max, self.beta_min, usual=20)
        _check_end(f"{pair}={self.beta_max:g}", (self.beta_min + self.beta_max) / 4)

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def change(self, to: Tensor, frm: Tensor) -> Tensor:
        """log alpha(to) - log alpha(frm): the rate is linear, so its mean is its value in the middle."""
        return (frm - to) * self.beta((to + frm) / 2) / 2

    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of the signal level."""
        return t * (t * ((self.beta_min - self.beta_max) / 4) - self.beta_min / 2)

    def time(self, log_alpha: Tensor, ratio: Tensor) -> Tensor:
        """Time at which the signal level is reached: the stable root of the quadratic."""
        twice = -2 * log_alpha
        slope = self.beta_max - self.beta_min
        return 2 * twice / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * twice))


class Cosine(Frozen):
    r""":math:`\alpha(t) = \cos\theta(t)/\cos\theta(0)`, :math:`\theta = \frac{t + s}{1 + s} \frac{\pi}{2}`.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17.
    """

    t_limit = 1.0  # nothing is left of the data there

    def __init__(self, s: float = 0.008) -> None:
        self.s = arguments.number("s", s, 0.0, 100.0, usual=0.008)

    @property
    def t_max(self) -> float:
        """Time at which sigma/alpha is 2e4, just before alpha reaches 0."""
        angle = atan(sqrt(COSINE_RATIO**2 + self._sin2) / self._cos)
        return angle * 2 * (1 + self.s) / pi - self.s

    @property
    def _cos(self) -> float:
        return cos(self._angle0)

    @property
    def _sin2(self) -> float:
        return 1 - self._cos**2

    @property
    def _angle0(self) -> float:
        return self.s / (1 + self.s) * pi / 2

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.s) / (1 + self.s) * (pi / 2)

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate."""
        return pi / (1 + self.s) * torch.tan(self._angle(t))

    def change(self, to: Tensor, frm: Tensor) -> Tensor:
        """log alpha(to) - log alpha(frm), from the sine of the difference of the two angles."""
        a, b = self._angle(to), self._angle(frm)
        # cos^2 a / cos^2 b = 1 - sin(a - b) sin(a + b) / cos^2 b, with a - b free of cancellation
        small = torch.sin((to - frm) / (1 + self.s) * (pi / 2)) * torch.sin(a + b) / torch.cos(b) ** 2
        return torch.where(small.abs() < 0.5, torch.log1p(-small) / 2, torch.log(torch.cos(a) / torch.cos(b)))

    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of the signal level."""
        return self.change(t, torch.zeros_like(t))

    def time(self, log_alpha: Tensor, ratio: Tensor) -> Tensor:
        """Time at which sigma/alpha is ``ratio``, again from the sine of a difference of angles."""
        tan0 = tan(self._angle0)
        # tan(theta)^2 = tan0^2 + (1 + tan0^2) ratio^2, so tan(theta - theta0) follows without subtracting angles
        scaled = ratio**2 * (1 + tan0**2)
        tangent = torch.sqrt(tan0**2 + scaled)
        difference = torch.atan2(scaled / (tangent + tan0), 1 + tangent * tan0)
        return difference * (2 * (1 + self.s) / pi)


class Table(Frozen):
    r"""A DDPM table of betas: :math:`\alpha^2 = \prod (1 - \beta_i)` at :math:`t = (k + 1)/N`, log-linear in between.

    Source: Ho et al. 2020, arXiv:2006.11239.
    """

    t_max, t_limit = 1.0, LARGEST_RATIO

    def __init__(self, betas: Tensor) -> None:
        betas = arguments.dense("betas", betas)
        if betas.ndim != 1 or len(betas) < 1 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(f"betas of shape {tuple(betas.shape)} must be a 1-d table of numbers between 0 and 1")
        self.size = len(betas)
        levels = torch.cumsum(torch.log1p(-betas), 0) / 2
        _check_end(f"betas of shape ({self.size},)", -levels[-1].item())
        self._knots = torch.cat([levels.new_zeros(1), levels])
        self._rates = -2 * self.size * torch.diff(self._knots)

    def _cell(self, t: Tensor) -> Tensor:
        # at a knot the cell below it, the one a sampler is about to enter; 1e-9 absorbs the rounding of k/N
        return (torch.ceil(t * self.size - 1e-9).long() - 1).clamp(0, self.size - 1)

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate: piecewise constant."""
        return self._rates.to(t.device)[self._cell(t)]

    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of the signal level."""
        cell, knots = self._cell(t), self._knots.to(t.device)
        return torch.lerp(knots[cell], knots[cell + 1], t * self.size - cell)

    def change(self, to: Tensor, frm: Tensor) -> Tensor:
        """log alpha(to) - log alpha(frm)."""
        return self.log_alpha(to) - self.log_alpha(frm)

    def time(self, log_alpha: Tensor, ratio: Tensor) -> Tensor:
        """Time at which the signal level is reached."""
        falling = -self._knots.to(log_alpha.device)
        cell = (torch.searchsorted(falling, -log_alpha.contiguous()) - 1).clamp(0, self.size - 1)
        return (cell + (-log_alpha - falling[cell]) / (falling[cell + 1] - falling[cell])) / self.size


def _check_end(what: str, loss: float) -> None:
    """Refuse a schedule that leaves less of the data than single precision can tell; loss is -log alpha at the end."""
    if not loss <= log(LARGEST_RATIO):
        raise ValueError(f"{what}: sigma/alpha would end at e^{loss:.3g}, above {LARGEST_RATIO:g}; use smaller rates")
