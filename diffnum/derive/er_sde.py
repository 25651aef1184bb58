r"""ER-SDE on paper: noise scales, the exact solution, Taylor coefficients, local errors, and what noise does to order.

Everything is written for VE, that is in :math:`y = x/\alpha` and the clock :math:`\rho = \sigma/\alpha`
(`linear_sde.rescaled_process_residuals`). A step goes from the ratio t down to the ratio s.

==============================================================  ====================================================
Cui et al. 2025, arXiv:2309.06169                               ours
==============================================================  ====================================================
:math:`\sigma` (VE), :math:`\lambda = \sigma/\alpha` (VP)       :math:`\rho`, as an argument ``x``
:math:`\phi(x)`                                                 :math:`x\,\psi(x)`
a step from s to t                                              a step from t to s
:math:`h(t)`                                                    :math:`\lambda G`, with :math:`\eta = \lambda^2`
:math:`x_\theta`                                                x_0
==============================================================  ====================================================
"""

from functools import cache

import sympy as sp

from diffnum.derive import gddim, linear_sde
from diffnum.derive.classical import lagrange_basis
from diffnum.derive.gddim import alpha_s, alpha_t, sigma_s, sigma_t
from diffnum.derive.reversing import lam, reverse_family_residual

__all__ = [
    "FORMS",
    "NOISE_SCALES",
    "cauchy_residuals",
    "coefficient",
    "coefficient_rate_residuals",
    "coefficient_series",
    "denoiser_drift_residual",
    "dpmpp_3m_local_error",
    "eta",
    "exact_solution_residuals",
    "excess",
    "family_residual",
    "form_residuals",
    "frozen_step",
    "gaussian_flow_residual",
    "lag_moments",
    "local_error",
    "mean_map_residual",
    "noise_variance_residuals",
    "power_coefficient",
    "psi_from_eta",
    "rectangle_defects",
    "rectangle_rule",
    "second_order_weights",
    "semi_linear_residual",
    "strong_constant_residual",
    "strong_constants",
    "variance_deficit_residual",
    "xi",
]

x, t, s, u = sp.symbols("x t s u", positive=True)
h, a, b = sp.symbols("h a b", positive=True)  # a step; the steps before it are a h and b h
c, p, r = sp.symbols("c p r", positive=True)  # variance of Gaussian data, a power, a ratio phi(s)/phi(t)
N = sp.Symbol("N", positive=True, integer=True)
y, x0, e = sp.symbols("y x_0 epsilon", real=True)
X1, X2, X3, X4 = x_derivatives = sp.symbols("X1:5", real=True)  # of the data prediction along the path
q0, q1, q2 = q_derivatives = sp.symbols("q0:3", real=True)  # q = phi'/phi = (1 + eta)/x and its derivatives, at t

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

#: Forms of a Taylor coefficient: as it arises, integrated by parts, and without cancellation.
FORMS = ("definition", "by_parts", "stable")


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


# ---- Taylor coefficients -------------------------------------------------------------------------------------------


def _kernel(n: int, at: sp.Expr = u) -> sp.Expr:
    return (at - t) ** n / sp.factorial(n)


def coefficient(n: int, psi: sp.Expr, form: str = "stable") -> sp.Expr:
    r"""The Taylor coefficient :math:`A_{n+1}`, factor of the n-th derivative of the data prediction, as an integral.

    .. math:: \text{definition: } \phi(s)\int_s^t K_n\,\frac{\phi'}{\phi^2}\,du, \quad
        \text{by\_parts: } K_n(s) + \int_s^t K_{n-1}\,w\,du, \quad
        \text{stable: } -\int_s^t K_{n-1}\,(1 - w)\,du

    with :math:`K_n(u) = (u-t)^n/n!`, :math:`w(u) = \phi(s)/\phi(u)` and
    :math:`1 - w = ((u - s) + s\,(1 - \psi(s)/\psi(u)))/u`, in which nothing cancels. The second is what the published
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


# ---- local errors --------------------------------------------------------------------------------------------------


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
