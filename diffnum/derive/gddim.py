r"""gDDIM on paper: phase space in closed form, the root R, exponential Adams methods, and the stochastic step.

A linear process :math:`du = F u\,dt + G\,dw` with :math:`Q = G G^\top` has the transition :math:`\Psi(t, s)` and the
covariance :math:`\Sigma`; K is any root, :math:`K K^\top = \Sigma`, and :math:`\epsilon_K = -K^\top\nabla\log p`.
Functions with an argument `k` prove their claim for arbitrary (k, k) matrices that depend on time.

==============================================================  ====================================================
Zhang, Tao and Chen 2023, arXiv:2206.05564                      ours
==============================================================  ====================================================
:math:`\Psi(t, s), \Sigma_t, L_t, R_t`                          the same
v, the second half of the state                                 m, the momentum (index 2 of a matrix)
:math:`\hat\Psi, P_{st}`                                        the same, from time t down to s
:math:`\gamma` (initial momentum)                               inside ``q``, the initial variance of the momentum
polynomial degree                                               ``order`` - 1
==============================================================  ====================================================

Phase space is written in the clock :math:`b = \int\beta` of PSLD (Pandey and Mandt 2023, arXiv:2303.01748); CLD
(Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068) is its case Gamma = 0.
"""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive import ddim
from diffnum.derive.classical import adams_bashforth_variable, lagrange_basis
from diffnum.derive.linear_sde import t
from diffnum.derive.pndm import e_derivatives, transfer_map
from diffnum.derive.reversing import lam

__all__ = [
    "adams_weights",
    "angle_rate",
    "cld_residuals",
    "covariance",
    "data_local_errors",
    "ddim_residuals",
    "determinant_residuals",
    "dpmpp_2m_defect",
    "dpmpp_2m_weights",
    "eta_residuals",
    "incomplete_gamma",
    "local_error",
    "marginal_residuals",
    "missing_transpose",
    "missing_transpose_variance",
    "moment_defect",
    "moment_residuals",
    "noise_covariance",
    "one_step_residual",
    "phase_space",
    "point_mass_residuals",
    "posterior_gain_residual",
    "posterior_residuals",
    "precision_residual",
    "root_identity_residual",
    "rotation_residuals",
    "scalar_step",
    "scalar_step_residuals",
    "split_score_residual",
    "start_defect",
    "statistic",
    "statistic_residual",
    "stochastic_residuals",
    "time_weights",
    "transition",
    "transition_residuals",
]

# phase space: dampings, the clock, initial variances of position and momentum; CLD's mass and rate
Gamma, e, q = sp.symbols("Gamma e q", nonnegative=True)
nu, b, M, beta = sp.symbols("nu b M beta", positive=True)
# one step of a scalar process, from t down to s
alpha_t, sigma_t, alpha_s, sigma_s = sp.symbols("alpha_t sigma_t alpha_s sigma_s", positive=True)
# a step of length h in lambda = log(alpha/sigma), after one of length r h; derivatives of the data prediction in lambda
h, r = sp.symbols("h r", positive=True)
D1, D2 = sp.symbols("D1 D2", real=True)
# the weight function of a coefficient, Psi Q K^-T / 2, and its derivative at the start of a step
W0, W1 = sp.symbols("W0 W1", real=True)


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


# ---- the root R ----------------------------------------------------------------------------------------------------


def _matrix(name: str, k: int, symmetric: bool = False) -> sp.Matrix:
    """A (k, k) matrix of functions of t."""
    if symmetric:
        return sp.Matrix(k, k, lambda i, j: sp.Function(f"{name}{min(i, j)}{max(i, j)}", real=True)(t))
    return sp.Matrix(k, k, lambda i, j: sp.Function(f"{name}{i}{j}", real=True)(t))


def _known(pairs: Sequence[tuple[sp.Matrix, sp.Matrix]]) -> dict[sp.Expr, sp.Expr]:
    """Each derivative of an entry and what it is equal to."""
    return {sp.diff(a, t): rate for M, rates in pairs for a, rate in zip(M, rates, strict=True)}


