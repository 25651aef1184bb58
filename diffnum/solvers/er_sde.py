r"""ER-SDE: solvers for the whole family of reverse SDEs (Cui, Zhang, Lu and Liao 2023, arXiv:2309.06169).

| paper | here |
|---|---|
| sigma (VE), lambda = sigma/alpha (VP) | rho = sigma/alpha, written x as an argument of phi |
| phi(x), noise scale function | x psi(x) |
| x_theta | x0 |
| A_2, A_3 as iterated integrals | single integrals, :func:`taylor` |

VP is VE in y = x/alpha, so there is one stepper, in rho. For a step from noise-to-signal ratio t down to s, with
:math:`r = \phi(s)/\phi(t)`, the solution of the reverse SDE is

.. math:: y_s = r \, y_t + (1 - r) x_0 + A_2 \dot x_0 + A_3 \ddot x_0 + \dots + n, \qquad n \sim N(0, s^2 - t^2 r^2) .

Every phi for which psi = phi(x)/x does not decrease gives an SDE with the marginals of the process; psi = 1 is the ODE.
"""

from collections.abc import Callable, Iterator, Sequence
from math import factorial
from typing import Any

import numpy as np
from torch import Tensor

from diffnum.arguments import number, shown
from diffnum.coefficients import combine, panels
from diffnum.coefficients import quadrature as nodes_on
from diffnum.errors import WrongKind
from diffnum.kept import kept
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import from_prior, method

PAPER = "Cui et al. 2023, arXiv:2309.06169"
Scale = Callable[[float], float]

#: psi(x) = phi(x)/x of the paper's noise scale functions, by the formula of phi. Versions number them differently.
noise_scales: dict[str, Scale] = {
    "x": lambda x: 1.0,
    "x^2": lambda x: x,
    "x^1.5": lambda x: x**0.5,
    "x^2.5": lambda x: x**1.5,
    "x(exp(-1/x)+10)": lambda x: np.exp(-1 / x) + 10,
    "x^0.9 log10(1+100x^1.5)": lambda x: x**-0.1 * np.log10(1 + 100 * x**1.5),
    "x(exp(x^0.3)+10)": lambda x: np.exp(x**0.3) + 10,
}

CLIP = 1e-6  # published code takes a smaller variance for zero, in units of rho^2


def noise_scale(phi: str | Scale) -> Scale:
    """The function psi of a key of :data:`noise_scales`, or the callable itself.

    Raises:
        ValueError: an unknown key. TypeError: neither text nor callable.
    """
    if callable(phi):
        return phi
    if not isinstance(phi, str):
        raise WrongKind(f"phi={shown(phi)} must be a formula of dn.solvers.noise_scales or a function psi(x)")
    if phi not in noise_scales:
        raise ValueError(f"phi={shown(phi)} must be one of {', '.join(map(repr, noise_scales))}, or a function psi(x)")
    return noise_scales[phi]


def known_scale(option: str, phi: str | Scale) -> str | Scale:
    """The noise scale function as it is given, if there is one."""
    noise_scale(phi)
    return phi


class _Admissible:
    """psi, each value checked: positive, finite, and at no point below its value at a smaller one."""

    def __init__(self, phi: str | Scale) -> None:
        self.psi, self.name, self.seen = noise_scale(phi), phi, list[tuple[np.ndarray, np.ndarray]]()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # what is not finite is refused
            value = on_array(self._checked if callable(self.name) else self.psi, x)
        for wrong in np.flatnonzero(~(value > 0) | ~np.isfinite(value))[:1]:
            self._number(x.flat[wrong], value.flat[wrong])
        self.seen.append((x.ravel(), value.ravel()))
        return value

    def _checked(self, x: float) -> float:
        try:
            return self._number(x, self.psi(x))
        except ArithmeticError as error:
            raise ValueError(f"phi={shown(self.name)}: psi({x:.6g}) fails ({error}); take another scale") from error

    def _number(self, x: float, value: Any) -> float:
        return number(f"phi={shown(self.name)}: psi({x:.6g})", value, above=0)

    def check(self) -> None:
        """Look at all values so far.

        Raises:
            ValueError: psi decreases somewhere, so phi belongs to no SDE; the message says where.
        """
        x, value = (np.concatenate(part) for part in zip(*self.seen, strict=True))
        order = np.argsort(x, kind="stable")
        x, value = x[order], value[order]
        for i in np.flatnonzero(value[1:] < value[:-1] * (1 - 1e-13))[:1]:
            raise ValueError(
                f"phi={self.name!r} is not admissible: psi = phi(x)/x falls from {value[i]:.6g} at x={x[i]:.6g} to "
                f"{value[i + 1]:.6g} at x={x[i + 1]:.6g}: the SDE would need a negative variance; take one that never "
                "decreases"
            )


