r"""PNDM on paper: the transfer map, the local errors of pseudo methods, and the global error on Gaussian data.

Everything rests on one identity: in the rescaled variables the ODE is :math:`dy/ds = \epsilon`, and the transfer
map is a straight line in it. A pseudo method is then a classical method whose weights belong to uniform steps in
the grid variable u, used on nodes s(u) that are not uniform. That mismatch, s'' != 0, is why the order is 2 and not
4.

==============================================================  ====================================================
Liu et al. 2022, arXiv:2202.09778                               ours
==============================================================  ====================================================
:math:`\bar\alpha_t,\ \bar\alpha_{t-\delta}`                    `a`, `b` (= alpha^2 at the start and end of a step)
:math:`\epsilon_\theta`                                         `e`; along the exact solution :math:`E(u)`
:math:`\sqrt{(1-\bar\alpha)/\bar\alpha}`                        `s` (in the numeric code: `rho`)
:math:`x/\sqrt{\bar\alpha}`                                     `y`
:math:`\delta > 0`, time running down                           `h`, signed, in the grid variable u
==============================================================  ====================================================

Symbols of the local errors, all at the start u of the step: ``s1, s2, ...`` are the derivatives of s(u); ``E0, E1,
...`` are the TOTAL derivatives of eps along the exact solution; ``f_y``, ``f_yy`` are the partial derivatives of
:math:`\epsilon = f(y, u)` in y, ``f_y1``, ``f_y2`` the total derivatives of f_y along the exact solution.
"""

from functools import cache

import sympy as sp
from sympy.polys.ring_series import rs_mul, rs_trunc
from sympy.polys.rings import PolyElement, ring

from diffnum.derive.classical import Tableau, adams_bashforth, classical_rk4, improved_euler

__all__ = [
    "composition_residual",
    "ddim_difference",
    "ddim_difference_residual",
    "exactness_residual",
    "gaussian_eps_residual",
    "global_error_constant",
    "grid_speed",
    "last_step_defect",
    "local_error",
    "ode_limit",
    "order_one_constant",
    "sqrt_quadrature",
    "transfer_map",
    "transfer_residuals",
]

# a transfer
a, b, m = sp.symbols("a b m", positive=True)
x, e, x0 = sp.symbols("x e x_0", real=True)
# a local error
HIGHEST = 5  # the power of h after which series are cut
STEPS = {"ddim": 1, "ab2": 2, "s_pndm": 2, "ab4": 4, "f_pndm": 4}  # order of the Adams-Bashforth weights
TABLEAUS = {"pie": improved_euler, "prk": classical_rk4}
s1, s2, s3, s4, s5 = s_derivatives = sp.symbols("s1:6")
E0, E1, E2, E3, E4 = e_derivatives = sp.symbols("E0:5")
f_y, f_y1, f_y2, f_yy = f_derivatives = sp.symbols("f_y f_y1 f_y2 f_yy")
# a global error
sigma, s0, sigma0, sigma1 = sp.symbols("sigma s0 sigma0 sigma1", positive=True)
B0, B1 = sp.symbols("B0 B1", positive=True)
y0, e1, h = sp.symbols("y0 e1 h", real=True)


