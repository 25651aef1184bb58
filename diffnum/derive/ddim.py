r"""DDIM as an exponential integrator: freeze one quantity in the probability-flow ODE, solve what is left exactly.

The ODE is semi-linear, :math:`du/dt = F u + \tfrac{G^2}{2\sigma}\,\epsilon`. Write :math:`\epsilon = A u + B q` with a
prediction q (the noise, the clean data, the score, or the velocity v of VP), hold q at its value at the start of the
step, and solve the linear equation that remains by variation of constants. Every q gives an integrator of order 1;
noise and clean data give the same one, DDIM.

Time is the noise-to-signal ratio :math:`\rho = \sigma/\alpha`: a change of time changes no exact solution, and with it
VP and VE need no schedule: alpha = (1 + rho^2)^(-1/2), sigma = rho alpha for VP, alpha = 1, sigma = rho for VE.

================================================================  =================================================
paper                                                             ours
================================================================  =================================================
Song, Meng and Ermon 2021, arXiv:2010.02502: :math:`\alpha_t`     `abar` = alpha^2
Lu et al. 2022, arXiv:2206.00927: :math:`\lambda_t`               -log(rho)
Karras et al. 2022, arXiv:2206.00364: :math:`\sigma, s`           `rho`, alpha
================================================================  =================================================
"""

from functools import cache

import sympy as sp

from diffnum.derive.classical import Tableau
from diffnum.derive.pndm import transfer_map

__all__ = [
    "QUANTITIES",
    "dpm_solver_residual",
    "edm_euler_residual",
    "frozen_step",
    "gaussian_step",
    "in_noise",
    "integrand_residual",
    "levels",
    "local_error",
    "point_mass_defect",
    "prediction",
    "song_residual",
    "thin_factor",
    "unit_gaussian_defect",
    "velocity_factors",
]

#: What may be held fixed over a step; "v" = alpha eps - sigma x0 is a prediction of VP only.
QUANTITIES = ("eps", "x0", "score", "v")

rho, rho_t, rho_s = sp.symbols("rho rho_t rho_s", positive=True)
x, e, x0, y = sp.symbols("x e x_0 y", real=True)
h = sp.Symbol("h", real=True)
s0 = sp.Symbol("s0", positive=True)
t = sp.Symbol("t", positive=True)


def levels(process: str, at: sp.Expr = rho) -> tuple[sp.Expr, sp.Expr]:
    r"""(alpha, sigma) of "vp" or "ve" at noise-to-signal ratio `at`."""
    if process == "vp":
        alpha = 1 / sp.sqrt(1 + at**2)
    elif process == "ve":
        alpha = sp.S.One
    else:
        raise ValueError(f"unknown process {process!r}: 'vp' or 've'")
    return alpha, at * alpha


def velocity_factors(process: str) -> tuple[sp.Expr, sp.Expr]:
    r"""(F, G^2/(2 sigma)) of the probability-flow ODE with rho as time.

    .. math:: F = \frac{\alpha'}{\alpha}, \qquad G^2 = (\sigma^2)' - 2 F \sigma^2

    Song et al. 2021, arXiv:2011.13456, equations (13) and (29). Assumes alpha > 0 and rho > 0.
    """
    alpha, sigma = levels(process)
    F = sp.diff(alpha, rho) / alpha
    return sp.simplify(F), sp.simplify((sp.diff(sigma**2, rho) - 2 * F * sigma**2) / (2 * sigma))


def integrand_residual() -> sp.Expr:
    r"""The integrand of variation of constants is a total derivative, whatever alpha(t), sigma(t): 0 after `simplify`.

    .. math:: \frac{1}{\alpha}\,\frac{G^2}{2\sigma} - \frac{d}{dt}\frac{\sigma}{\alpha} = 0, \qquad
        G^2 = (\sigma^2)' - 2\frac{\alpha'}{\alpha}\sigma^2

    This one line is why DDIM has closed coefficients for every schedule, VP or not. That DDIM is this exponential
    integrator is in Zhang and Chen 2023, arXiv:2204.13902, and Lu et al. 2022, arXiv:2206.00927. Assumes alpha,
    sigma > 0 and differentiable.
    """
    alpha, sigma = (sp.Function(name, positive=True)(t) for name in ("alpha", "sigma"))
    square = sp.diff(sigma**2, t) - 2 * sp.diff(alpha, t) / alpha * sigma**2
    return sp.simplify(square / (2 * sigma * alpha) - sp.diff(sigma / alpha, t))


