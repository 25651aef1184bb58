r"""Linear SDEs and their probability-flow ODE: from the Fokker-Planck equation to :math:`dy/d\sigma = \epsilon`.

The process is :math:`dx = F(t)\,x\,dt + G(t)\,dw` with scalar `F` and `G`; in several dimensions each coordinate
obeys it.

| paper | ours |
|---|---|
| Song et al. 2021: :math:`f(x,t)`, :math:`g(t)` | `F x`, `G` |
| Liu et al. 2022: :math:`\bar\alpha(t)` | `abar` = alpha^2 (VP: alpha^2 + sigma^2 = 1) |
| Liu et al. 2022: :math:`\sqrt{(1-\bar\alpha)/\bar\alpha}` | `rho`, called sigma in `derive.pndm` |
"""

import sympy as sp

__all__ = [
    "fokker_planck",
    "moment_equations",
    "moment_residuals",
    "probability_flow_residual",
    "rescaled_residual",
    "singularity",
    "vp_velocity",
    "vp_velocity_residual",
]

x, eps, y = sp.symbols("x epsilon y", real=True)
t, x0 = sp.Symbol("t", positive=True), sp.Symbol("x_0", real=True)
F, G = sp.Function("F", real=True)(t), sp.Function("G", positive=True)(t)
abar, beta = sp.Function("abar", positive=True)(t), sp.Function("beta", positive=True)(t)
rho = sp.Function("rho", positive=True)(t)
B0, B1 = sp.symbols("B0 B1", positive=True)


def fokker_planck(density: sp.Expr, drift: sp.Expr, diffusion: sp.Expr) -> sp.Expr:
    r"""The right side of the Fokker-Planck equation of :math:`dx = f\,dt + g\,dw`, for any drift and diffusion.

    .. math:: \partial_t p = -\partial_x (f\,p) + \tfrac12 \partial_x^2 (g^2 p)

    With ``diffusion = 0`` it is the continuity equation of the ODE :math:`dx/dt = f`. Song et al. 2021,
    arXiv:2011.13456, appendix D.1 (the argument). Assumes a density that is smooth in x and t.
    """
    return -sp.diff(drift * density, x) + sp.diff(diffusion**2 * density, x, 2) / 2


def probability_flow_residual() -> sp.Expr:
    r"""SDE and probability-flow ODE move the same density: the difference of their two equations, 0 after `simplify`.

    .. math:: \partial_t p = -\partial_x (F x\,p) + \tfrac12 G^2 \partial_x^2 p = -\partial_x (v\,p), \qquad
        v = F x - \tfrac12 G^2\, \partial_x \log p

    for **every** positive density p(x, t), not only Gaussian ones. Song et al. 2021, arXiv:2011.13456, equation (13).
    Assumes p positive and twice differentiable, and a diffusion that does not depend on x.
    """
    p = sp.Function("p", positive=True)(x, t)
    velocity = F * x - G**2 / 2 * sp.diff(sp.log(p), x)
    return fokker_planck(p, F * x, G) - fokker_planck(p, velocity, sp.Integer(0))


def moment_equations() -> dict[sp.Expr, sp.Expr]:
    r"""Mean and variance of a linear SDE, found by asking that a Gaussian solve Fokker-Planck.

    .. math:: m' = F m, \qquad V' = 2 F V + G^2

    Returns ``{m': right side, V': right side}``. Särkkä and Solin 2019 (Applied Stochastic Differential Equations),
    chapter 6, scalar case; Song et al. 2021, arXiv:2011.13456, appendix B. Assumes a Gaussian (or point) start; the
    two moment equations themselves hold for every start.
    """
    m, V = sp.Function("m", real=True)(t), sp.Function("V", positive=True)(t)
    p = sp.exp(-((x - m) ** 2) / (2 * V)) / sp.sqrt(2 * sp.pi * V)
    residual = sp.expand(sp.simplify((sp.diff(p, t) - fokker_planck(p, F * x, G)) / p) * 2 * V**2)
    rates = [sp.diff(m, t), sp.diff(V, t)]
    (solution,) = sp.solve(sp.Poly(residual, x).coeffs(), rates, dict=True)
    return {rate: sp.expand(solution[rate]) for rate in rates}


