r"""Reversing time: Tweedie's formula, one prediction in four forms, and every reverse SDE with the right marginals.

Forward process :math:`du = F u\,dt + G\,dw` with density p(u, t). Along one coordinate of VP or VE,
:math:`x = \alpha x_0 + \sigma\epsilon` with clean data x_0.

==============================================================  ====================================================
paper                                                           ours
==============================================================  ====================================================
Zhang, Tao and Chen 2023: :math:`\lambda`                       `lam`, a number or a function of t
Cui et al. 2025: :math:`h(t)`                                   :math:`\lambda G`
Anderson 1982                                                   `lam` = 1
Song et al. 2021: probability flow                              `lam` = 0
==============================================================  ====================================================
"""

import sympy as sp

from diffnum.derive.linear_sde import F, G, fokker_planck_system, t, x

__all__ = [
    "KINDS",
    "bridge_residuals",
    "convert",
    "denoiser_slope_residual",
    "euler_maruyama_defects",
    "gaussian_flow",
    "gaussian_flow_residual",
    "gaussian_moment_residuals",
    "joint_covariance",
    "quantile_residuals",
    "reverse_family_residual",
    "tweedie_residual",
    "weak_constant_residuals",
    "weak_constants",
    "weak_local_errors",
]

KINDS = ("x0", "eps", "score", "v")

alpha, sigma = sp.symbols("alpha sigma", positive=True)
x0, y = sp.symbols("x_0 y", real=True)
lam = sp.Symbol("lambda", nonnegative=True)
# a Gaussian N(mu, s0^2) and the noise-to-signal ratios at the start (time t) and the end (time s) of a stretch
mu, s0 = sp.Symbol("mu", real=True), sp.Symbol("s0", nonnegative=True)
rho, rho_t, rho_s = sp.symbols("rho rho_t rho_s", positive=True)
h, delta = sp.symbols("h delta", positive=True)  # a step in t, and one in log(rho)


def tweedie_residual(k: int = 1) -> sp.Matrix:
    r"""Tweedie's formula under the integral over the data: the difference of the two integrands, 0.

    .. math:: \Sigma\,\nabla\log p(u) = \alpha\,\mathrm{E}[x_0 \mid u] - u \quad\Longleftrightarrow\quad
        \int \big[\Sigma\,\nabla_u\,q(u \mid x_0) - (\alpha x_0 - u)\,q(u \mid x_0)\big]\,p_0(x_0)\,dx_0 = 0

    with the kernel :math:`q(u \mid x_0) = N(u;\, \alpha x_0, \Sigma)`, for ANY data density p_0. For k = 1,
    :math:`\Sigma = \sigma^2`. Efron 2011, equation (1.4), k = 1. Assumes that Sigma is invertible; alpha is (k, 1).
    """
    if k == 1:
        states, mean, Sigma = sp.Matrix([x]), sp.Matrix([alpha * x0]), sp.Matrix([[sigma**2]])
    else:
        states = sp.Matrix(sp.symbols(f"u0:{k}", real=True))
        mean = sp.Matrix(sp.symbols(f"m0:{k}", real=True)) * x0
        Sigma = sp.Matrix(k, k, lambda i, j: sp.Symbol(f"S{min(i, j)}{max(i, j)}", real=True))
    deviation = states - mean
    kernel = sp.exp(-(deviation.T * Sigma.inv() * deviation)[0] / 2)
    gradient = sp.Matrix([sp.diff(kernel, u) for u in states])
    data = sp.Function("p0", positive=True)(x0)
    return ((Sigma * gradient + deviation * kernel) * data).applyfunc(sp.simplify)