def prediction(process: str, quantity: str, at: sp.Expr = rho) -> tuple[sp.Expr, sp.Expr]:
    r"""(A, B) in :math:`\epsilon = A x + B q`, for each quantity that a network may predict.

    .. math:: \text{eps: } (0, 1), \quad \text{x0: } \Big(\frac1\sigma, -\frac\alpha\sigma\Big), \quad
        \text{score: } (0, -\sigma), \quad \text{v (VP): } (\sigma, \alpha)

    Salimans and Ho 2022, arXiv:2202.00512, for v.
    """
    alpha, sigma = levels(process, at)
    if quantity == "v" and process != "vp":
        raise ValueError("v = alpha eps - sigma x0 inverts to eps = sigma x + alpha v only where alpha^2 + sigma^2 = 1")
    forms = {
        "eps": (sp.S.Zero, sp.S.One),
        "x0": (1 / sigma, -alpha / sigma),
        "score": (sp.S.Zero, -sigma),
        "v": (sigma, alpha),
    }
    if quantity not in forms:
        raise ValueError(f"unknown quantity {quantity!r}: one of {', '.join(QUANTITIES)}")
    return forms[quantity]


@cache
def frozen_step(process: str, quantity: str) -> tuple[sp.Expr, sp.Expr]:
    r"""(psi, c) of the exponential Euler step :math:`x_s = \psi x_t + c\,q` with the quantity q frozen.

    .. math:: \psi = \exp\!\int_t^s\!(F + C A)\,dr, \qquad c = \int_t^s \exp\!\Big(\int_r^s (F + C A)\Big)\,C B\,dr,
        \qquad C = \frac{G^2}{2\sigma}

    SymPy solves both integrals; the result is in rho_t and rho_s. With q = eps: psi = alpha_s/alpha_t and
    c = alpha_s (rho_s - rho_t), the transfer map.
    Hochbruck and Ostermann 2010 (Exponential integrators), section 2, for the scheme. Assumes rho_t, rho_s > 0.
    """
    F, C = velocity_factors(process)
    A, B = prediction(process, quantity)
    log_growth = sp.integrate(sp.simplify(F + C * A), rho)
    growth = sp.simplify(sp.exp(log_growth))  # from a fixed time to rho
    antiderivative = sp.integrate(sp.simplify(C * B / growth), rho)
    psi = growth.subs(rho, rho_s) / growth.subs(rho, rho_t)
    c = growth.subs(rho, rho_s) * (antiderivative.subs(rho, rho_s) - antiderivative.subs(rho, rho_t))
    return sp.simplify(psi), sp.simplify(c)


def in_noise(process: str, quantity: str) -> tuple[sp.Expr, sp.Expr]:
    r"""The same step as factors of (x, eps): :math:`x_s = X x_t + E\,\epsilon`, so that integrators can be compared.

    .. math:: q = (\epsilon - A_t x)/B_t \ \Rightarrow\ X = \psi - c\,A_t/B_t, \quad E = c/B_t

    "eps" and "x0" give the same pair; "score" and "v" do not.
    """
    psi, c = frozen_step(process, quantity)
    A, B = prediction(process, quantity, rho_t)
    return sp.simplify(psi - c * A / B), sp.simplify(c / B)


def _step(process: str, quantity: str, state: sp.Expr, noise: sp.Expr) -> sp.Expr:
    X, E = in_noise(process, quantity)
    return X * state + E * noise


def song_residual() -> sp.Expr:
    r"""The derived VP step is DDIM as printed, `pndm.transfer_map("ddim")`: the difference, 0 after `simplify`.

    .. math:: x_s = \sqrt{\bar\alpha_s}\,\frac{x - \sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}}
        + \sqrt{1-\bar\alpha_s}\,\epsilon, \qquad \bar\alpha = \frac{1}{1+\rho^2}

    Song, Meng and Ermon 2021, arXiv:2010.02502, equation (12) with eta = 0 (their alpha is abar).
    """
    start, end = (levels("vp", at)[0] ** 2 for at in (rho_t, rho_s))
    return sp.simplify(_step("vp", "eps", x, e) - transfer_map("ddim", start=start, end=end, state=x, noise=e))


def dpm_solver_residual() -> sp.Expr:
    r"""DPM-Solver-1 is DDIM: the difference is 0 after `simplify`.

    .. math:: x_s = \frac{\alpha_s}{\alpha_t}x - \sigma_s\,(e^{h} - 1)\,\epsilon, \qquad
        h = \lambda_s - \lambda_t, \quad \lambda = \log(\alpha/\sigma)

    Lu et al. 2022, arXiv:2206.00927 (DPM-Solver-1, and its equality with DDIM). VP.
    """
    (alpha_t, _), (alpha_s, sigma_s) = levels("vp", rho_t), levels("vp", rho_s)
    growth = sp.exp(sp.log(1 / rho_s) - sp.log(1 / rho_t))
    return sp.simplify(alpha_s / alpha_t * x - sigma_s * (growth - 1) * e - _step("vp", "eps", x, e))


def edm_euler_residual() -> sp.Expr:
    r"""Euler's method of EDM is DDIM in VE: the difference is 0 after `simplify`.

    .. math:: x_s = x + (\rho_s - \rho_t)\,\frac{x - D}{\rho_t}, \qquad D = x - \rho_t\,\epsilon

    Karras et al. 2022, arXiv:2206.00364, algorithm 1 without its correction. For VE the ODE is dx/drho = eps, and the
    exponential Euler step is the classical one.
    """
    D = x - rho_t * e
    return sp.simplify(x + (rho_s - rho_t) * (x - D) / rho_t - _step("ve", "eps", x, e))


