r"""Local errors of the ODE: of the published and the repaired third order, of its quadrature, of DPM-Solver++(3M)."""

import sympy as sp

from diffnum.derive.classical import lagrange_basis
from diffnum.derive.er_sde.symbols import N, a, b, h, q0, x_derivatives
from diffnum.derive.er_sde.taylor import coefficient_series


def _path(at: sp.Expr) -> sp.Expr:
    """The data prediction along the solution, less its value at t; `at` is rho - t."""
    return sum(X * at**k / sp.factorial(k) for k, X in enumerate(x_derivatives, 1))


def _differences() -> tuple[sp.Expr, sp.Expr]:
    """The solver's first and second difference of the data prediction, from the levels t, t + a h, t + (a + b) h."""
    newest, before = -_path(a * h) / (-a * h), (_path(a * h) - _path((a + b) * h)) / (-b * h)
    return sp.expand(newest), sp.expand(sp.cancel(2 * (newest - before) / (-(a + b) * h)))


def local_error(order: int, derivative: str = "corrected", points: sp.Expr | None = None) -> dict[int, sp.Expr]:
    r"""Method minus exact after one step of the ODE from an exact history: coefficients of h^2 to h^4.

    .. math:: \text{order 1: } \tfrac q2 X_1 h^2, \qquad
        \text{order 2: } -q\Big(\tfrac a4 + \tfrac16\Big)X_2 h^3, \qquad
        \text{order 3, published: } -\tfrac{qa}{4}X_2 h^3

    The published first derivative is a difference quotient over the last step a h, exact for its middle:
    :math:`d = X_1 + \tfrac{ah}{2}X_2 + \dots`. The half step :math:`-\tfrac{ah}{2}e` of the second derivative repairs
    it, and the term goes ("corrected"). With ``points`` = N the integrals are those of the left rectangle rule of the
    published code, and h^2 keeps :math:`\tfrac{q}{2N}X_1` (order 2) or :math:`\tfrac{1}{2N}(q X_1 - X_2)` (order 3):
    order 1 in the end. Ours.

    Args:
        order: 1, 2 or 3.
        derivative: "corrected" or "paper", for order 3.
        points: number of points of the rectangle rule; exact integrals without.
    """
    A = [coefficient_series(n) for n in (1, 2, 3)]
    used = A if points is None else [rectangle_rule(n, points) for n in (1, 2)]
    first, second = _differences()
    if derivative == "corrected" and order == 3:
        first = first - a * h / 2 * second
    estimates = (first, second)[: order - 1]
    exact = sum(coefficient * X for coefficient, X in zip(A, x_derivatives, strict=False))
    error = sp.expand(sum((w * d for w, d in zip(used, estimates, strict=False)), sp.S.Zero) - exact)
    highest = 4 if points is None else 2  # of the rule we know the leading term
    return {k: sp.factor(error.coeff(h, k)) for k in range(2, highest + 1)}


def rectangle_rule(n: int, points: sp.Expr = N) -> sp.Expr:
    r"""The published rule for A_2 (n = 1) and A_3 (n = 2) when :math:`w = \phi(s)/\phi(u)` is straight over the step.

    .. math:: A_{n+1} \approx K_n(s) + \frac{h}{N}\sum_{k=0}^{N-1} K_{n-1}(u_k)\,w(u_k), \qquad
        u_k = s + \frac{k h}{N}, \quad w(u) = 1 - q\,(u - s)

    It takes the left end of each of N intervals. h = t - s; q = (1 + eta)/t. Read off the code of Cui et al.
    """
    k = sp.Symbol("k", integer=True, nonnegative=True)
    v = k * h / points  # u - s
    term = sp.expand((v - h) ** (n - 1) / sp.factorial(n - 1) * (1 - q0 * v))
    return sp.factor((-h) ** n / sp.factorial(n) + h / points * sp.summation(term, (k, 0, points - 1)))


def rectangle_defects() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""What the rule of N points does to short steps: ``(relative error of A_2, error of A_3 over h^2, sign change)``.

    .. math:: -\frac1N, \qquad -\frac{1}{2N}, \qquad q h < \frac 3N

    The first does not fall with the step; the second is larger than A_3 = q h^3/6 itself on short steps, where the
    coded A_3 has the wrong sign: below q h = 3/N, the last entry. Ours.
    """
    A2, A3 = coefficient_series(1).coeff(h, 2) * h**2, coefficient_series(2).coeff(h, 3) * h**3
    error = sp.expand(rectangle_rule(2) - A3).coeff(h, 2)
    turn = sp.solve(sp.Eq(A3 + error * h**2, 0), h)
    return sp.simplify(rectangle_rule(1) / A2 - 1), sp.simplify(error), sp.simplify(q0 * max(turn, key=sp.count_ops))


def dpmpp_3m_local_error(factor: sp.Expr = sp.S.One) -> dict[int, sp.Expr]:
    r"""Method minus exact of the multistep DPM-Solver++ "of order 3", over alpha_s: coefficients of h^2 ... h^4.

    .. math:: \frac{x_s}{\alpha_s} = \dots + \varphi_2\,h f[0, 1]^{*} - \varphi_3\,c\,h^2 f[0, 1, 2], \qquad
        \varphi_2 = 1 - \frac{1 - e^{-h}}{h}, \quad \varphi_3 = \frac{\varphi_2}{h} - \frac12

    in the clock log(alpha/sigma), with steps a h and b h before it, divided differences f[...] of the data prediction,
    and :math:`h f^{*}` the derivative of their quadratic interpolant. Exact is :math:`-\varphi_3 h^2 f''`, and
    :math:`f'' = 2 f[0, 1, 2]`. The published formulas have c = 1 (``factor``), which leaves
    :math:`-\tfrac{1}{12}X_2 h^3`: order 2. With c = 2 the term vanishes. Lu et al. 2022, arXiv:2211.01095
    (multistep update of order 3, in the authors' code and its descendants). Ours.
    """
    tau = sp.Dummy("tau")
    nodes = [sp.S.Zero, -a * h, -(a + b) * h]
    values = [sp.expand(_path(node)) for node in nodes]
    interpolant = sp.Add(*(l * v for l, v in zip(lagrange_basis(nodes, tau), values, strict=True)))
    slope = sp.cancel(sp.diff(interpolant, tau).subs(tau, 0))
    bend = sp.cancel(sp.diff(interpolant, tau, 2) / 2)  # f[0, 1, 2]
    phi2 = sp.expand(sp.series(1 - (1 - sp.exp(-h)) / h, h, 0, 5).removeO())
    phi3 = sp.expand(phi2 / h - sp.Rational(1, 2))
    exact = sp.series(sp.integrate(sp.expand(sp.exp(tau) * _path(tau)), (tau, 0, h)) * sp.exp(-h), h, 0, 5).removeO()
    error = sp.expand(phi2 * h * slope - phi3 * factor * h**2 * bend - exact)
    return {k: sp.factor(error.coeff(h, k)) for k in range(2, 5)}