def denoiser_slope_residual(points: int = 2) -> sp.Expr:
    r"""The slope of the ideal denoiser is a variance: the residual for data on any `points` places, 0.

    .. math:: \partial_x\,\mathrm{E}[x_0 \mid x] = \frac{\alpha}{\sigma^2}\,\mathrm{Var}[x_0 \mid x] \ge 0

    Hence x_0(x) never falls with x in one dimension. Efron 2011, section 2. The weights and places are free symbols.
    """
    places, weights = sp.symbols(f"a0:{points}", real=True), sp.symbols(f"w0:{points}", positive=True)
    kernel = [w * sp.exp(-((x - alpha * a) ** 2) / (2 * sigma**2)) for w, a in zip(weights, places, strict=True)]

    def expect(power: int) -> sp.Expr:
        return sp.Add(*(k * a**power for k, a in zip(kernel, places, strict=True))) / sp.Add(*kernel)

    return sp.simplify(sp.diff(expect(1), x) - alpha / sigma**2 * (expect(2) - expect(1) ** 2))


def convert(value: sp.Expr, kind: str, to: str, state: sp.Expr = x) -> sp.Expr:
    r"""One prediction written as another: "x0", "eps", "score" or "v".

    .. math:: x = \alpha x_0 + \sigma\epsilon, \qquad \mathrm{score} = -\epsilon/\sigma, \qquad
        v = \alpha\,\epsilon - \sigma\,x_0

    Salimans and Ho 2022, arXiv:2202.00512, section 4 for v. Assumes alpha, sigma > 0; for VP, where
    :math:`\alpha^2 + \sigma^2 = 1`, the conversions from v simplify to alpha x - sigma v and sigma x + alpha v.
    """
    if kind not in KINDS or to not in KINDS:
        raise ValueError(f"unknown prediction {kind!r} or {to!r}: one of {', '.join(KINDS)}")
    clean = {
        "x0": value,
        "eps": (state - sigma * value) / alpha,
        "score": (state + sigma**2 * value) / alpha,
        "v": (alpha * state - sigma * value) / (alpha**2 + sigma**2),
    }[kind]
    noise = (state - alpha * clean) / sigma
    result = {"x0": clean, "eps": noise, "score": -noise / sigma, "v": alpha * noise - sigma * clean}[to]
    return sp.simplify(result)


def reverse_family_residual(lam: sp.Expr = lam, k: int = 1) -> sp.Expr:
    r"""The reverse SDE has the marginals of the forward one, for ANY positive density p: the residual, 0.

    .. math:: du = \Big[F u - \frac{1+\lambda^2}{2}\,G G^\top \nabla\log p\Big]\,dt + \lambda\,G\,d\bar w

    In the clock :math:`\tau = -t` it is a forward SDE with the drift reversed; its Fokker-Planck right side at p plus
    that of the forward SDE is returned. They cancel, so p solves both. F and :math:`Q = G G^\top` are any (k, k)
    matrices of t. ``lam`` may be a number, or any function of t; with one of x (the coordinate u0 for k > 1) the
    residual is not 0. Zhang, Tao and Chen 2023, arXiv:2206.05564; Cui et al. 2025, arXiv:2309.06169; Anderson 1982 for
    lam = 1. Assumes p positive and twice differentiable, and Q free of u.
    """
    states = sp.Matrix([x]) if k == 1 else sp.Matrix(sp.symbols(f"u0:{k}", real=True))
    p = sp.Function("p", positive=True)(*states, t)
    if k == 1:
        linear, square = sp.Matrix([[F]]), sp.Matrix([[G**2]])
    else:
        linear = sp.Matrix(k, k, lambda i, j: sp.Function(f"F{i}{j}", real=True)(t))
        square = sp.Matrix(k, k, lambda i, j: sp.Function(f"Q{min(i, j)}{max(i, j)}", real=True)(t))
    score = sp.Matrix([sp.diff(sp.log(p), u) for u in states])
    reverse_drift = linear * states - (1 + lam**2) / 2 * square * score
    forward = fokker_planck_system(p, states, linear * states, square)
    backward = fokker_planck_system(p, states, -reverse_drift, lam**2 * square)
    return sp.simplify(sp.expand(forward + backward))


