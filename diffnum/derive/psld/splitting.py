r"""Splitting on phase space: the parts of the reverse equation, errors of exact flows, local errors of the schemes."""

from collections.abc import Callable
from functools import cache

import sympy as sp

from diffnum.derive import gddim
from diffnum.derive.gddim import Gamma, M, h, nu
from diffnum.derive.psld.symbols import S_0, S_1, X, Y, exp_series, m, s_m, s_x, truncated, x

SCHEMES = (
    "symplectic_euler",
    "reduced_symplectic_euler",
    "velocity_verlet",
    "reduced_velocity_verlet",
    "verlet2",
)


# ---- the process and its parts -------------------------------------------------------------------------------------


def stationary_residual() -> sp.Matrix:
    r"""The covariance diag(1, M) stays: :math:`F\Sigma + \Sigma F^\top + Q`, 0.

    Pandey and Mandt 2023, arXiv:2303.01748.
    """
    F, Q = gddim.phase_space()
    Sigma = sp.diag(1, 4 / (nu - Gamma) ** 2)
    return (F * Sigma + Sigma * F.T + Q).applyfunc(sp.simplify)


def relaxation_residual() -> sp.Matrix:
    r"""The covariance relaxes towards diag(1, M) by the transition alone: the difference, 0.

    .. math:: \Sigma_b = \Sigma_\infty + \Psi\,(\Sigma_0 - \Sigma_\infty)\,\Psi^\top

    against `gddim.covariance`, whose terms do not cancel at small b. Any linear SDE with a stationary covariance has
    this form; that it replaces the printed coefficients of arXiv:2303.01748 is our remark.
    """
    Sigma, psi = sp.diag(1, 4 / (nu - Gamma) ** 2), gddim.transition()
    closed = Sigma + psi * (sp.diag(gddim.e, gddim.q) - Sigma) * psi.T
    return (closed - gddim.covariance()).applyfunc(sp.simplify)


def parts(w: sp.Expr) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    r"""Drifts of the parts A, B, O of the reverse equation, per unit of the clock run down, as columns.

    .. math:: A: \tfrac12\big(w\Gamma x - M^{-1} m + w\Gamma s_x\big), \qquad
        B: \tfrac12\big(x + w\nu m + w M\nu s_m\big), \qquad O: -\tfrac12 (w - 1) (\Gamma x, \nu m)

    O comes with the noise :math:`\sqrt{(w - 1) Q}`. w = 1 is the ODE, w = 2 the SDE; the numeric twin is
    `diffnum.solvers.splitting.Parts`. Here M is a free symbol. Pandey, Rudolph and Mandt 2023, arXiv:2310.07894.
    """
    return (
        sp.Matrix([w * Gamma * x - m / M + w * Gamma * s_x, 0]) / 2,
        sp.Matrix([0, x + w * nu * m + w * M * nu * s_m]) / 2,
        -(w - 1) * sp.Matrix([Gamma * x, nu * m]) / 2,
    )


def reverse_residuals() -> tuple[sp.Matrix, sp.Matrix]:
    r"""A + B + O is the reverse equation: differences of the drifts for the ODE and for the SDE, both 0.

    .. math:: w = 1: \; -F u + \tfrac12 Q s, \qquad w = 2: \; -F u + Q s

    Run down the clock. The noise of O is that of the reverse SDE, :math:`\sqrt Q`. The reverse equation is
    that of Anderson 1982.
    """
    F, Q = gddim.phase_space()
    u, s = sp.Matrix([x, m]), sp.Matrix([s_x, s_m])
    total = (sum(parts(sp.Integer(w)), sp.zeros(2, 1)).subs(M, 4 / (nu - Gamma) ** 2) for w in (1, 2))
    ode, sde = (drift + F * u - sp.Rational(w, 2) * Q * s for w, drift in zip((1, 2), total, strict=True))
    return ode.applyfunc(sp.simplify), sde.applyfunc(sp.simplify)


def ornstein_step(clock: sp.Expr = h) -> tuple[sp.Matrix, sp.Matrix]:
    r"""Factor and variance of the part O over a stretch of the clock, exactly.

    .. math:: \mathrm{diag}\big(e^{-\Gamma h/2}, e^{-\nu h/2}\big), \qquad
        \mathrm{diag}\big(1 - e^{-\Gamma h},\ M (1 - e^{-\nu h})\big)

    Pandey, Rudolph and Mandt 2023, arXiv:2310.07894.
    """
    rates = (Gamma, nu)
    factor = sp.diag(*(sp.exp(-rate * clock / 2) for rate in rates))
    return factor, sp.diag(*(scale * (1 - sp.exp(-rate * clock)) for scale, rate in zip((1, M), rates, strict=True)))


