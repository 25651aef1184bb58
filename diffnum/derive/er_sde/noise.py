r"""Gaussian data, and what noise does to the order."""

import sympy as sp

from diffnum.derive.er_sde.symbols import c, h, p, r, s, t, u, x, y

# ---- Gaussian data -------------------------------------------------------------------------------------------------


def excess(psi: sp.Expr) -> sp.Expr:
    r"""How much larger the weight of the frozen prediction is than for the ODE, never negative for an admissible psi.

    .. math:: (1 - r) - \Big(1 - \frac st\Big) = \frac st\Big(1 - \frac{\psi(s)}{\psi(t)}\Big)

    1 - r is the first-order Euler integral (FEI) coefficient of Cui et al. 2025, arXiv:2309.06169.
    """
    return sp.simplify(s / t * (1 - psi.subs(x, s) / psi.subs(x, t)))


def variance_deficit_residual() -> sp.Expr:
    r"""One step of order 1 on data N(0, c) from the exact law loses variance by the FEI coefficient squared: 0.

    .. math:: \mathrm{Var}(y_s) - (c + s^2) = -\frac{c\,t^2}{c + t^2}\,(1 - r)^2

    with :math:`x_0 = c\,y/(c + t^2)`. Ours.
    """
    mean_map = r + (1 - r) * c / (c + t**2)
    variance = mean_map**2 * (c + t**2) + s**2 - t**2 * r**2
    return sp.simplify(variance - (c + s**2) + c * t**2 / (c + t**2) * (1 - r) ** 2)


def mean_map_residual() -> sp.Expr:
    r"""For phi = x^2 a step of order 1 moves the mean of Gaussian data exactly, however long it is: 0.

    .. math:: r + (1 - r)\frac{c}{c + t^2} = \frac{c + s^2}{c + t^2} \quad\text{for } r = \frac{s^2}{t^2}
    """
    ratio = s**2 / t**2
    return sp.simplify(ratio + (1 - ratio) * c / (c + t**2) - (c + s**2) / (c + t**2))


def gaussian_flow_residual() -> sp.Expr:
    r"""What a start error of the mean shrinks to under :math:`\phi = x^p`, data N(0, c): the residual, 0.

    .. math:: M = \Big(\frac{c + s^2}{c + t^2}\Big)^{p/2}, \qquad \frac{dM}{ds} = p\,\frac{s}{c + s^2}\,M

    from the drift :math:`\frac{p}{s}\big(1 - \frac{c}{c+s^2}\big)y`. `reversing.joint_covariance` with
    :math:`p = 1 + \lambda^2`.
    """
    M = ((c + s**2) / (c + t**2)) ** (p / 2)
    return sp.simplify(sp.diff(M, s) - p / s * (1 - c / (c + s**2)) * M)


# ---- what noise does to the order ----------------------------------------------------------------------------------


def denoiser_drift_residual() -> sp.Expr:
    r"""Along a reverse SDE the data prediction drifts at 1 - eta times its rate along the ODE: the residual, 0.

    .. math:: \Big(\partial_\rho + \frac{1+\eta}{\rho}(y - x_0)\,\partial_y - \rho\,\eta\,\partial_y^2\Big)x_0
        = (1 - \eta)\Big(\partial_\rho + \frac{y - x_0}{\rho}\,\partial_y\Big)x_0

    for :math:`x_0 = y + \rho^2\partial_y\log p` and any density with :math:`\partial_\rho p = \rho\,\partial_y^2 p`.
    (The second derivative has a minus sign since rho runs down.) For eta = 1 the prediction is a martingale. Ours.
    """
    share = sp.Symbol("eta", nonnegative=True)
    density = sp.Function("p", positive=True)(y, x)
    heat = {sp.diff(density, x): x * sp.diff(density, y, 2), sp.diff(density, x, y): x * sp.diff(density, y, 3)}
    clean = y + x**2 * sp.diff(density, y) / density
    ode = sp.diff(clean, x) + (y - clean) / x * sp.diff(clean, y)
    sde = sp.diff(clean, x) + (1 + share) / x * (y - clean) * sp.diff(clean, y) - x * share * sp.diff(clean, y, 2)
    return sp.simplify(sp.expand(sde - (1 - share) * ode).subs(heat).doit())


