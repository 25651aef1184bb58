r"""Conjugate integrators: their step and its error, exponentials that are right and wrong, stability."""

import sympy as sp

from diffnum.derive import ddim, gddim
from diffnum.derive.gddim import b, h
from diffnum.derive.linear_sde import t
from diffnum.derive.pndm import transfer_map
from diffnum.derive.psld.symbols import K_0, K_1, exp_series, l_max, l_min, lam

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
    A, back = exp_series(integral, at, highest), exp_series(-integral, at, highest)
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
    r"""With frozen coefficients the step of u-hat is similar to :math:`I + h\,(\tfrac12 QS - B)`; residual 0.

    .. math:: \hat u_s = A\big[I - h B - h\,g\,\epsilon_u\big]A^{-1}\hat u, \qquad
        g = \tfrac12 Q K^{-\top}, \quad \epsilon_u = -K^\top S, \quad S = \nabla^2\log p

    for any B and any root K, which cancels. For B = lambda I the modes are multiplied by
    :math:`1 + h(l_i - \lambda)`, with :math:`l_i` the eigenvalues of :math:`\tfrac12 QS`. Pandey, Rudolph and Mandt
    2023, arXiv:2310.07894; the form of the theorem is re-derived.
    """
    A, B, K = (sp.Matrix(2, 2, sp.symbols(f"{name}:2:2")) for name in "abk")
    Q, S = (sp.Matrix([[p, q], [q, r]]) for p, q, r in (sp.symbols("Q_xx Q_xm Q_mm"), sp.symbols("S_xx S_xm S_mm")))
    step = A * (sp.eye(2) - h * B - h * (Q * K.inv().T / 2) * (-K.T * S)) * A.inv()
    return (A.inv() * step * A - (sp.eye(2) + h * (Q * S / 2 - B))).applyfunc(sp.cancel)


def lambda_substep_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""Type I, one momentum substep with the position at rest: its local error, and Euler's substep; both residuals 0.

    .. math:: \dot m = r m - q \ \Rightarrow\ m \to e^{h\mu}(1 - h\lambda)\,m - \frac{e^{h\mu} - 1}{\mu}\,q,
        \quad \mu = r + \lambda, \qquad
        \text{error} = -\frac{\lambda h^2}{2}(\lambda m + q) + \frac{h^2}{2}\,\dot q + O(h^3)

    with the clock run down; q moves at the rate q-dot and is frozen in the step. At lambda = -r it is m + h (r m - q).
    Ours.
    """
    m, q, speed, r, mu = sp.symbols("m q qdot r mu")
    step = sp.exp(h * mu) * (1 - h * lam) * m - (sp.exp(h * mu) - 1) / mu * q
    exact = m + h * (r * m - q) + h**2 / 2 * (r * (r * m - q) - speed)
    error = sp.series(step.subs(mu, r + lam), h, 0, 3).removeO() - exact
    claimed = -lam * h**2 / 2 * (lam * m + q) + h**2 / 2 * speed
    euler = sp.limit(step.subs(lam, mu - r), mu, 0) - (m + h * (r * m - q))
    return sp.simplify(sp.expand(error - claimed)), sp.simplify(euler)


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
