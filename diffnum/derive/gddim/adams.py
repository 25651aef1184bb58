r"""Exponential Adams methods: their weights on scalar processes, their moments and their local errors."""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive import ddim
from diffnum.derive.classical import adams_bashforth_variable, lagrange_basis
from diffnum.derive.gddim.symbols import D1, D2, W0, W1, h, r
from diffnum.derive.linear_sde import t
from diffnum.derive.pndm import e_derivatives, transfer_map

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