def _brownian(path: sp.Expr, other: sp.Expr) -> sp.Expr:
    """Covariance of two integrals of one Wiener process over [0, h], each ``int weight(v) dW_v``."""
    return sp.integrate(sp.expand(path * other), (u, 0, h))


def lag_moments() -> dict[str, sp.Expr]:
    r"""Second moments of what a step with noise cannot see, :math:`I = \int_0^h W_v\,dv`, beside what it can.

    .. math:: E I^2 = \frac{h^3}{3}, \quad E[I\,\Delta W] = \frac{h^2}{2}, \quad
        E\big(\tfrac h2\Delta W - I\big)^2 = \frac{h^3}{12}, \quad E\big[(\tfrac h2\Delta W - I)\,\Delta W\big] = 0

    "frozen": order 1 leaves I out. "lagged": orders 2 and 3 put in :math:`\tfrac h2\Delta W`, one step late; summed
    over steps the delay does not matter to leading order. "conditional": the variance of I given the increment, the
    least that any method which sees increments alone can reach (Clark and Cameron 1980). It equals "lagged". The
    covariance with the step's own noise decides the weak order: "frozen_weak" is not 0, "lagged_weak" is. Ours, but
    for the least variance.
    """
    integral, increment = h - u, sp.S.One  # I = int (h - v) dW_v
    left = h / 2 * increment - integral
    cross, total = _brownian(integral, increment), _brownian(increment, increment)
    return {
        "frozen": _brownian(integral, integral),
        "lagged": _brownian(left, left),
        "conditional": _brownian(integral, integral) - cross**2 / total,
        "frozen_weak": -cross,
        "lagged_weak": _brownian(left, increment),
    }


def strong_constants(power: sp.Expr = p) -> dict[str, sp.Expr]:
    r"""What the unseen integrals add up to: mean square error over delta^2 for :math:`\phi = x^p` on data N(0, c).

    .. math:: \frac{E\,e^2}{\delta^2} \to \frac{k}{\delta^2}\int_s^t (M q J)^2\,\xi\,h(u)^2\,du
        = k\,\frac{p^2(p-1)\,c^2}{p+1}\Big[\frac{1}{c+s^2} - \frac{(c+s^2)^p}{(c+t^2)^{p+1}}\Big]

    on n steps of the log-SNR grid, h(u) = delta u with :math:`\delta = \log(t/s)/n`, where M is the flow from u to the
    end (`gaussian_flow_residual`), q = p/u, J = c/(c + u^2) the slope of the data prediction, :math:`\xi = 2(p-1)u`
    and k the factor of h^3 in `lag_moments`: 1/3 "frozen", 1/12 "lagged". For orders 2 and 3 this is the whole of the
    error to leading order. For order 1 it is the whole if p = 2, where the mean is exact: then the ratio of the errors
    is 1/2. Ours.
    """
    density = power**2 * (power - 1) * c**2 / (power + 1)
    density *= 1 / (c + s**2) - (c + s**2) ** power / (c + t**2) ** (power + 1)
    return {name: lag_moments()[name] / h**3 * density for name in ("frozen", "lagged")}


def strong_constant_residual(power: sp.Expr = p) -> sp.Expr:
    r"""`strong_constants` is that integral: the derivative of its bracket in t less the integrand at t, 0."""
    M = ((c + s**2) / (c + t**2)) ** (power / 2)
    integrand = (M * power / t * c / (c + t**2)) ** 2 * 2 * (power - 1) * t * t**2
    unit = strong_constants(power)["lagged"] / (lag_moments()["lagged"] / h**3)
    return sp.simplify(sp.diff(unit, t) - integrand)