def point_mass_defect(process: str, quantity: str) -> sp.Expr:
    r"""Step minus exact solution when the data are one point x_0: 0 for "eps" and "x0", not for "score" and "v".

    .. math:: x_t = \alpha_t x_0 + \sigma_t e \ \mapsto\ \alpha_s x_0 + \sigma_s e
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels(process, rho_t), levels(process, rho_s)
    return sp.simplify(_step(process, quantity, alpha_t * x0 + sigma_t * e, e) - alpha_s * x0 - sigma_s * e)


def unit_gaussian_defect(quantity: str) -> sp.Expr:
    r"""Step minus exact solution in VP when the data are N(0, 1): 0 for "score" and "v", not for "eps" and "x0".

    There x_t is N(0, 1) at all times, nothing moves, eps = sigma x, score = -x and v = 0.
    """
    return sp.simplify(_step("vp", quantity, x, levels("vp", rho_t)[1] * x) - x)


def local_error(process: str, quantity: str) -> sp.Expr:
    r"""Coefficient of h^2 in (step minus exact solution), with rho as time; ``q1`` is dq/drho along the solution.

    .. math:: -\int_{\rho}^{\rho+h} \exp\!\Big(\int_r^{\rho+h} (F + C A)\Big) C B\,(r - \rho)\,q_1\,dr
        = -\tfrac12 C B\,q_1 h^2 + O(h^3)

    For "eps": :math:`-\tfrac12\alpha E'`, which is ``pndm.local_error("ddim")`` times alpha. Assumes q differentiable
    along the solution: all these integrators have order 1, and each is exact if its own quantity is constant.
    """
    psi = frozen_step(process, quantity)[0]
    q1, r = sp.Symbol("q1"), sp.Symbol("r", positive=True)
    C, B = velocity_factors(process)[1], prediction(process, quantity)[1]
    growth = psi.subs(rho_t, r)  # from r to rho_s
    integrand = growth * (C * B).subs(rho, r) * (r - rho_t) * q1
    # the second derivative in the end point of the integral, at the start point: Leibniz' rule
    first = integrand.subs(r, rho_s)
    return sp.simplify((-sp.diff(first, rho_s) / 2).subs(rho_s, rho_t)).subs(rho_t, rho)


def gaussian_step() -> dict[str, sp.Expr]:
    r"""One step on Gaussian data N(0, s0^2), in y = x/alpha: ``{"ddim": ..., "exact": ..., "error": h^2 coefficient}``.

    .. math:: \frac{y_s}{y_t} = 1 + \frac{(\rho_s-\rho_t)\,\rho_t}{s_0^2+\rho_t^2}, \qquad
        \text{exact: } \sqrt{\frac{s_0^2+\rho_s^2}{s_0^2+\rho_t^2}}, \qquad
        \text{difference: } -\frac{h^2}{2}\,\frac{s_0^2}{(s_0^2+\rho_t^2)^2} + O(h^3)

    So DDIM is not exact for a Gaussian, except in the limit s0 -> 0, a point; h = rho_s - rho_t. Both sides are times
    y_t. Ours.
    """
    factor = 1 + (rho_s - rho_t) * rho_t / (s0**2 + rho_t**2)
    exact = sp.sqrt((s0**2 + rho_s**2) / (s0**2 + rho_t**2))
    second = sp.diff(factor - exact, rho_s, 2).subs(rho_s, rho_t) / 2
    return {"ddim": factor, "exact": exact, "error": sp.simplify(second)}


def thin_factor(tableau: Tableau) -> sp.Expr:
    r"""What a Runge-Kutta step on the raw ODE does to the noise of thin data near t = 0, as a function of r = s/t < 1.

    .. math:: \sigma \simeq \sqrt{B_0 t} \ \Rightarrow\ \frac{dx}{dt} = \frac{\sigma'}{\sigma}x = \frac{x}{2t}, \qquad
        \text{exact: } \sqrt r, \quad \text{Euler: } \tfrac12(1 + r), \quad
        \text{improved Euler: } 1 - \frac{(1-r)(1+3r)}{8r}

    Euler takes the arithmetic mean where the geometric one is right: it cannot blow up, but it leaves noise behind.
    A method with a stage at the end of the step is unbounded as r -> 0. Ours; compare Liu et al. 2022,
    arXiv:2202.09778, section 3. Assumes a linear schedule (beta(0) > 0), VP, and a direction without data.
    """
    A, b, c = tableau
    r = sp.Symbol("r", positive=True)
    step = r - 1  # in units of t
    slopes: list[sp.Expr] = []
    for i in range(A.rows):
        state = 1 + step * sum((A[i, j] * k for j, k in enumerate(slopes)), sp.S.Zero)
        slopes.append(state / (2 * (1 + c[i] * step)))
    return sp.factor(1 + step * sum(w * k for w, k in zip(b, slopes, strict=True)))