def _zero(matrix: sp.Matrix) -> sp.Matrix:
    return matrix.applyfunc(sp.cancel)


def _root_rate(F: sp.Matrix, Q: sp.Matrix, R: sp.Matrix) -> sp.Matrix:
    """R' = (F + Q Sigma^{-1}/2) R with Sigma = R R^T."""
    return F * R + Q * R.T.inv() / 2


def angle_rate(L: sp.Matrix, F: sp.Matrix, Q: sp.Matrix) -> sp.Expr:
    r"""The speed of the angle by which R is rotated against the Cholesky factor L, 2 x 2.

    .. math:: \varphi' = (L^{-1} F L)_{12} + \tfrac12 (L^{-1} Q L^{-\top})_{12}

    On CLD the second term is 0, since noise enters through the momentum alone. Ours.
    """
    back = L.inv()
    return (back * F * L)[0, 1] + (back * Q * back.T)[0, 1] / 2


def rotation_residuals() -> tuple[sp.Matrix, sp.Expr, sp.Matrix]:
    r"""R is L times a rotation, for ANY 2 x 2 process: three residuals, all 0.

    .. math:: A = L^{-1}\big(F + \tfrac12 Q\Sigma^{-1}\big)L - L^{-1}L', \qquad A + A^\top = 0, \qquad
        A_{12} = \varphi', \qquad R' = \big(F + \tfrac12 Q\Sigma^{-1}\big)R

    with :math:`R = L\,O(\varphi)`, O the rotation with the rows :math:`(\cos\varphi, \sin\varphi)` and
    :math:`(-\sin\varphi, \cos\varphi)`, and L' from the moment equation for :math:`\Sigma = L L^\top`. The equation of
    R is that of Zhang, Tao and Chen 2023, arXiv:2206.05564; that the rest is one angle is ours.
    """
    F, Q, L = _matrix("F", 2), _matrix("Q", 2, symmetric=True), _matrix("L", 2)
    L[0, 1] = 0
    Sigma = L * L.T
    moment = sp.diff(Sigma, t) - F * Sigma - Sigma * F.T - Q
    unknown = [sp.diff(L[i, j], t) for i, j in ((0, 0), (1, 0), (1, 1))]
    (known,) = sp.solve([moment[0, 0], moment[0, 1], moment[1, 1]], unknown, dict=True)
    drift, rate = F + Q * Sigma.inv() / 2, sp.diff(L, t).subs(known)
    A = _zero(L.inv() * (drift * L - rate))
    angle = sp.Function("varphi", real=True)(t)
    turned = L * sp.Matrix([[sp.cos(angle), sp.sin(angle)], [-sp.sin(angle), sp.cos(angle)]])
    speed = angle_rate(L, F, Q)
    equation = sp.diff(turned, t).subs(known | {sp.diff(angle, t): speed}) - drift * turned
    return _zero(A + A.T), sp.cancel(A[0, 1] - speed), _zero(sp.expand(equation))


def root_identity_residual(k: int = 2) -> sp.Matrix:
    r"""The identity behind gDDIM: the integrand of its coefficient is a total derivative. The residual, 0.

    .. math:: \frac{d}{d\tau}\big[\Psi(t, \tau) R_\tau\big] = \tfrac12\,\Psi(t, \tau)\,Q_\tau R_\tau^{-\top}
        \quad\Longrightarrow\quad \int_s^t \tfrac12\Psi Q R^{-\top} d\tau = R_t - \Psi(t, s) R_s

    Uses only :math:`\partial_\tau\Psi(t, \tau) = -\Psi F` and the equation of R. For k = 1 it is
    `ddim.integrand_residual`. Zhang, Tao and Chen 2023, arXiv:2206.05564.
    """
    F, Q, R, psi = _matrix("F", k), _matrix("Q", k, symmetric=True), _matrix("R", k), _matrix("Psi", k)
    known = _known([(psi, -psi * F), (R, _root_rate(F, Q, R))])
    return _zero(sp.diff(psi * R, t).subs(known) - psi * Q * R.T.inv() / 2)


