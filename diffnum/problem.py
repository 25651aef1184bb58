"""A problem: one process, one denoiser, and the fields a solver integrates. Evaluations are counted here alone."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from diffnum.coefficients import combine
from diffnum.errors import DiffnumError
from diffnum.processes.isotropic import rowwise


class Problem:
    r"""The reverse-time problem of a linear diffusion process and a denoiser.

    On VP and VE, with :math:`x = \alpha x_0 + \sigma n` and the denoiser's noise prediction
    :math:`\epsilon(x, t) = \epsilon_D(x/\alpha, \sigma/\alpha)`,

    .. math:: \mathrm{score} = -\epsilon/\sigma, \qquad x_0 = (x - \sigma\epsilon)/\alpha, \qquad
              \mathrm{velocity} = F x + \tfrac{G^2}{2\sigma} \epsilon .

    Args:
        process: a noising process, such as ``VP()``.
        denoiser: ``D(x, sigma)`` with ``.eps(x, sigma)``.

    Raises:
        TypeError: the denoiser lacks ``.eps`` (wrap a bare model with ``from_prediction``).

    Attributes:
        nfe: network evaluations so far: every call of ``eps``, ``x0``, ``score`` or ``velocity`` is one.
    """

    def __init__(self, process: Any, denoiser: Any) -> None:
        if isinstance(process, type) or not hasattr(process, "levels"):
            raise TypeError(f"process={process!r} is not a process; use dn.VP() or dn.VE()")
        if isinstance(denoiser, type) or not callable(denoiser) or not hasattr(denoiser, "eps"):
            raise TypeError(f"denoiser={denoiser!r} has no eps(x, sigma); wrap a model with dn.from_prediction")
        self.process = process
        self.denoiser = denoiser
        self.nfe = 0

    def __repr__(self) -> str:
        return f"Problem({self.process!r}, {type(self.denoiser).__name__}, nfe={self.nfe})"

    def _scaled(self, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor | float]:
        """The state as data plus noise, and the noise level there."""
        if not isinstance(t, Real):
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            # values on an accelerator are not looked at: that would make it wait
            if sigma.device.type == "cpu" and not bool((sigma > 0).all()):
                raise ValueError(f"t={t} holds a time without noise, where the noise prediction is undefined")
            return u / rowwise(alpha, u), sigma / alpha
        alpha, sigma = self.process.levels(float(t))
        if sigma == 0:
            raise ValueError(f"t={t} has no noise, so the noise prediction is undefined there; end the grid above it")
        return (u if alpha == 1 else u * (1 / alpha)), sigma / alpha

    def eps(self, u: Tensor, t: Tensor | float, K: str = "R") -> Tensor:
        """Noise prediction, with the shape, dtype and device of ``u``; one evaluation.

        Args:
            u: state ``(batch, *event)``.
            t: time, a float, or a tensor with one time per row.
            K: the root of the covariance that defines the noise, ``"R"`` or ``"L"``; in one dimension they agree.

        Raises:
            ValueError: no noise at this time, or an unknown K.
        """
        if K not in ("R", "L"):
            raise ValueError(f"K={K!r} must be 'R' or 'L'")
        scaled = self._scaled(u, t)
        self.nfe += 1
        return self.denoiser.eps(*scaled)

    def x0(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Denoised state: the predicted clean data; one evaluation."""
        scaled = self._scaled(u, t)
        self.nfe += 1
        return self.denoiser(*scaled)

    def score(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Gradient of the log density of the state; one evaluation."""
        sigma = self.process.sigma(t)
        return self.eps(u, t) / (-rowwise(sigma, u))

    def velocity(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Right-hand side du/dt of the probability-flow ODE; one evaluation."""
        return self.drift(u, self.eps(u, t), t)

    def drift(self, u: Tensor, e: Tensor, t: Tensor | float) -> Tensor:
        r"""The same :math:`F x + \tfrac{G^2}{2\sigma} e` for a noise value already at hand; no evaluation."""
        if isinstance(t, Real):
            return combine(self.process.velocity_factors(float(t)), (u, e))
        F, G = (rowwise(matrix(t)[..., 0, 0], u) for matrix in (self.process.F, self.process.G))
        return F * u + G**2 / (2 * rowwise(self.process.sigma(t), u)) * e

    def prior(self, shape: tuple[int, ...], *args: Any, **options: Any) -> Tensor:
        """Start states; see the process's ``prior``.

        Raises:
            ValueError: the shape is not that of the denoiser's data.
        """
        u = self.process.prior(shape, *args, **options)
        self.check(u)
        return u

    def check(self, u: Tensor) -> None:
        """Refuse a state that cannot be integrated, before the first evaluation.

        Raises:
            TypeError: not a floating tensor.
            ValueError: wrong shape, an empty batch, or a NaN or infinity inside.
            DiffnumError: the denoiser lives on another device.
        """
        if not isinstance(u, Tensor) or not u.is_floating_point():
            kind = u.dtype if isinstance(u, Tensor) else type(u).__name__
            raise TypeError(f"u is {kind}; a state is a floating tensor, for example from problem.prior(...)")
        event, expected = self.process.event_shape(u), getattr(self.denoiser, "shape", None)
        if expected is not None and event != tuple(expected):
            raise ValueError(
                f"u has shape {tuple(u.shape)}; this denoiser needs (batch, {', '.join(map(str, expected))})"
            )
        if u.layout != torch.strided or u.device.type == "meta":
            raise TypeError(f"u is a {u.layout} tensor on {u.device}; a state is an ordinary dense tensor")
        if not u.numel():
            raise ValueError(f"u has shape {tuple(u.shape)}: there is no sample in it")
        if not bool(torch.isfinite(u).all()):
            raise ValueError("u contains NaN or infinity; check where the start state comes from")
        device = getattr(self.denoiser, "device", None)
        if device is not None and torch.device(device).type != u.device.type:
            raise DiffnumError(f"u is on {u.device}, the denoiser on {device}; move one with .to(device)")