def quantile_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""In one dimension the probability flow keeps every particle at its quantile: two residuals, both 0.

    .. math:: P(x, t) = \int_{-\infty}^x p\,dx', \qquad
        \frac{d}{dt} P(x(t), t) = \partial_t P + p\,\big(F x - \tfrac12 G^2\,\partial_x\log p\big) = 0

    with :math:`\partial_t P = -F x\,p + \tfrac12 G^2\,\partial_x p`, the Fokker-Planck equation integrated once (the
    first residual is the derivative of this minus that equation). The flow is then the increasing rearrangement of one
    marginal into another. Ours. Assumes that p and its flux vanish at minus infinity.
    """
    P = sp.Function("P", positive=True)(x, t)
    p = sp.diff(P, x)
    rate = -F * x * p + G**2 / 2 * sp.diff(p, x)
    right_side = fokker_planck_system(p, sp.Matrix([x]), sp.Matrix([F * x]), sp.Matrix([G**2]))
    flow = F * x - G**2 / 2 * sp.diff(sp.log(p), x)
    return sp.expand(sp.diff(rate, x) - right_side), sp.simplify(rate + p * flow)


# ---- Gaussian data N(mu, s0^2), in the coordinates y = x/alpha and the clock rho = sigma/alpha ----------------------


def gaussian_flow() -> sp.Expr:
    r"""The flow map of the probability-flow ODE for data N(mu, s0^2), from rho_t to rho_s.

    .. math:: y_s = \mu + \sqrt{\frac{s_0^2 + \rho_s^2}{s_0^2 + \rho_t^2}}\;(y_t - \mu)

    The noise is :math:`\epsilon = \rho\,(y - \mu)/(s_0^2 + \rho^2)`; s0 = 0 is a point mass, where the map is the
    straight line of DDIM. Song, Meng and Ermon 2021, arXiv:2010.02502, for the rescaled variables. Assumes rho_s and
    rho_t > 0.
    """
    return mu + sp.sqrt((s0**2 + rho_s**2) / (s0**2 + rho_t**2)) * (y - mu)


def gaussian_flow_residual() -> tuple[sp.Expr, sp.Expr]:
    r"""The flow map solves :math:`dy/d\rho = \epsilon` and starts at y: two residuals, both 0.

    .. math:: \frac{\partial y_s}{\partial \rho_s} - \frac{\rho_s\,(y_s - \mu)}{s_0^2 + \rho_s^2}, \qquad
        y_s\big|_{\rho_s = \rho_t} - y_t
    """
    flow = gaussian_flow()
    slope = rho_s * (flow - mu) / (s0**2 + rho_s**2)
    return sp.simplify(sp.diff(flow, rho_s) - slope), sp.simplify(flow.subs(rho_s, rho_t) - y)


def gaussian_moment_residuals() -> tuple[sp.Expr, sp.Expr]:
    r"""Under every reverse SDE the exact mean and variance solve the backward moment equations: two residuals, both 0.

    .. math:: m' = F m + \frac{1+\lambda^2}{2}\frac{G^2}{C}\,(m - \alpha\mu), \qquad
        V' = 2\Big(F + \frac{1+\lambda^2}{2}\frac{G^2}{C}\Big)V - \lambda^2 G^2, \qquad C = \alpha^2 s_0^2 + \sigma^2

    at m = alpha mu and V = C, with :math:`\alpha' = F\alpha` and :math:`(\sigma^2)' = 2F\sigma^2 + G^2`. The noise has
    a minus sign because t runs down. Zhang, Tao and Chen 2023, arXiv:2206.05564. Assumes Gaussian data N(mu, s0^2).
    """
    a, noise = sp.Function("alpha", positive=True)(t), sp.Function("sigma2", positive=True)(t)
    C = a**2 * s0**2 + noise
    known = {sp.diff(a, t): F * a, sp.diff(noise, t): 2 * F * noise + G**2}
    pull = (1 + lam**2) / 2 * G**2 / C
    mean, variance = a * mu, C
    return (
        sp.simplify(sp.diff(mean, t).subs(known) - F * mean - pull * (mean - a * mu)),
        sp.simplify(sp.diff(variance, t).subs(known) - 2 * (F + pull) * variance + lam**2 * G**2),
    )


def joint_covariance(lam: sp.Expr = lam) -> sp.Expr:
    r"""Covariance of y at rho_s and y at rho_t when a reverse SDE runs from rho_t down to rho_s, data N(mu, s0^2).

    .. math:: \mathrm{Cov}(y_s, y_t) = (s_0^2 + \rho_t^2)\,q^{(1+\lambda^2)/2}, \qquad
        \mathrm{corr} = q^{\lambda^2/2}, \qquad q = \frac{s_0^2+\rho_s^2}{s_0^2+\rho_t^2}

    lam = 0: correlation 1, a deterministic map; lam = 1: s0^2 + rho_s^2, the covariance of the forward process;
    lam to infinity: independent. So equal marginals leave the coupling open. Ours. Assumes a constant lam.
    """
    return (s0**2 + rho_t**2) * ((s0**2 + rho_s**2) / (s0**2 + rho_t**2)) ** ((1 + lam**2) / 2)


def bridge_residuals() -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""`joint_covariance` solves its equation, and lam = 1 is the forward process: three residuals, all 0.

    .. math:: \frac{\partial}{\partial\rho_s}\mathrm{Cov} = (1+\lambda^2)\frac{\rho_s}{s_0^2+\rho_s^2}\,\mathrm{Cov},
        \ \mathrm{Cov}\big|_{\rho_s=\rho_t} = s_0^2 + \rho_t^2, \quad \mathrm{Cov}\big|_{\lambda=1} = s_0^2 + \rho_s^2

    Forward, y_t is y_s plus independent noise, so their covariance is the variance of y_s. Anderson 1982.
    """
    joint = joint_covariance()
    rate = (1 + lam**2) * rho_s / (s0**2 + rho_s**2)
    return (
        sp.simplify(sp.diff(joint, rho_s) - rate * joint),
        sp.simplify(joint.subs(rho_s, rho_t) - s0**2 - rho_t**2),
        sp.simplify(joint_covariance(sp.Integer(1)) - s0**2 - rho_s**2),
    )