def point_mass_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix]:
    r"""Data at one point: :math:`\epsilon_R` stands still along the flow, on ANY process. Two residuals, both 0.

    .. math:: u_t = \Psi(t, 0) u_0 + R_t c, \qquad \epsilon_R(u, t) = R^{-1}\big(u - \Psi(t, 0) u_0\big) = c, \qquad
        u' = F u + \tfrac12 Q R^{-\top}\epsilon_R

    The first is the equation along this path, the second the noise of the definition,
    :math:`-R^\top\nabla\log p = R^\top\Sigma^{-1}(u - \Psi u_0)`, minus c. Zhang, Tao and Chen 2023, arXiv:2206.05564.
    """
    F, Q, R, psi = _matrix("F", k), _matrix("Q", k, symmetric=True), _matrix("R", k), _matrix("Psi", k)
    start, c = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("u", "c"))
    known = _known([(psi, F * psi), (R, _root_rate(F, Q, R))])
    path = psi * start + R * c
    noise = R.T * (R * R.T).inv() * (path - psi * start)
    return _zero(sp.diff(path, t).subs(known) - F * path - Q * R.T.inv() * noise / 2), _zero(noise - c)


def one_step_residual(k: int = 2) -> sp.Matrix:
    r"""One step of order 1 on a point mass is exact, whatever its length: the residual, 0.

    .. math:: u_s = \Psi(s, t)\,u_t + \big[R_s - \Psi(s, t) R_t\big]\,\epsilon_R, \qquad
        \Psi(t, 0) u_0 + R_t c \ \mapsto\ \Psi(s, 0) u_0 + R_s c

    Zhang, Tao and Chen 2023, arXiv:2206.05564. Assumes :math:`\Psi(s, t)\Psi(t, 0) = \Psi(s, 0)` and nothing else.
    """
    R_t, R_s, first, whole = (_matrix(name, k) for name in ("R", "S", "Phi", "Psi"))
    step = whole * first.inv()  # Psi(s, t)
    start, c = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("u", "c"))
    state = first * start + R_t * c
    noise = R_t.inv() * (state - first * start)
    end = step * state + (R_s - step * R_t) * noise
    return _zero(end - whole * start - R_s * c)


# ---- exponential Adams methods on scalar processes -----------------------------------------------------------------


