r"""Efficient integrators on paper: splitting on phase space, conjugate integrators, and their local errors.

Phase space is that of `gddim.phase_space`, per unit of the clock :math:`b = \int\beta`: :math:`du = F u\,db +
\sqrt Q\,dw`. Splitting methods run down the clock, so h > 0 is a change of b. Conjugate integrators run down in t.

===================================================  ===============================================================
Pandey, Rudolph and Mandt 2023, arXiv:2310.07894     ours
===================================================  ===============================================================
A, B, O                                              `parts`: the drifts of position, momentum, Ornstein-Uhlenbeck
:math:`A_t, B_t, \Phi_t, \hat z = A_t z`             the same letters, `A`, `B`, `Phi`, and :math:`\hat u`
:math:`\tfrac12 G G^\top C_{\mathrm{out}}`           the gain g, with the sign that goes with :math:`+g\,\epsilon`
:math:`\lambda` (lambda-DDIM)                        `lam`
===================================================  ===============================================================

The full text of the paper was not at hand; what is left open there (order of substeps, times of scores) is our
definition, that of `diffnum.solvers.splitting`.
"""

from collections.abc import Callable
from functools import cache

import sympy as sp

from diffnum.derive import ddim, gddim
from diffnum.derive.gddim import Gamma, M, b, h, nu
from diffnum.derive.linear_sde import t
from diffnum.derive.pndm import transfer_map

__all__ = [
    "best_lambda",
    "commutator",
    "commutator_of_the_rate",
    "conjugate_local_error",
    "conjugate_residuals",
    "ddim_residuals",
    "exponential",
    "exponential_residuals",
    "frozen_step_residual",
    "gddim_residuals",
    "lambda_factors",
    "lie_error",
    "local_error",
    "ornstein_step",
    "ornstein_step_residuals",
    "parts",
    "relaxation_residual",
    "reverse_residuals",
    "stationary_residual",
    "strang_error",
    "wrong_exponential_defect",
    "wrong_exponential_example",
]

x, m, s_x, s_m = sp.symbols("x m s_x s_m", real=True)
lam = sp.Symbol("lambda", real=True)
l_min, l_max = sp.symbols("l_min l_max", real=True)
# generators that do not commute: of two flows (X, Y), and of a matrix K_0 + t K_1
X, Y, K_0, K_1 = sp.symbols("X Y K_0 K_1", commutative=False)
# score(u, tau) = S(tau) u with a symmetric S = S_0 + tau S_1, tau >= 0 the clock run down since the start of the step
S_0, S_1 = (sp.Matrix(2, 2, lambda i, j, k=k: sp.Symbol(f"S{k}_{'xm'[min(i, j)]}{'xm'[max(i, j)]}")) for k in (0, 1))

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


# ---- splitting by Baker, Campbell and Hausdorff --------------------------------------------------------------------


def commutator(left: sp.Expr, right: sp.Expr) -> sp.Expr:
    """``left right - right left``, expanded."""
    return sp.expand(left * right - right * left)


def _truncated(expression: sp.Expr, at: sp.Symbol, highest: int) -> sp.Expr:
    """The powers of `at` up to the highest, of a polynomial with factors that do not commute."""
    expression = sp.expand(expression)
    return sp.Add(*(expression.coeff(at, power) * at**power for power in range(highest + 1)))


def _exp(generator: sp.Expr, at: sp.Symbol, highest: int) -> sp.Expr:
    """The exponential series of a generator that is O(at), through at^highest."""
    term = total = sp.Integer(1)
    for k in range(1, highest + 1):
        term = _truncated(term * generator / k, at, highest)
        total += term
    return total


def _composed(generators: list[sp.Expr], highest: int = 3) -> dict[int, sp.Expr]:
    """The logarithm of a product of exponentials exp(h G) minus h (X + Y), by powers of h."""
    product = sp.Integer(1)
    for generator in generators:
        product = _truncated(product * _exp(h * generator, h, highest), h, highest)
    excess, power, log = product - 1, sp.Integer(1), sp.Integer(0)
    for k in range(1, highest + 1):
        power = _truncated(power * excess, h, highest)
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


# ---- conjugate integrators -----------------------------------------------------------------------------------------


def _functions(name: str, rows: int, columns: int = 0) -> sp.Matrix:
    return sp.Matrix(rows, columns or rows, lambda i, j: sp.Function(f"{name}{i}{j}", real=True)(t))


