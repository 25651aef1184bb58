r"""Taylor coefficients of a step: their forms, closed cases and series, and what the step is called elsewhere."""

from functools import cache

import sympy as sp

from diffnum.derive import gddim
from diffnum.derive.er_sde.symbols import h, p, q_derivatives, r, s, t, u, x
from diffnum.derive.gddim import alpha_s, alpha_t, sigma_s, sigma_t

#: Forms of a Taylor coefficient: as it arises, integrated by parts, and as a sum of two terms of one sign.
FORMS = ("definition", "by_parts", "stable")


# ---- Taylor coefficients -------------------------------------------------------------------------------------------


def _kernel(n: int, at: sp.Expr = u) -> sp.Expr:
    return (at - t) ** n / sp.factorial(n)


def coefficient(n: int, psi: sp.Expr, form: str = "stable") -> sp.Expr:
    r"""The Taylor coefficient :math:`A_{n+1}`, factor of the n-th derivative of the data prediction, as an integral.

    .. math:: \text{definition: } \phi(s)\int_s^t K_n\,\frac{\phi'}{\phi^2}\,du, \quad
        \text{by\_parts: } K_n(s) + \int_s^t K_{n-1}\,w\,du, \quad
        \text{stable: } -\int_s^t K_{n-1}\,(1 - w)\,du

    with :math:`K_n(u) = (u-t)^n/n!`, :math:`w(u) = \phi(s)/\phi(u)` and
    :math:`1 - w = ((u - s) + s\,(1 - \psi(s)/\psi(u)))/u`, two terms of one sign. The second is what the published
    code integrates, the third what `solvers.er_sde.taylor` does. Cui et al. 2025, arXiv:2309.06169, write repeated
    integrals; see `cauchy_residuals`. Assumes n >= 1 and s > 0.
    """
    at = lambda expression, place: expression.subs(x, place)  # noqa: E731
    phi = x * psi
    match form:
        case "definition":
            return at(phi, s) * sp.Integral(_kernel(n) * at(sp.diff(phi, x) / phi**2, u), (u, s, t))
        case "by_parts":
            return _kernel(n, s) + at(phi, s) * sp.Integral(_kernel(n - 1) / at(phi, u), (u, s, t))
        case "stable":
            lost = ((u - s) + s * (1 - at(psi, s) / at(psi, u))) / u
            return -sp.Integral(_kernel(n - 1) * lost, (u, s, t))
    raise ValueError(f"unknown form {form!r}: one of {', '.join(FORMS)}")


def form_residuals(n: int) -> tuple[sp.Expr, ...]:
    r"""The three forms agree for every phi: four residuals, 0.

    .. math:: -K_n w' - K_{n-1} w = -\frac{d}{du}(K_n w), \quad -[K_n w]_s^t = K_n(s), \quad
        \int_s^t K_{n-1}\,du = -K_n(s)

    The integrands of the first two forms differ by a derivative; its values at the ends are the term K_n(s); and the
    constant in 1 - w gives the same term. The last residual is that of the quotient 1 - w.
    """
    phi = sp.Function("phi", positive=True)
    psi = lambda at: phi(at) / at  # noqa: E731
    w, K = phi(s) / phi(u), _kernel(n)
    definition = phi(s) * K * sp.diff(phi(u), u) / phi(u) ** 2
    boundary = -(K * w).subs(u, t) + (K * w).subs(u, s)
    lost = ((u - s) + s * (1 - psi(s) / psi(u))) / u
    return (
        sp.simplify(definition - _kernel(n - 1) * w + sp.diff(K * w, u)),
        sp.simplify(boundary - _kernel(n, s)),
        sp.simplify(sp.integrate(sp.expand(_kernel(n - 1)), (u, s, t)) + _kernel(n, s)),
        sp.simplify(1 - w - lost),
    )


def cauchy_residuals(n: int) -> tuple[sp.Expr, ...]:
    r"""Cauchy's formula for repeated integration: the n-fold integral from t is a single one. Three residuals, 0.

    .. math:: \int_t^v\!du_1\int_t^{u_1}\!du_2 \cdots \int_t^{u_{n-1}}\!f(u_n)\,du_n
        = \int_t^v \frac{(v-u)^{n-1}}{(n-1)!}\,f(u)\,du

    The right side vanishes at v = t, and its derivative is the same with n - 1: so says Leibniz' rule if the weight's
    derivative is the weight with n - 1 (first residual) and the weight is 0 at u = v, for n = 1 it is 1 (second). With
    f = 1 it is :math:`K_n(v)` (third), which is why repeated integrals shrink to the single ones of `coefficient`.
    """
    v = sp.Symbol("v", positive=True)
    weight = lambda k: (v - u) ** (k - 1) / sp.factorial(k - 1)  # noqa: E731
    return (
        sp.simplify(sp.diff(weight(n), v) - (weight(n - 1) if n > 1 else 0)),
        sp.simplify(weight(n).subs(u, v) - (n == 1)),
        sp.simplify(sp.integrate(sp.expand(weight(n)), (u, t, v)) - _kernel(n, v)),
    )