def ddim_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""Order 1 on VP and VE is DDIM: the differences from the printed step (VP) and from Euler in rho (VE), both 0.

    .. math:: x_s = \Psi x_t + (R_s - \Psi R_t)\,\epsilon, \qquad \Psi = \frac{\alpha_s}{\alpha_t}, \quad R = \sigma

    Song, Meng and Ermon 2021, arXiv:2010.02502, equation (12) with eta = 0.
    """

    def step(alphas: tuple[sp.Expr, sp.Expr], sigmas: tuple[sp.Expr, sp.Expr]) -> sp.Expr:
        psi = alphas[1] / alphas[0]
        return psi * ddim.x + (sigmas[1] - psi * sigmas[0]) * ddim.e

    start, end = sp.symbols("a b", positive=True)  # alpha^2 at t and s
    vp = step((sp.sqrt(start), sp.sqrt(end)), (sp.sqrt(1 - start), sp.sqrt(1 - end)))
    printed = transfer_map("ddim", start=start, end=end, state=ddim.x, noise=ddim.e)
    ve = step((sp.S.One, sp.S.One), (ddim.rho_t, ddim.rho_s))
    return sp.simplify(vp - printed), sp.expand(ve - ddim.x - (ddim.rho_s - ddim.rho_t) * ddim.e)


def adams_weights(prediction: str, variable: str, nodes: Sequence[sp.Expr], end: sp.Expr) -> tuple[sp.Expr, ...]:
    r"""Weights of the exponential Adams method, newest first, for a step from ``nodes[0]`` to `end`.

    .. math:: \text{noise in } \rho:\ \int l_j(\rho)\,d\rho, \qquad
        \text{noise in } \lambda:\ -\int e^{-\lambda} l_j(\lambda)\,d\lambda, \qquad
        \text{data in } \lambda:\ \int e^{\lambda} l_j(\lambda)\,d\lambda

    Nodes and `end` are values of the variable, "rho" or "lambda" = -log(rho). The step is
    :math:`x_s/\alpha_s = x_t/\alpha_t + \sum_j w_j\epsilon_j` for the noise and
    :math:`x_s/\sigma_s = x_t/\sigma_t + \sum_j w_j x_{0,j}` for the data: variation of constants with the prediction
    replaced by its Lagrange polynomial. Noise in rho is Adams-Bashforth for :math:`dy/d\rho = \epsilon`; in t see
    `time_weights`. Zhang and Chen 2023, arXiv:2204.13902, for the noise; Lu et al. 2022, arXiv:2211.01095, for data.
    """
    if (prediction, variable) == ("noise", "rho"):
        return adams_bashforth_variable(nodes, end)
    kernels = {("noise", "lambda"): (-1, -1), ("data", "lambda"): (1, 1)}
    if (prediction, variable) not in kernels:
        raise ValueError(f"unknown pair {prediction!r}, {variable!r}: noise in rho or lambda, data in lambda")
    sign, power = kernels[prediction, variable]
    at = sp.Dummy("lambda")
    basis = (sp.expand(polynomial) for polynomial in lagrange_basis(nodes, at))
    return tuple(
        sp.simplify(sp.integrate(sp.expand(sign * sp.exp(power * at) * l), (at, nodes[0], end))) for l in basis
    )


def time_weights(ratio: sp.Expr, nodes: Sequence[sp.Expr], end: sp.Expr) -> tuple[sp.Integral, ...]:
    r"""gDDIM's coefficients over alpha_s on a scalar process: noise, interpolated in the time t. Unevaluated.

    .. math:: \frac{C_j}{\alpha_s} = \int \frac{Q}{2\sigma\alpha}\,l_j(\tau)\,d\tau = \int \rho'(\tau)\,l_j(\tau)\,d\tau

    by `ddim.integrand_residual`; `ratio` is rho(t) as an expression in ``linear_sde.t``. These are the coefficients of
    tAB-DEIS (Zhang and Chen 2023, arXiv:2204.13902), and `adams_weights` in rho where time is rho (VE).
    """
    return tuple(sp.Integral(sp.diff(ratio, t) * l, (t, nodes[0], end)) for l in lagrange_basis(nodes, t))


def dpmpp_2m_weights() -> tuple[sp.Expr, sp.Expr]:
    r"""DPM-Solver++(2M) in the same form: weights of the newest and the older data prediction, over alpha_s.

    .. math:: (1 - e^{-h})\Big(1 + \frac1{2r}\Big), \qquad -(1 - e^{-h})\,\frac1{2r}

    for a step of length h in lambda = log(alpha/sigma) after one of length r h. Lu et al. 2022, arXiv:2211.01095,
    algorithm 2.
    """
    gain = 1 - sp.exp(-h)
    return gain * (1 + 1 / (2 * r)), -gain / (2 * r)


def _data_adams() -> tuple[sp.Expr, sp.Expr]:
    """The exact weights of the same nodes, over alpha_s: sigma_s e^lambda = alpha_s at the end of the step."""
    new, old = adams_weights("data", "lambda", [sp.S.Zero, -r * h], h)
    return sp.expand(new * sp.exp(-h)), sp.expand(old * sp.exp(-h))


def dpmpp_2m_defect(highest: int = 3) -> tuple[sp.Expr, sp.Expr]:
    r"""DPM-Solver++(2M) minus the exponential Adams method of the same data: the two weights, through h^highest.

    .. math:: \mp\frac{1}{12 r}\,h^2 + O(h^3)

    It multiplies the slope :math:`\tau x_0'` of the polynomial by its mean h/2, outside the integral, where Adams
    has :math:`\int_0^h e^{\tau - h}\,\tau\,d\tau = h - 1 + e^{-h}`. The weights sum to the same, and differ by
    O(h^2); the two predictions differ by O(h), so the steps differ by O(h^3) and both methods have order 2. Ours.
    """
    pairs = zip(dpmpp_2m_weights(), _data_adams(), strict=True)
    return tuple(sp.expand(sp.series(ours - exact, h, 0, highest + 1).removeO()) for ours, exact in pairs)


def data_local_errors() -> dict[str, sp.Expr]:
    r"""Coefficient of h^3 in (method minus exact), over alpha_s: "adams" and "dpmpp_2m", data prediction.

    .. math:: -\Big(\frac16 + \frac r4\Big) x_0'', \qquad -\Big(\frac16 + \frac r4\Big) x_0'' - \frac1{12} x_0'

    with derivatives in lambda (`D1`, `D2`) along the solution; 5/12 for equal steps. Ours. Assumes an exact history.
    """
    at = sp.Dummy("tau", real=True)
    path = D1 * at + D2 * at**2 / 2  # the value at the start is common to both
    exact = sp.integrate(sp.expand(sp.exp(at) * path), (at, 0, h)) * sp.exp(-h)
    errors = {}
    for name, (_, old) in (("adams", _data_adams()), ("dpmpp_2m", dpmpp_2m_weights())):
        error = sp.series(sp.expand(old * path.subs(at, -r * h) - exact), h, 0, 4).removeO()
        errors[name] = sp.expand(error).coeff(h, 3)
    return errors


# ---- order ---------------------------------------------------------------------------------------------------------


def moment_defect(nodes: int, power: int) -> sp.Expr:
    r"""The Lagrange polynomials reproduce :math:`\tau^p`: :math:`\sum_j l_j(\tau)\,t_j^p - \tau^p` on free nodes.

    .. math:: 0 \text{ for } p < n, \qquad -\prod_j (\tau - t_j) \text{ for } p = n

    with n nodes. Multiplied by :math:`\tfrac12\Psi Q K^{-\top}` and integrated, it gives the moment rules
    :math:`\sum_j C_j\,t_j^p = \int\tfrac12\Psi Q K^{-\top}\tau^p\,d\tau` for p < n, the order conditions of the
    exponential Adams method for every K. Hairer, Norsett and Wanner 1993, section III.1.
    """
    places, at = sp.symbols(f"t0:{nodes}", real=True), sp.Symbol("tau", real=True)
    basis = lagrange_basis(places, at)
    return sp.factor(sp.Add(*(part * place**power for part, place in zip(basis, places, strict=True))) - at**power)


def local_error(nodes: int, ahead: bool = False) -> dict[int, sp.Expr]:
    r"""Method minus exact for q nodes on uniform steps, from an exact history: ``{1: ..., q + 1: coefficient}``.

    .. math:: \int_0^h W(\tau)\Big[\sum_j l_j(\tau)\,E(t_j) - E(\tau)\Big]d\tau
        = -\gamma_q\,W_0\,E_q\,h^{q+1} + O(h^{q+2}), \qquad W = \tfrac12\Psi Q K^{-\top}

    :math:`\gamma_q` is the constant of Adams-Bashforth: 1/2, 5/12, 3/8, 251/720, or with ``ahead`` (a corrector,
    whose first node is the end of the step) of Adams-Moulton: -1/12, -1/24, -19/720 for q = 2, 3, 4. E1, E2, ... are
    the total time derivatives of the noise along the solution (`derive.pndm`). The first step of a ramp start has
    q = 1: :math:`-\tfrac12 W_0 E_1 h^2`, once. Hairer, Norsett and Wanner 1993, sections III.1 and III.2.
    """
    at = sp.Dummy("tau")
    places = [(ahead - j) * h for j in range(nodes)]
    path = sp.Add(*(E * at**k / sp.factorial(k) for k, E in enumerate(e_derivatives[: nodes + 1])))
    basis = lagrange_basis(places, at)
    missed = sp.Add(*(l * path.subs(at, place) for l, place in zip(basis, places, strict=True))) - path
    error = sp.expand(sp.integrate(sp.expand((W0 + W1 * at) * missed), (at, 0, h)))
    return {power: error.coeff(h, power) for power in range(1, nodes + 2)}


def start_defect() -> sp.Expr:
    r"""What the first step of a ramp start leaves at the end, relative, over h^2: Gaussian data, log-SNR grid.

    .. math:: -\frac12\,\frac{s_0^2\,\rho^2}{(s_0^2 + \rho^2)^2} \approx -\frac{s_0^2}{2\rho^2}
        \text{ for large } \rho

    h is the step in log(rho), rho the level of the start. For order 3 and more it is the whole constant of h^2, since
    later steps leave O(h^3). It vanishes from the prior. `ddim.gaussian_step` with the step rho h; the equation is
    linear, so a relative error is carried on unchanged. Ours.
    """
    return sp.simplify(ddim.gaussian_step()["error"].subs(ddim.rho_t, ddim.rho) * ddim.rho**2)


# ---- the stochastic step -------------------------------------------------------------------------------------------


def stochastic_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    r"""Transition and covariance of the reverse SDE with frozen data, for EVERY lambda: three residuals, all 0.

    .. math:: \hat\Psi = R_\tau A R_t^{-1}, \quad A' = \tfrac{\lambda^2}2 R^{-1} Q R^{-\top} A
        \quad\Longrightarrow\quad \hat\Psi' = \hat F\hat\Psi, \qquad
        P' = \hat F P + P\hat F^\top - \lambda^2 Q

    with :math:`\hat F = F + \tfrac{1+\lambda^2}2 Q\Sigma^{-1}` and
    :math:`P = \Sigma_\tau - \hat\Psi\Sigma_t\hat\Psi^\top`; primes are :math:`d/d\tau`, tau runs down from t. The third
    residual is :math:`P - R(I - A A^\top)R^\top`. The equations are in Zhang, Tao and Chen 2023, arXiv:2206.05564; the
    closed forms are ours. Assumes A(t) = I, so that P(t) = 0.
    """
    F, X, R, A = _matrix("F", k), _matrix("X", k, symmetric=True), _matrix("R", k), _matrix("A", k)
    first = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"S{i}{j}", real=True))  # R_t, where the step begins
    Q, weight = R * X * R.T, (1 + lam**2) / 2  # every symmetric Q has this form; it spares fractions
    known = _known([(R, F * R + R * X / 2), (A, lam**2 / 2 * X * A)])
    through, pull = R * A * first.inv(), weight * R * X  # pull = (1 + lam^2)/2 Q Sigma^-1 R
    closed, inside = R * (sp.eye(k) - A * A.T) * R.T, sp.eye(k) - A * A.T
    growth = sp.diff(through, t).subs(known) - F * through - pull * A * first.inv()
    half = F * closed + pull * inside * R.T
    spread = sp.diff(closed, t).subs(known) - half - half.T + lam**2 * Q
    P = R * R.T - through * (first * first.T) * through.T
    return _zero(growth), spread.applyfunc(sp.expand), _zero(P - closed)


def posterior_gain_residual(k: int = 2) -> sp.Matrix:
    r"""At lambda = 1 the transition is the gain of the Gaussian posterior: the residual of its equation, 0.

    .. math:: \hat\Psi(\tau, t) = \Sigma_\tau\,\Psi(t, \tau)^\top\Sigma_t^{-1}, \qquad
        \hat\Psi' = \big(F + Q\Sigma^{-1}\big)\hat\Psi

    The state at tau given that at t, for normal states: so lambda = 1 samples the posterior. Anderson 1982.
    """
    F, Q, Sigma, psi = (_matrix(n, k, symmetric=n in "QS") for n in ("F", "Q", "S", "Psi"))
    fixed = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"C{min(i, j)}{max(i, j)}", real=True))  # Sigma_t^{-1}
    known = _known([(Sigma, F * Sigma + Sigma * F.T + Q), (psi, -psi * F)])
    gain = Sigma * psi.T * fixed
    return _zero(sp.diff(gain, t).subs(known) - (F + Q * Sigma.inv()) * gain)


def scalar_step() -> tuple[sp.Expr, sp.Expr]:
    r"""``(hat Psi, P)`` of a scalar process, from (alpha_t, sigma_t) down to (alpha_s, sigma_s).

    .. math:: \hat\Psi = \frac{\sigma_s}{\sigma_t}\,\kappa^{\lambda^2}, \qquad
        P = \sigma_s^2\,\big(1 - \kappa^{2\lambda^2}\big), \qquad \kappa = \frac{\sigma_s/\alpha_s}{\sigma_t/\alpha_t}

    Ours; at lambda = 1 the variance of DDPM.
    """
    ratio = (sigma_s * alpha_t) / (alpha_s * sigma_t)
    return sigma_s / sigma_t * ratio ** (lam**2), sigma_s**2 * (1 - ratio ** (2 * lam**2))


def scalar_step_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""`scalar_step` solves the equations of `stochastic_residuals` in s, whatever the schedule: two residuals, both 0.

    .. math:: \frac{d\hat\Psi}{ds} - \hat F\hat\Psi, \qquad \frac{dP}{ds} - 2\hat F P + \lambda^2 Q, \qquad
        \hat F = F + \frac{1+\lambda^2}{2}\,\frac{Q}{\sigma^2}

    with :math:`F = \alpha'/\alpha` and :math:`Q = (\sigma^2)' - 2F\sigma^2` at s.
    """
    alpha, sigma = (sp.Function(name, positive=True)(t) for name in ("alpha", "sigma"))
    through, P = (part.subs({alpha_s: alpha, sigma_s: sigma}) for part in scalar_step())
    F = sp.diff(alpha, t) / alpha
    Q = sp.diff(sigma**2, t) - 2 * F * sigma**2
    drift = F + (1 + lam**2) / 2 * Q / sigma**2
    return (
        sp.simplify(sp.diff(through, t) - drift * through),
        sp.simplify(sp.diff(P, t) - 2 * drift * P + lam**2 * Q),
    )


