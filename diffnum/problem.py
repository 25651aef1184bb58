"""A problem: one process, one denoiser, and the fields a solver integrates. Evaluations are counted here alone."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.ambient import Frozen
from diffnum.coefficients import AT_ONCE, combine, ready
from diffnum.errors import DiffnumError, WrongKind
from diffnum.processes.linear import is_number

MANY = 1000  # times off the grid, or numbers in a coefficient, of which a run keeps none itself
COUNTING = Lock()  # evaluations of one problem may be counted by several threads


class Problem(Frozen):
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

    A problem may be integrated by several threads at once: what a run counts is its own, and the total is right.
    """

    __eq__, __hash__ = object.__eq__, object.__hash__  # a problem has a count of its own

    def __init__(self, process: Any, denoiser: Any) -> None:
        arguments.process(process)
        if isinstance(denoiser, type) or not callable(denoiser):
            raise WrongKind(f"denoiser={arguments.shown(denoiser)} is not one; wrap a model with dn.from_prediction")
        self._clean, self._noise = process.calls(denoiser)
        self.process = process
        self.denoiser = denoiser
        self._each: int = getattr(denoiser, "evaluations", 1)
        self._counts = [_Count()]
        self._grid: _OnGrid | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations so far: every call of ``eps``, ``x0``, ``score`` or ``velocity`` is one.

        Or as many as the denoiser says that it makes (``evaluations``), two with classifier-free guidance.
        """
        return self._counts[0].n

    def run(self, u: Tensor, keeps: bool = False) -> "Problem":
        """This problem for one run from states like u, which are checked already.

        Its count is its own and begins at 0; what it counts is counted here too. It ``keeps`` its last evaluation if
        :meth:`last_x0` is to be asked.
        """
        count = _Count((u.shape, u.dtype))
        count.keeps = keeps
        return self.changed(_counts=[count, *self._counts])

    def last_x0(self) -> Tensor | None:
        """The clean prediction of the last evaluation of a run of :func:`diffnum.runner.steps`; no evaluation."""
        if self._counts[0].last is None:
            return None
        x, level, out, clean = self._counts[0].last
        if not clean:
            if isinstance(level, Tensor) and level.ndim == 1:  # one level per row
                level = level.reshape(-1, *(1,) * (x.ndim - 1))
            out = x - (level.to(x) if isinstance(level, Tensor) else level) * out
        return self.process.data(out.clone() if clean else out)  # the run may go on with the answer itself

    def on(self, u: Tensor, times: Sequence[float], middles: Sequence[float] = ()) -> "Problem":
        """This problem with the coefficients at all times of a grid at hand, for states like u.

        Args:
            u: a state.
            times: the grid, checked.
            middles: further times, for stages: one inside each of the first steps, where steps begin or end there.
        """
        return self.changed(_grid=_OnGrid(self.process, u, times, middles))

    def step(self, t: float, s: float) -> tuple[float, float]:
        """The factors of ``process.step``: exact with a frozen noise prediction."""
        return self.process.step(t, s) if self._grid is None else self._grid.step(t, s)

    def __repr__(self) -> str:
        return f"Problem({self.process!r}, {type(self.denoiser).__name__}, nfe={self.nfe})"

    def _forms(self, u: Tensor, t: Tensor | float, what: str) -> tuple[Any, ...]:
        """How the state becomes clean data plus noise, the level of that noise, and the coefficients of a field."""
        if is_number(t):
            return self._at(u, t, what)  # type: ignore[arg-type]
        self._admit(u)
        times = self.process.noisy(self.process.row_times(t, u)).to(u.device)
        (row, level), field = self.process.statistic(times), self.process.expansion(times, what)
        return ready(row, u), level, *(A if A is None else ready(A, u) for A in field)

    def _at(self, u: Tensor, t: float, what: str) -> tuple[Any, ...]:
        """The coefficients of one field at a time, for states like u."""
        grid = self._grid
        if grid is not None and isinstance(u, Tensor) and (u.shape, u.dtype, u.device) == grid.like:
            return grid.field(t, what)
        self._admit(u)
        return self.process.forms((self.process.noisy_time(t),), what, u)[0]

    def _field(self, u: Tensor, t: Tensor | float, what: str) -> Tensor:
        """A u + b eps with the coefficients of that field; one evaluation."""
        row, level, A, b = self._forms(u, t, what)
        e = self._evaluate(self._noise, u if row is None else combine((row,), (u,)), level)
        if b is None:
            return e
        return combine((b,), (e,)) if A is None else combine((A, b), (u, e))

    def count(self) -> None:
        """Count one evaluation: fields do so themselves, what asks the denoiser for the problem has to say so."""
        with COUNTING:
            for count in self._counts:
                count.n += self._each

    def _evaluate(self, function: Callable[..., Tensor], x: Tensor, level: Any) -> Tensor:
        """One evaluation, counted. What comes back is checked the first time in a run."""
        self.count()
        given = x if self._counts[0].met else x.clone()
        out = function(given, level)
        if self._counts[0].keeps:
            self._counts[0].last = (x, level, out, function is self._clean)
        if not self._counts[0].met:
            same = isinstance(out, Tensor) and (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)
            if not same:
                raise DiffnumError(
                    f"the denoiser returned {arguments.shown(out)} for {arguments.shown(x)} on {x.device}; it must "
                    "return a tensor of the same shape, dtype and device (dn.from_prediction wraps a model)"
                )
            if _written(given, x):
                raise DiffnumError(
                    "the denoiser wrote into the state it was given, and it goes on; let it copy first (inplace=False)"
                )
            self._counts[0].met = self._counts[0].like is not None
        return out

    def eps(self, u: Tensor, t: Tensor | float, K: str = "R") -> Tensor:
        r"""Noise prediction :math:`-K_t^T \mathrm{score}`, with the shape, dtype and device of ``u``; one evaluation.

        Args:
            u: state ``(batch, *event)``, on phase space ``(batch, 2, *event)``.
            t: time, a float, or a tensor with one time per row.
            K: the root of the covariance that defines the noise, ``"R"`` or ``"L"``; in one dimension they agree.

        Raises:
            ValueError: no noise at this time, or an unknown K.
        """
        return self._field(u, t, arguments.option("K", K, ("R", "L")))

    def x0(self, u: Tensor, t: Tensor | float) -> Tensor:
        """Denoised state: the predicted clean data, ``(batch, *event)``; one evaluation."""
        row, level, *_ = self._forms(u, t, "R")
        x = u if row is None else combine((row,), (u,))
        return self.process.data(self._evaluate(self._clean, x, level))

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
        self._meet(u)
        if not isinstance(e, Tensor) or e.shape != u.shape:
            raise WrongKind(f"e is {arguments.shown(e)}; it must be the noise prediction of u, {arguments.shown(u)}")
        lam = arguments.weight("lam", lam) if type(lam) is not float or lam else lam
        if is_number(t):
            F, gain = self._at(u, t, "velocity")  # type: ignore[arg-type]
        else:
            times = self.process.noisy(self.process.row_times(t, u)).to(u.device)
            F, gain = (ready(A(times), u) for A in (self.process.F, self.process.gain))
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
        event, shape = getattr(self.denoiser, "shape", None), arguments.sizes("shape", shape, 2, "(batch, *event)")
        if event is not None and shape[1:] == tuple(event):
            shape = self.process.state_shape(shape, data=True)
        u = self.process.prior(shape, *args, **options)
        self.check(u)
        return u

    def check(self, u: Tensor) -> None:
        """Refuse a state that cannot be integrated, before the first evaluation.

        Raises:
            TypeError: not an ordinary dense tensor of float32, float64 or bfloat16.
            ValueError: wrong shape, an empty batch, or a NaN or infinity inside.
            DiffnumError: the denoiser lives on another device.
        """
        self._admit(u)
        low, high = torch.aminmax(u)  # both pass NaN on: one pass, where isfinite(u).all() takes the time of ten
        if not (isfinite(low.item()) and isfinite(high.item())):
            raise ValueError("u contains NaN or infinity; check where the start state comes from")
        device = getattr(self.denoiser, "device", None)
        if device is not None and torch.device(device).type != u.device.type:
            raise DiffnumError(f"u is on {u.device}, the denoiser on {device}; move one with .to(device)")

    def _meet(self, u: Tensor) -> None:
        """As :meth:`_admit`, at no cost for states like those of the run."""
        like = self._counts[0].like
        if like is None or not isinstance(u, Tensor) or u.is_nested or (u.shape, u.dtype) != like:
            self._admit(u)

    def _admit(self, u: Tensor) -> None:
        """Refuse what has not the type or shape of a state, without a look at its values."""
        arguments.state("u", u)
        event, expected = self.process.event_shape(u), getattr(self.denoiser, "shape", None)
        if expected is not None and event != tuple(expected):
            needed = self.process.state_shape((0, *expected), data=True)[1:]
            raise ValueError(
                f"u has shape {tuple(u.shape)}; this denoiser needs (batch, {', '.join(map(str, needed))}): draw u "
                f"with problem.prior({(len(u), *expected)})"
            )
        if not u.numel():
            raise ValueError(f"u has shape {tuple(u.shape)}: there is no sample in it")


def given_problem(problem: Any) -> Problem:
    """The problem, if it is one.

    Raises:
        WrongKind: something else.
    """
    if not isinstance(problem, Problem):
        raise WrongKind(f"problem={arguments.shown(problem)} is not a Problem; use dn.Problem(process, denoiser)")
    return problem


class _Count:
    """How many evaluations; of a run also what its states are like, and whether the denoiser's answer was checked."""

    def __init__(self, like: tuple[torch.Size, torch.dtype] | None = None) -> None:
        self.n, self.like, self.met = 0, like, False
        self.keeps = False
        self.last: tuple[Any, ...] | None = None  # the last evaluation, for a run that is looked at step by step