def on_array(psi: Any, x: np.ndarray) -> np.ndarray:
    """The values of a noise scale function: ours take arrays, those of others are asked number by number."""
    if isinstance(psi, _Admissible):
        return psi(x)
    if psi in noise_scales.values():
        return np.broadcast_to(np.asarray(psi(x), np.float64), x.shape)
    return np.array([psi(float(v)) for v in x.flat], np.float64).reshape(x.shape)


def taylor(psi: Scale, t: float, s: float, order: int, quadrature: str = "gauss") -> tuple[float, ...]:
    r"""``(r, 1 - r, A_2, ...)``: coefficients of the state and of the derivatives of the data prediction.

    .. math:: A_{n+1} = \phi(s) \int_s^t \frac{(u - t)^n}{n!} \frac{\phi'(u)}{\phi(u)^2} \, du
                      = -\int_s^t \frac{(u - t)^{n-1}}{(n-1)!} (1 - w(u)) \, du, \qquad w(u) = \frac{\phi(s)}{\phi(u)}

    and :math:`1 - w = ((u - s) + s (1 - \psi(s)/\psi(u)))/u`: two terms of one sign, of which the second is 0 for the
    ODE and else loses digits on short steps, in proportion to its size.

    Args:
        psi: phi(x)/x.
        t, s: from and to, ratios of noise to signal.
        order: number of terms, 1 to 3.
        quadrature: "gauss", to rounding, or "riemann100", the rule of the published code: 100 points, the left end of
            each interval. Its error does not shrink with the step.
    """
    return tuple(term.item() for term in expansion(psi, np.array([t]), np.array([s]), order, quadrature))


def expansion(psi: Any, t: np.ndarray, s: np.ndarray, order: int, quadrature: str = "gauss") -> list[np.ndarray]:
    """:func:`taylor` for many steps from t to s at once, each term ``(n,)``."""
    some = s > 0
    if not some.all():  # a step to 0 lands on the data prediction
        terms = [np.zeros(len(s)) for _ in range(order + 1)]
        terms[1][:] = 1.0
        for term, part in zip(terms, expansion(psi, t[some], s[some], order, quadrature), strict=True):
            term[some] = part
        return terms
    bottom, top = on_array(psi, s), on_array(psi, t)
    r = s * bottom / (t * top)
    if quadrature == "riemann100":
        u = s[:, None] + np.arange(100) * ((t - s) / 100)[:, None]
        scale = s * bottom * (t - s) / 100
        sums = [scale * ((u - t[:, None]) ** n / (u * on_array(psi, u))).sum(1) for n in range(order - 1)]
        return [r, 1 - r, *((s - t) ** n / factorial(n) + sums[n - 1] for n in range(1, order))]
    frozen = ((t - s) + s * (1 - bottom / top)) / t
    if order == 1 or not len(s):
        return [r, frozen, *(np.zeros(len(s)) for _ in range(order - 1))]
    pieces, owner = panels(np.stack([s, t], 1))
    u, measure = (part.numpy() for part in nodes_on(pieces))
    start, end, least = t[owner, None], s[owner, None], bottom[owner, None]
    lost = measure * ((u - end) + end * (1 - least / on_array(psi, u))) / u  # 1 - w
    terms = [lost * (u - start) ** (n - 1) / factorial(n - 1) for n in range(1, order)]
    return [r, frozen, *(-np.bincount(owner, term.sum(1), len(s)) for term in terms)]


def grid_weights(
    process: Any,
    times: Sequence[float],
    psi: Any,
    order: int,
    quadrature: str = "gauss",
    derivative: str = "corrected",
    clip_variance: bool = False,
) -> list[tuple[float, ...]]:
    """For every step the factors of the state, of the latest data predictions (newest first) and of the noise."""
    ratios, alpha = (level(list(times)).numpy() for level in (process.rho, process.alpha))
    (t, s), n = (ratios[:-1], ratios[1:]), len(ratios) - 1
    r, frozen, *A = expansion(psi, t, s, order, quadrature)
    past = np.zeros((order, n))
    past[0] = frozen
    if len(A) > 0:
        first = np.diff(ratios)[:-1]  # from the second step on
        slope = A[0][1:] / first
        past[:2, 1:] += slope, -slope
    if len(A) > 1:
        first, second, both = first[1:], first[:-1], ratios[2:-1] - ratios[:-3]
        # 2 (d_i - d_{i-1})/(t - t_{i-2}), and half a step of it repairs the first derivative
        factor = (A[1][2:] + (A[0][2:] * first / 2 if derivative == "corrected" else 0.0)) * 2 / both
        past[:, 2:] += factor / first, -factor / first - factor / second, factor / second
    if clip_variance:
        variance = s**2 - t**2 * r**2
        variance[np.abs(variance) < CLIP] = 0.0
    else:
        variance, some = np.zeros(n), s > 0
        change = np.log(on_array(psi, s[some]) / on_array(psi, t[some]))
        variance[some] = -(s[some] ** 2) * np.expm1(2 * change)
    linear, noise = alpha[1:] / alpha[:-1] * r, alpha[1:] * np.sqrt(np.maximum(variance, 0.0))
    rows = np.stack([linear, *(alpha[1:] * past), noise], 1).tolist()
    known = [min(order, i + 1) if to else 1 for i, to in enumerate(s.tolist())]
    return [(*row[: 1 + k], row[-1]) for row, k in zip(rows, known, strict=True)]


