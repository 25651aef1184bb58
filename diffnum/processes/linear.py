"""What every linear process shares: start states, noising, and the coefficients of its fields in the form states meet.

.. math:: du = F(t) u \\, dt + G(t) \\, dw, \\qquad
          u_t = \\text{mean}(t) \\, x_0 + K_t n, \\qquad K_t K_t^T = \\text{cov}(t)
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.coefficients import act, each
from diffnum.devices import existing
from diffnum.grids import FLOAT32
from diffnum.kept import kept
from diffnum.noise import PERTURB, PRIOR, Noise, Seeded, seed_from

ROOTS = ("R", "L")


def scalars(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Let a method of the time take floats, tensors, lists and arrays, and give floats for floats."""

    @wraps(function)
    def wrapper(self: Any, t: Any) -> Tensor | float:
        result = function(self, self.at(t))
        return result.item() if is_number(t) else result

    return wrapper


def inverse(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The same for a method that finds the time of a noise-to-signal ratio, or of its logarithm."""
    name = list(signature(function).parameters)[1]
    least = 0.0 if name == "rho" else -inf

    @wraps(function)
    def wrapper(self: Any, level: Any) -> Tensor | float:
        if is_number(level):
            if not level >= least:
                raise ValueError(f"{name}={level} is no level of noise; it must be a number of at least {least:g}")
            return function(self, torch.tensor(float(level), dtype=torch.float64, device="cpu")).item()
        levels = tensor(name, level)
        if levels.device.type == "cpu" and not bool((levels >= least).all()):
            raise ValueError(f"{name} holds what is no level of noise; all must be numbers of at least {least:g}")
        return function(self, levels)

    return wrapper


def is_number(value: Any) -> bool:
    """Whether a value is given as a number, and not as a tensor, an array or a list."""
    return isinstance(value, (float, Real)) and not isinstance(value, bool)


def tensor(name: str, value: Any) -> Tensor:
    """A tensor of real numbers in float64, where it stands; lists and arrays are read on the CPU.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, Tensor) and arguments.is_ordinary(value):
        return value.to(torch.float64)
    return arguments.dense(name, value)