def conjugate_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix]:
    r"""The equation of :math:`\hat u = A u`, and the step it gives: two residuals, both 0, for arbitrary matrices.

    .. math:: u' = F u + g\,\epsilon, \quad A' = A\,(B - F) \quad\Longrightarrow\quad
        \hat u' = A B A^{-1}\hat u + \Phi'\epsilon, \quad \Phi' = A g

    and Euler's method for :math:`\hat u` from t down to s = t - h, :math:`\Phi` integrated exactly, is

    .. math:: u_s = X (I - h B)\,u_t + A_s^{-1} (\Phi_s - \Phi_t)\,\epsilon, \qquad X = A_s^{-1} A_t .

    Pandey, Rudolph and Mandt 2023, arXiv:2310.07894, with A the fundamental matrix; there it is an exponential.
    """
    F, B, A, g = (_functions(name, k) for name in ("F", "B", "A", "g"))
    u, noise = _functions("u", k, 1), _functions("e", k, 1)
    rates = [(A, A * (B - F)), (u, F * u + g * noise)]
    known = {sp.diff(a, t): rate for whole, rate in rates for a, rate in zip(whole, rate, strict=True)}
    equation = sp.diff(A * u, t).subs(known) - A * B * A.inv() * (A * u) - A * g * noise
    end, change = (sp.Matrix(k, k, lambda i, j, n=n: sp.Symbol(f"{n}{i}{j}")) for n in ("E", "P"))
    hat = A * u
    step = end.inv() * (hat - h * A * B * A.inv() * hat + change * noise)
    closed = end.inv() * A * (sp.eye(k) - h * B) * u + end.inv() * change * noise
    return equation.applyfunc(sp.cancel), (step - closed).applyfunc(sp.cancel)


def conjugate_local_error(k: int = 2) -> sp.Matrix:
    r"""The local error of every conjugate integrator minus its formula: the residual of the h^2 term, 0.

    .. math:: \text{method} - \text{exact} = -\tfrac{h^2}2\,\big[(B^2 + [B, F])\,u + B g\,\epsilon
        + g\,\epsilon'\big] + O(h^3)

    for a constant B, :math:`\epsilon'` the derivative along the solution. So the order is 1 whatever B. With B = 0 it
    is the error of gDDIM of order 1; with :math:`B = \lambda I` it is :math:`-\tfrac{h^2}2 [\lambda^2 u
    + g(\lambda\epsilon + \epsilon')]`: lambda helps where :math:`\epsilon' \approx -\lambda\epsilon`. Ours.
    """
    F, g = (_functions(name, k) for name in ("F", "g"))
    u, noise = _functions("u", k, 1), _functions("e", k, 1)
    B = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"B{i}{j}", real=True))
    # in the coordinates with A = I at the start; derivatives of u-hat there, once and twice
    K = B - F
    first = B * u + g * noise
    rate = F * u + g * noise
    turned = K * B * u + B * rate  # (A B u)' at A = I
    phi = K * g + sp.diff(g, t)  # Phi'' = (A g)' at A = I
    second = turned + phi * noise + g * sp.diff(noise, t)
    exact = u - h * first + h**2 / 2 * second
    step = u - h * B * u + (-h * g + h**2 / 2 * phi) * noise
    formula = -(h**2) / 2 * ((B * B + B * F - F * B) * u + B * g * noise + g * sp.diff(noise, t))
    return (step - exact - formula).applyfunc(sp.expand)