def ornstein_step_residuals() -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    r"""`ornstein_step` is the law of O: equations of the factor and of the variance, and stationarity; all 0.

    .. math:: E' + \tfrac12 D E, \qquad V' + D V - Q, \qquad E\,\Sigma_\infty E + V - \Sigma_\infty, \qquad
        D = \mathrm{diag}(\Gamma, \nu)
    """
    D, Sigma = sp.diag(Gamma, nu), sp.diag(1, M)
    E, V = ornstein_step()
    return (
        (sp.diff(E, h) + D * E / 2).applyfunc(sp.simplify),
        (sp.diff(V, h) + D * V - D * Sigma).applyfunc(sp.simplify),
        (E * Sigma * E + V - Sigma).applyfunc(sp.simplify),
    )


def bias_residuals() -> tuple[sp.Matrix, sp.Matrix, sp.Expr]:
    r"""What :math:`\lambda_s` adds to the covariance: its equation, its integral, the noise of a step; residuals, 0.

    .. math:: D' = V D + D V^\top + (\lambda_s - 1)\,\Gamma\,e_1 e_1^\top, \qquad
        D = (\lambda_s - 1)\,\Gamma\int P\,e_1 e_1^\top P^\top\,db, \quad P' = V P, \qquad
        1 - e^{-\lambda_s\Gamma h} = \lambda_s\Gamma h + O(h^2)

    D is the covariance with :math:`\lambda_s\Gamma` in place of :math:`\Gamma` in the noise less that without, for any
    drift V; under the integral P starts as the unit at b, and its end moves. A generic V. Ours.
    """
    at, scale = sp.Symbol("tau", real=True), sp.Symbol("lambda_s", positive=True)
    V, P, with_, without = (
        sp.Matrix(2, 2, lambda i, j, name=name: sp.Function(f"{name}{i}{j}")(at)) for name in ("V", "P", "C", "E")
    )
    noise, more = sp.diag(Gamma, M * nu), sp.diag((scale - 1) * Gamma, 0)
    D = with_ - without
    rates = [(C, V * C + C * V.T + noise + extra) for C, extra in ((with_, more), (without, sp.zeros(2)))]
    rates.append((P, V * P))
    known = {sp.diff(c, at): rate for C, R in rates for c, rate in zip(C, R, strict=True)}
    inside = P * more * P.T
    return (
        (sp.diff(D, at).subs(known) - V * D - D * V.T - more).applyfunc(sp.expand),
        (sp.diff(inside, at).subs(known) - V * inside - inside * V.T).applyfunc(sp.expand),
        sp.series(1 - sp.exp(-scale * Gamma * h), h, 0, 2).removeO() - scale * Gamma * h,
    )


# ---- splitting by Baker, Campbell and Hausdorff --------------------------------------------------------------------


def commutator(left: sp.Expr, right: sp.Expr) -> sp.Expr:
    """``left right - right left``, expanded."""
    return sp.expand(left * right - right * left)


def _composed(generators: list[sp.Expr], highest: int = 3) -> dict[int, sp.Expr]:
    """The logarithm of a product of exponentials exp(h G) minus h (X + Y), by powers of h."""
    product = sp.Integer(1)
    for generator in generators:
        product = truncated(product * exp_series(h * generator, h, highest), h, highest)
    excess, power, log = product - 1, sp.Integer(1), sp.Integer(0)
    for k in range(1, highest + 1):
        power = truncated(power * excess, h, highest)
        log += sp.Rational((-1) ** (k + 1), k) * power
    log = sp.expand(log - h * (X + Y))
    return {k: log.coeff(h, k) for k in range(1, highest + 1)}


def lie_error() -> dict[int, sp.Expr]:
    r"""What Lie splitting does instead of :math:`e^{h(X+Y)}`: its generator minus h (X + Y), by powers of h.

    .. math:: \log\big(e^{hX} e^{hY}\big) = h(X + Y) + \tfrac{h^2}2 [X, Y]
        + \tfrac{h^3}{12}\big([X, [X, Y]] + [Y, [Y, X]]\big) + O(h^4)

    X and Y are generic and do not commute. Local error :math:`O(h^2)`: order 1. Baker, Campbell and Hausdorff;
    Hairer, Lubich and Wanner 2006, section III.4. Assumes that both flows are exact.
    """
    return _composed([X, Y])