# ---- weak order on Gaussian data -----------------------------------------------------------------------------------


def euler_maruyama_defects() -> dict[str, dict[int, sp.Expr]]:
    r"""Mean and variance after one step of Euler-Maruyama from the exact law, minus the exact ones, by powers of h.

    .. math:: -\frac{h^2}{2}\,\alpha''\mu, \qquad h^2\Big(k^2 C - \frac{C''}{2}\Big), \qquad
        k = F + \frac{1+\lambda^2}{2}\frac{G^2}{C}, \quad C = \alpha^2 s_0^2 + \sigma^2

    from :math:`m \mapsto (1 - hk)\,m + h(k - F)\,\alpha\mu` and :math:`V \mapsto (1 - hk)^2 V + \lambda^2 h G^2`. The
    coefficients of h^0 and h^1 are 0. In alpha, C, F, G as functions of t. Ours. Assumes data N(mu, s0^2) and a smooth
    schedule.
    """
    a, C = sp.Function("alpha", positive=True)(t), sp.Function("C", positive=True)(t)
    known = {sp.diff(a, t): F * a, sp.diff(C, t): 2 * F * C + G**2}
    k = F + (1 + lam**2) / 2 * G**2 / C
    after = {
        "mean": ((1 - h * k) * a * mu + h * (k - F) * a * mu, a * mu),
        "variance": ((1 - h * k) ** 2 * C + lam**2 * h * G**2, C),
    }
    defects: dict[str, dict[int, sp.Expr]] = {}
    for name, (value, exact) in after.items():
        gap = sp.expand(value - sum((-h) ** j / sp.factorial(j) * sp.diff(exact, t, j) for j in range(3)))
        low = {j: sp.expand(gap.coeff(h, j).subs(known)) for j in (0, 1)}
        defects[name] = {**low, 2: sp.factor(gap.coeff(h, 2))}
    return defects


