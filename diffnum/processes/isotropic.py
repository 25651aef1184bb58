"""The two isotropic processes: variance preserving (VP) and variance exploding (VE).

.. math:: x_t = \\alpha(t) x_0 + \\sigma(t) n, \\qquad dx = F x \\, dt + G \\, dw

| paper | symbol there | here |
|---|---|---|
| PNDM, DDIM | alpha-bar | alpha^2 |
| PNDM | sigma (rescaled) | rho = sigma/alpha |
| DPM-Solver | lambda | log_snr / 2 |
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from diffnum.devices import existing
from diffnum.noise import PRIOR, Seeded, seed_from
from diffnum.processes.schedules import Cosine, Linear, Table


def scalars(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Let a method on float64 tensors take Python floats as well, and give floats for floats."""

    @wraps(function)
    def wrapper(self: Any, *values: Tensor | float) -> Tensor | float:
        result = function(self, *(_number(v) for v in values))
        return result.item() if all(isinstance(v, Real) for v in values) else result

    return wrapper


class Isotropic:
    """What VP and VE share once ``alpha``, ``sigma``, ``beta`` and the exact change over a step are known."""

    family = "isotropic"
    t_max: float
    t_end: float
    unit: float | None = None  # time between two entries of a discrete table, None for a continuous schedule
    prior_std: float
    time_is_rho = False  # whether t itself is sigma/alpha

    def __init__(self) -> None:
        self._levels: dict[float, tuple[float, float]] = {}
        self._steps: dict[tuple[float, float], tuple[float, float]] = {}
        self._velocity: dict[float, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(t from 0 to {self.t_max:.6g})"

    # What a subclass states, on float64 tensors.
    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(F, G^2)."""
        raise NotImplementedError

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        """Integral of F from ``frm`` to ``to``."""
        raise NotImplementedError

    def _step(self, t: float, s: float) -> tuple[float, float]:
        raise NotImplementedError

    @scalars
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        raise NotImplementedError

    @scalars
    def beta(self, t: Tensor) -> Tensor:
        r"""Noise rate: :math:`F = -\beta/2` (0 for VE)."""
        return -2 * self._rates(t)[0]

    @scalars
    def alpha(self, t: Tensor) -> Tensor:
        """Signal level: the factor on the clean data."""
        return self._signal(t)[0]

    @scalars
    def sigma(self, t: Tensor) -> Tensor:
        """Noise level: the standard deviation of the noise."""
        return self._signal(t)[1]

    def levels(self, t: float) -> tuple[float, float]:
        """``(alpha, sigma)`` at time t as Python floats, cached."""
        if t not in self._levels:
            if not 0 <= t <= self.t_max * (1 + 1e-9):
                raise ValueError(f"t={t:.6g} is outside the process, which lives on 0 ... {self.t_max:.6g}")
            alpha, sigma = self._signal(_number(t))
            _remember(self._levels, t, (alpha.item(), sigma.item()))
        return self._levels[t]

    @scalars
    def log_snr(self, t: Tensor) -> Tensor:
        r"""Log signal-to-noise ratio :math:`\log(\alpha^2/\sigma^2)`; infinite where sigma is 0."""
        alpha, sigma = self._signal(t)
        return 2 * (torch.log(alpha) - torch.log(sigma))

    @scalars
    def rho(self, t: Tensor) -> Tensor:
        r"""Noise-to-signal ratio :math:`\rho = \sigma/\alpha`: the noise level the denoiser sees."""
        alpha, sigma = self._signal(t)
        return sigma / alpha

    @scalars
    def time_of_rho(self, rho: Tensor) -> Tensor:
        """Time at which the noise-to-signal ratio has the given value: the inverse of :meth:`rho`."""
        return self.time_of_log_snr(-2 * rho.log())

    def step(self, t: float, s: float) -> tuple[float, float]:
        r"""Factors ``(psi, c)`` of the exact solution with frozen noise prediction, as cached Python floats.

        .. math:: x_s = \psi x_t + c \, e, \qquad \psi = \frac{\alpha_s}{\alpha_t}, \qquad
                  c = \alpha_s (\rho_s - \rho_t), \qquad \rho = \sigma/\alpha
        """
        if (t, s) not in self._steps:
            _remember(self._steps, (t, s), self._step(t, s))
        return self._steps[t, s]

    def velocity_factors(self, t: float) -> tuple[float, float]:
        r"""``(F, C)`` of the probability-flow velocity :math:`F x + C e`, :math:`C = G^2/(2\sigma)`, cached."""
        if t not in self._velocity:
            F, G2 = self._rates(_number(t))
            _remember(self._velocity, t, (F.item(), G2.item() / (2 * self.levels(t)[1])))
        return self._velocity[t]

    # The same facts as matrices, shared with phase-space and per-frequency processes: (*t, 1, 1), float64.
    def F(self, t: Tensor | float) -> Tensor:
        """Drift matrix ``(*t, 1, 1)``."""
        return _matrix(self._rates(_number(t))[0])

    def G(self, t: Tensor | float) -> Tensor:
        """Diffusion matrix ``(*t, 1, 1)``."""
        return _matrix(self._rates(_number(t))[1].sqrt())

    def integral_F(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Integral of F from ``frm`` to ``to``, ``(*t, 1, 1)``, without cancellation."""
        return _matrix(self._log_change(_number(to), _number(frm)))

    def transition(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Fundamental matrix of the drift from ``frm`` to ``to``, ``(*t, 1, 1)``."""
        return self.integral_F(to, frm).exp()

    def mean(self, t: Tensor | float) -> Tensor:
        """Factor on the clean data, ``(*t, 1, 1)``."""
        return _matrix(self._signal(_number(t))[0])

    def cholesky(self, t: Tensor | float) -> Tensor:
        """Lower root of the covariance, ``(*t, 1, 1)``: sigma."""
        return _matrix(self._signal(_number(t))[1])

    def rotation_root(self, t: Tensor | float) -> Tensor:
        """The root R of the covariance, ``(*t, 1, 1)``; in one dimension the same as :meth:`cholesky`."""
        return self.cholesky(t)

    def cov(self, t: Tensor | float) -> Tensor:
        """Covariance of the noise, ``(*t, 1, 1)``: sigma^2."""
        return self.cholesky(t) ** 2

    def encode(self, x0: Tensor) -> Tensor:
        """Data as a state: the identity."""
        return x0

    def decode(self, u: Tensor) -> Tensor:
        """State as data: the identity."""
        return u

    def event_shape(self, u: Tensor) -> tuple[int, ...]:
        """Shape of one data point inside the state ``(batch, *event)``.

        Raises:
            ValueError: the state has no batch axis.
        """
        if u.ndim < 2:
            raise ValueError(f"u has shape {tuple(u.shape)}; a state is (batch, *event), so add a batch axis")
        return tuple(u.shape[1:])

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        *,
        seed: int | None = None,
        indices: Iterable[int] | None = None,
    ) -> Tensor:
        """Start states: normal with the noise level of ``t_max``.

        Row i is a function of the seed and of ``indices[i]`` (by default i) alone, whatever the batch, dtype or
        device. The seed is ``seed``, or drawn from ``generator``, or 0.

        Args:
            shape: ``(batch, *event)``.
            generator: a ``torch.Generator`` that supplies the seed and advances.
            dtype: floating dtype of the result.
            device: where the result is put.
            seed: seed to use instead of a generator.
            indices: global sample index of each row.

        Raises:
            ValueError: a size that is not positive, or ``seed`` and ``generator`` together.
            TypeError: a dtype that is not floating.
        """
        if not isinstance(shape, Sequence) or not all(isinstance(n, int) for n in shape):
            raise TypeError(f"shape={shape!r} must be (batch, *event), a tuple of integers")
        if len(shape) < 2 or any(n < 1 for n in shape):
            raise ValueError(f"shape={tuple(shape)} must be (batch, *event) with positive sizes")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype={dtype!r} is not a floating dtype; use torch.float32 or torch.float64")
        if seed is not None and generator is not None:
            raise ValueError("seed and generator are both given; the start noise has one source, leave one out")
        source = Seeded(seed_from(generator) if seed is None else seed, indices, stream=PRIOR)
        return (self.prior_std * source.normal(shape)).to(existing(device), dtype)

    def perturb(self, x0: Tensor, t: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        r"""Noisy data :math:`\alpha(t) x_0 + \sigma(t) n` at a time t, or at one time per row."""
        noise = Seeded(seed_from(generator), stream=PRIOR)(x0)
        alpha, sigma = (rowwise(level, x0) for level in (self.alpha(t), self.sigma(t)))
        return alpha * x0 + sigma * noise


class VP(Isotropic):
    r"""Variance-preserving process :math:`dx = -\tfrac12 \beta x \, dt + \sqrt{\beta} \, dw`.

    Signal and noise level satisfy :math:`\alpha^2 + \sigma^2 = 1`.

    The default is the continuous linear schedule on t from 0 to 1; :meth:`cosine` and :meth:`from_betas` give others.

    Args:
        beta_min: rate at t = 0, per unit time.
        beta_max: rate at t = 1.

    Source: Song et al. 2021, arXiv:2011.13456, equation 11.
    """

    t_end = 1e-3
    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        self.schedule: Linear | Cosine | Table = Linear(float(beta_min), float(beta_max))

    @classmethod
    def _of(cls, schedule: Cosine | Table) -> "VP":
        process = cls()
        process.schedule = schedule
        process.unit = 1 / schedule.size if isinstance(schedule, Table) else None
        return process

    @classmethod
    def cosine(cls, s: float = 0.008) -> "VP":
        """The cosine schedule with offset s; it ends at ``t_max``, where sigma/alpha is 2e4."""
        return cls._of(Cosine(float(s)))

    @classmethod
    def from_betas(cls, betas: Tensor) -> "VP":
        """A DDPM table: 0-based index k stands at t = (k + 1)/N and alpha^2 there is ``cumprod(1 - betas)[k]``."""
        return cls._of(Table(betas))

    @property
    def knots(self) -> Tensor:
        """Times between which a table is smooth, ``(N + 1,)``; empty for a continuous schedule."""
        size = self.schedule.size if isinstance(self.schedule, Table) else -1
        return torch.arange(size + 1, dtype=torch.float64) / size

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """Last time of the process."""
        return self.schedule.t_max

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.schedule.log_alpha(t)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.schedule.beta(t)
        return -beta / 2, beta

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        return self.schedule.change(to, frm)

    def _step(self, t: float, s: float) -> tuple[float, float]:
        change = self.schedule.change(*torch.tensor([s, t], dtype=torch.float64))
        psi, (_, sigma_t), (_, sigma_s) = change.exp().item(), self.levels(t), self.levels(s)
        # alpha_s (rho_s - rho_t), rationalised: the difference of the squared ratios is an expm1
        return psi, psi * torch.expm1(-2 * change).item() / (sigma_t + sigma_s / psi)

    @scalars
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return self.schedule.time(torch.nn.functional.logsigmoid(log_snr) / 2, torch.exp(-log_snr / 2))


class VE(Isotropic):
    r"""Variance-exploding process :math:`dx = \sqrt{2t} \, dw`: time is the noise level, :math:`x_t = x_0 + t n`.

    Args:
        sigma_max: noise level at the start of sampling.

    Source: Song et al. 2021, arXiv:2011.13456, equation 9; time as noise level: Karras et al. 2022, arXiv:2206.00364.
    """

    t_end = 0.002
    time_is_rho = True

    def __init__(self, sigma_max: float = 80.0) -> None:
        super().__init__()
        if not self.t_end < sigma_max < float("inf"):
            raise ValueError(f"sigma_max={sigma_max} must be finite and above {self.t_end}; the usual value is 80")
        self.t_max = self.prior_std = float(sigma_max)

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 2 * t

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        return torch.zeros_like(to + frm)

    def _step(self, t: float, s: float) -> tuple[float, float]:
        return 1.0, s - t

    @scalars
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return torch.exp(-log_snr / 2)


def rowwise(value: Tensor | float, u: Tensor) -> Tensor | float:
    """A level ready to multiply a state: a float stays, one value per row gets trailing axes and the state's dtype.

    Raises:
        ValueError: neither one value nor one per row.
    """
    if not isinstance(value, Tensor):
        return value
    if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, len(u))):
        raise ValueError(f"t has shape {tuple(value.shape)}: give one time, or one per row, ({len(u)},)")
    return value.to(u.device, u.dtype).reshape(-1, *(1,) * (u.ndim - 1)) if value.ndim else value.to(u.device, u.dtype)


def _number(t: Any) -> Tensor:
    """A time or level as a float64 tensor, where it stands; lists and arrays count as tensors."""
    try:
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"t={t!r} is not a number or a tensor of numbers") from error


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= 100_000:  # far more than any grid; an adaptive integrator asks for new times without end
        cache.clear()
    cache[key] = value


def _matrix(value: Tensor) -> Tensor:
    return value[..., None, None]