def strang_error() -> dict[int, sp.Expr]:
    r"""The same for Strang splitting: the powers 1 and 2 of h vanish, so it has order 2.

    .. math:: \log\big(e^{hX/2} e^{hY} e^{hX/2}\big) = h(X + Y) - \tfrac{h^3}{24} [X, [X, Y]]
        + \tfrac{h^3}{12} [Y, [Y, X]] + O(h^4)

    Assumes that both flows are exact, or symmetric and of order 2; the Euler substeps of the papers are neither.
    """
    return _composed([X / 2, Y, X / 2])


# ---- local errors of the schemes -----------------------------------------------------------------------------------


def _score(at: sp.Expr, position: sp.Expr, momentum: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """The linear score at a state, `at` of the clock below the start of the step."""
    s = (S_0 + at * S_1) * sp.Matrix([position, momentum])
    return s[0], s[1]


def _substeps() -> tuple[Callable[..., sp.Expr], Callable[..., sp.Expr]]:
    """Euler substeps of the ODE's parts: A(x, m, s_x, h) and B(x, m, s_m, h), as in the numeric library."""
    drift_x, drift_m = (part[i] for i, part in enumerate(parts(sp.Integer(1))[:2]))
    return (
        lambda a, c, s, step: a + step * drift_x.subs({x: a, m: c, s_x: s}, simultaneous=True),
        lambda a, c, s, step: c + step * drift_m.subs({x: a, m: c, s_m: s}, simultaneous=True),
    )


def _scheme(name: str, first: str, last: str) -> tuple[sp.Expr, sp.Expr]:
    """One step of a splitting method from (x, m), a polynomial in h."""
    A, B = _substeps()
    sx, sm = _score(sp.S.Zero, x, m)
    naive = not name.startswith("reduced")
    if name.endswith("symplectic_euler"):
        if first == "momentum":
            m1 = B(x, m, sm, h)
            return A(x, m1, _score(sp.S.Zero, x, m1)[0] if naive else sx, h), m1
        x1 = A(x, m, sx, h)
        return x1, B(x1, m, _score(sp.S.Zero, x1, m)[1] if naive else sm, h)
    half = B(x, m, sm, h / 2)
    if name.endswith("velocity_verlet"):
        x1 = A(x, half, _score(sp.S.Zero, x, half)[0] if naive else sx, h)
        late = sp.S.Zero if naive or last == "current" else h
        return x1, B(x1, half, _score(late, x1, half)[1], h / 2)
    m_end, x_end = 2 * half - m, A(x, half, sx, h)  # verlet2
    sx_end, sm_end = _score(h, x_end, m_end)
    x1 = x + h / 2 * (-half / M + Gamma / 2 * (x + x_end + sx + sx_end))
    return x1, half + h / 4 * (x1 + nu * m_end + M * nu * sm_end)


@cache
def local_error(
    scheme: str, first: str = "momentum", last: str = "next", highest: int = 2
) -> dict[int, tuple[sp.Expr, sp.Expr]]:
    r"""Method minus exact after one step, in x and in m, by powers of h: on a linear score, exactly.

    .. math:: s(u, \tau) = (S_0 + \tau S_1)\,u, \qquad u' = V(\tau)\,u, \quad V = -F + \tfrac12 Q (S_0 + \tau S_1)

    The names are those of the library: "symplectic_euler", "reduced_symplectic_euler", "velocity_verlet",
    "reduced_velocity_verlet", "verlet2", with the options `first` and `last`. The power 1 vanishes for all (they
    are consistent), the power 2 for "verlet2" alone. For both Verlet methods the power 2 is :math:`O(\Gamma)` in x and
    :math:`O(\nu)` in m. The orders follow: 1, and 2 for "verlet2". S_1 is the derivative of the score's matrix along
    the clock run down; S_2 would enter at h^3. So ``highest`` = 3 holds for an S that is linear in tau.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}: one of {', '.join(SCHEMES)}")
    tau = sp.Dummy("tau")
    a, c = sp.Dummy("a"), sp.Dummy("c")
    sx, sm = _score(tau, a, c)
    A, B, _ = parts(sp.Integer(1))
    rate = (A + B).subs({x: a, m: c, s_x: sx, s_m: sm}, simultaneous=True)
    derivative, exact = sp.Matrix([a, c]), sp.Matrix([a, c])
    for k in range(1, highest + 1):  # total derivatives along the solution
        derivative = derivative.diff(tau) + derivative.jacobian([a, c]) * rate
        exact += derivative * h**k / sp.factorial(k)
    exact = exact.subs({tau: 0, a: x, c: m}, simultaneous=True)
    error = [sp.expand(mine - true) for mine, true in zip(_scheme(scheme, first, last), exact, strict=True)]
    return {k: (sp.factor(error[0].coeff(h, k)), sp.factor(error[1].coeff(h, k))) for k in range(1, highest + 1)}
