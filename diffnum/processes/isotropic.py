"""The isotropic processes: variance preserving (VP), variance exploding (VE), and rectified flow.

.. math:: x_t = \\alpha(t) x_0 + \\sigma(t) n, \\qquad dx = F x \\, dt + G \\, dw

| paper | symbol there | here |
|---|---|---|
| PNDM, DDIM | alpha-bar | alpha^2 |
| PNDM | sigma (rescaled) | rho = sigma/alpha |
| DPM-Solver | lambda | log_snr / 2 |
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.errors import WrongKind
from diffnum.kept import kept
from diffnum.processes.linear import Diagonal, inverse, scalars
from diffnum.processes.schedules import COSINE_RATIO, LARGEST_RATIO, Cosine, Linear, Table

TINY = 1e-300  # at a later time no schedule has a noise level that rounds to 0


class Isotropic(Diagonal):
    """What VP and VE share once ``alpha``, ``sigma``, ``beta`` and the exact change over a step are known."""

    family = "isotropic"
    prior_std: float

    # What a subclass states, on float64 tensors.
    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(F, G^2)."""
        raise NotImplementedError

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        """Integral of F from ``frm`` to ``to``."""
        raise NotImplementedError

    def _noise_factor(self, to: Tensor, frm: Tensor) -> Tensor:
        """alpha(to) (rho(to) - rho(frm)) without cancellation."""
        raise NotImplementedError

    def _step(self, to: Tensor, frm: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(to) / alpha(frm), and the noise factor; a subclass may have both at a smaller cost."""
        return self._log_change(to, frm).exp(), self._noise_factor(to, frm)

    @inverse
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
        """``(alpha, sigma)`` at time t as Python floats, kept."""
        t = self.check_time(t)
        return kept.get((self, "levels", t), lambda: tuple(level.item() for level in self._signal(self.at(t))))

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

    @inverse
    def time_of_rho(self, rho: Tensor) -> Tensor:
        """Time at which the noise-to-signal ratio has the given value: the inverse of :meth:`rho`."""
        return self.time_of_log_snr(-2 * rho.log())

    def step(self, t: float, s: float) -> tuple[float, float]:
        r"""Factors ``(psi, c)`` of the exact solution with frozen noise prediction, as Python floats, kept.

        .. math:: x_s = \psi x_t + c \, e, \qquad \psi = \frac{\alpha_s}{\alpha_t}, \qquad
                  c = \alpha_s (\rho_s - \rho_t), \qquad \rho = \sigma/\alpha
        """
        return self.steps((self.check_time(t),), (self.check_time(s),))[0]

    def steps(self, frm: Sequence[float], to: Sequence[float]) -> list[tuple[float, float]]:
        """:meth:`step` for many pairs of times at once."""
        frm, to = tuple(frm), tuple(to)
        return kept.get((self, "steps", frm, to), lambda: self._factors(to, frm))

    def _factors(self, *ends: tuple[float, ...]) -> list[tuple[float, float]]:
        to, frm = self.at(torch.tensor(ends, dtype=torch.float64, device="cpu"))
        return list(zip(*(factor.tolist() for factor in self._step(to, frm)), strict=True))

    def singular(self, t: float) -> bool:
        """Whether there is no noise at time t."""
        return t < TINY and self.levels(t)[1] == 0

    # The same facts as matrices, shared with phase-space and per-frequency processes: (*t, 1, 1), float64.
    def F(self, t: Tensor | float) -> Tensor:
        """Drift matrix ``(*t, 1, 1)``."""
        return _matrix(self._rates(self.at(t))[0])

    def G(self, t: Tensor | float) -> Tensor:
        """Diffusion matrix ``(*t, 1, 1)``."""
        return _matrix(self._rates(self.at(t))[1].sqrt())

    def integral_F(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Integral of F from ``frm`` to ``to``, ``(*t, 1, 1)``, without cancellation."""
        return _matrix(self._log_change(self.at(to), self.at(frm)))

    def transition(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Fundamental matrix of the drift from ``frm`` to ``to``, ``(*t, 1, 1)``."""
        return self.integral_F(to, frm).exp()

    def mean(self, t: Tensor | float) -> Tensor:
        """Factor on the clean data, ``(*t, 1, 1)``: alpha."""
        return _matrix(self._signal(self.at(t))[0])

    def cholesky(self, t: Tensor | float) -> Tensor:
        """Lower root of the covariance, ``(*t, 1, 1)``: sigma."""
        return _matrix(self._signal(self.at(t))[1])

    def statistic(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        r"""The state as clean data plus noise: the factor :math:`1/\alpha` and the level :math:`\sigma/\alpha`."""
        alpha, sigma = self._signal(self.at(t))
        return _matrix(1 / alpha), sigma / alpha

    def _log_q(self, to: Tensor, frm: Tensor) -> Tensor:
        """log(1 + (rho(to) - rho(frm))/rho(frm)), with a difference that is right for small steps."""
        (psi, c), sigma_frm = self._step(to, frm), self._signal(frm)[1]
        return _matrix(torch.log1p((c / (psi * sigma_frm)).clamp_min(-1.0)))

    def prior_root(self) -> Tensor:
        """Standard deviation of the start states, ``(1, 1)``."""
        return torch.full((1, 1), self.prior_std, dtype=torch.float64, device="cpu")


class VP(Isotropic):
    r"""Variance-preserving process :math:`dx = -\tfrac12 \beta x \, dt + \sqrt{\beta} \, dw`.

    Signal and noise level satisfy :math:`\alpha^2 + \sigma^2 = 1`.

    The default is the continuous linear schedule on t from 0 to 1; :meth:`cosine` and :meth:`from_betas` give others.

    Args:
        beta_min: rate at t = 0, per unit time.
        beta_max: rate at t = 1.
        schedule: another schedule in place of the linear one.

    Raises:
        TypeError: a rate that is not a number. ValueError: rates that are not positive or too large, or decrease.

    Source: Song et al. 2021, arXiv:2011.13456, equation 11.
    """

    t_end = 1e-3
    prior_std = 1.0

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, *, schedule: Linear | Cosine | Table | None = None
    ) -> None:
        if not (schedule is None or hasattr(schedule, "log_alpha")):
            raise WrongKind(f"schedule={arguments.shown(schedule)} is none, such as processes.schedules.Cosine()")
        self.schedule = Linear(beta_min, beta_max) if schedule is None else schedule
        self.unit = 1 / self.schedule.size if isinstance(self.schedule, Table) else None
        self.calm_start = not isinstance(self.schedule, Cosine)

    @classmethod
    def cosine(cls, s: float = 0.008) -> "VP":
        """The cosine schedule with offset s; it ends at ``t_max``, where sigma/alpha is 2e4."""
        return cls(schedule=Cosine(s))

    @classmethod
    def from_betas(cls, betas: Tensor) -> "VP":
        """A DDPM table: 0-based index k stands at t = (k + 1)/N and alpha^2 there is ``cumprod(1 - betas)[k]``."""
        return cls(schedule=Table(betas))

    @property
    def knots(self) -> Tensor:
        """Times at which a quadrature is cut: the levels of a table ``(N + 1,)``, or where a cosine steepens."""
        if isinstance(self.schedule, Cosine):
            return self.time_of_log_snr(-2 * torch.arange(log(COSINE_RATIO), dtype=torch.float64, device="cpu"))
        size = self.schedule.size if isinstance(self.schedule, Table) else -1
        return torch.arange(size + 1, dtype=torch.float64, device="cpu") / size

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """Last time of the process."""
        return self.schedule.t_max

    @property
    def t_limit(self) -> float:  # type: ignore[override]
        """Where the formulas of the schedule end."""
        return self.schedule.t_limit

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.schedule.log_alpha(t)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.schedule.beta(t)
        return -beta / 2, beta

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        return self.schedule.change(to, frm)

    def _noise_factor(self, to: Tensor, frm: Tensor) -> Tensor:
        return self._step(to, frm)[1]

    def _step(self, to: Tensor, frm: Tensor) -> tuple[Tensor, Tensor]:
        change = self.schedule.change(to, frm)
        psi, (sigma_to, sigma_frm) = change.exp(), self._signal(torch.stack(torch.broadcast_tensors(to, frm)))[1]
        # rationalised: the difference of the squared ratios is an expm1
        return psi, psi * torch.expm1(-2 * change) / (sigma_frm + sigma_to / psi)

    @inverse
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return self.schedule.time(torch.nn.functional.logsigmoid(log_snr) / 2, torch.exp(-log_snr / 2))


class VE(Isotropic):
    r"""Variance-exploding process :math:`dx = \sqrt{2t} \, dw`: time is the noise level, :math:`x_t = x_0 + t n`.

    Args:
        sigma_max: noise level at the start of sampling.

    Raises:
        TypeError: not a number. ValueError: not above 0.002, or too large.

    Source: Song et al. 2021, arXiv:2011.13456, equation 9; time as noise level: Karras et al. 2022, arXiv:2206.00364.
    """

    t_end = 0.002
    time_is_rho = True

    def __init__(self, sigma_max: float = 80.0) -> None:
        top = arguments.number("sigma_max", sigma_max, above=self.t_end, high=LARGEST_RATIO, usual=80)
        self.t_max = self.prior_std = top

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 2 * t

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        return torch.zeros_like(to + frm)

    def _noise_factor(self, to: Tensor, frm: Tensor) -> Tensor:
        return to - frm

    @inverse
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return torch.exp(-log_snr / 2)


class RectifiedFlow(Isotropic):
    r"""Rectified flow, or flow matching on straight lines: :math:`x_t = (1 - t) x_0 + t n`.

    .. math:: dx = -\frac{x}{1 - t} dt + \sqrt{\frac{2t}{1 - t}} \, dw, \qquad
              \text{velocity} = \frac{x - x_0}{t} = \epsilon - x_0

    Nothing is left of the data at t = 1, where the drift has a pole; the process ends at ``t_max``, where sigma/alpha
    is 2e4. Every solver for VP integrates it: the family differs from VP by a factor on the state and by its clock.

    Source: Liu, Gong and Liu 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747.
    """

    t_end = 1e-3
    t_max = t_limit = COSINE_RATIO / (1 + COSINE_RATIO)
    prior_std = 1.0
    calm_start = False

    @property
    def knots(self) -> Tensor:
        """Times at which a quadrature is cut: towards the pole at t = 1."""
        return self.time_of_log_snr(-2 * torch.arange(log(COSINE_RATIO), dtype=torch.float64, device="cpu"))

    def _signal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -1 / (1 - t), 2 * t / (1 - t)

    def _log_change(self, to: Tensor, frm: Tensor) -> Tensor:
        return torch.log1p((frm - to) / (1 - frm))

    def _noise_factor(self, to: Tensor, frm: Tensor) -> Tensor:
        return (to - frm) / (1 - frm)

    @inverse
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return torch.sigmoid(-log_snr / 2)


def _matrix(value: Tensor) -> Tensor:
    return value[..., None, None]
