r"""Guidance: Bayes and Tweedie make weight 1 exact; another weight is no density of data plus noise; and its rates.

Noise of level sigma on data, :math:`x = x_0 + \sigma n`, variance :math:`\tau = \sigma^2`; L and L_y are the logarithms
of the noisy density of all data and of class y. The guided field of weight w is

.. math:: \epsilon_w = \epsilon - w\,\sigma\,\nabla\log p(y \mid x) = -\sigma\,\nabla L_w, \qquad
    L_w = (1 - w)\,L + w\,L_y

==============================================================  ====================================================
paper                                                           ours
==============================================================  ====================================================
Dhariwal and Nichol 2021: gradient scale :math:`s`              w
Ho and Salimans 2022: guidance strength :math:`w`               w - 1
Kim et al. 2023: discriminator :math:`d/(1 - d)`                p/q, real against drawn
==============================================================  ====================================================
"""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive.classical import adams_bashforth
from diffnum.derive.linear_sde import x
from diffnum.derive.reversing import h, mu, s0, sigma

__all__ = [
    "bayes_residual",
    "field_defect",
    "guided_noise",
    "heat_residual",
    "overshoot_limit",
    "posterior_mean_residuals",
    "pulse_residual",
    "rate",
    "rate_residual",
    "shifted_gaussian_residual",
    "two_gaussians",
]

tau = sp.Symbol("tau", positive=True)
w = sp.Symbol("w", nonnegative=True)
v, kappa = sp.Symbol("v", real=True), sp.Symbol("kappa", positive=True)


def bayes_residual(classes: int = 2) -> sp.Expr:
    r"""The gradient of a class's log odds is a difference of scores, for ANY positive densities: the residual, 0.

    .. math:: \partial_x \log p(1 \mid x) = \partial_x \log p_1 - \partial_x \log \textstyle\sum_k p_k, \qquad
        p(1 \mid x) = p_1 / \textstyle\sum_k p_k

    p_k is the noisy density of class k times its share. With :math:`\epsilon = -\sigma\,\partial_x\log p`, weight 1
    turns the noise prediction of all data into that of the class. Dhariwal and Nichol 2021, arXiv:2105.05233,
    equations (13) and (14).
    """
    parts = [sp.Function(f"p{k}", positive=True)(x) for k in range(1, classes + 1)]
    together = sp.Add(*parts)
    odds = sp.log(parts[0] / together)
    return sp.simplify(sp.diff(odds, x) - sp.diff(sp.log(parts[0]), x) + sp.diff(sp.log(together), x))


def _noisy(places: Sequence[sp.Expr], weights: Sequence[sp.Expr], variance: sp.Expr) -> list[sp.Expr]:
    """Densities, up to one factor, of data on places with weights, seen under noise."""
    return [c * sp.exp(-((x - a) ** 2) / (2 * variance)) for a, c in zip(places, weights, strict=True)]


def posterior_mean_residuals(points: int = 3) -> tuple[sp.Expr, sp.Expr]:
    r"""Weight 1 is the posterior mean, for data on any places: of the class, and by realism; two residuals, both 0.

    .. math:: D + \sigma^2\,\partial_x\log p(y \mid x) = \mathrm{E}[x_0 \mid x, y], \qquad
        D_q + \sigma^2\,\partial_x\log\frac{p}{q} = \mathrm{E}_p[x_0 \mid x]

    The first class has all places but the last. The drawings q have weights of their own on the same places. Tweedie's
    formula with Bayes's: Dhariwal and Nichol 2021, arXiv:2105.05233; Kim et al. 2023, arXiv:2211.17091, theorem 1. The
    weights and places are free symbols.
    """
    places = sp.symbols(f"a0:{points}", real=True)
    real, drawn = (_noisy(places, sp.symbols(f"{c}0:{points}", positive=True), sigma**2) for c in "pq")

    def mean(parts: list[sp.Expr]) -> sp.Expr:
        return sp.Add(*(part * a for part, a in zip(parts, places, strict=False))) / sp.Add(*parts)

    p, q, one = sp.Add(*real), sp.Add(*drawn), real[:-1]
    by_class = mean(real) + sigma**2 * sp.diff(sp.log(sp.Add(*one) / p), x) - mean(one)
    by_realism = mean(drawn) + sigma**2 * sp.diff(sp.log(p / q), x) - mean(real)
    return sp.simplify(by_class), sp.simplify(by_realism)