def posterior_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""On VP lambda = 1 is ancestral sampling: gain and variance of the DDPM posterior, subtracted; both 0.

    .. math:: q(x_s \mid x_t, x_0): \quad \text{gain } \frac{\sqrt{a}\,(1-b)}{\sqrt b\,(1-a)}, \qquad
        \text{variance } \frac{1-b}{1-a}\Big(1 - \frac ab\Big), \qquad a = \alpha_t^2,\ b = \alpha_s^2

    Ho, Jain and Abbeel 2020, arXiv:2006.11239, equations (6) and (7) (alpha_t there is a/b).
    """
    start, end = sp.symbols("a b", positive=True)
    levels = {
        alpha_t: sp.sqrt(start), sigma_t: sp.sqrt(1 - start), alpha_s: sp.sqrt(end), sigma_s: sp.sqrt(1 - end), lam: 1,
    }  # fmt: skip
    through, P = (part.subs(levels) for part in scalar_step())
    gain = sp.sqrt(start) * (1 - end) / (sp.sqrt(end) * (1 - start))
    return sp.simplify(through - gain), sp.simplify(P - (1 - end) / (1 - start) * (1 - start / end))


def eta_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""On VP the stochastic step is DDIM with the variance P, for every lambda: factors of x and eps, both 0.

    .. math:: x_s = \alpha_s\,\frac{x_t - \sigma_t\epsilon}{\alpha_t} + \sqrt{\sigma_s^2 - P}\;\epsilon + \sqrt P\,z

    Song, Meng and Ermon 2021, arXiv:2010.02502, equation (12): their eta is :math:`\eta^2 = P(\lambda)/P(1)`, which
    depends on the step. gDDIM writes :math:`\Psi x + (\hat\Psi - \Psi)\sigma_t\epsilon`.
    """
    through, P = scalar_step()
    psi = alpha_s / alpha_t
    root = sp.powdenest(sp.sqrt(sp.simplify(sigma_s**2 - P)), force=True)
    x, noise = ddim.x, ddim.e
    difference = sp.expand(
        psi * x + (through - psi) * sigma_t * noise - alpha_s * (x - sigma_t * noise) / alpha_t - root * noise
    )
    return sp.simplify(difference.coeff(x)), sp.simplify(difference.coeff(noise))