def transfer_map(
    form: str = "ddim", *, start: sp.Expr = a, end: sp.Expr = b, state: sp.Expr = x, noise: sp.Expr = e
) -> sp.Expr:
    r"""The transfer map phi(x, e, t, s) in one of its three equal forms; a, b are abar at t and s.

    .. math::
        \text{ddim:}\quad & \sqrt b\,\frac{x - \sqrt{1-a}\,e}{\sqrt a} + \sqrt{1-b}\,e \\
        \text{cancellation\_free:}\quad & \sqrt{\tfrac ba}\,x
            - \frac{b-a}{\sqrt a\,(\sqrt{(1-b)a} + \sqrt{(1-a)b})}\,e \\
        \text{rescaled:}\quad & \sqrt b\,\big(y + (s_b - s_a)\,e\big), \qquad y = x/\sqrt a,\
            s_a = \sqrt{(1-a)/a}

    Liu et al. 2022, arXiv:2202.09778, equation (11); the first form is DDIM with eta = 0 (Song, Meng and Ermon 2021,
    arXiv:2010.02502, equation (12)). Assumes 0 < a, b <= 1. The second subtracts no close roots, but a and b rounded to
    float32 lose the same digits in all three: compute the factors in float64.
    """
    a, b, x, e = start, end, state, noise
    match form:
        case "ddim":
            return sp.sqrt(b) * (x - sp.sqrt(1 - a) * e) / sp.sqrt(a) + sp.sqrt(1 - b) * e
        case "cancellation_free":
            roots = sp.sqrt((1 - b) * a) + sp.sqrt((1 - a) * b)
            return sp.sqrt(b / a) * x - (b - a) / (sp.sqrt(a) * roots) * e
        case "rescaled":
            return sp.sqrt(b) * (x / sp.sqrt(a) + (sp.sqrt((1 - b) / b) - sp.sqrt((1 - a) / a)) * e)
    raise ValueError(f"unknown form {form!r}: 'ddim', 'cancellation_free' or 'rescaled'")


def _rationalised(expression: sp.Expr) -> sp.Expr:
    """The expression with its quotient of roots multiplied out; 0 if and only if the expression is."""
    numerator, _ = sp.fraction(sp.together(sp.powdenest(expression, force=True)))
    return sp.simplify(sp.expand(numerator))


