r"""Linear SDEs and their probability-flow ODE: from the Fokker-Planck equation to :math:`dy/d\sigma = \epsilon`.

The process is :math:`dx = F(t)\,x\,dt + G(t)\,dw` with scalar `F` and `G`; in several dimensions each coordinate
obeys it. Functions with an argument `k` treat :math:`du = F u\,dt + G\,dw` with (k, k) matrices instead.

| paper | ours |
|---|---|
| Song et al. 2021: :math:`f(x,t)`, :math:`g(t)` | `F x`, `G` |
| Liu et al. 2022: :math:`\bar\alpha(t)` | `abar` = alpha^2 (VP: alpha^2 + sigma^2 = 1) |
| Liu et al. 2022: :math:`\sqrt{(1-\bar\alpha)/\bar\alpha}` | `rho`, called sigma in `derive.pndm` |
"""

from functools import cache

import sympy as sp
from sympy.codegen.cfunctions import expm1

__all__ = [
    "clean_variance",
    "fokker_planck",
    "fokker_planck_system",
    "log_snr",
    "log_snr_rate_residual",
    "matrix_moment_residual",
    "moment_equations",
    "moment_residuals",
    "noise_factor",
    "probability_flow_residual",
    "rates",
    "rescaled_process_residuals",
    "rescaled_residual",
    "singularity",
    "solve_moments",
    "transition",
    "vp_velocity",
    "vp_velocity_residual",
]

x, eps, y = sp.symbols("x epsilon y", real=True)
t, x0 = sp.Symbol("t", positive=True), sp.Symbol("x_0", real=True)
F, G = sp.Function("F", real=True)(t), sp.Function("G", positive=True)(t)
abar, beta = sp.Function("abar", positive=True)(t), sp.Function("beta", positive=True)(t)
rho = sp.Function("rho", positive=True)(t)
B0, B1 = sp.symbols("B0 B1", positive=True)
omega, phi = sp.symbols("omega varphi", positive=True)  # the cosine schedule: speed and start of its angle
s, r = sp.Symbol("s", nonnegative=True), sp.Symbol("r", positive=True)  # an earlier time; a time to integrate over


def fokker_planck_system(density: sp.Expr, states: sp.Matrix, drift: sp.Matrix, square: sp.Matrix) -> sp.Expr:
    r"""The right side of the Fokker-Planck equation of :math:`du = f\,dt + g\,dw` in any dimension.

    .. math:: \partial_t p = -\sum_i \partial_i (f_i\,p) + \tfrac12 \sum_{ij} \partial_i \partial_j (Q_{ij}\,p),
        \qquad Q = g g^\top

    `states` holds the coordinates, `drift` f and `square` Q. Särkkä and Solin 2019 (Applied Stochastic Differential
    Equations), chapter 5. Assumes a density that is smooth in u and t.
    """
    pairs = [(i, j) for i in range(len(states)) for j in range(len(states))]
    spread = sp.Add(*(sp.diff(square[i, j] * density, states[i], states[j]) for i, j in pairs))
    return -sp.Add(*(sp.diff(f * density, u) for f, u in zip(drift, states, strict=True))) + spread / 2


def fokker_planck(density: sp.Expr, drift: sp.Expr, diffusion: sp.Expr) -> sp.Expr:
    r"""The right side of the Fokker-Planck equation of :math:`dx = f\,dt + g\,dw`, for any drift and diffusion.

    .. math:: \partial_t p = -\partial_x (f\,p) + \tfrac12 \partial_x^2 (g^2 p)

    With ``diffusion = 0`` it is the continuity equation of the ODE :math:`dx/dt = f`. Song et al. 2021,
    arXiv:2011.13456, appendix D.1 (the argument). Assumes a density that is smooth in x and t.
    """
    return fokker_planck_system(density, sp.Matrix([x]), sp.Matrix([drift]), sp.Matrix([diffusion**2]))


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


def _blocks(k: int) -> tuple[sp.Matrix, sp.Matrix, sp.Matrix]:
    """(F, Q, Sigma): k x k matrices of functions of t, the last two symmetric."""
    entry = sp.Matrix(k, k, lambda i, j: sp.Function(f"F{i}{j}", real=True)(t))
    noise = sp.Matrix(k, k, lambda i, j: sp.Function(f"Q{min(i, j)}{max(i, j)}", real=True)(t))
    return entry, noise, sp.Matrix(k, k, lambda i, j: sp.Function(f"S{min(i, j)}{max(i, j)}", real=True)(t))