def marginal_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix]:
    r"""Data at one point: one stochastic step keeps mean and covariance, for every lambda. Two residuals, both 0.

    .. math:: J = \Psi + (\hat\Psi - \Psi) R_t\,R_t^{-1}, \qquad J\,\Sigma_t J^\top + P = \Sigma_s, \qquad
        \mathrm{E}\,u_s = \Psi(s, t)\,\mathrm{E}\,u_t

    J is the Jacobian of the step, since there :math:`\epsilon_R = R_t^{-1}(u - \Psi(t, 0) u_0)`, of mean 0.
    Zhang, Tao and Chen 2023, arXiv:2206.05564. Assumes only :math:`P = \Sigma_s - \hat\Psi\Sigma_t\hat\Psi^\top`.
    """
    R, psi, through, end = (_matrix(n, k, symmetric=n == "S") for n in ("R", "Psi", "H", "S"))
    mean, deviation = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("m", "d"))
    step = psi * (mean + deviation) + (through - psi) * R * R.inv() * deviation
    J = step.jacobian(list(deviation))
    P = end - through * R * R.T * through.T
    return _zero(J * R * R.T * J.T + P - end), _zero(step.subs(dict.fromkeys(deviation, 0)) - psi * mean)


def missing_transpose() -> sp.Expr:
    r"""The covariance equation without its transpose loses symmetry: the 12 entry minus the 21 entry of F P + P F.

    .. math:: (\hat F P + P\hat F)_{12} - (\hat F P + P\hat F)_{21}
        = (\hat F_{12} - \hat F_{21})(P_{11} + P_{22}) \ne 0

    for a symmetric P. The released code of Zhang, Tao and Chen 2023, arXiv:2206.05564, computes this (class LambdaSDE).
    """
    F, P = (sp.Matrix(2, 2, lambda i, j, n=n: sp.Symbol(f"{n}{i + 1}{j + 1}", real=True)) for n in "FP")
    P[1, 0] = P[0, 1]
    product = F * P + P * F
    return sp.factor(product[0, 1] - product[1, 0])