def weak_local_errors() -> dict[str, dict[int, sp.Expr]]:
    r"""Variance of y after one step of length delta in log(rho) from the exact law, minus the exact one, by powers.

    .. math:: \text{Euler-Maruyama: } \delta^2\rho^2\Big(\frac{p^2\rho^2}{s_0^2+\rho^2} - 1\Big), \qquad
        \text{frozen data: } -\delta^2\,\frac{p^2\rho^2 s_0^2}{s_0^2+\rho^2}, \qquad p = 1 + \lambda^2

    Euler-Maruyama is run on VE, where the time is rho. "frozen" is one step of `solvers.reverse_sde.frozen_data`:
    :math:`y \mapsto x_0 + q^p (y - x_0) + \rho q\sqrt{1 - q^{2\lambda^2}}\,z` with :math:`q = e^{-\delta}`. The
    coefficients of delta^0 and delta^1 are 0. Ours.
    """
    p, C, q = 1 + lam**2, s0**2 + rho**2, sp.exp(-delta)
    length, slope = rho * (1 - q), s0**2 / C  # of the step; of the data prediction
    after = {
        "euler_maruyama": (1 - length * p * rho / C) ** 2 * C + lam**2 * length * 2 * rho,
        "frozen": (slope + q**p * (1 - slope)) ** 2 * C + rho**2 * q**2 * (1 - q ** (2 * lam**2)),
    }
    exact = s0**2 + rho**2 * q**2
    return {
        name: {
            j: sp.factor(sp.simplify(sp.diff(value - exact, delta, j).subs(delta, 0) / sp.factorial(j)))
            for j in range(3)
        }
        for name, value in after.items()
    }


def weak_constants() -> dict[str, sp.Expr]:
    r"""Error of the variance of y at the end of n steps uniform in log(rho), over delta = log(rho_t/rho_s)/n.

    .. math:: \text{frozen data: } -\frac p2\,s_0^2\,(1 - r^p), \qquad
        \text{Euler-Maruyama: } \frac{p+1}{2}\,(s_0^2+\rho_s^2)(1 - r^{p-1}) - \frac p2\,s_0^2\,(1 - r^p)

    with :math:`p = 1 + \lambda^2` and :math:`r = (s_0^2 + \rho_s^2)/(s_0^2 + \rho_t^2)`, from the exact law at rho_t;
    Euler-Maruyama on VE. Ours.
    """
    p, end = 1 + lam**2, s0**2 + rho_s**2
    r = end / (s0**2 + rho_t**2)
    frozen = -p / 2 * s0**2 * (1 - r**p)
    return {"euler_maruyama": (p + 1) / 2 * end * (1 - r ** (p - 1)) + frozen, "frozen": frozen}


def weak_constant_residuals() -> dict[str, tuple[sp.Expr, sp.Expr]]:
    r"""`weak_constants` adds up `weak_local_errors`, each carried to the end: two residuals per method, all 0.

    .. math:: \frac{\partial}{\partial\rho_t}\,\mathrm{constant} = \frac{1}{\rho_t}\,d(\rho_t)\,r^p, \qquad
        \mathrm{constant} = 0 \text{ for } \rho_t = \rho_s

    with d the coefficient of delta^2: a step is :math:`d\rho = \rho\,\delta`, and an error of the variance shrinks by
    :math:`r^p`, the square of the factor in `joint_covariance`.
    """
    carried = ((s0**2 + rho_s**2) / (s0**2 + rho_t**2)) ** (1 + lam**2)
    local = weak_local_errors()
    return {
        name: (
            sp.simplify(sp.diff(constant, rho_t) - local[name][2].subs(rho, rho_t) * carried / rho_t),
            sp.simplify(constant.subs(rho_t, rho_s)),
        )
        for name, constant in weak_constants().items()
    }