def coefficient_rate_residuals(candidate: sp.Expr, n: int, psi: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    r"""Whether an expression in t and s is the coefficient: the residuals of its equation and its start, both 0.

    .. math:: \frac{dA_{n+1}}{ds} = \frac{\phi'(s)}{\phi(s)}\,\big(A_{n+1} - K_n(s)\big), \qquad A_{n+1}|_{s=t} = 0

    the derivative of the definition in its end point.
    """
    phi = (x * psi).subs(x, s)
    rate = sp.diff(candidate, s) - sp.diff(phi, s) / phi * (candidate - _kernel(n, s))
    return sp.simplify(rate), sp.simplify(candidate.subs(s, t))


def power_coefficient(n: int, power: sp.Expr = p) -> sp.Expr:
    r"""The coefficients for :math:`\phi = x^p` in closed form, n = 1, 2.

    .. math:: A_2 = s - t + s^p I_0, \qquad A_3 = \tfrac12(t-s)^2 + s^p I_1, \qquad
        I_0 = \frac{t^{1-p} - s^{1-p}}{1-p}, \quad I_1 = \frac{t^{2-p} - s^{2-p}}{2-p} - t\,I_0

    with a logarithm in place of a quotient 0/0. For x: :math:`A_2 = s - t + s\log(t/s)`; for x^2:
    :math:`A_2 = -(t-s)^2/t`. Ours. Assumes p >= 1 for an admissible scale; the formula needs only s, t > 0.
    """
    mean = lambda k: sp.log(t / s) if k == 0 else (t**k - s**k) / k  # noqa: E731  integral of u^(k-1)
    first = mean(1 - power)
    if n == 1:
        return s - t + s**power * first
    if n == 2:
        return (t - s) ** 2 / 2 + s**power * (mean(2 - power) - t * first)
    raise ValueError(f"n={n} must be 1 or 2")


@cache
def coefficient_series(n: int, highest: int = 4) -> sp.Expr:
    r"""The coefficient of a short step s = t - h as a series in h, for every noise scale, through h^highest.

    .. math:: A_2 = -\frac{q}{2}h^2 + O(h^3), \qquad A_3 = \frac q6 h^3 + O(h^4), \qquad q = \frac{1+\eta}{t}

    q0, q1, q2 are :math:`\phi'/\phi` and its derivatives at t.
    """
    v = sp.Dummy("v")  # u = t - v
    growth = lambda at: sum(q * (-at) ** (k + 1) / sp.factorial(k + 1) for k, q in enumerate(q_derivatives))  # noqa: E731
    exponent = sp.expand(growth(h) - growth(v))  # log of w = phi(s)/phi(u)
    w = sp.expand(sum(exponent**k / sp.factorial(k) for k in range(highest)))
    integrand = sp.expand((-v) ** (n - 1) / sp.factorial(n - 1) * (w - 1))
    whole = sp.expand(sp.integrate(integrand, (v, 0, h)))
    return sp.Add(*(whole.coeff(h, k) * h**k for k in range(highest + 1)))


# ---- one step, and what it is called elsewhere ---------------------------------------------------------------------


def frozen_step(ratio: sp.Expr = r) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""Order 1 on any schedule: factors of x_t and of x_0, and the variance, for :math:`r = \phi(\rho_s)/\phi(\rho_t)`.

    .. math:: x_s = \frac{\alpha_s}{\alpha_t}\,r\,x_t + \alpha_s(1 - r)\,x_0
        + \alpha_s\sqrt{\rho_s^2 - \rho_t^2 r^2}\;z

    r = rho_s/rho_t is DDIM and its square ancestral sampling; any power is stochastic gDDIM (`gddim.scalar_step`). For
    every r it is DDIM with the variance of the step, :math:`x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - P}\,\epsilon
    + \sqrt P\,z` (Song, Meng and Ermon 2021, arXiv:2010.02502, equation (12)). Symbols of `derive.gddim`.
    """
    start, end = sigma_t / alpha_t, sigma_s / alpha_s
    return alpha_s / alpha_t * ratio, alpha_s * (1 - ratio), alpha_s**2 * (end**2 - start**2 * ratio**2)


def second_order_weights() -> tuple[sp.Expr, sp.Expr]:
    r"""What order 2 with phi = x and DPM-Solver++(2M) give the difference of two data predictions, over alpha_s.

    .. math:: \frac{A_2}{t - t'} = \frac{t - s - s\log(t/s)}{t' - t}, \qquad
        (1 - e^{-h})\,\frac{1}{2r} = \Big(1 - \frac st\Big)\frac{\log(t/s)}{2\log(t'/t)}

    with the step before from t' = ``u``. They differ: one takes the derivative in rho, the other in log(rho). Lu et
    al. 2022, arXiv:2211.01095, algorithm 2. Ours.
    """
    _, older = gddim.dpmpp_2m_weights()
    lengths = {gddim.h: sp.log(t / s), gddim.r: sp.log(u / t) / sp.log(t / s)}
    return power_coefficient(1, sp.S.One) / (t - u), -older.subs(lengths)