def matrix_moment_residual(k: int = 2) -> sp.Expr:
    r"""A Gaussian whose moments obey the matrix moment equations solves Fokker-Planck: the residual over p, 0.

    .. math:: m' = F m, \qquad \Sigma' = F\Sigma + \Sigma F^\top + Q, \qquad Q = G G^\top

    Särkkä and Solin 2019, chapter 6. Assumes that Sigma is invertible; F, Q and Sigma are k x k.
    """
    drift, square, Sigma = _blocks(k)
    states, m = sp.Matrix(sp.symbols(f"u0:{k}", real=True)), sp.Matrix([sp.Function(f"m{i}")(t) for i in range(k)])
    precision = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"P{min(i, j)}{max(i, j)}"))
    rate = drift * Sigma + Sigma * drift.T + square
    # with P = Sigma^-1: (log p)_t has P' = -P Sigma' P and (log det Sigma)' = tr(P Sigma'); p's derivatives follow
    z = states - m
    log_p = -(z.T * precision * z)[0] / 2
    mean_rates = {sp.diff(a, t): b for a, b in zip(m, drift * m, strict=True)}
    change = sp.diff(log_p, t).subs(mean_rates) + (z.T * precision * rate * precision * z)[0] / 2
    change -= (precision * rate).trace() / 2
    spread = sp.simplify(fokker_planck_system(sp.exp(log_p), states, drift * states, square) / sp.exp(log_p))
    identity = {Sigma[i, j]: entry for (i, j), entry in _entries(precision.inv())}
    return sp.cancel(sp.expand(change - spread).subs(identity))


def _entries(matrix: sp.Matrix) -> list[tuple[tuple[int, int], sp.Expr]]:
    rows, columns = matrix.shape
    return [((i, j), matrix[i, j]) for i in range(rows) for j in range(i, columns)]


def rates(process: str) -> tuple[sp.Expr, sp.Expr]:
    r"""``(F, G^2)`` of "vp-linear", "vp-cosine" or "ve" as functions of t.

    .. math:: \text{vp: } F = -\tfrac12\beta,\ G^2 = \beta, \qquad \beta = B_0 + (B_1 - B_0)\,t
        \quad\text{or}\quad \beta = 2\omega\tan(\omega t + \varphi); \qquad \text{ve: } F = 0,\ G^2 = 2t

    Song et al. 2021, arXiv:2011.13456, equation (32) for the linear rate; Nichol and Dhariwal 2021,
    arXiv:2102.09672, equation (17) for the cosine, with :math:`\omega = \tfrac{\pi}{2(1+s)}, \varphi = \omega s` for
    the offset s. Assumes 0 < B0 <= B1 and an angle below :math:`\pi/2`.
    """
    if process == "ve":
        return sp.Integer(0), 2 * t
    angle = omega * t + phi
    rate = {"vp-linear": B0 + (B1 - B0) * t, "vp-cosine": 2 * omega * sp.sin(angle) / sp.cos(angle)}.get(process)
    if rate is None:
        raise ValueError(f"unknown process {process!r}: 'vp-linear', 'vp-cosine' or 've'")
    return -rate / 2, rate


@cache
def transition(process: str) -> tuple[sp.Expr, sp.Expr]:
    r"""``(Psi, Sigma)``: factor and variance of the process from time s to time t, by quadrature.

    .. math:: x_t \mid x_s \sim N\big(\Psi(t, s)\,x_s,\ \Sigma_{t \mid s}\big), \qquad
        \Psi(t, s) = e^{\int_s^t F\,dr}, \qquad \Sigma_{t \mid s} = \int_s^t \Psi(t, r)^2\,G(r)^2\,dr

    The solution of the two moment equations from (1, 0) at time s, by variation of constants; processes as in `rates`.
    Särkkä and Solin 2019, chapter 6, scalar case. Assumes s < t.
    """
    drift, square = rates(process)
    log_factor = sp.integrate(drift, t)
    factor = sp.exp(log_factor - log_factor.subs(t, s))
    variance = sp.integrate(sp.simplify(square / sp.exp(2 * log_factor)), t)
    return sp.simplify(factor), sp.exp(2 * log_factor) * (variance - variance.subs(t, s))


def solve_moments(process: str) -> tuple[sp.Expr, sp.Expr]:
    r"""``(alpha, sigma^2)``: mean factor and variance from clean data at time 0, :math:`\Psi(t, 0), \Sigma_{t \mid 0}`.

    .. math:: \text{vp-linear: } \alpha^2 = e^{-B_0 t - (B_1 - B_0)t^2/2}, \quad
        \text{vp-cosine: } \alpha = \frac{\cos(\omega t + \varphi)}{\cos\varphi}, \quad \sigma^2 = 1 - \alpha^2; \qquad
        \text{ve: } \alpha = 1,\ \sigma = t

    Song et al. 2021, arXiv:2011.13456, equations (29) and (33). Assumes what `rates` assumes.
    """
    factor, variance = (part.subs(s, 0) for part in transition(process))
    return sp.simplify(factor), sp.simplify(variance)