def rate_residual(points: int = 3, weight: sp.Expr = w) -> sp.Expr:
    r"""How fast neighbouring solutions of the guided ODE approach each other is a matter of variances: residual, 0.

    .. math:: J_w = \sigma\,\partial_x \epsilon_w = 1 + \frac{(w - 1)\,\mathrm{Var}[x_0 \mid x]
        - w\,\mathrm{Var}[x_0 \mid x, y]}{\sigma^2}

    per unit of log sigma, for data on any places, of which all but the last are class y; in d dimensions with the
    identity and covariances. So J is at most 1 for w = 0 and w = 1, and for w > 1 it is largest between the classes.
    Ours, from `reversing.denoiser_slope_residual`. The weights and places are free symbols.
    """
    places = sp.symbols(f"a0:{points}", real=True)
    parts = _noisy(places, sp.symbols(f"p0:{points}", positive=True), sigma**2)

    def moments(parts: list[sp.Expr]) -> tuple[sp.Expr, sp.Expr]:
        """The posterior mean and variance."""
        mean, square = (
            sp.Add(*(part * a**k for part, a in zip(parts, places, strict=False))) / sp.Add(*parts) for k in (1, 2)
        )
        return mean, square - mean**2

    (mean, variance), (mean_y, variance_y) = moments(parts), moments(parts[:-1])
    noise = (x - (1 - weight) * mean - weight * mean_y) / sigma
    found = 1 + ((weight - 1) * variance - weight * variance_y) / sigma**2
    return sp.simplify(sigma * sp.diff(noise, x) - found)


def heat_residual(log_density: sp.Expr | None = None) -> sp.Expr:
    r"""What a log density of data plus noise of variance tau must obey; by default that of data on two places: 0.

    .. math:: \partial_\tau L - \tfrac12\left(\partial_x^2 L + (\partial_x L)^2\right) = 0

    the heat equation :math:`\partial_\tau p = \tfrac12\,\partial_x^2 p` for :math:`p = e^L`. For a density known up to
    a factor that depends on tau, the residual must be free of x.
    """
    if log_density is None:
        parts = _noisy(sp.symbols("a0:2", real=True), sp.symbols("c0:2", positive=True), tau)
        log_density = sp.log(sp.Add(*parts) / sp.sqrt(tau))
    slope = sp.diff(log_density, x)
    return sp.simplify(sp.diff(log_density, tau) - (sp.diff(slope, x) + slope**2) / 2)


def field_defect(weight: sp.Expr = w, d: int = 1) -> sp.Expr:
    r"""How far the guided field is from that of data plus noise: `heat_residual` of L_w in d dimensions.

    .. math:: \partial_\tau L_w - \tfrac12\left(\Delta L_w + |\nabla L_w|^2\right)
        = \tfrac12\,w\,(1 - w)\;|\nabla L_y - \nabla L|^2 = \tfrac12\,w\,(1 - w)\;|\nabla\log p(y \mid x)|^2

    for ANY L and L_y that obey the heat equation. It is 0 for w = 0 and w = 1 alone. For another w, the field belongs
    to a density of data plus noise only where :math:`|\nabla\log p(y \mid x)|` is the same at every x. Ours. Returned
    is the left side, with the heat equation put in for the derivatives by tau.
    """
    states = sp.symbols(f"x0:{d}", real=True)
    fields = [sp.Function(name, real=True)(*states, tau) for name in ("L", "L_y")]

    def heat(f: sp.Expr) -> sp.Expr:
        return sp.Add(*(sp.diff(f, s, 2) + sp.diff(f, s) ** 2 for s in states)) / 2

    known = {sp.diff(f, tau): heat(f) for f in fields}
    guided = (1 - weight) * fields[0] + weight * fields[1]
    return sp.factor(sp.expand(sp.diff(guided, tau).subs(known) - heat(guided)))


def shifted_gaussian_residual() -> tuple[sp.Expr, sp.Expr]:
    r"""The exception: Gaussians of one variance, where the field of weight w is that of a third; two residuals, 0.

    .. math:: (1 - w)\,\partial_x\log N(x; m_q, C) + w\,\partial_x\log N(x; m_p, C)
        = \partial_x\log N(x;\; m_q + w\,(m_p - m_q),\; C), \qquad C = s_0^2 + \tau

    The second residual is the derivative by x of `field_defect` there. Ours.
    """
    means, C = sp.symbols("m_q m_p", real=True), s0**2 + tau
    q, p = (-((x - m) ** 2) / (2 * C) - sp.log(C) / 2 for m in means)
    shifted = -((x - means[0] - w * (means[1] - means[0])) ** 2) / (2 * C)
    guided = (1 - w) * q + w * p
    return sp.simplify(sp.diff(guided - shifted, x)), sp.simplify(sp.diff(heat_residual(guided), x))


# ---- two Gaussians, N(-mu, s0^2) and N(mu, s0^2) in equal shares, guided to the one on the right --------------------


