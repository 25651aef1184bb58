r"""Weak order on Gaussian data: what one step does to mean, variance and covariances, method minus exact."""

from collections.abc import Sequence
from functools import cache

import sympy as sp

from diffnum.derive.er_sde.symbols import a, b, c, h, q_derivatives, t
from diffnum.derive.er_sde.taylor import coefficient_series

Series = list[sp.Expr]  # coefficients of 1, h, h^2
slopes = sp.symbols("J0:3")  # J = c/(c + rho^2), the data prediction over the state, and its derivatives at t


def _times(f: Series, g: Series) -> Series:
    return [sp.Add(*(f[i] * g[k - i] for i in range(k + 1))) for k in range(3)]


def _plus(*terms: Series) -> Series:
    return [sp.Add(*column) for column in zip(*terms, strict=True)]


def _near(derivatives: Sequence[sp.Expr], distance: sp.Expr) -> Series:
    """The function with these derivatives at t, at t + distance h."""
    return [f * distance**k / sp.factorial(k) for k, f in enumerate(derivatives)]


def _exponential(f: Series) -> Series:
    """exp of what is O(h)."""
    return [sp.S.One, f[1], f[2] + f[1] ** 2 / 2]


def _step(order: int, derivative: str) -> tuple[list[Series], Series]:
    """Factors of the states at t, t + a h, t + (a + b) h in one step on data N(0, c), and the variance of its noise."""
    r = _exponential(_near((sp.S.Zero, *q_derivatives[:2]), -sp.S.One))
    newest, before = sp.Matrix([-1, 1, 0]) / a, sp.Matrix([0, -1, 1]) / b  # difference quotients, times h
    second = 2 * (before - newest) / (a + b)
    first = newest - a / 2 * second if (order, derivative) == (3, "corrected") else newest
    factors = [[1 - r[0], -r[1], -r[2]], [sp.S.Zero] * 3, [sp.S.Zero] * 3]
    for n, difference in zip(range(1, order), (first, second), strict=False):
        A = [coefficient_series(n).coeff(h, n + k) for k in range(3)]
        factors = [_plus(f, [share * part for part in A]) for f, share in zip(factors, difference, strict=True)]
    places = (sp.S.Zero, a, a + b)
    factors = [_times(f, _near(slopes, at)) for f, at in zip(factors, places, strict=True)]
    kept = [t**2 * part for part in _times(r, r)]
    return [_plus(factors[0], r), *factors[1:order]], [t**2 - kept[0], -2 * t - kept[1], 1 - kept[2]]


@cache
def weak_defects(order: int, derivative: str = "corrected") -> dict[str, tuple[sp.Expr, ...]]:
    r"""One step on data N(0, c) from a history with the exact moments: method minus exact, coefficients of 1, h, h^2.

    .. math:: \mathrm{E}\,y_u^2 = c + u^2, \qquad \mathrm{E}\,y_v y_u = \frac{m_v}{m_u}(c + u^2) \ (v < u), \qquad
        \frac{m'}{m} = q\,(1 - J), \quad J = \frac{c}{c + u^2}

    for every noise scale, q = phi'/phi, and steps h after a h after b h: "mean" over the mean at t, "variance", and
    "covariance_k" with the state k steps back, 0 the one at t. Order 1 leaves in the variance (see
    `variance_deficit_residual`), orders 2 and 3 in the covariance with the state at t

    .. math:: -\frac{c\,t^2q^2}{c + t^2}\,h^2, \qquad \frac{c\,q\,(qt - 1)\,t}{c + t^2}\,h^2,

    and nothing of mean and variance up to h^2. The next variance takes up a covariance with a factor O(h), and the
    next covariances are that variance but for O(h), so these are weak orders 1 and 2, whatever the ratios of the
    steps. Ours.
    """
    factors, noise = _step(order, derivative)
    old, places = range(order), (-sp.S.One, sp.S.Zero, a, a + b)
    q, J = q_derivatives, slopes
    flow = [_near((sp.S.Zero, q[0] * (1 - J[0]), q[1] * (1 - J[0]) - q[0] * J[1]), at) for at in places]  # log m
    variance = [_near((c + t**2, 2 * t, sp.Integer(2)), at) for at in places]

    def moment(i: int, j: int) -> Series:
        """Of the states at two places."""
        late, early = sorted((i, j))
        through = _plus(flow[late], [-part for part in flow[early]])
        return _times(_exponential(through), variance[early])

    def left(found: list[Series], exact: Series) -> tuple[sp.Expr, ...]:
        known = {f: sp.diff(c / (c + t**2), t, k) for k, f in enumerate(slopes)}
        return tuple(sp.factor(part.subs(known)) for part in _plus(*found, [-part for part in exact]))

    means = [_exponential(part) for part in flow]
    own = [_times(_times(factors[j], factors[k]), moment(j + 1, k + 1)) for j in old for k in old]
    return {
        "mean": left([_times(factors[k], means[k + 1]) for k in old], means[0]),
        "variance": left([*own, noise], variance[0]),
        **{
            f"covariance_{k}": left([_times(factors[j], moment(j + 1, k + 1)) for j in old], moment(0, k + 1))
            for k in old
        },
    }
