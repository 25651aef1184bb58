"""A problem: one process, one denoiser, and the fields a solver integrates. Evaluations are counted here alone."""

from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from diffnum.coefficients import combine, ready
from diffnum.errors import DiffnumError
from diffnum.processes.linear import row_times


class Problem:
    r"""The reverse-time problem of a linear diffusion process and a denoiser.

    The process turns a state into clean data plus white noise, which is what a denoiser takes, and the denoiser's
    noise prediction :math:`\hat\epsilon` into its own fields. On VP and VE, with :math:`x = \alpha x_0 + \sigma n`,

    .. math:: \epsilon = \hat\epsilon(x/\alpha, \sigma/\alpha), \qquad \mathrm{score} = -\epsilon/\sigma, \qquad
              x_0 = (x - \sigma\epsilon)/\alpha, \qquad \mathrm{velocity} = F x + \tfrac{G^2}{2\sigma} \epsilon .

    On phase space the state is read through its sufficient statistic, and the score is
    :math:`A u + b \hat\epsilon` with coefficients in closed form, so the same denoiser serves.

    Args:
        process: a noising process, such as ``VP()`` or ``CLD()``.
        denoiser: ``D(x, sigma)`` with ``.eps(x, sigma)``; for blurring with ``.posterior_eps(y, sigma)``.

    Raises:
        TypeError: the denoiser cannot serve this process (wrap a bare model with ``from_prediction``).

    Attributes:
        nfe: network evaluations so far: every call of ``eps``, ``x0``, ``score`` or ``velocity`` is one.
    """

    def __init__(self, process: Any, denoiser: Any) -> None:
        if isinstance(process, type) or not hasattr(process, "family"):
            raise TypeError(f"process={process!r} is not a process; use dn.VP() or dn.VE()")
        if isinstance(denoiser, type) or not callable(denoiser):
            raise TypeError(f"denoiser={denoiser!r} is not a denoiser; wrap a model with dn.from_prediction")
        self._clean, self._noise = process.calls(denoiser)
        self.process = process
        self.denoiser = denoiser
        self.nfe = 0

    def __repr__(self) -> str:
        return f"Problem({self.process!r}, {type(self.denoiser).__name__}, nfe={self.nfe})"

    def _forms(self, u: Tensor, t: Tensor | float, what: str) -> tuple[Any, ...]:
        """How the state becomes clean data plus noise, the level of that noise, and the coefficients of a field."""
        if isinstance(t, (float, Real)):
            return self.process.forms(t, what, u)
        if t.device.type == "cpu":  # values on an accelerator are not looked at: that would make it wait
            for value in t.flatten().tolist():
                self.process.check_time(value)
                if self.process.singular(value):
                    raise ValueError(f"t={t} holds a time without noise, where the noise prediction is undefined")
        times = row_times(t, u)
        (row, level), field = self.process.statistic(times), self.process.expansion(times, what)
        return ready(row, u), level, *(A if A is None else ready(A, u) for A in field)

    def _field(self, u: Tensor, t: Tensor | float, what: str) -> Tensor:
        """A u + b eps with the coefficients of that field; one evaluation."""
        row, level, A, b = self._forms(u, t, what)
        self.nfe += 1
        e = self._noise(u if row is None else combine((row,), (u,)), level)
        if b is None:
            return e
        return combine((b,), (e,)) if A is None else combine((A, b), (u, e))

    def eps(self, u: Tensor, t: Tensor | float, K: str = "R") -> Tensor:
        r"""Noise prediction :math:`-K_t^T \mathrm{score}`, with the shape, dtype and device of ``u``; one evaluation.

        Args:
            u: state ``(batch, *event)``, on phase space ``(batch, 2, *event)``.
            t: time, a float, or a tensor with one time per row.
            K: the root of the covariance that defines the noise, ``"R"`` or ``"L"``; in one dimension they agree.

        Raises:
            ValueError: no noise at this time, or an unknown K.
        """
        if K not in ("R", "L"):
            raise ValueError(f"K={K!r} must be 'R' or 'L'")
        return self._field(u, t, K)

    def x0(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Denoised state: the predicted clean data, ``(batch, *event)``; one evaluation."""
        row, level, *_ = self._forms(u, t, "R")
        self.nfe += 1
        return self.process.data(self._clean(u if row is None else combine((row,), (u,)), level))

    def score(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Gradient of the log density of the state; one evaluation."""
        return self._field(u, t, "score")

    def velocity(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Right-hand side du/dt of the probability-flow ODE; one evaluation."""
        return self.drift(u, self.eps(u, t), t)

    def drift(self, u: Tensor, e: Tensor, t: Tensor | float, lam: float = 0.0) -> Tensor:
        r"""Drift of the reverse-time equation for a noise value already at hand; no evaluation.

        .. math:: F u + \tfrac{1 + \lambda^2}{2} G G^T R^{-T} e

        Args:
            u, e: state and its noise prediction with K = R.
            t: time, a float, or a tensor with one time per row.
            lam: weight of the noise: 0 for the probability-flow ODE, 1 for the reverse SDE.
        """
        if isinstance(t, (float, Real)):
            F, gain = self.process.velocity_factors(float(t), u)
        else:
            F, gain = (ready(A(row_times(t, u)), u) for A in (self.process.F, self.process.gain))
        return combine((F, (1 + lam**2) * gain if lam else gain), (u, e))

    def finish(self, u: Tensor, t: float, kind: str) -> Tensor:
        """The papers' last step, from t to clean data: the prediction of the data, or on phase space one Euler step.

        Args:
            u: state at t.
            t: the last time of the grid.
            kind: ``"ode"`` or ``"sde"``: what was integrated so far.
        """
        if self.process.ending == "none":
            return u
        if self.process.ending == "data":
            return self.process.encode(self.x0(u, t))
        lam = float(kind == "sde") if self.process.final_lam is None else self.process.final_lam
        return combine((1.0, -t), (u, self.drift(u, self.eps(u, t), t, lam)))

    def prior(self, shape: tuple[int, ...], *args: Any, **options: Any) -> Tensor:
        """Start states; see the process's ``prior``. The shape is ``(batch, *event)``, or that of the states.

        Raises:
            ValueError: the shape is not that of the denoiser's data.
        """
        event = getattr(self.denoiser, "shape", None)
        if event is not None and tuple(shape[1:]) == tuple(event):
            shape = self.process.state_shape(shape, data=True)
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
            needed = self.process.state_shape((0, *expected), data=True)[1:]
            raise ValueError(
                f"u has shape {tuple(u.shape)}; this denoiser needs (batch, {', '.join(map(str, needed))})"
            )
        if u.layout != torch.strided or u.device.type == "meta":
            raise TypeError(f"u is a {u.layout} tensor on {u.device}; a state is an ordinary dense tensor")
        if not u.numel():
            raise ValueError(f"u has shape {tuple(u.shape)}: there is no sample in it")
        low, high = torch.aminmax(u)  # both pass NaN on: one pass, where isfinite(u).all() takes the time of ten
        if not (isfinite(low.item()) and isfinite(high.item())):
            raise ValueError("u contains NaN or infinity; check where the start state comes from")
        device = getattr(self.denoiser, "device", None)
        if device is not None and torch.device(device).type != u.device.type:
            raise DiffnumError(f"u is on {u.device}, the denoiser on {device}; move one with .to(device)")
