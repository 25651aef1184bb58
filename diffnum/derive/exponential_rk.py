r"""Exponential Runge-Kutta in :math:`\lambda`: order conditions and local errors of the singlestep DPM-Solvers.

With :math:`Y = x/\alpha` and the noise prediction (:math:`\kappa = -1`), or :math:`Y = x/\sigma` and the data
prediction (:math:`\kappa = 1`), a step solves

.. math:: Y' = \kappa e^{\kappa\tau} p(Y, \tau), \qquad \tau = \lambda - \lambda_t \in [0, h] .

Lu et al. 2022, arXiv:2206.00927, appendix B; the conditions are those of Hochbruck and Ostermann 2010, section 2.
"""

import sympy as sp

h, tau = sp.symbols("h tau", positive=True)
r1, r2 = sp.symbols("r1 r2", positive=True)
p = sp.symbols("p p_t p_y p_tt p_ty p_yy", real=True)  # the prediction and its derivatives at the start of the step


def frozen(kappa: int, z: sp.Expr) -> sp.Expr:
    r"""Weight of a frozen prediction over a length z: :math:`\int_0^z \kappa e^{\kappa\tau} d\tau`."""
    return sp.exp(kappa * z) - 1


def line(kappa: int, z: sp.Expr) -> sp.Expr:
    r"""Weight of its change along a line: :math:`\frac1z \int_0^z \kappa e^{\kappa\tau} \tau \, d\tau`."""
    return sp.simplify(sp.integrate(kappa * sp.exp(kappa * tau) * tau, (tau, 0, z)) / z)


def _prediction(y: sp.Expr, at: sp.Expr) -> sp.Expr:
    """Taylor's polynomial of degree 2 of p around the start, where Y = 0."""
    value, t, s, tt, ts, ss = p
    return value + t * at + s * y + tt * at**2 / 2 + ts * at * y + ss * y**2 / 2


def _series(expression: sp.Expr, highest: int) -> sp.Expr:
    return sp.expand(sp.series(sp.expand(expression), h, 0, highest + 1).removeO())


def exact(kappa: int, highest: int = 3) -> sp.Expr:
    r"""The solution at :math:`\tau = h` through h^highest, by Picard's iteration."""
    y = sp.S.Zero
    for _ in range(highest):
        slope = sp.series(kappa * sp.exp(kappa * tau) * _prediction(y, tau), tau, 0, highest).removeO()
        y = sp.integrate(sp.expand(slope), (tau, 0, tau))
        y = sum((sp.expand(y).coeff(tau, k) * tau**k for k in range(1, highest + 1)), sp.S.Zero)
    return sp.expand(y.subs(tau, h))


def step(order: int, kappa: int, highest: int = 3) -> sp.Expr:
    """The end of a step of the method through h^highest; stages at free r1 (order 2: at 1/2) and r2."""
    start = p[0]
    if order == 2:
        half = _series(frozen(kappa, h / 2) * start, highest)
        return _series(frozen(kappa, h) * _prediction(half, h / 2), highest)
    first = _prediction(_series(frozen(kappa, r1 * h) * start, highest), r1 * h)
    second = frozen(kappa, r2 * h) * start + r2 / r1 * line(kappa, r2 * h) * (first - start)
    second = _prediction(_series(second, highest), r2 * h)
    return _series(frozen(kappa, h) * start + line(kappa, h) / r2 * (second - start), highest)


def defect(order: int, kappa: int, highest: int = 3) -> dict[int, sp.Expr]:
    r"""Method minus exact, by powers of h: zero through h^order for order 2, and for order 3 where :math:`r_2 = 2/3`.

    .. math:: h^3: \quad \kappa \Bigl(\frac{r_2}{4} - \frac16\Bigr) \frac{d^2 p}{d\tau^2} \quad\text{(order 3)}

    with the second derivative along the solution: :math:`r_1` is free, and 2/3 the only place of the second stage.
    """
    difference = sp.expand(step(order, kappa, highest) - exact(kappa, highest))
    return {k: sp.factor(difference.coeff(h, k)) for k in range(1, highest + 1)}


def along(kappa: int) -> sp.Expr:
    r"""The second derivative of p along the solution at the start, :math:`d^2 p/d\tau^2`."""
    path = _prediction(exact(kappa, 2).subs(h, tau), tau)
    return sp.expand(sp.diff(path, tau, 2).subs(tau, 0))
