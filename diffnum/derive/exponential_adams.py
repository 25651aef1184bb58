r"""The exponential Adams family: what its named members have in common, and what two of them got wrong.

On VP and VE a step of length h in :math:`\lambda = \log(\alpha/\sigma)` from :math:`\lambda = 0` reads, in units in
which the newest level is 1,

.. math:: \text{noise: } \int_0^h e^{-\tau} \epsilon \, d\tau, \qquad \text{data: } \int_0^h e^{\tau} x_0 \, d\tau .

`gddim.adams_weights` integrates Lagrange polynomials against these densities. Here stands what UniPC's linear system,
its short cut for two nodes, DPM-Solver++(3M) and an analytic first step make of them.
"""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive import gddim

h, r, r1, r2 = sp.symbols("h r r1 r2", positive=True)
B = sp.Symbol("B", nonzero=True)
D1, D2, D3 = sp.symbols("D1 D2 D3", real=True)  # derivatives of a prediction in lambda along the solution
rho, s0 = sp.symbols("rho s0", positive=True)
m = sp.Symbol("m", real=True)

DENSITY = {"noise": -1, "data": 1}  # the exponent of e^tau


def moments(prediction: str, power: int) -> sp.Expr:
    r"""The integral of :math:`\tau^k` against the density over the step: what weights of that order must reproduce."""
    at = sp.Dummy("tau")
    return sp.simplify(sp.integrate(sp.exp(DENSITY[prediction] * at) * at**power, (at, 0, h)))


def unipc_weights(prediction: str, ratios: Sequence[sp.Expr]) -> tuple[sp.Expr, ...]:
    r"""UniPC's weights, newest first, from its linear system with a free function B(h).

    .. math:: \sum_m \frac{a_m B}{r_m} \, r_m^k h^k = \int_0^h e^{\pm\tau} \tau^k \, d\tau, \qquad k = 1, \dots, p - 1

    A node stands at :math:`\lambda = r_m h` (:math:`r_m < 0` in the past, 1 for the corrector) and enters as the
    difference :math:`D_m` from the newest value, with the factor :math:`B a_m / r_m`. B drops out: these are the
    weights of `gddim.adams_weights` (`unipc_residuals`). Zhao et al. 2023, arXiv:2302.04867, equations 5 to 8.
    """
    a = sp.symbols(f"a0:{len(ratios)}")
    equations = [
        sum(x * B / place * (place * h) ** k for x, place in zip(a, ratios, strict=True)) - moments(prediction, k)
        for k in range(1, len(ratios) + 1)
    ]
    solution = sp.solve(equations, a, dict=True)[0]
    outer = [sp.simplify(solution[x] * B / place) for x, place in zip(a, ratios, strict=True)]
    return (moments(prediction, 0) - sum(outer), *outer)


def unipc_residuals(prediction: str, ratios: Sequence[sp.Expr]) -> tuple[sp.Expr, ...]:
    """UniPC's weights minus those of the exponential Adams method on the same nodes: zeros, whatever B is."""
    nodes = [sp.S.Zero, *(place * h for place in ratios)]
    sign = {"noise": -1, "data": 1}[prediction]
    exact = gddim.adams_weights(prediction, "lambda", nodes, h)
    pairs = zip(unipc_weights(prediction, ratios), exact, strict=True)
    return tuple(sp.simplify(ours - sign * weight) for ours, weight in pairs)


def two_node_defect(prediction: str, variant: str) -> sp.Expr:
    r"""UniPC's short cut for two nodes, a = 1/2: its factor of a slope minus the exact one, first term in h.

    .. math:: \text{data, bh2: } \frac{h}{2} (e^h - 1) - \int_0^h e^\tau \tau \, d\tau = -\frac{h^3}{12} + \dots

    A slope is O(1), so one step errs by O(h^3) and the order stays 2. bh1 has :math:`B = h`, bh2
    :math:`B = e^h - 1` (for the data :math:`1 - e^{-h}`). DPM-Solver++(2M) is the predictor with data and bh2.
    """
    full = moments(prediction, 0)
    scale = 1 if variant == "bh2" else h / ((sp.exp(h) - 1) if prediction == "noise" else (1 - sp.exp(-h)))
    return sp.series(full * h / 2 * scale - moments(prediction, 1), h, 0, 4).removeO()


def third_order_weights(published: bool) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""DPM-Solver++(3M) as factors of value, slope and second divided difference of the parabola at the newest node.

    .. math:: \int e^\tau d\tau, \qquad \int e^\tau \tau \, d\tau, \qquad \int e^\tau \tau^2 \, d\tau

    The released code takes half of the last: it multiplies the divided difference :math:`x_0[\cdot,\cdot,\cdot]` by the
    Taylor weight :math:`\int e^\tau \tau^2/2`, which belongs to the second derivative, twice as large.
    """
    return tuple(moments("data", k) / (2 if published and k == 2 else 1) for k in range(3))


def third_order_defect(published: bool) -> dict[int, sp.Expr]:
    r"""Local error of DPM-Solver++(3M), method minus exact: ``{3: ..., 4: ...}``, coefficients of powers of h.

    .. math:: \text{published: } -\frac{1}{12} x_0'' h^3 + O(h^4), \qquad
              \text{repaired: } -\frac{3 + 8 r_1 + 4 r_2 + 6 r_1 (r_1 + r_2)}{72} x_0''' h^4

    Two steps of lengths r1 h and r2 h came before. From an exact history the published method is of order 2, whatever
    the grid, and no start changes that. Ours.
    """
    at = sp.Dummy("tau")
    path = D1 * at + D2 * at**2 / 2 + D3 * at**3 / 6
    nodes = (sp.S.Zero, -r1 * h, -(r1 + r2) * h)
    f = [path.subs(at, node) for node in nodes]
    first = [(f[0] - f[1]) / (nodes[0] - nodes[1]), (f[1] - f[2]) / (nodes[1] - nodes[2])]
    second = (first[0] - first[1]) / (nodes[0] - nodes[2])
    slope = first[0] + second * (nodes[0] - nodes[1])
    _, along, curved = third_order_weights(published)
    exact = sp.integrate(sp.expand(sp.exp(at) * path), (at, 0, h))
    error = sp.series(sp.expand(along * slope + curved * second - exact), h, 0, 5).removeO()
    return {power: sp.factor(sp.expand(error).coeff(h, power)) for power in (1, 2, 3, 4)}


def analytic_start() -> dict[str, sp.Expr]:
    r"""What an analytic first step gets wrong: data N(m, s0^2) in one dimension, guessed as N(0, 1).

    .. math:: \hat\epsilon - \epsilon = \frac{\rho y}{1 + \rho^2} - \frac{\rho (y - m)}{s_0^2 + \rho^2}
              = \frac{m}{\rho} + \frac{(s_0^2 - 1) y}{\rho^3} + \dots

    with :math:`y = x/\alpha`. The guess costs no evaluation; its error times the first step :math:`h \rho` in rho is
    about :math:`m h`, of first order: small beside a state of size rho, and never gone. Ours.
    """
    y = sp.Symbol("y", real=True)
    error = rho * y / (1 + rho**2) - rho * (y - m) / (s0**2 + rho**2)
    inverse = sp.Dummy("x", positive=True)
    series = sp.series(error.subs(rho, 1 / inverse), inverse, 0, 4).removeO().subs(inverse, 1 / rho)
    return {"error": error, "leading": sp.expand(series)}