def missing_transpose_variance() -> tuple[sp.Expr, sp.Expr]:
    r"""First term of the position variance P_11 after a step h > 0 down, where noise enters through the momentum alone.

    .. math:: \text{right: } \tfrac{\lambda^2 g}{3}\,\hat F_{12}^2\,h^3, \qquad
        \text{without the transpose: } \tfrac{\lambda^2 g}{3}\,\hat F_{12}\hat F_{21}\,h^3

    with :math:`Q = \mathrm{diag}(0, g)`. On CLD F_12 > 0, and F_21 < 0 near t = 1: there the variance is negative.
    Three terms of the Taylor series of :math:`dP/dh = \lambda^2 Q - \hat F P - P\hat F^\top`, with constant
    coefficients. Ours.
    """
    F = sp.Matrix(2, 2, lambda i, j: sp.Symbol(f"F{i + 1}{j + 1}", real=True))
    source = lam**2 * sp.diag(0, sp.Symbol("g", positive=True))
    entries = []
    for other in (F.T, F):
        term, P = source * h, sp.zeros(2, 2)
        for k in range(2, 5):
            P, term = P + term, -(F * term + term * other) * h / k
        entries.append(sp.factor(P[0, 0]))
    return entries[0], entries[1]


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
    return _zero(difference), sp.expand(across - (a.T * Sigma.adjugate() * a)[0])


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
    return _zero(-across - along + Sigma.inv() * (state - a * data))
