r"""Phase space in closed form, and one isotropic denoiser on it."""

import sympy as sp

from diffnum.derive.gddim.symbols import Gamma, M, b, beta, e, nu, q, zero

# ---- phase space in closed form ------------------------------------------------------------------------------------


def phase_space() -> tuple[sp.Matrix, sp.Matrix]:
    r"""``(F, Q)`` of the critically damped diffusion per unit of its clock b.

    .. math:: F = \tfrac12 \begin{pmatrix} -\Gamma & M^{-1} \\ -1 & -\nu \end{pmatrix}, \qquad
        Q = \begin{pmatrix} \Gamma & 0 \\ 0 & M\nu \end{pmatrix}, \qquad M = \frac{4}{(\nu - \Gamma)^2}

    Pandey and Mandt 2023, arXiv:2303.01748. Assumes 0 <= Gamma < nu; times beta(t) these are the rates in t.
    """
    mass = 4 / (nu - Gamma) ** 2
    return sp.Matrix([[-Gamma, 1 / mass], [-1, -nu]]) / 2, sp.diag(Gamma, mass * nu)


def cld_residuals() -> tuple[sp.Matrix, sp.Matrix]:
    r"""CLD is PSLD with Gamma = 0, nu = 2/sqrt(M) and twice the rate: two differences, both 0.

    .. math:: F = \beta \begin{pmatrix} 0 & M^{-1} \\ -1 & -\Gamma_{\mathrm{CLD}} M^{-1} \end{pmatrix}, \qquad
        Q = \beta \begin{pmatrix} 0 & 0 \\ 0 & 2\,\Gamma_{\mathrm{CLD}} \end{pmatrix}, \qquad
        \Gamma_{\mathrm{CLD}} = 2\sqrt M

    Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068, with critical damping.
    """
    damping = 2 * sp.sqrt(M)
    F, Q = (2 * beta * part.subs({Gamma: 0, nu: 2 / sp.sqrt(M)}) for part in phase_space())
    return (
        sp.simplify(F - beta * sp.Matrix([[0, 1 / M], [-1, -damping / M]])),
        sp.simplify(Q - beta * sp.diag(0, 2 * damping)),
    )


def transition(clock: sp.Expr = b) -> sp.Matrix:
    r"""The transition over a stretch of the clock: two terms, because F is a multiple of I plus a nilpotent N/2.

    .. math:: \Psi = e^{-(\Gamma+\nu)\,b/4}\big(I + \tfrac b2 N\big), \qquad
        N = \begin{pmatrix} \tfrac{\nu-\Gamma}2 & M^{-1} \\ -1 & -\tfrac{\nu-\Gamma}2 \end{pmatrix}, \qquad N^2 = 0

    The closed form for PSLD; for CLD it is in Zhang et al. 2022, arXiv:2206.05564. Assumes critical damping.
    """
    nilpotent = 2 * phase_space()[0] + (Gamma + nu) / 2 * sp.eye(2)
    return sp.exp(-(Gamma + nu) * clock / 4) * (sp.eye(2) + clock / 2 * nilpotent)


def transition_residuals() -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    r"""`transition` solves its equation: :math:`\Psi' - F\Psi`, :math:`\Psi(0) - I` and :math:`N^2`, all 0."""
    F, _ = phase_space()
    psi, nilpotent = transition(), 2 * F + (Gamma + nu) / 2 * sp.eye(2)
    return (
        (sp.diff(psi, b) - F * psi).applyfunc(sp.simplify),
        psi.subs(b, 0) - sp.eye(2),
        (nilpotent**2).applyfunc(sp.simplify),
    )


def incomplete_gamma(k: int, x: sp.Expr) -> sp.Expr:
    r"""The regularised lower incomplete gamma function of integer order, written out.

    .. math:: P(k, x) = 1 - e^{-x}\sum_{j<k}\frac{x^j}{j!} = \frac{x^k}{k!} + O(x^{k+1})
    """
    return 1 - sp.exp(-x) * sp.Add(*(x**j / sp.factorial(j) for j in range(k)))