def moment_residuals(process: str) -> tuple[sp.Expr, sp.Expr]:
    r"""The closed-form marginals solve the moment equations: ``(m' - F m, V' - 2 F V - G^2)``, both 0 after `simplify`.

    .. math:: \text{vp: } F=-\tfrac12\beta,\ G^2=\beta,\ \bar\alpha=e^{-\int\beta},\ m=\sqrt{\bar\alpha}\,x_0,\
        V=1-\bar\alpha; \qquad \text{ve: } F=0,\ G^2=\tfrac{d\rho^2}{dt},\ m=x_0,\ V=\rho^2

    Song et al. 2021, arXiv:2011.13456, equations (9), (11) and (29). Assumes a point start x_0 and abar(0) = 1,
    rho(0) = 0.
    """
    r = sp.Symbol("r", positive=True)
    level = sp.exp(-sp.Integral(beta.subs(t, r), (r, 0, t)))
    drift, square, mean, variance = {
        "vp": (-beta / 2, beta, sp.sqrt(level) * x0, 1 - level),
        "ve": (sp.Integer(0), sp.diff(rho**2, t), x0, rho**2),
    }[process]
    return sp.diff(mean, t) - drift * mean, sp.diff(variance, t) - 2 * drift * variance - square


def vp_velocity() -> sp.Expr:
    r"""The VP probability-flow ODE written with abar alone, in forward time.

    .. math:: \frac{dx}{dt} = \bar\alpha'(t)\left[\frac{x}{2\bar\alpha}
        - \frac{\epsilon(x,t)}{2\bar\alpha\sqrt{1-\bar\alpha}}\right]

    Liu et al. 2022, arXiv:2202.09778, equation (10); the paper prints the bracket with a minus sign because its
    time runs in the denoising direction. Assumes :math:`\epsilon = -\sqrt{1-\bar\alpha}\,\partial_x \log p`.
    """
    return sp.diff(abar, t) * (x / (2 * abar) - eps / (2 * abar * sp.sqrt(1 - abar)))


def vp_velocity_residual() -> sp.Expr:
    r"""`vp_velocity` is the probability flow of the VP SDE: the difference, 0 after `simplify`.

    .. math:: F x - \tfrac12 G^2 \partial_x \log p = -\tfrac12\beta x + \frac{\beta}{2\sqrt{1-\bar\alpha}}\,\epsilon,
        \qquad \beta = -\bar\alpha'/\bar\alpha

    Song et al. 2021, arXiv:2011.13456, equation (13) with the VP drift of (11); Liu et al. 2022, arXiv:2202.09778,
    (10).
    """
    score = -eps / sp.sqrt(1 - abar)
    flow = -beta / 2 * x - beta / 2 * score
    return flow.subs(beta, -sp.diff(abar, t) / abar) - vp_velocity()


def rescaled_residual(process: str) -> sp.Expr:
    r"""In rescaled variables the probability flow has no linear part and no singularity; 0 after `simplify`.

    .. math:: \frac{dy}{d\sigma} = \epsilon(x, t), \qquad y = x/\alpha,\quad \sigma = \sqrt{1-\bar\alpha}/\alpha
        \ (\text{vp, } \alpha=\sqrt{\bar\alpha}), \qquad y = x,\ \sigma=\rho\ (\text{ve})

    Computed as (dy/dt)/(dsigma/dt) - eps along the flow. Song, Meng and Ermon 2021 (DDIM), arXiv:2010.02502, equation
    (14). Assumes alpha > 0 and a noise level that is strictly monotone in t.
    """
    if process == "vp":
        alpha, noise, velocity = sp.sqrt(abar), sp.sqrt(1 - abar), vp_velocity()
    elif process == "ve":  # F = 0, G^2 = (rho^2)', score = -eps/rho
        alpha, noise, velocity = sp.Integer(1), rho, -sp.diff(rho**2, t) / 2 * (-eps / rho)
    else:
        raise ValueError(f"unknown process {process!r}: 'vp' or 've'")
    dy = velocity / alpha - x * sp.diff(alpha, t) / alpha**2
    return dy / sp.diff(noise / alpha, t) - eps


def singularity() -> tuple[sp.Expr, sp.Expr]:
    r"""How fast the VP velocity blows up at clean data for a linear beta, per unit of eps.

    .. math:: \frac{\beta}{2\sqrt{1-\bar\alpha}} \sim \tfrac12\sqrt{B_0}\;t^{-1/2}, \qquad
        \frac{d}{dt}\frac{\beta}{2\sqrt{1-\bar\alpha}} \sim -\tfrac14\sqrt{B_0}\;t^{-3/2}

    Returns the limits of :math:`t^{1/2}\,(\cdot)` and :math:`t^{3/2}\,(\cdot)'` as t -> 0, with beta = B0 + (B1 -
    B0) t. Liu et al. 2022, arXiv:2202.09778, section 3 (the remark that the ODE is unbounded near t = 0). Assumes
    B0 > 0; it is a singularity of the coordinates, and of the solution only where eps stays away from 0 (data on a
    lower-dimensional set).
    """
    rate = B0 + (B1 - B0) * t
    gain = rate / (2 * sp.sqrt(1 - sp.exp(-sp.integrate(rate, t))))
    return sp.limit(sp.sqrt(t) * gain, t, 0), sp.limit(t ** sp.Rational(3, 2) * sp.diff(gain, t), t, 0)
