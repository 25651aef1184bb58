r"""The blurring process: every frequency of an image has its own signal level, all share one noise level.

.. math:: y_t = \alpha_k(t) \, y_0 + \sigma(t) \, n, \qquad \alpha_k = \cos\theta(t) \, D_k(t), \quad
          \sigma = \sin\theta(t), \quad \theta(t) = \tfrac{\pi}{2} \, \frac{t + 0.004}{1.008}

in the orthonormal DCT basis, with the damping :math:`D_k = d + (1 - d) e^{-\Lambda_k \tau(t)}` of a heat equation.

| paper | symbol there | here |
|---|---|---|
| gDDIM | alpha-bar | cos^2 theta |
| gDDIM | D, Lambda | damping, frequencies |
"""

from collections.abc import Callable, Sequence
from math import atan, cos, log, pi, sin
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.dct import dct2, decay, frequencies, idct2
from diffnum.processes.linear import Diagonal, inverse, scalars

OFFSET, SPAN = 0.004, 1.008  # of the angle theta: at t = 0 there is already a little noise
LARGEST = 2**20  # frequencies of an image: a coefficient of a process is a number for each of them
VE_MAX = 80.0  # sampling starts where the noise-to-signal ratio is that of VE at 80, in the paper's code


class Blurring(Diagonal):
    r"""Blurring diffusion on images, in the orthonormal DCT-II basis, for any height and width.

    States are DCT coefficients ``(batch, ..., H, W)``: ``encode`` is the transform, ``decode`` its inverse. Time runs
    from 0 to ``t_max``, just below 1, where only noise is left.

    Args:
        shape: ``(H, W)`` of the images; leading axes such as channels are ignored.
        blur_max: largest standard deviation of the blur, in pixels.
        d_min: damping of the highest frequencies that is left at the end.

    Raises:
        ValueError: a shape without height and width, or a number out of range.

    Source: Hoogeboom and Salimans 2022, arXiv:2209.05557; constants of Zhang et al. 2022, arXiv:2206.05564.
    """

    family = "blurring"
    ending = "none"
    t_end = 1e-5
    t_limit = SPAN - OFFSET  # where the angle is a right one
    calm_start = False

    def __init__(self, shape: Sequence[int], blur_max: float = 10.0, d_min: float = 1e-3) -> None:
        self.shape = arguments.sizes("shape", shape, 2, "a height and a width such as (32, 32)")[-2:]
        if self.shape[0] * self.shape[1] > LARGEST:
            raise ValueError(f"shape={self.shape} has more than {LARGEST} frequencies; use smaller images")
        self.numbers = self.shape[0] * self.shape[1]
        self.blur_max = arguments.number("blur_max", blur_max, 0.0, 1e6, usual=10)
        self.d_min = arguments.number("d_min", d_min, above=0, high=1.0, usual=0.001)
        first = pi / 2 * OFFSET / SPAN
        self.t_max = atan((VE_MAX + sin(first)) / cos(first)) * SPAN * 2 / pi - OFFSET

    def __repr__(self) -> str:
        return f"Blurring({self.shape}, blur_max={self.blur_max:g}, d_min={self.d_min:g})"

    def _angle(self, t: Tensor) -> Tensor:
        return (t + OFFSET) * (pi / 2 / SPAN)

    def _blur(self, t: Tensor) -> Tensor:
        r"""Standard deviation of the blur, :math:`s_B = s_{max} \sin^2(\pi t/2)`."""
        return self.blur_max * torch.sin(t * (pi / 2)) ** 2

    @scalars
    def sigma(self, t: Tensor) -> Tensor:
        """Noise level, the same at all frequencies."""
        return torch.sin(self._angle(t))

    def alpha(self, t: Tensor | float) -> Tensor:
        """Signal level of every frequency, ``(*t, H, W)``."""
        return torch.cos(self._angle(self.at(t)))[..., None, None] * self.damping(t)

    def damping(self, t: Tensor | float) -> Tensor:
        """What the blur leaves of every frequency, ``(*t, H, W)``."""
        return self.d_min + (1 - self.d_min) * decay(self._blur(self.at(t)), self.shape)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """F and G^2, ``(*t, H, W)``."""
        angle, speed, blur = self._angle(t)[..., None, None], pi / 2 / SPAN, self._blur(t)
        blur_speed = self.blur_max * (pi / 2) * torch.sin(t * pi)
        lost = frequencies(self.shape).to(t.device) * (blur * blur_speed)[..., None, None]
        loss = lost * (1 - self.d_min) * decay(blur, self.shape) / self.damping(t)  # -D'/D
        F = -speed * torch.tan(angle) - loss
        return F, 2 * speed * torch.tan(angle) + 2 * loss * torch.sin(angle) ** 2

    def F(self, t: Tensor | float) -> Tensor:
        """Drift ``(*t, H, W, 1, 1)``."""
        return _matrix(self._rates(self.at(t))[0])

    def G(self, t: Tensor | float) -> Tensor:
        """Diffusion ``(*t, H, W, 1, 1)``."""
        return _matrix(self._rates(self.at(t))[1].sqrt())

    def integral_F(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Integral of F from ``frm`` to ``to``, ``(*t, H, W, 1, 1)``: the change of log alpha."""
        to, frm = self.at(to), self.at(frm)
        a, b = self._angle(to), self._angle(frm)
        # cos a/cos b = cos(a - b) - sin(a - b) tan b, close to 1 for short steps
        turn = (to - frm) * (pi / 2 / SPAN)
        fading = torch.log1p(-2 * torch.sin(turn / 2) ** 2 - torch.sin(turn) * torch.tan(b))
        fading = torch.where((a - b).abs() < 0.1, fading, torch.log(torch.cos(a) / torch.cos(b)))
        left, before = self.damping(to), self.damping(frm)
        # D(to) - D(frm) from the change of the exponent, which is a product of sum and difference of the blurs
        blurs = self._blur(to), self._blur(frm)
        step = self.blur_max * torch.sin((to + frm) * (pi / 2)) * torch.sin((to - frm) * (pi / 2))
        change = -frequencies(self.shape).to(to.device) * ((blurs[0] + blurs[1]) * step / 2)[..., None, None]
        relative = (1 - self.d_min) * decay(blurs[1], self.shape) * torch.expm1(change) / before
        blurred = torch.where(relative.abs() < 0.5, torch.log1p(relative), torch.log(left / before))
        return _matrix(fading[..., None, None] + blurred)

    def transition(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        r"""Fundamental solution of the drift from ``frm`` to ``to``: :math:`\alpha(to)/\alpha(frm)`."""
        return self.integral_F(to, frm).exp()

    def mean(self, t: Tensor | float) -> Tensor:
        """Factor on the clean coefficients, ``(*t, H, W, 1, 1)``: alpha."""
        return _matrix(self.alpha(t))

    def cholesky(self, t: Tensor | float) -> Tensor:
        """Root of the covariance, ``(*t, H, W, 1, 1)``: sigma."""
        sigma = self.sigma(self.at(t))[..., None, None]
        return _matrix(sigma.expand(*sigma.shape[:-2], *self.shape))

    def statistic(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""State as clean coefficients plus noise: factors :math:`1/\alpha_k` and levels :math:`\sigma/\alpha_k`."""
        alpha = self.alpha(t)
        return _matrix(1 / alpha), self.sigma(self.at(t))[..., None, None] / alpha

    def _log_q(self, to: Tensor, frm: Tensor) -> Tensor:
        """log(sigma(to)/sigma(frm)) less the change of log alpha."""
        ratio = self.sigma(to) / self.sigma(frm)
        return ratio.log()[..., None, None, None, None] - self.integral_F(to, frm)

    @scalars
    def rho(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio of the mean brightness, frequency 0: the tangent of the angle."""
        return torch.tan(self._angle(t))

    @inverse
    def time_of_rho(self, rho: Tensor) -> Tensor:
        """Time at which frequency 0 has the given noise-to-signal ratio: the inverse of :meth:`rho`."""
        return rho.atan() * (SPAN * 2 / pi) - OFFSET

    @property
    def knots(self) -> Tensor:
        """Times at which a quadrature is cut: where rho grows by e towards the end, and where the blur grows by half.

        The damping of a frequency falls to its floor within such a stretch of blur, whatever the frequency.
        """
        steep = torch.arange(log(self.rho(self.t_max)), dtype=torch.float64, device="cpu").exp()
        growth = log(max(self.blur_max, 0.1) / 0.1) / log(1.5)
        widths = 0.1 * 1.5 ** torch.arange(growth, dtype=torch.float64, device="cpu")
        fading = 2 / pi * (widths / self.blur_max).sqrt().asin()
        return torch.cat([self.time_of_rho(steep), fading]).sort().values

    def singular(self, t: float) -> bool:
        """Never: there is a little noise at t = 0."""
        return False

    def calls(self, denoiser: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """What to call for the clean coefficients and for the noise prediction of a denoiser.

        Raises:
            TypeError: the denoiser knows white noise only.
        """
        if not hasattr(denoiser, "posterior_eps"):
            raise TypeError(
                f"denoiser={arguments.shown(denoiser)} knows white noise only, and blurring has another level at every "
                "frequency; use dn.load('cifar10-blurring'), dn.Empirical or another exact denoiser"
            )
        return denoiser.posterior, denoiser.posterior_eps

    def coordinates(self, x0: Tensor) -> Tensor:
        """DCT coefficients of images ``(batch, ..., H, W)``."""
        return dct2(x0)

    def data(self, y: Tensor) -> Tensor:
        """Images from their DCT coefficients."""
        return idct2(y)

    def event_shape(self, u: Tensor) -> tuple[int, ...]:
        """Shape of one image inside the state ``(batch, ..., H, W)``.

        Raises:
            ValueError: height and width are not those of the process.
        """
        if u.ndim < 3 or tuple(u.shape[-2:]) != self.shape:
            raise ValueError(
                f"u has shape {tuple(u.shape)}; this process takes (batch, ..., {self.shape[0]}, {self.shape[1]})"
            )
        return tuple(u.shape[1:])


def _matrix(value: Tensor) -> Tensor:
    return value[..., None, None]