class _OnGrid:
    """The coefficients of a run: those of all times of its grid at once, when the first is asked for."""

    def __init__(self, process: Any, u: Tensor, times: Sequence[float], middles: Sequence[float]) -> None:
        self.process, self.like = process, (u.shape, u.dtype, u.device)
        self.u = torch.empty((*u.shape[:1], 0), dtype=u.dtype, device=u.device)
        self.times, self.middles = times, middles
        self.fields: dict[str, dict[float, Any]] = {}
        self.steps: dict[tuple[float, float], tuple[float, float]] = {}

    def field(self, t: float, what: str) -> tuple[Any, ...]:
        """As ``process.forms``, at one time."""
        fields = self.fields.get(what)
        if fields is None:
            times = [s for s in dict.fromkeys((*self.times, *self.middles)) if not self.process.singular(s)]
            whole = t in times and len(times) * self.process.numbers <= AT_ONCE
            known = zip(times, self.process.forms(times, what, self.u), strict=True) if whole else ()
            self.fields[what] = fields = dict(known)
        found = fields.get(t)
        if found is None:
            t = self.process.noisy_time(t)
            found = self.process.forms((t,), what, self.u)[0]
            if max(len(fields) - len(self.times), self.process.numbers) < MANY:
                fields[t] = found
        return found

    def step(self, t: float, s: float) -> tuple[float, float]:
        """As ``process.step``."""
        found = self.steps.get((t, s))
        if found is None:
            pairs = [*pairwise(self.times), *zip(self.times, self.middles, strict=False)]
            if self.steps or (t, s) not in pairs:
                return self.process.step(t, s)
            self.steps.update(zip(pairs, self.process.steps(*zip(*pairs, strict=True)), strict=True))
            found = self.steps[t, s]
        return found


def _written(copy: Tensor, x: Tensor) -> bool:
    """Whether somebody wrote into a copy of x. Torch counts its own writes; others, of NumPy say, a sample shows."""
    if copy.is_inference():  # there torch does not count
        sample, right = copy, x
    elif copy._version:
        return True
    else:
        stride = 1 + x.numel() // 256
        sample, right = (y.detach().reshape(-1)[::stride] for y in (copy, x))
    return not torch.equal(sample, right) and bool(right.isfinite().all())
