r"""The family of reverse SDEs, its noise scales, and the exact solution over a step."""

import sympy as sp

from diffnum.derive import linear_sde
from diffnum.derive.er_sde.symbols import s, t, u, x, x0, y
from diffnum.derive.reversing import lam, reverse_family_residual

#: psi(x) = phi(x)/x of the paper's noise scale functions, by the formula of phi; exact.
NOISE_SCALES: dict[str, sp.Expr] = {
    "x": sp.S.One,
    "x^2": x,
    "x^1.5": sp.sqrt(x),
    "x^2.5": x ** sp.Rational(3, 2),
    "x(exp(-1/x)+10)": sp.exp(-1 / x) + 10,
    "x^0.9 log10(1+100x^1.5)": x ** sp.Rational(-1, 10) * sp.log(1 + 100 * x ** sp.Rational(3, 2), 10),
    "x(exp(x^0.3)+10)": sp.exp(x ** sp.Rational(3, 10)) + 10,
}


# ---- the family and its noise scale --------------------------------------------------------------------------------


def family_residual() -> sp.Expr:
    r"""The extended reverse SDE has the marginals of the process, for every h(t): the residual, 0.

    .. math:: dx = \Big[F x - \frac{G^2 + h^2}{2}\,\nabla\log p\Big]dt + h\,d\bar w

    It is `reversing.reverse_family_residual` with :math:`\lambda = h/G`. Cui et al. 2025, arXiv:2309.06169.
    """
    return reverse_family_residual(sp.Function("h", nonnegative=True)(linear_sde.t) / linear_sde.G)


def semi_linear_residual() -> sp.Expr:
    r"""On VE, in the clock rho, the drift is linear in the state apart from the data prediction: the residual, 0.

    .. math:: dy = \frac{1+\eta}{\rho}\,(y - x_0)\,d\rho + \sqrt{2\rho\,\eta}\;d\bar w_\rho, \qquad \eta = \lambda^2

    from :math:`G^2 dt = d\rho^2` and the score :math:`(x_0 - y)/\rho^2`. Cui et al. 2025, arXiv:2309.06169.
    """
    drift = -(1 + lam**2) / 2 * sp.diff(x**2, x) * (x0 - y) / x**2
    return sp.simplify(drift - (1 + lam**2) / x * (y - x0))


def eta(psi: sp.Expr) -> sp.Expr:
    r"""The share of noise :math:`\eta = \lambda^2 = h^2/G^2` of a noise scale: :math:`x\,\psi'/\psi`.

    .. math:: (\log\phi)' = \frac{1+\eta}{x} \quad\Longleftrightarrow\quad \eta = \frac{x\,\psi'(x)}{\psi(x)}

    phi is admissible, that is the scale of an SDE, if and only if :math:`\eta \ge 0`: psi does not decrease.
    """
    return sp.simplify(x * sp.diff(psi, x) / psi)


def xi(psi: sp.Expr) -> sp.Expr:
    r"""Variance of the noise per unit of rho: :math:`\xi = 2x\,\eta`."""
    return sp.simplify(2 * x * eta(psi))


def psi_from_eta(share: sp.Expr) -> sp.Expr:
    r"""The way back: :math:`\psi = \exp\int \eta\,dx/x`, up to a constant factor that no step sees."""
    return sp.simplify(sp.exp(sp.integrate(sp.expand(share / x), x)))


# ---- the exact solution --------------------------------------------------------------------------------------------


def exact_solution_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""The mean part of the exact solution, for any noise scale and any path of data predictions: two residuals, 0.

    .. math:: y_s = r\,y_t + \phi(s)\int_s^t \frac{\phi'(u)}{\phi(u)^2}\,x_0(u)\,du, \qquad r = \frac{\phi(s)}{\phi(t)}

    The first is :math:`dy/ds - (\phi'/\phi)(y - x_0)`, the second the value at s = t minus y. Cui et al. 2025,
    arXiv:2309.06169 (the exact solution). Assumes phi > 0 and once differentiable.
    """
    phi, path = sp.Function("phi", positive=True), sp.Function("X")
    integral = sp.Integral(sp.diff(phi(u), u) / phi(u) ** 2 * path(u), (u, s, t))
    solution = phi(s) / phi(t) * y + phi(s) * integral
    rate = sp.diff(solution, s) - sp.diff(phi(s), s) / phi(s) * (solution - path(s))
    return sp.simplify(rate.doit(integrals=False)), sp.simplify(solution.subs(s, t).doit() - y)


def noise_variance_residuals() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""The noise of a step has a closed variance: three residuals, 0.

    .. math:: V = s^2 - t^2 r^2 = s^2\Big(1 - \frac{\psi(s)^2}{\psi(t)^2}\Big), \qquad
        \frac{dV}{ds} = 2\,\frac{\phi'}{\phi}\,V - \xi, \quad V|_{s=t} = 0

    (the difference of the two forms, the equation, the start). V is never negative if psi does not decrease, and it is
    :math:`\phi(s)^2` times the growth of :math:`1/\psi^2`, the clock of the martingale that drives the step. Cui et
    al. 2025, arXiv:2309.06169.
    """
    psi = sp.Function("psi", positive=True)
    phi = lambda at: at * psi(at)  # noqa: E731
    V = s**2 - t**2 * phi(s) ** 2 / phi(t) ** 2
    noise = 2 * s**2 * sp.diff(psi(s), s) / psi(s)
    return (
        sp.simplify(V - s**2 * (1 - psi(s) ** 2 / psi(t) ** 2)),
        sp.simplify(sp.diff(V, s) - 2 * sp.diff(phi(s), s) / phi(s) * V + noise),
        sp.simplify(V.subs(s, t)),
    )