def log_snr(process: str) -> sp.Expr:
    r"""The log signal-to-noise ratio :math:`\log(\alpha^2/\sigma^2)` of a process of `rates`.

    Kingma et al. 2021, arXiv:2107.00630, make it the time. Assumes what `rates` assumes.
    """
    alpha, variance = solve_moments(process)
    return sp.log(sp.simplify(alpha**2 / variance))


def log_snr_rate_residual() -> sp.Expr:
    r"""The log signal-to-noise ratio of any scalar linear SDE falls at the rate G^2/sigma^2: the residual, 0.

    .. math:: \frac{d}{dt}\log\frac{\alpha^2}{\sigma^2} = -\frac{G^2}{\sigma^2}

    F cancels. Assumes nothing but the moment equations; Kingma et al. 2021, arXiv:2107.00630, state it for VP.
    """
    equations = moment_equations()
    m, V = (rate.expr for rate in equations)
    return sp.simplify(sp.diff(sp.log(m**2 / V), t).subs(equations) + G**2 / V)


def rescaled_process_residuals(k: int = 1) -> tuple[sp.Matrix, sp.Matrix]:
    r"""In the coordinates :math:`y = \Psi(t, 0)^{-1} u` a linear SDE has no drift: two residuals, both 0.

    .. math:: dy = \Psi^{-1} G\,dw, \qquad \tilde\Sigma = \Psi^{-1}\Sigma\Psi^{-\top}, \qquad
        \tilde\Sigma' = \Psi^{-1} Q\,\Psi^{-\top}

    Returns the drift of y and the two sides of the last equation, subtracted. For k = 1: :math:`\Psi = \alpha`,
    :math:`\tilde\Sigma = \rho^2`, and :math:`y = x/\alpha` is a VE process on the clock
    :math:`\rho`. Cui et al. 2025, arXiv:2309.06169, use k = 1. Assumes only the matrix moment equations.
    """
    drift, square, Sigma = _blocks(k)
    Psi = sp.Matrix(k, k, lambda i, j: sp.Function(f"Psi{i}{j}", real=True)(t))
    known = dict(zip(sp.diff(Psi, t), drift * Psi, strict=True))
    known |= dict(zip(sp.diff(Sigma, t), drift * Sigma + Sigma * drift.T + square, strict=True))
    back = Psi.inv()
    y_drift = back * drift + sp.diff(back, t).subs(known)  # Ito for a map that is linear in u: no second-order term
    rate = sp.diff(back * Sigma * back.T, t).subs(known) - back * square * back.T
    return sp.simplify(y_drift), sp.simplify(rate)


@cache
def clean_variance(form: str = "expm1") -> sp.Expr:
    r"""sigma^2 of VP with a linear rate in two forms that are equal on paper and differ in the digits they keep.

    .. math:: \text{difference: } 1 - \alpha^2, \qquad \text{expm1: } -\mathrm{expm1}(2\log\alpha)

    The first loses all digits as t -> 0: its rounding error is that of 1, its value is about B0 t. For `lambdify`.
    """
    log_alpha = sp.factor(sp.integrate(rates("vp-linear")[0], (t, 0, t)))
    forms = {"difference": 1 - sp.exp(log_alpha) ** 2, "expm1": -expm1(2 * log_alpha)}
    return _one_of(forms, form)


@cache
def noise_factor(form: str = "expm1") -> sp.Expr:
    r"""The factor c of :math:`x_s = \psi x_t + c\,\epsilon` for VP, linear rate, from t down to s, in two equal forms.

    .. math:: \text{difference: } \alpha_s (\rho_s - \rho_t), \qquad
        \text{expm1: } \frac{\psi\,\mathrm{expm1}(-2\log\psi)}{\sigma_t + \sigma_s/\psi}, \quad
        \psi = \frac{\alpha_s}{\alpha_t}

    The second is the library's. Both take sigma from `clean_variance("expm1")`, so that they differ in the difference
    alone. For `lambdify`; assumes 0 < s < t.
    """
    sigma_t = sp.sqrt(clean_variance())
    sigma_s = sigma_t.subs(t, s)
    alpha_t = sp.exp(sp.factor(sp.integrate(rates("vp-linear")[0], (t, 0, t))))
    alpha_s = alpha_t.subs(t, s)
    log_psi = sp.factor(sp.integrate(rates("vp-linear")[0], (t, t, s)))
    psi = sp.exp(log_psi)
    forms = {
        "difference": alpha_s * (sigma_s / alpha_s - sigma_t / alpha_t),
        "expm1": psi * expm1(-2 * log_psi) / (sigma_t + sigma_s / psi),
    }
    return _one_of(forms, form)


def _one_of(forms: dict[str, sp.Expr], form: str) -> sp.Expr:
    if form not in forms:
        raise ValueError(f"unknown form {form!r}: one of {', '.join(forms)}")
    return forms[form]


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