class LinearProcess(Frozen):
    """A linear diffusion process; a subclass states F, G, transition, mean, cov and the roots of the covariance.

    All coefficients are float64 tensors ``(*t, *freq, k, k)``, ``mean`` ``(*t, *freq, k, 1)``; ``freq`` is ``(H, W)``
    for blurring and empty elsewhere, k is 2 on phase space and 1 elsewhere.
    """

    family: str
    t_max: float
    t_end: float
    t_limit = 1e18  # coefficients are defined beyond t_max, up to here
    unit: float | None = None  # time between two entries of a discrete table, None for a continuous schedule
    numbers = 1  # in a coefficient
    time_is_rho = False  # whether t itself is sigma/alpha
    calm_start = True  # whether the noise prediction hardly changes with t near t_max; not where rho has a pole there
    # The papers' last step to clean data: "data" predicts them, "euler" is one step along the drift, "none" is none.
    ending = "data"
    final_lam: float | None = None  # weight of the noise in that drift; None: that of the equation solved so far

    def __repr__(self) -> str:
        return f"{type(self).__name__}(t from 0 to {self.t_max:.6g})"

    # What a subclass states, on floats and float64 tensors.
    def F(self, t: Tensor | float) -> Tensor:
        """Drift matrix ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def G(self, t: Tensor | float) -> Tensor:
        """Diffusion matrix ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def integral_F(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Integral of F from ``frm`` to ``to``, ``(*t, *freq, k, k)``, without cancellation."""
        raise NotImplementedError

    def transition(self, to: Tensor | float, frm: Tensor | float) -> Tensor:
        """Fundamental matrix of the drift from ``frm`` to ``to``, ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def mean(self, t: Tensor | float) -> Tensor:
        """Factor on the clean data, ``(*t, *freq, k, 1)``."""
        raise NotImplementedError

    def cov(self, t: Tensor | float) -> Tensor:
        """Covariance of the noise, ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def cholesky(self, t: Tensor | float) -> Tensor:
        """The lower triangular root L of the covariance, ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def rotation_root(self, t: Tensor | float) -> Tensor:
        r"""The root R of the covariance with :math:`R' = (F + \tfrac12 G G^T \Sigma^{-1}) R`, ``(*t, *freq, k, k)``."""
        raise NotImplementedError

    def gain(self, t: Tensor | float, K: str = "R") -> Tensor:
        r"""What the noise prediction contributes to the velocity, :math:`\tfrac12 G G^T K^{-T}`, ``(*t, *freq, k, k)``.

        The probability-flow ODE is :math:`\dot u = F u + \tfrac12 G G^T K^{-T} \epsilon_K`.
        """
        raise NotImplementedError

    def statistic(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """How a state looks to a denoiser: a row ``(*t, *freq, 1, k)`` that turns it into clean data plus white
        noise, and the standard deviation of that noise, ``(*t, *freq)``."""
        raise NotImplementedError

    def expansion(self, t: Tensor | float, what: str) -> tuple[Tensor | None, Tensor | None]:
        r"""A field as :math:`A u + b \hat\epsilon`, where :math:`\hat\epsilon` is the denoiser's noise prediction.

        Args:
            t: time.
            what: ``"R"`` or ``"L"`` for the noise prediction with that root, or ``"score"``.

        Returns:
            A ``(*t, *freq, k, k)`` and b ``(*t, *freq, k, 1)``; None stands for A = 0 and for b = 1.
        """
        raise NotImplementedError

    def reverse_step(self, to: Tensor | float, frm: Tensor | float, lam: float) -> tuple[Tensor, Tensor]:
        r"""Exact step of the reverse SDE of weight lambda with the data prediction frozen: transition and covariance.

        .. math:: \hat\Psi' = \bigl(F + \tfrac{1 + \lambda^2}{2} G G^T \Sigma^{-1}\bigr) \hat\Psi, \qquad
                  P = \Sigma_s - \hat\Psi \Sigma_t \hat\Psi^T

        Args:
            to, frm: the step from t = ``frm`` down to s = ``to``.
            lam: weight of the noise; 0 is the probability-flow ODE, 1 the reverse SDE.

        Returns:
            :math:`\hat\Psi(s, t)` and P, both ``(*t, *freq, k, k)``.

        Source: Zhang, Tao and Chen 2023, arXiv:2206.05564; the closed forms are ours.
        """
        raise NotImplementedError

    def rho(self, t: Any) -> Any:
        """Noise-to-signal ratio: the noise level that the denoiser sees."""
        raise NotImplementedError

    def time_of_rho(self, rho: Any) -> Any:
        """Time at which the noise-to-signal ratio has the given value: the inverse of :meth:`rho`."""
        raise NotImplementedError

    @scalars
    def log_snr(self, t: Tensor) -> Tensor:
        r"""Log signal-to-noise ratio :math:`-2 \log \rho(t)`; infinite where there is no noise."""
        return -2 * self.rho(t).log()

    @inverse
    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Time at which the log signal-to-noise ratio has the given value: the inverse of :meth:`log_snr`."""
        return self.time_of_rho((-log_snr / 2).exp())

    @property
    def knots(self) -> Tensor:
        """Times at which a quadrature is cut; empty where coefficients are smooth and vary by order one."""
        return torch.zeros(0, dtype=torch.float64, device="cpu")

    def singular(self, t: float) -> bool:
        """Whether the noise has a direction without variance at time t, where no noise prediction exists."""
        raise NotImplementedError

    # What follows from it.
    def calls(self, denoiser: Any) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """What to call for the clean data and for the noise prediction of a denoiser.

        Raises:
            TypeError: the denoiser cannot serve this process.
        """
        if not hasattr(denoiser, "eps"):
            raise TypeError(
                f"denoiser={arguments.shown(denoiser)} has no eps(x, sigma); wrap a model with dn.from_prediction"
            )
        return denoiser, denoiser.eps

    def root(self, t: Tensor | float, K: str) -> Tensor:
        """The root of that name: ``"R"`` (:meth:`rotation_root`) or ``"L"`` (:meth:`cholesky`).

        Raises:
            ValueError: another name.
        """
        return self.rotation_root(t) if arguments.option("K", K, ROOTS) == "R" else self.cholesky(t)

    def at(self, t: Any) -> Tensor:
        """A time as a float64 tensor, as the formulas take it; values on an accelerator are not looked at.

        Raises:
            TypeError: no number, and no tensor, list or array of numbers.
            ValueError: negative, not finite, or beyond ``t_limit``.
        """
        if is_number(t):
            return torch.tensor(arguments.number("t", t, 0.0, self.t_limit), dtype=torch.float64, device="cpu")
        t = tensor("t", t)
        if t.device.type == "cpu" and t.numel():
            low, high = (end.item() for end in t.detach().aminmax())  # both pass NaN on
            if not (low >= 0 and high <= self.t_limit):
                raise ValueError(f"t has times from {low:.6g} to {high:.6g}; they must be finite and not negative")
        return t

    def check_time(self, t: Any) -> float:
        """A time of the process as a float; one that float32 has rounded to above t_max is t_max.

        Raises:
            TypeError: not a number. ValueError: t is not in 0 ... t_max.
        """
        found = arguments.number("t", t)
        if not 0 <= found <= self.t_max * (1 + FLOAT32):
            raise ValueError(f"t={found:.6g} is outside the process, which lives on 0 ... {self.t_max:.6g}")
        return min(found, self.t_max)

    def row_times(self, t: Any, u: Tensor) -> Tensor:
        """One time, or one per row of u, as a float64 tensor () or (B,); on the CPU no further than t_max.

        One per row comes back, too, where t requires gradients.

        Raises:
            TypeError: no numbers. ValueError: neither one time nor one per row, or one outside the process.
        """
        t = self.at(t)
        if t.ndim > 1 or (t.ndim == 1 and len(t) not in (1, len(u))):
            raise ValueError(f"t has shape {tuple(t.shape)}: give one time, or one per row, ({len(u)},)")
        if t.device.type == "cpu":
            self.check_time(t.detach().amax())
            t = t.clamp_max(self.t_max)
        if t.requires_grad:  # a coefficient of all rows becomes a number, which autograd cannot follow
            return t.reshape(-1).expand(len(u))
        return t.reshape(()) if t.numel() == 1 else t

    def forms(self, times: Sequence[float], what: str, u: Tensor) -> list[tuple[Any, ...]]:
        """The coefficients of a field at many times in the form that u meets; what no state changes is kept.

        Args:
            times: times of the process with noise in all directions.
            what: "R", "L" or "score" for :meth:`statistic` and :meth:`expansion`, row, level, A and b (None for the
                factors 1 and 0); "velocity" for F and :meth:`gain`.
            u: a state.
        """
        times = tuple(times)
        made = kept.get((self, what, times), lambda: self._forms(times, what))
        if what == "velocity":
            return list(zip(*(each(A, u) for A in made), strict=True))
        row, level, *field = made
        rows = [None if type(r) is float and r == 1 else r for r in each(row, u)]
        levels = level.tolist() if level.ndim == 1 else level.unbind()
        parts = ([None] * len(times) if A is None else each(A, u) for A in field)
        return list(zip(rows, levels, *parts, strict=True))

    def _forms(self, times: tuple[float, ...], what: str) -> tuple[Tensor | None, ...]:
        t = torch.tensor(times, dtype=torch.float64, device="cpu")
        if what == "velocity":
            return self.F(t), self.gain(t)
        row, level = self.statistic(t)
        return row, level, *self.expansion(t, what)

    def noisy_time(self, t: float) -> float:
        """A time of the process at which there is noise in all directions."""
        t = self.check_time(t)
        if self.singular(t):
            raise ValueError(f"t={t} has no noise, so the noise prediction is undefined there; end the grid above it")
        return t

    def noisy(self, t: Tensor) -> Tensor:
        """Times, if there is noise in all directions at each; values on an accelerator are not looked at.

        Raises:
            ValueError: the noise prediction is undefined at one of them.
        """
        if t.device.type == "cpu" and bool((t == 0).any()) and self.singular(0.0):
            raise ValueError("t has a time without noise, where the noise prediction is undefined; keep above 0")
        return t

    def coordinates(self, x0: Tensor) -> Tensor:
        """Data in the coordinates in which the process acts: the data themselves, or their DCT for blurring."""
        return x0

    def data(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`coordinates`."""
        return y

    def encode(self, x0: Tensor) -> Tensor:
        """Data as a state; TypeError for anything but a floating tensor ``(batch, *event)``."""
        u = self.coordinates(arguments.state("x0", x0))
        self.event_shape(u)
        return u

    def decode(self, u: Tensor) -> Tensor:
        """State as data; TypeError or ValueError for anything but states of this process."""
        self.event_shape(arguments.state("u", u))
        return self.data(u)

    def event_shape(self, u: Tensor) -> tuple[int, ...]:
        """Shape of one data point inside the state ``(batch, *event)``.

        Raises:
            ValueError: the state has no batch axis.
        """
        if u.ndim < 2:
            raise ValueError(f"u has shape {tuple(u.shape)}; a state is (batch, *event), so add a batch axis")
        return tuple(u.shape[1:])

    def state_shape(self, shape: Sequence[int], data: bool = False) -> tuple[int, ...]:
        """Shape of the states for a shape of data or of states; ``data`` says that it is one of data."""
        return tuple(shape)

    def prior_root(self) -> Tensor:
        """Lower root of the covariance of the start states, ``(k, k)``."""
        return torch.eye(1, dtype=torch.float64, device="cpu")

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
        """Start states: normal, with the stationary covariance of the process (for VE the noise level of ``t_max``).

        Row i is a function of the seed and of ``indices[i]`` (by default i) alone, whatever the batch, dtype or
        device. The seed is ``seed``, or drawn from ``generator``, or 0.

        Args:
            shape: ``(batch, *event)``; on phase space also the state's own ``(batch, 2, *event)``.
            generator: a ``torch.Generator`` that supplies the seed and advances.
            dtype: floating dtype of the result.
            device: where the result is put.
            seed: seed to use instead of a generator.
            indices: global sample index of each row.

        Raises:
            ValueError: a size that is not positive, or ``seed`` and ``generator`` together.
            TypeError: a dtype other than float32, float64 and bfloat16. DiffnumError: more than the memory holds.
        """
        shape = arguments.sizes("shape", shape, 2, "(batch, *event)")
        arguments.precision("dtype=", dtype)
        if seed is not None and generator is not None:
            raise ValueError("seed and generator are both given; the start noise has one source, leave one out")
        source = Seeded(seed_from(generator) if seed is None else seed, indices, stream=PRIOR)
        return act(self.prior_root(), source.normal(self.state_shape(shape))).to(existing(device), dtype)

    def perturb(
        self, x0: Tensor, t: Tensor | float, generator: torch.Generator | None = None, *, noise: Noise | None = None
    ) -> Tensor:
        r"""Noisy data :math:`\text{mean}(t) x_0 + L_t n` at a time t, or at one time per row.

        Without a source n is the same in every call, and independent of start states and steps.

        Args:
            x0: data ``(batch, *event)``.
            t: time, a float, or a tensor with one time per row.
            generator: a ``torch.Generator`` that supplies a seed and goes on, so that the next call draws anew.
            noise: a noise source, such as :class:`~diffnum.noise.Seeded`, in place of it; it goes on too.

        Raises:
            ValueError: ``noise`` and ``generator`` together.
        """
        if noise is not None and generator is not None:
            raise ValueError("noise and generator are both given; the noise has one source, leave one out")
        source = Seeded(seed_from(generator), stream=PERTURB) if noise is None else noise
        n, t = source(self.encode(x0)), self.row_times(t, x0)
        return act(self.mean(t), self.coordinates(x0)) + act(self.cholesky(t), n)


class Diagonal(LinearProcess):
    """A process with k = 1: a number for all coordinates (VP, VE) or one per frequency (blurring).

    Both roots of the covariance are the noise level, and the denoiser's noise prediction is the process's own.
    """

    def _log_q(self, to: Tensor, frm: Tensor) -> Tensor:
        """Logarithm of the ratio of the noise-to-signal ratios at ``to`` and ``frm``, ``(*t, *freq, 1, 1)``."""
        raise NotImplementedError

    def rotation_root(self, t: Tensor | float) -> Tensor:
        """The root R of the covariance, ``(*t, *freq, 1, 1)``: here the same as :meth:`cholesky`."""
        return self.cholesky(t)

    def cov(self, t: Tensor | float) -> Tensor:
        """Covariance of the noise, ``(*t, *freq, 1, 1)``: sigma^2."""
        return self.cholesky(t) ** 2

    def gain(self, t: Tensor | float, K: str = "R") -> Tensor:
        r"""What the noise prediction contributes to the velocity: :math:`G^2/(2\sigma)`, ``(*t, *freq, 1, 1)``."""
        t = self.noisy(self.at(t))
        return self.G(t) ** 2 / (2 * self.root(t, K))

    def expansion(self, t: Tensor | float, what: str) -> tuple[Tensor | None, Tensor | None]:
        r"""The denoiser's noise prediction is the process's own; the score is :math:`-\hat\epsilon/\sigma`."""
        if what == "score":
            return None, -1 / self.cholesky(t)
        self.root(t, what)  # refuses an unknown name
        return None, None

    def reverse_step(self, to: Tensor | float, frm: Tensor | float, lam: float) -> tuple[Tensor, Tensor]:
        r"""Step of the reverse SDE with the data prediction frozen: a power of the ratio of noise levels.

        .. math:: \hat\Psi = \frac{\sigma_s}{\sigma_t} q^{\lambda^2}, \qquad P = \sigma_s^2 (1 - q^{2\lambda^2}),
                  \qquad q = \frac{\sigma_s/\alpha_s}{\sigma_t/\alpha_t}
        """
        to, frm, lam = self.at(to), self.at(frm), arguments.weight("lam", lam)
        log_q = self._log_q(to, frm)
        power = lam**2 * (log_q if lam else torch.zeros_like(log_q))  # at s = 0 log q is -inf, and 0 * inf a NaN
        return self.cholesky(to) / self.cholesky(frm) * power.exp(), self.cov(to) * -torch.expm1(2 * power)
