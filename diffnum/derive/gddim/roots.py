r"""The root R: what it is, its angle against the Cholesky factor, and what it makes exact."""

import sympy as sp

from diffnum.derive.gddim.symbols import known_rates, matrix, zero
from diffnum.derive.linear_sde import t


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
    F, Q, L = matrix("F", 2), matrix("Q", 2, symmetric=True), matrix("L", 2)
    L[0, 1] = 0
    Sigma = L * L.T
    moment = sp.diff(Sigma, t) - F * Sigma - Sigma * F.T - Q
    unknown = [sp.diff(L[i, j], t) for i, j in ((0, 0), (1, 0), (1, 1))]
    (known,) = sp.solve([moment[0, 0], moment[0, 1], moment[1, 1]], unknown, dict=True)
    drift, rate = F + Q * Sigma.inv() / 2, sp.diff(L, t).subs(known)
    A = zero(L.inv() * (drift * L - rate))
    angle = sp.Function("varphi", real=True)(t)
    turned = L * sp.Matrix([[sp.cos(angle), sp.sin(angle)], [-sp.sin(angle), sp.cos(angle)]])
    speed = angle_rate(L, F, Q)
    equation = sp.diff(turned, t).subs(known | {sp.diff(angle, t): speed}) - drift * turned
    return zero(A + A.T), sp.cancel(A[0, 1] - speed), zero(sp.expand(equation))


def root_identity_residual(k: int = 2) -> sp.Matrix:
    r"""The identity behind gDDIM: the integrand of its coefficient is a total derivative. The residual, 0.

    .. math:: \frac{d}{d\tau}\big[\Psi(t, \tau) R_\tau\big] = \tfrac12\,\Psi(t, \tau)\,Q_\tau R_\tau^{-\top}
        \quad\Longrightarrow\quad \int_s^t \tfrac12\Psi Q R^{-\top} d\tau = R_t - \Psi(t, s) R_s

    Uses only :math:`\partial_\tau\Psi(t, \tau) = -\Psi F` and the equation of R. For k = 1 it is
    `ddim.integrand_residual`. Zhang, Tao and Chen 2023, arXiv:2206.05564.
    """
    F, Q, R, psi = matrix("F", k), matrix("Q", k, symmetric=True), matrix("R", k), matrix("Psi", k)
    known = known_rates([(psi, -psi * F), (R, _root_rate(F, Q, R))])
    return zero(sp.diff(psi * R, t).subs(known) - psi * Q * R.T.inv() / 2)


def point_mass_residuals(k: int = 2) -> tuple[sp.Matrix, sp.Matrix]:
    r"""Data at one point: :math:`\epsilon_R` stands still along the flow, on ANY process. Two residuals, both 0.

    .. math:: u_t = \Psi(t, 0) u_0 + R_t c, \qquad \epsilon_R(u, t) = R^{-1}\big(u - \Psi(t, 0) u_0\big) = c, \qquad
        u' = F u + \tfrac12 Q R^{-\top}\epsilon_R

    The first is the equation along this path, the second the noise of the definition,
    :math:`-R^\top\nabla\log p = R^\top\Sigma^{-1}(u - \Psi u_0)`, minus c. Zhang, Tao and Chen 2023, arXiv:2206.05564.
    """
    F, Q, R, psi = matrix("F", k), matrix("Q", k, symmetric=True), matrix("R", k), matrix("Psi", k)
    start, c = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("u", "c"))
    known = known_rates([(psi, F * psi), (R, _root_rate(F, Q, R))])
    path = psi * start + R * c
    noise = R.T * (R * R.T).inv() * (path - psi * start)
    return zero(sp.diff(path, t).subs(known) - F * path - Q * R.T.inv() * noise / 2), zero(noise - c)


def one_step_residual(k: int = 2) -> sp.Matrix:
    r"""One step of order 1 on a point mass is exact, whatever its length: the residual, 0.

    .. math:: u_s = \Psi(s, t)\,u_t + \big[R_s - \Psi(s, t) R_t\big]\,\epsilon_R, \qquad
        \Psi(t, 0) u_0 + R_t c \ \mapsto\ \Psi(s, 0) u_0 + R_s c

    Zhang, Tao and Chen 2023, arXiv:2206.05564. Assumes :math:`\Psi(s, t)\Psi(t, 0) = \Psi(s, 0)` and nothing else.
    """
    R_t, R_s, first, whole = (matrix(name, k) for name in ("R", "S", "Phi", "Psi"))
    step = whole * first.inv()  # Psi(s, t)
    start, c = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("u", "c"))
    state = first * start + R_t * c
    noise = R_t.inv() * (state - first * start)
    end = step * state + (R_s - step * R_t) * noise
    return zero(end - whole * start - R_s * c)