def noise_covariance() -> sp.Matrix:
    r"""Covariance of the noise alone, from a start without any: sums of terms that do not cancel at small b.

    .. math:: N_{xx} = (1-p) P_1 + p(1-p) P_2 + p^2 P_3, \quad N_{xm} = \frac{p^2 x^2 e^{-x}}{\nu-\Gamma}, \quad
        N_{mm} = M\big(N_{xx} + 2 p\,x e^{-x}\big)

    with :math:`P_k = P(k, x)`, :math:`x = \tfrac12(\Gamma+\nu)\,b` and :math:`p = (\nu-\Gamma)/(\nu+\Gamma)`; CLD is
    p = 1. The form is ours.
    """
    x, p = (Gamma + nu) * b / 2, (nu - Gamma) / (nu + Gamma)
    position = (1 - p) * incomplete_gamma(1, x) + p * (1 - p) * incomplete_gamma(2, x) + p**2 * incomplete_gamma(3, x)
    mixed = p**2 * x**2 * sp.exp(-x) / (nu - Gamma)
    momentum = 4 / (nu - Gamma) ** 2 * (position + 2 * p * x * sp.exp(-x))
    return sp.Matrix([[position, mixed], [mixed, momentum]])


def covariance() -> sp.Matrix:
    r"""Covariance of the noise from initial variances e (position) and q (momentum).

    .. math:: \Sigma = N + \Psi\,\mathrm{diag}(e, q)\,\Psi^\top
    """
    psi = transition()
    return noise_covariance() + psi * sp.diag(e, q) * psi.T


def moment_residuals() -> tuple[sp.Matrix, sp.Matrix]:
    r"""`covariance` solves the moment equation, for every start: two residuals, both 0.

    .. math:: \Sigma' - F\Sigma - \Sigma F^\top - Q, \qquad \Sigma(0) - \mathrm{diag}(e, q)

    The matrix moment equation is `linear_sde.matrix_moment_residual`.
    """
    F, Q = phase_space()
    Sigma = covariance()
    rate = sp.diff(Sigma, b) - F * Sigma - Sigma * F.T - Q
    return rate.applyfunc(sp.simplify), (Sigma.subs(b, 0) - sp.diag(e, q)).applyfunc(sp.simplify)