def two_gaussians() -> tuple[sp.Expr, sp.Expr]:
    r"""Log density of all data, up to a term free of x, and log odds of the class on the right.

    .. math:: L = -\frac{x^2}{2C} + \log\cosh\frac{\mu x}{C}, \qquad \log p(y \mid x) = -\log(1 + e^{-v}), \qquad
        v = \frac{2\mu x}{C}, \quad C = s_0^2 + \sigma^2
    """
    C = s0**2 + sigma**2
    return -(x**2) / (2 * C) + sp.log(sp.cosh(mu * x / C)), -sp.log(1 + sp.exp(-2 * mu * x / C))


def guided_noise(weight: sp.Expr = w) -> sp.Expr:
    r"""The noise prediction of the guided field for `two_gaussians`.

    .. math:: \epsilon_w = \frac{\sigma}{C}\left[x - \mu\tanh\frac{\mu x}{C} - w\,\mu\Big(1 - \tanh\frac{\mu x}{C}
        \Big)\right]

    At w = 1 it is :math:`\sigma\,(x - \mu)/C`, the noise prediction of the class.
    """
    C = s0**2 + sigma**2
    tanh = sp.tanh(mu * x / C)
    return sigma / C * (x - mu * tanh - weight * mu * (1 - tanh))


def rate(weight: sp.Expr = w) -> sp.Expr:
    r"""How fast neighbouring solutions approach each other per unit of log sigma, for `two_gaussians`.

    .. math:: J = \sigma\,\partial_x\epsilon_w = \frac{\sigma^2}{C} + (w - 1)\,\frac{\mu^2\sigma^2}{C^2}\,
        \mathrm{sech}^2\frac{\mu x}{C}

    At most 1 at w = 1. Between the classes, at x = 0 and sigma = s0, it is :math:`\tfrac12 + (w - 1)\,\mu^2/4s_0^2`:
    without limit in w at a state that is held. Along a solution it is bounded: `pulse_residual`.
    """
    C = s0**2 + sigma**2
    return sigma**2 / C + (weight - 1) * mu**2 * sigma**2 / C**2 / sp.cosh(mu * x / C) ** 2


def pulse_residual() -> sp.Expr:
    r"""Where noise is much larger than the data, the log odds v obey an equation without sigma: the residual, 0.

    .. math:: \frac{dv}{ds} = v + \kappa\left[1 - p + \frac{1}{2(w - 1)}\right], \quad
        \frac{d\kappa}{ds} = 2\kappa, \quad \kappa = \frac{4 (w - 1)\,\mu^2}{\sigma^2}

    with :math:`s = -\log\sigma` and :math:`p = 1/(1 + e^{-v})`.
    The rate is :math:`J = 1 + \kappa\,p\,(1 - p)`. For large w the last term goes, and so does the start :math:`v =
    z\sqrt{\kappa/(w - 1)}` of a solution that comes from :math:`x = z\sigma`: one solution is left for all weights. A
    larger weight shifts it to larger noise, :math:`\sigma \propto \mu\sqrt{w - 1}`, and J stays bounded. Returned is
    :math:`-\sigma\,dv/d\sigma` of the flow :math:`dx/d\sigma = \epsilon_w` with C = sigma^2, less the right side. Ours.
    """
    place = sigma**2 * v / (2 * mu)  # x as a function of v, where C is sigma^2
    slope = guided_noise().subs(s0, 0).subs(x, place)
    along = 2 * mu / sigma**2 * slope - 4 * mu * place / sigma**3  # dv/dsigma
    strength = 4 * (w - 1) * mu**2 / sigma**2
    right = v + strength * (1 / (1 + sp.exp(v)) + 1 / (2 * (w - 1)))
    return sp.simplify((-sigma * along - right).rewrite(sp.exp))


def overshoot_limit(order: int, step: sp.Expr = h) -> sp.Expr:
    r"""The rate J from which on an Adams-Bashforth method of PNDM overshoots with steps h in log(rho).

    .. math:: y_{i+1} = y_i - (1 - e^{-h})\,\rho_i \sum_j b_j\,\epsilon_{i-j}, \quad \epsilon = J y/\rho: \qquad
        J = \frac{2}{(1 - e^{-h})\sum_j |b_j|\,e^{-jh}}

    There a deviation changes its sign in every step and keeps its size: the root -1 of the characteristic polynomial.
    The signs of b_j alternate, so it is the first. For h to 0 it is `classical.real_stability_limit` over h. Order 1 is
    DDIM, where the limit stays above 2 for every h. Ours; compare Hairer and Wanner 1996, section V.1.
    """
    weights = adams_bashforth(order)
    return 2 / ((1 - sp.exp(-step)) * sp.Add(*(abs(b) * sp.exp(-j * step) for j, b in enumerate(weights))))