def admissible_weights(
    process: Any, times: tuple[float, ...], phi: str | Scale, *options: Any
) -> list[tuple[float, ...]]:
    """:func:`grid_weights` of a noise scale that is checked on the way."""
    psi = _Admissible(phi)
    table = grid_weights(process, times, psi, *options)
    psi.check()
    return table


def _is_ode(phi: str | Scale) -> bool:
    return phi == "x"


def _order(
    grid: str = "log_snr",
    process: Any = None,
    order: int = 3,
    phi: str | Scale = "x(exp(x^0.3)+10)",
    quadrature: str = "gauss",
    derivative: str = "corrected",
    clip_variance: bool = False,
    first: float | None = None,
) -> int:
    """Order of the ODE, weak order of the SDEs: the published quadrature caps both at 1, the first steps at 2."""
    if quadrature == "riemann100":
        return 1
    whole = _is_ode(phi) and derivative == "corrected" and from_prior(process, first)
    return order if whole else min(order, 2)


def _clock(process: Any, phi: str | Scale = "x(exp(x^0.3)+10)", **options: Any) -> Callable[[float], float]:
    """Variance of the martingale that drives the noise, :math:`1/\\psi(\\rho(t))^2`."""
    psi = noise_scale(phi)
    return lambda t: psi(process.rho(t)) ** -2


@method(
    weak_order=_order,
    strong_order=lambda grid="log_snr", process=None, **options: 1,
    nfe=lambda n, **options: n,
    paper=PAPER,
    kind="sde",
    exact_for="a point mass with the ODE scale",
    values={
        "order": (1, 2, 3),
        "phi": known_scale,
        "quadrature": ("gauss", "riemann100"),
        "derivative": ("corrected", "paper"),
        "clip_variance": (False, True),
    },
    clock=_clock,
    register=True,
)
def er_sde(
    problem: Problem,
    u: Tensor,
    times: list[float],
    order: int = 3,
    phi: str | Scale = "x(exp(x^0.3)+10)",
    quadrature: str = "gauss",
    derivative: str = "corrected",
    clip_variance: bool = False,
    *,
    noise: Noise,
) -> Iterator[Tensor]:
    r"""ER-SDE-Solver of order 1, 2 or 3: Taylor expansion of the data prediction along the path, exact noise.

    .. math:: y_{i+1} = r y_i + (1 - r) x_0 + A_2 d_i + A_3 e_i + \sqrt{s^2 - t^2 r^2} \, z_i

    with the first and second derivative of the data prediction from its last values, fewer in the first steps and one
    in a step to 0. For the ODE (``phi="x"``) the order is 1, 2, 3; for every SDE of the family the strong order is 1
    and the weak order of mean and variance at least 1, 2, 2. One evaluation and one draw a step; for the ODE none.
    State ``(batch, *event)``.

    Args:
        order: 1, 2 or 3.
        phi: noise scale function, a formula of :data:`noise_scales` or psi(x) = phi(x)/x as a function of a float.
        quadrature: "gauss", or "riemann100" as published, which makes orders 2 and 3 first order in the end.
        derivative: "corrected" adds half a step of the second derivative to the first, without which order 3 is 2;
            "paper" is as published.
        clip_variance: take a variance below 1e-6 (in units of rho) for 0, as published.
        noise: source of standard normal draws.

    Raises:
        ValueError: psi is not positive or decreases inside the grid: no SDE has this phi.
    """
    key = (problem.process, tuple(times), phi, order, quadrature, derivative, clip_variance)
    if isinstance(phi, str):
        table = kept.get((admissible_weights, *key), lambda: admissible_weights(*key))
    else:  # a function may change
        table = admissible_weights(*key)
    random, past = any(weights[-1] for weights in table), []
    for t, (linear, *frozen, scale) in zip(times, table, strict=False):
        past = [problem.x0(u, t), *past[: order - 1]]
        weights = (linear, *frozen, scale) if random else (linear, *frozen)
        # The sum has no name that would keep its terms alive during the next evaluation. A step to 0 is first order.
        u = combine(weights, (u, *past[: len(frozen)], *((noise(u),) if random else ())))
        yield u