def ddim_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""B = 0 on VP is DDIM: the residual of Phi = sigma/alpha, and the difference from the printed step; both 0.

    .. math:: A = \frac1\alpha, \qquad \Phi' = \frac1\alpha\,\frac{\beta}{2\sigma} = \Big(\frac\sigma\alpha\Big)'
    """
    rate = sp.Function("beta", positive=True)(t)
    alpha = sp.Function("alpha", positive=True)(t)
    sigma = sp.sqrt(1 - alpha**2)
    slope = sp.diff(sigma / alpha, t).subs(sp.diff(alpha, t), -rate * alpha / 2) - rate / (2 * sigma * alpha)
    start, end = sp.symbols("a b", positive=True)  # alpha^2 at t and s
    ratio = [sp.sqrt(1 - level) / sp.sqrt(level) for level in (start, end)]
    step = sp.sqrt(end) * (ddim.x / sp.sqrt(start) + (ratio[1] - ratio[0]) * ddim.e)
    printed = transfer_map("ddim", start=start, end=end, state=ddim.x, noise=ddim.e)
    return sp.simplify(slope), sp.simplify(step - printed)


def gddim_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix]:
    r"""B = 0 with the root R is gDDIM of order 1: Phi = A R, and the steps subtracted; both 0.

    .. math:: (A R)' = \tfrac12 A Q R^{-\top}, \qquad
        A_s^{-1}\big(A_t u + (A_s R_s - A_t R_t)\,\epsilon\big) = \Psi u + (R_s - \Psi R_t)\,\epsilon, \quad
        \Psi = A_s^{-1} A_t

    The first is `gddim.root_identity_residual`. Zhang, Tao and Chen 2023, arXiv:2206.05564, for gDDIM.
    """
    A_t, A_s, R_t, R_s = (sp.Matrix(k, k, lambda i, j, n=n: sp.Symbol(f"{n}{i}{j}")) for n in ("A", "C", "R", "S"))
    u, noise = (sp.Matrix(k, 1, lambda i, _, n=n: sp.Symbol(f"{n}{i}")) for n in ("u", "e"))
    step = A_s.inv() * (A_t * u + (A_s * R_s - A_t * R_t) * noise)
    psi = A_s.inv() * A_t
    difference = step - psi * u - (R_s - psi * R_t) * noise
    return gddim.root_identity_residual(k), difference.applyfunc(sp.cancel)


# ---- the exponential -----------------------------------------------------------------------------------------------


def exponential(K: sp.Matrix, at: sp.Expr = h) -> sp.Matrix:
    r"""The exponential of a 2 x 2 matrix.

    .. math:: e^{hK} = e^{h\,\mathrm{tr}K/2}\Big(\cosh(hD)\,I + \frac{\sinh(hD)}{D}\,K_0\Big), \qquad
        K_0 = K - \tfrac12\mathrm{tr}K\,I, \quad D^2 = -\det K_0

    D may be imaginary; at D = 0 the bracket is :math:`I + h K_0`. Cayley and Hamilton: :math:`K_0^2 = D^2 I`.
    """
    half = K.trace() / 2
    traceless = K - half * sp.eye(2)
    D = sp.sqrt(sp.simplify(-traceless.det()))
    inside = at * traceless if D == 0 else sp.sinh(at * D) / D * traceless
    return sp.exp(at * half) * (sp.cosh(at * D) * sp.eye(2) + inside)


def exponential_residuals() -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    r"""`exponential` solves :math:`E' = K E, E(0) = I`; on PSLD with B = lambda I it ends after two terms.

    .. math:: e^{h(\lambda I - F)} = e^{h\lambda}\,\Psi(-h)

    with the transition of `gddim.transition`. Three residuals, all 0.
    """
    K = sp.Matrix(2, 2, sp.symbols("k:2:2"))
    E = exponential(K)
    equation = (sp.diff(E, h) - K * E).applyfunc(lambda entry: sp.simplify(entry.rewrite(sp.exp)))
    F, _ = gddim.phase_space()
    closed = exponential((lam * sp.eye(2) - F).applyfunc(sp.simplify)) - sp.exp(h * lam) * gddim.transition(-h)
    return equation, E.subs(h, 0) - sp.eye(2), closed.applyfunc(sp.simplify)


def wrong_exponential_defect() -> dict[int, sp.Expr]:
    r"""What :math:`A = e^{\int_0^t K}` leaves out of the equation of u-hat, :math:`K = K_0 + t K_1`, in powers of t.

    .. math:: A' A^{-1} - A K A^{-1} = -\tfrac{t^2}4\,[K_0, K_1] + O(t^3)

    0 where the values of K commute with each other, and not otherwise: then the equation of `conjugate_residuals`
    does not hold, and a scheme built on it is inconsistent. K_0 and K_1 are generic.
    """
    at = sp.Symbol("t", positive=True)
    integral, highest = at * K_0 + at**2 / 2 * K_1, 3
    A, back = _exp(integral, at, highest), _exp(-integral, at, highest)
    defect = sp.expand((sp.diff(A, at) - A * (K_0 + at * K_1)) * back)
    return {power: sp.expand(defect.coeff(at, power)) for power in range(highest)}


def wrong_exponential_example() -> sp.Matrix:
    r"""The same for one matrix, exactly: :math:`K = \begin{pmatrix} 1 & t \\ 0 & 0 \end{pmatrix}`.

    .. math:: A' A^{-1} - A K A^{-1} = \begin{pmatrix} 0 & r(t) \\ 0 & 0 \end{pmatrix}, \qquad
        r = \tfrac12\big(e^t - t e^t - 1\big) = -\tfrac{t^2}4 + O(t^3)
    """
    K = sp.Matrix([[1, t], [0, 0]])
    A = exponential(sp.integrate(K, (t, 0, t)), sp.S.One).applyfunc(sp.simplify)
    return ((sp.diff(A, t) - A * K) * A.inv()).applyfunc(lambda entry: sp.simplify(entry.rewrite(sp.exp)))


def commutator_of_the_rate() -> tuple[sp.Matrix, sp.Matrix]:
    r"""Where lambda-DDIM-II needs the fundamental matrix: B = lambda times ones, on PSLD with a rate beta(t).

    .. math:: \Big[\int_0^t K,\ K(t)\Big] = \lambda\,(b - t\beta)\,[J, F], \qquad J = \begin{pmatrix} 1 & 1 \\ 1 & 1
        \end{pmatrix}

    Returns the difference of both sides, 0, and [J, F], which is not 0. With a constant rate :math:`b = t\beta` and
    the exponential is right; with B = lambda I it always is, for J is then I. F per unit of the clock.
    """
    F, _ = gddim.phase_space()
    J, rate = sp.ones(2, 2), sp.Symbol("beta", positive=True)
    integral, K = lam * t * J - b * F, lam * J - rate * F
    bracket = J * F - F * J
    difference = integral * K - K * integral - lam * (b - t * rate) * bracket
    return difference.applyfunc(sp.expand), bracket.applyfunc(sp.simplify)


# ---- stability -----------------------------------------------------------------------------------------------------


def frozen_step_residual() -> sp.Matrix:
    r"""With frozen coefficients the step of u-hat is :math:`I + h\,(\Lambda - \lambda I)` in eigenvectors; residual 0.

    .. math:: \hat u_s = A\big[I - h B - h\,g\,\epsilon_u\big]A^{-1}\hat u, \qquad -g\,\epsilon_u = U\Lambda U^{-1}

    for B = lambda I; :math:`\Lambda` holds the eigenvalues of :math:`\tfrac12 G G^\top\nabla^2\log p`. So the step is
    stable where :math:`|1 + h(l_i - \lambda)| \le 1` for all i. Pandey, Rudolph and Mandt 2023, arXiv:2310.07894; the
    form of the theorem is re-derived.
    """
    A, U = (sp.Matrix(2, 2, sp.symbols(f"{name}:2:2")) for name in "au")
    Lambda = sp.diag(l_min, l_max)
    step = A * (sp.eye(2) - h * lam * sp.eye(2) + h * U * Lambda * U.inv()) * A.inv()
    vectors = A * U
    return (step * vectors - vectors * (sp.eye(2) + h * (Lambda - lam * sp.eye(2)))).applyfunc(sp.cancel)


def best_lambda() -> dict[str, sp.Expr]:
    r"""The lambda with the smallest bound :math:`\max_i |1 + h(l_i - \lambda)|`, and that bound.

    .. math:: \lambda^* = \frac1h + \frac{l_{\min} + l_{\max}}2, \qquad \text{bound} = \frac h2 (l_{\max} - l_{\min})

    The two extreme factors (`lower`, `upper`) are there opposite and equal in size; for every lambda their difference
    is :math:`h(l_{\max} - l_{\min})`, so no lambda makes both smaller. The bound is at most 1 only where
    :math:`h(l_{\max} - l_{\min}) \le 2`. Ours.
    """
    lower, upper = (1 + h * (level - lam) for level in (l_min, l_max))
    (best,) = sp.solve(lower + upper, lam)
    return {
        "lambda": sp.expand(best),
        "lower": sp.factor(lower.subs(lam, best)),
        "upper": sp.factor(upper.subs(lam, best)),
        "gap": sp.expand(upper - lower),
    }


def lambda_factors(highest: int = 2) -> tuple[sp.Expr, sp.Expr]:
    r"""What B = lambda I changes for small h: the linear factor, and the weight of a constant gain, as series in h.

    .. math:: e^{h\lambda}(1 - h\lambda) = 1 - \tfrac12 (h\lambda)^2 + O(h^3), \qquad
        \int_0^h e^{\lambda r}\,dr = h\big(1 + \tfrac12\lambda h\big) + O(h^3)

    So lambda adds :math:`\tfrac12\lambda h^2` times the score term: an amount of the order of the local error.
    """
    at = sp.Dummy("r", positive=True)
    linear = sp.exp(h * lam) * (1 - h * lam)
    weight = sp.integrate(sp.series(sp.exp(lam * at), at, 0, highest).removeO(), (at, 0, h))
    return sp.expand(sp.series(linear, h, 0, highest + 1).removeO()), sp.expand(weight)