def transfer_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""The three forms are one map: ``(cancellation_free - ddim, rescaled - ddim)`` over a common denominator, both 0.

    .. math:: \sqrt{1-b} - \sqrt{\tfrac{b(1-a)}{a}} = -\frac{b-a}{\sqrt a\,(\sqrt{(1-b)a}+\sqrt{(1-a)b})}

    Liu et al. 2022, arXiv:2202.09778, equation (11). Assumes 0 < a, b < 1.
    """
    ddim = transfer_map("ddim")
    return tuple(_rationalised(transfer_map(form) - ddim) for form in ("cancellation_free", "rescaled"))


def exactness_residual() -> sp.Expr:
    r"""A jump of any size is exact when the noise is: the residual is 0.

    .. math:: \phi(\sqrt a\,x_0 + \sqrt{1-a}\,e,\ e,\ t,\ s) - (\sqrt b\,x_0 + \sqrt{1-b}\,e) = 0

    Liu et al. 2022, arXiv:2202.09778, Property 3.1. Assumes eps constant along the path (a point mass as data): then
    dy/ds = e is a straight line and DDIM needs one step.
    """
    point = sp.sqrt(a) * x0 + sp.sqrt(1 - a) * e
    return sp.simplify(transfer_map(state=point) - (sp.sqrt(b) * x0 + sp.sqrt(1 - b) * e))


def composition_residual() -> sp.Expr:
    r"""For a fixed noise the transfers form a group: stopping on the way changes nothing. The residual is 0.

    .. math:: \phi(\phi(x, e, t, r), e, r, s) - \phi(x, e, t, s) = 0, \qquad \phi(x, e, t, t) = x

    Follows from the rescaled form (a translation of y by (s_b - s_a) e). Liu et al. 2022, arXiv:2202.09778,
    equation (11). Assumes the same e in both parts; `m` is abar at the stop r.
    """
    stop = transfer_map(start=a, end=m)
    return sp.simplify(transfer_map(start=m, end=b, state=stop) - transfer_map())


def ddim_difference() -> sp.Expr:
    r"""One DDIM step as a difference that is proportional to b - a.

    .. math:: x_s - x_t = (b-a)\left[\frac{x}{\sqrt a\,(\sqrt b+\sqrt a)}
        - \frac{e}{\sqrt a\,(\sqrt{(1-b)a}+\sqrt{(1-a)b})}\right]

    Liu et al. 2022, arXiv:2202.09778, equation (9). Assumes eta = 0.
    """
    roots = sp.sqrt((1 - b) * a) + sp.sqrt((1 - a) * b)
    return (b - a) * (x / (sp.sqrt(a) * (sp.sqrt(b) + sp.sqrt(a))) - e / (sp.sqrt(a) * roots))


def ddim_difference_residual() -> sp.Expr:
    r"""Equation (9) is the DDIM step: ``phi(x, e, t, s) - x - ddim_difference()`` over a common denominator, 0.

    Both differences of roots are rationalised: :math:`\sqrt b - \sqrt a = (b-a)/(\sqrt b+\sqrt a)`. Liu et al. 2022,
    arXiv:2202.09778, from DDIM to equation (9). Assumes 0 < a, b < 1.
    """
    return _rationalised(transfer_map("ddim") - x - ddim_difference())


def ode_limit() -> sp.Expr:
    r"""The DDIM difference divided by b - a, as b -> a: the right side of the ODE per unit of abar.

    .. math:: \lim_{b\to a}\frac{x_s - x_t}{b-a} = \frac{x}{2a} - \frac{e}{2a\sqrt{1-a}}

    Liu et al. 2022, arXiv:2202.09778, from (9) to (10); times abar'(t) it is `linear_sde.vp_velocity`. Assumes eps
    continuous and 0 < a < 1: at a = 1 the last term is unbounded.
    """
    return sp.expand(sp.simplify(sp.cancel(ddim_difference() / (b - a)).subs(b, a)))


# ---- local errors: truncated power series in h ---------------------------------------------------------------------

R, H, *_generators = ring((sp.Symbol("h"), *s_derivatives, *e_derivatives, *f_derivatives), sp.QQ)
_S, _E, (_FY, _FY1, _FY2, _FYY) = _generators[:5], _generators[5:10], _generators[10:]


def _mul(p: PolyElement, q: PolyElement) -> PolyElement:
    return rs_mul(p, q, H, HIGHEST + 1)


def _taylor(derivatives: list[PolyElement], at: sp.Rational, first: int = 0) -> PolyElement:
    """sum_n derivatives[n] (at h)^(n + first) / (n + first)!, truncated after h^HIGHEST."""
    terms = (d * H**n * (at**n / sp.factorial(n)) for n, d in enumerate(derivatives, first))
    return rs_trunc(sum(terms, R(0)), H, HIGHEST + 1)


def _rise(at: sp.Rational) -> PolyElement:
    """s(u + at h) - s(u)."""
    return _taylor(_S, at, first=1)


def _exact(at: sp.Rational) -> PolyElement:
    """y(u + at h) - y(u) = integral of s' E, the series of the integrand integrated term by term."""
    E, ds = _taylor(_E, sp.S.One), _taylor(_S, sp.S.One)  # both in powers of h, integrated from 0 to at * h
    powers = _mul(E, ds)
    scaled = {exps: coeff * R.domain_new(at ** (exps[0] + 1) / (exps[0] + 1)) for exps, coeff in powers.terms()}
    return rs_trunc(R.from_dict(scaled) * H, H, HIGHEST + 1)


def _eps(at: sp.Rational, off: PolyElement) -> PolyElement:
    """eps at u + at h, a distance `off` (= O(h^2)) from the exact solution: E + f_y off + f_yy off^2 / 2 + O(h^6)."""
    E, slope = _taylor(_E, at), _taylor([_FY, _FY1, _FY2], at)
    return E + _mul(slope, off) + _mul(_FYY, _mul(off, off)) / 2


def _pseudo_runge_kutta(tableau: Tableau) -> PolyElement:
    """The mean noise of one pseudo Runge-Kutta step: all transfers start at u; stage i uses sum_j (a_ij / c_i) e_j."""
    A, weights, c = tableau
    stages = [_eps(sp.S.Zero, R(0))]
    for i in range(1, A.rows):
        shares = [A[i, j] / c[i] for j in range(i)]
        mean = sum((stage * share for share, stage in zip(shares, stages, strict=True)), R(0))
        stages.append(_eps(c[i], _mul(_rise(c[i]), mean) - _exact(c[i])))
    return sum((stage * w for w, stage in zip(weights, stages, strict=True)), R(0))


