r"""The stochastic step: transition and covariance for every lambda, and what the missing transpose does to them."""

import sympy as sp

from diffnum.derive import ddim
from diffnum.derive.gddim.symbols import alpha_s, alpha_t, h, known_rates, matrix, sigma_s, sigma_t, zero
from diffnum.derive.linear_sde import t
from diffnum.derive.reversing import lam


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
    F, X, R, A = matrix("F", k), matrix("X", k, symmetric=True), matrix("R", k), matrix("A", k)
    first = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"S{i}{j}", real=True))  # R_t, where the step begins
    Q, weight = R * X * R.T, (1 + lam**2) / 2  # every symmetric Q has this form; it spares fractions
    known = known_rates([(R, F * R + R * X / 2), (A, lam**2 / 2 * X * A)])
    through, pull = R * A * first.inv(), weight * R * X  # pull = (1 + lam^2)/2 Q Sigma^-1 R
    closed, inside = R * (sp.eye(k) - A * A.T) * R.T, sp.eye(k) - A * A.T
    growth = sp.diff(through, t).subs(known) - F * through - pull * A * first.inv()
    half = F * closed + pull * inside * R.T
    spread = sp.diff(closed, t).subs(known) - half - half.T + lam**2 * Q
    P = R * R.T - through * (first * first.T) * through.T
    return zero(growth), spread.applyfunc(sp.expand), zero(P - closed)


def posterior_gain_residual(k: int = 2) -> sp.Matrix:
    r"""At lambda = 1 the transition is the gain of the Gaussian posterior: the residual of its equation, 0.

    .. math:: \hat\Psi(\tau, t) = \Sigma_\tau\,\Psi(t, \tau)^\top\Sigma_t^{-1}, \qquad
        \hat\Psi' = \big(F + Q\Sigma^{-1}\big)\hat\Psi

    The state at tau given that at t, for normal states: so lambda = 1 samples the posterior. Anderson 1982.
    """
    F, Q, Sigma, psi = (matrix(n, k, symmetric=n in "QS") for n in ("F", "Q", "S", "Psi"))
    fixed = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"C{min(i, j)}{max(i, j)}", real=True))  # Sigma_t^{-1}
    known = known_rates([(Sigma, F * Sigma + Sigma * F.T + Q), (psi, -psi * F)])
    gain = Sigma * psi.T * fixed
    return zero(sp.diff(gain, t).subs(known) - (F + Q * Sigma.inv()) * gain)


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
    R, psi, through, end = (matrix(n, k, symmetric=n == "S") for n in ("R", "Psi", "H", "S"))
    mean, deviation = (sp.Matrix(sp.symbols(f"{name}0:{k}", real=True)) for name in ("m", "d"))
    step = psi * (mean + deviation) + (through - psi) * R * R.inv() * deviation
    J = step.jacobian(list(deviation))
    P = end - through * R * R.T * through.T
    return zero(J * R * R.T * J.T + P - end), zero(step.subs(dict.fromkeys(deviation, 0)) - psi * mean)


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