def determinant_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""The determinant of Sigma as a sum that keeps its digits when e is tiny: two residuals, both 0.

    .. math:: \det\Sigma = \det N + e\,q\,e^{-2x} + N_{xx} B_{mm} - 2 N_{xm} B_{xm} + N_{mm} B_{xx}, \qquad
        B = \Psi\,\mathrm{diag}(e, q)\,\Psi^\top

    The first is :math:`\det(N + B) - \det N - \det B` minus the cross terms, for any two symmetric matrices; the second
    :math:`\det B - e\,q\,e^{-2x}`, with x of `noise_covariance`.
    """
    N, B = (sp.Matrix(2, 2, lambda i, j, n=n: sp.Symbol(f"{n}{min(i, j)}{max(i, j)}")) for n in "NB")
    cross = N[0, 0] * B[1, 1] - 2 * N[0, 1] * B[0, 1] + N[1, 1] * B[0, 0]
    psi = transition()
    decayed = (psi * sp.diag(e, q) * psi.T).det() - e * q * sp.exp(-(Gamma + nu) * b)
    return sp.expand((N + B).det() - N.det() - B.det() - cross), sp.simplify(decayed)


# ---- one isotropic denoiser on phase space -------------------------------------------------------------------------


def _noisy(k: int) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """State u, mean factor a (columns) and covariance Sigma of :math:`u = a x_0 + N(0, Sigma)`."""
    state, a = (sp.Matrix(sp.symbols(f"{name}1:{k + 1}", real=True)) for name in ("u", "a"))
    return state, a, sp.Matrix(k, k, lambda i, j: sp.Symbol(f"S{min(i, j) + 1}{max(i, j) + 1}", real=True))


def statistic(k: int = 2) -> tuple[sp.Matrix, sp.Expr]:
    r"""``(row, s^2)``: the row that turns a state into data plus white noise, and the variance of that noise.

    .. math:: y = \frac{a^\top\Sigma^{-1}u}{a^\top\Sigma^{-1}a}, \qquad s^2 = \frac{1}{a^\top\Sigma^{-1}a}

    in the symbols ``a1, ...`` and ``S11, S12, ...``. Ours for samplers; sufficiency is Fisher's.
    """
    _, a, Sigma = _noisy(k)
    weighted = Sigma.adjugate() * a
    scale = (weighted.T * a)[0]
    return (weighted.T / scale).applyfunc(sp.cancel), sp.cancel(Sigma.det() / scale)


def statistic_residual(k: int = 2) -> sp.Expr:
    r"""Completing the square: the exponent depends on the data through (x_0 - y)^2/s^2 alone. The residual, 0.

    .. math:: \partial_{x_0}\Big[(u - a x_0)^\top\Sigma^{-1}(u - a x_0) - \frac{(x_0 - y)^2}{s^2}\Big] = 0

    So y is sufficient, :math:`\mathrm E[x_0 \mid u] = \mathrm E[x_0 \mid y] = D(y, s)` with the isotropic denoiser D.
    Holds for each coordinate of the data and any number k of components. Assumes one Sigma for all coordinates.
    """
    state, a, Sigma = _noisy(k)
    data = sp.Symbol("x_0", real=True)
    row, square = statistic(k)
    deviation = state - a * data
    exponent = (deviation.T * Sigma.inv() * deviation)[0] - (data - (row * state)[0]) ** 2 / square
    return sp.cancel(sp.diff(exponent, data))


def precision_residual() -> tuple[sp.Matrix, sp.Expr]:
    r"""The precision is two rank-one parts, and the norm of the normal n is the cofactor form: both residuals 0.

    .. math:: \Sigma^{-1} = \frac{n n^\top}{n^\top\Sigma n}
        + \frac{\Sigma^{-1}a\,a^\top\Sigma^{-1}}{a^\top\Sigma^{-1}a}, \qquad
        n^\top\Sigma n = a^\top\mathrm{adj}(\Sigma)\,a, \qquad n = (-a_2, a_1)

    k = 2. The first part sees the state across a and needs no network, the second sees y. Ours.
    """
    _, a, Sigma = _noisy(2)
    n = sp.Matrix([-a[1], a[0]])
    across, along = (n.T * Sigma * n)[0], Sigma.inv() * a
    difference = Sigma.inv() - n * n.T / across - along * along.T / (along.T * a)[0]
    return zero(difference), sp.expand(across - (a.T * Sigma.adjugate() * a)[0])


def split_score_residual() -> sp.Matrix:
    r"""The split form of the score equals the textbook form: the residual, 0.

    .. math:: -\frac{n\,(n\cdot u)}{n^\top\Sigma n} - \Sigma^{-1}a\,s\,\hat\epsilon = -\Sigma^{-1}(u - a D), \qquad
        \hat\epsilon = \frac{y - D}{s}

    for ANY number D. In single precision the right side subtracts nearly equal numbers, the left does not. Ours.
    """
    state, a, Sigma = _noisy(2)
    row, _ = statistic(2)
    data = sp.Symbol("D", real=True)
    n = sp.Matrix([-a[1], a[0]])
    across = n * (n.T * state)[0] / (n.T * Sigma * n)[0]
    along = Sigma.inv() * a * ((row * state)[0] - data)  # y - D is s times eps-hat
    return zero(-across - along + Sigma.inv() * (state - a * data))