def _mean_noise(method: str) -> PolyElement:
    """The combined noise of a method, as a series in h, with an exact history."""
    if method in TABLEAUS:
        return _pseudo_runge_kutta(TABLEAUS[method]())
    if method not in STEPS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join([*STEPS, *TABLEAUS])}")
    weights = enumerate(adams_bashforth(STEPS[method]))
    return sum((_taylor(_E, sp.Integer(-j)) * w for j, w in weights), R(0))


def local_error(method: str, highest: int = 4) -> dict[int, sp.Expr]:
    r"""Method minus exact solution after one step from exact data: ``{2: coefficient of h^2, 3: ..., highest: ...}``.

    .. math:: [s(u+h)-s(u)]\,\bar e - \int_u^{u+h} s' E\,dr = \sum_k c_k h^k, \qquad \epsilon = f(y, u)

    for any smooth nonlinear f; `method` is "ddim", "ab2" = "s_pndm", "ab4" = "f_pndm", "pie" (pseudo improved
    Euler, the start of S-PNDM) or "prk" (pseudo Runge-Kutta, the start of F-PNDM). ::

        ddim   h^2: -s1 E1/2
        ab2    h^3: -s2 E1/12 - 5 s1 E2/12
        ab4    h^3: -s2 E1/12                                    h^4: -(s2 E2 + s3 E1)/24
        pie    h^3: -s2 E1/12 + s1 E2/12 - f_y s1^2 E1/4
        prk    h^3: -s2 E1/12                                    h^4: 0 if s2 = s3 = s4 = 0

    Liu et al. 2022, arXiv:2202.09778, Property 3.2 (local error O(delta^3)). Assumes s and f five times
    differentiable at u, i.e. abar away from 1 for a grid uniform in t. `highest` is at most 5. For systems read f_y
    as the Jacobian; the powers up to 3 then stay right.
    """
    if not 2 <= highest <= HIGHEST:
        raise ValueError(f"highest must be between 2 and {HIGHEST}, not {highest}")
    one = sp.S.One
    error = (_mul(_rise(one), _mean_noise(method)) - _exact(one)).as_expr()
    coefficients = sp.Poly(error, sp.Symbol("h"))
    return {k: sp.expand(coefficients.coeff_monomial(sp.Symbol("h") ** k)) for k in range(2, highest + 1)}


# ---- global errors on one-dimensional Gaussian data ----------------------------------------------------------------


def _gaussian_path() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """(y, eps along y, propagator to sigma1) of the exact solution through y0 at sigma0, for data N(0, s0^2)."""
    width = sp.sqrt(s0**2 + sigma**2)
    y = y0 * width / width.subs(sigma, sigma0)
    return y, y0 / width.subs(sigma, sigma0) * sigma / width, width.subs(sigma, sigma1) / width


def gaussian_eps_residual() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""The exact solution for Gaussian data N(0, s0^2): three residuals, all 0.

    .. math:: y = c\sqrt{s_0^2+\sigma^2},\quad E = \epsilon(y) = \frac{\sigma y}{s_0^2+\sigma^2},\quad
        \frac{dy}{d\sigma} = E, \qquad P = \sqrt{\frac{s_0^2+\sigma_1^2}{s_0^2+\sigma^2}},\quad
        \frac{dP}{d\sigma} = -\frac{\partial\epsilon}{\partial y} P

    Returns ``(eps(y) - E, dy/dsigma - E, dP/dsigma + eps_y P)``. With :math:`y \sim N(0, s_0^2+\sigma^2)` the score is
    -y/(s0^2 + sigma^2) and eps = -sigma score. Liu et al. 2022, arXiv:2202.09778, use no such example; it is ours.
    """
    y, E, P = _gaussian_path()
    slope = sigma / (s0**2 + sigma**2)
    return tuple(map(sp.simplify, (slope * y - E, sp.diff(y, sigma) - E, sp.diff(P, sigma) + slope * P)))


def grid_speed(grid: str) -> sp.Expr:
    r"""d sigma / du as a function of sigma, for a grid that is uniform in u.

    .. math:: \text{sigma: } 1, \quad \text{log\_snr: } -\tfrac12\sigma, \quad
        \text{t (VP, linear } \beta): \frac{\beta}{2\bar\alpha\sigma} = \frac{(1+\sigma^2)\beta}{2\sigma},\
        \beta^2 = B_0^2 + 2(B_1-B_0)\ln(1+\sigma^2)

    and "sqrt_t" (u = sqrt t, "quadratic" steps): :math:`2\sqrt t` times the speed in t, with
    :math:`t = 2L/(B_0+\beta)`, :math:`L = \ln(1+\sigma^2)`. Song et al. 2021, arXiv:2011.13456, equation (11) for beta.
    """
    L = sp.log(1 + sigma**2)
    beta = sp.sqrt(B0**2 + 2 * (B1 - B0) * L)
    speeds = {
        "sigma": sp.Integer(1),
        "log_snr": -sigma / 2,
        "t": (1 + sigma**2) * beta / (2 * sigma),
        "sqrt_t": 2 * sp.sqrt(2 * L / (B0 + beta)) * (1 + sigma**2) * beta / (2 * sigma),
    }
    if grid not in speeds:
        raise ValueError(f"unknown grid {grid!r}: one of {', '.join(speeds)}")
    return speeds[grid]


@cache
def global_error_constant(method: str, grid: str = "log_snr") -> sp.Expr:
    r"""The leading constant C of the global error on data N(0, s0^2): e_N = C h^p + O(h^{p+1}), error in y.

    .. math:: C_{DDIM} = -\tfrac12\!\int\! s' E' P\,du\ (p=1), \quad C_F = -\tfrac1{12}\!\int\! s'' E' P\,du\ (p=2),
        \quad C_S = C_F - \tfrac5{12}\!\int\! s' E'' P\,du\ (p=2)

    `method`: "ddim", "s_pndm" (or "ab2"), "f_pndm" (or "ab4"); h is the signed step of u (`grid_speed`). The
    integrand is the leading entry of `local_error(method)`, carried to the end by the propagator P, written in
    sigma (du = dsigma / s'). Closed form for the grids "log_snr" and "sigma"; otherwise an unevaluated `Integral`
    (``.subs(...).evalf()``, seconds; a quadrature of its ``.function`` after `lambdify` is instant). Free symbols:
    s0 (data std), y0 (value at sigma0), sigma0, sigma1 (start and end of sigma), and B0, B1 for the grids in t. ::

        f_pndm, log_snr:  y0 s0^2/96 sqrt(D1/D0) (1/D1 - 1/D0),    D = s0^2 + sigma^2

    Liu et al. 2022, arXiv:2202.09778, Property 3.2, with its constant. Assumes s'', E'' bounded, so sigma1 > 0 for "t";
    the start-up steps add O(h^3).
    """
    if method not in STEPS:
        raise ValueError(f"unknown method {method!r}: one of {', '.join(STEPS)}")
    speed = grid_speed(grid)
    _, E, P = _gaussian_path()

    def rate(g: sp.Expr) -> sp.Expr:  # d/du along the solution
        return speed * sp.diff(g, sigma)

    values = {s1: speed, s2: rate(speed), E1: rate(E), E2: rate(rate(E))}
    leading = local_error(method, 3)[2 if method == "ddim" else 3]
    integrand = leading.subs(values) * P / speed
    if grid in ("log_snr", "sigma"):
        constant, rational = sp.simplify(integrand).as_independent(sigma)
        antiderivative = sp.factor(sp.integrate(rational, sigma))
        return constant * (antiderivative.subs(sigma, sigma1) - antiderivative.subs(sigma, sigma0))
    return sp.Integral(integrand, (sigma, sigma0, sigma1))


# ---- a grid that ends at t = 0 -------------------------------------------------------------------------------------


def sqrt_quadrature(method: str = "mean", k: sp.Expr = sp.S.One) -> sp.Expr:
    r"""The mean of :math:`\sqrt t` over the k-th step from the end as a method sees it, in units of :math:`\sqrt h`.

    .. math:: \text{mean: } \int_{k-1}^k\!\!\sqrt r\,dr, \qquad \text{Adams-Bashforth: } \sum_j b_j\sqrt{k+j},
        \qquad \text{Runge-Kutta: } \sum_i b_i\sqrt{k-c_i}

    The step runs from t = k h to t = (k-1) h. `method`: "mean" (a perfect quadrature: 2/3 at k = 1), or a method of
    `local_error`. Supplement to Liu et al. 2022, arXiv:2202.09778, Property 3.2. Assumes a grid uniform in t.
    """
    if method == "mean":
        return sp.Rational(2, 3) * (k ** sp.Rational(3, 2) - (k - 1) ** sp.Rational(3, 2))
    if method in STEPS:
        return sp.Add(*(w * sp.sqrt(k + j) for j, w in enumerate(adams_bashforth(STEPS[method]))))
    if method in TABLEAUS:
        _, weights, c = TABLEAUS[method]()
        return sp.Add(*(w * sp.sqrt(k - node) for w, node in zip(weights, c, strict=True)))
    raise ValueError(f"unknown method {method!r}: one of mean, {', '.join([*STEPS, *TABLEAUS])}")


def last_step_defect(method: str = "mean") -> sp.Expr:
    r"""The local error of a last step from t = h to t = 0, to first order in h: why the global order falls to 1.

    .. math:: s \simeq \sqrt{B_0 t},\ E \simeq e_0 + e_1 s \ \Rightarrow\
        [s(0)-s(h)]\,\bar e - \int_h^0 s' E\,dt = -\big(q - \tfrac12\big) B_0 e_1 h, \qquad
        q = \tfrac23:\ -\tfrac16 B_0 e_1 h

    q = `sqrt_quadrature(method)`. Even the exact mean of E ("mean") leaves B0 e1 h/6 behind, because s' weighs E
    towards t = 0; a real method adds its own quadrature error of the same size. The hypothesis of Property 3.2 of
    Liu et al. 2022, arXiv:2202.09778 (bounded derivatives), fails. Assumes a grid uniform in t with step
    length h > 0, beta(0) = B0 > 0, and eps linear in s near s = 0.
    """
    t, step, e0 = sp.symbols("t step e0", positive=True)
    s = sp.sqrt(B0 * t)
    mean = e0 + e1 * sp.sqrt(B0 * step) * sqrt_quadrature(method)
    exact = sp.integrate(sp.expand(sp.diff(s, t) * (e0 + e1 * s)), (t, step, 0))
    return sp.expand(-s.subs(t, step) * mean - exact).subs(step, h)


def order_one_constant(method: str = "mean") -> sp.Sum:
    r"""The constant K of the global error on a t-uniform grid that ends at t = 0: e_N = -K B0 e1 h + o(h).

    .. math:: K = \sum_{k=1}^\infty \Big[(\sqrt k-\sqrt{k-1})\,q_k - \tfrac12\Big], \qquad
        q_k = \text{sqrt\_quadrature}(k)

    Every one of the last steps leaves O(h), falling like k^-2; `last_step_defect` is the term k = 1. ``.evalf()``
    gives 0.1767 (mean), 0.2506 (f_pndm), 0.3394 (s_pndm), 0.1481 (prk). For "ddim" the sum diverges: its error is
    O(h log h). Supplement to Liu et al. 2022, arXiv:2202.09778, Property 3.2; h > 0 is the step length and the
    error is in y, or in x at t = 0. Assumes what `last_step_defect` assumes.
    """
    if method == "ddim":
        raise ValueError("the sum diverges for 'ddim', whose terms fall like 1/k")
    k = sp.Symbol("k", integer=True, positive=True)
    term = (sp.sqrt(k) - sp.sqrt(k - 1)) * sqrt_quadrature(method, k) - sp.Rational(1, 2)
    return sp.Sum(term, (k, 1, sp.oo))
