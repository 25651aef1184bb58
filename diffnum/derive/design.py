r"""Methods of the reader's own: conditions of order for chosen nodes, solved, and the constants of their errors.

In the right variable the probability-flow ODE is one integral. A step of length h, with z from 0 to 1 along it, is

.. math:: u' = \psi u + C h \int_0^1 \kappa(z)\, g(z h)\, dz \approx \psi u + C h \sum_j w_j\, g(c_j h)

with the noise prediction g and :math:`\kappa = 1` in :math:`\rho = \sigma/\alpha`, or the clean prediction g and
:math:`\kappa = e^{h (z - 1)}` in half the log-SNR. Nodes :math:`c_j \le 0` belong to earlier steps: a multistep method.
Others are stages within the step: a Runge-Kutta method.

Sources: Hairer, Nørsett, Wanner 1993, sections II.1 and III.1; Hochbruck, Ostermann 2010, Acta Numerica 19, section 2.
"""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive.classical import Tableau, lagrange_basis, runge_kutta_conditions

h = sp.Symbol("h", positive=True)  # the length of the step
z = sp.Symbol("z", real=True)  # runs from 0 to 1 along it

#: The factor in the integral by the variable of the steps: noise prediction in rho, clean prediction in log-SNR.
KERNELS = {"rho": sp.Integer(1), "log_snr": sp.exp(h * (z - 1))}


def moments(count: int, kernel: sp.Expr = KERNELS["rho"]) -> tuple[sp.Expr, ...]:
    r"""What the weights have to reproduce, for k below ``count``: :math:`\mu_k = \int_0^1 \kappa(z) z^k dz`."""
    return tuple(sp.simplify(sp.integrate(kernel * z**k, (z, 0, 1))) for k in range(count))


def multistep_conditions(nodes: Sequence[sp.Expr], p: int, kernel: sp.Expr = KERNELS["rho"]) -> tuple[sp.Expr, ...]:
    r"""Residuals of the conditions of order p in the weights ``w1, w2, ...``, one for each k below p.

    .. math:: \sum_j w_j c_j^k - \mu_k = 0, \qquad k = 0, \dots, p - 1

    A method has order p if and only if all are 0: it integrates polynomials of degree below p exactly, so one step
    errs like :math:`h^{p + 1}`.

    Raises:
        ValueError: two nodes are equal, or the order is not positive.
    """
    if p < 1:
        raise ValueError(f"p={p} is no order; it must be 1 or more")
    if len(set(map(sp.sympify, nodes))) < len(nodes):
        raise ValueError(f"nodes={tuple(nodes)} repeat; a value that is used twice is one node")
    w = weight_symbols(len(nodes))
    return tuple(
        sum((a * sp.sympify(c) ** k for a, c in zip(w, nodes, strict=True)), sp.Integer(0)) - mu
        for k, mu in enumerate(moments(p, kernel))
    )


def weight_symbols(count: int) -> tuple[sp.Symbol, ...]:
    """The symbols ``w1, w2, ...`` of the weights."""
    return sp.symbols(f"w1:{count + 1}")


def multistep_weights(nodes: Sequence[sp.Expr], kernel: sp.Expr = KERNELS["rho"]) -> tuple[sp.Expr, ...]:
    r"""The weights of the highest order, the number of nodes: they integrate the polynomial through the values.

    .. math:: w_j = \int_0^1 \kappa(z)\, \ell_j(z)\, dz

    With nodes 0, -1, -2, ... and kernel 1 these are the Adams-Bashforth weights. Nodes may be symbols, for steps of any
    length.
    """
    multistep_conditions(nodes, 1)  # refuses nodes that repeat
    basis = lagrange_basis([sp.sympify(c) for c in nodes], z)
    return tuple(sp.simplify(sp.integrate(sp.expand(kernel * line), (z, 0, 1))) for line in basis)


def multistep_error(
    nodes: Sequence[sp.Expr], kernel: sp.Expr = KERNELS["rho"], weights: Sequence[sp.Expr] | None = None
) -> tuple[int, sp.Expr]:
    r"""Order p and error constant: what one step misses is :math:`C_p\, h^{p + 1} g^{(p)}(0)` to leading order.

    .. math:: C_p = \frac{1}{p!} \Bigl(\mu_p - \sum_j w_j c_j^p\Bigr)

    With a kernel that depends on h the constant is its value for small h. On equal steps of the same variable the
    global errors of two methods of one order are in the ratio of their constants.

    Args:
        nodes: where g is known.
        kernel: a value of :data:`KERNELS`, or another expression in ``z`` and ``h``.
        weights: by default :func:`multistep_weights`.
    """
    w = multistep_weights(nodes, kernel) if weights is None else tuple(map(sp.sympify, weights))
    for p in range(len(nodes) + 2):
        missed = moments(p + 1, kernel)[p] - sum(a * sp.sympify(c) ** p for a, c in zip(w, nodes, strict=True))
        constant = sp.simplify(sp.limit(sp.simplify(missed), h, 0))
        if constant != 0:
            return p, constant / sp.factorial(p)
    raise ValueError(f"weights={w} on nodes={tuple(nodes)} reproduce more moments than they have numbers")


def two_stages(c2: sp.Expr, kernel: sp.Expr = KERNELS["rho"]) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    r"""A Runge-Kutta step of order 2 with its second stage at the node :math:`c_2`: ``(a21, b1, b2)``.

    .. math:: a_{21} = \int_0^{c_2} \kappa(z + 1 - c_2)\, dz, \qquad b_1 + b_2 = \mu_0, \qquad b_2 c_2 = \mu_1

    The stage is a step of order 1 to :math:`c_2`, in units of its own end; kernel 1 gives :math:`b_2 = 1/(2 c_2)`.

    Raises:
        ValueError: the second node is the first.
    """
    c2 = sp.sympify(c2)
    if c2 == 0:
        raise ValueError("c2=0 is the node of the first stage; choose another, such as Rational(2, 3)")
    stage = sp.integrate(kernel.subs(z, z + 1 - c2), (z, 0, c2))
    mu0, mu1 = moments(2, kernel)
    b2 = sp.simplify(mu1 / c2)
    return sp.simplify(stage), sp.simplify(mu0 - b2), b2


def three_stages(c2: sp.Expr, c3: sp.Expr) -> Tableau:
    r"""The explicit Runge-Kutta method of order 3 with three stages at 0, :math:`c_2`, :math:`c_3` (kernel 1).

    The conditions :math:`\sum b_i c_i^k = 1/(k + 1)` give the weights, and :math:`b_3 a_{32} c_2 = 1/6` the stage.

    Raises:
        ValueError: nodes that repeat, or with which the conditions have no solution.
    """
    c2, c3 = sp.sympify(c2), sp.sympify(c3)
    b = multistep_weights((sp.Integer(0), c2, c3))
    if b[2] == 0:
        raise ValueError(f"c2={c2} gives the third stage no weight; choose another c2 than 2/3")
    a32 = sp.Rational(1, 6) / (b[2] * c2)
    A = sp.ImmutableMatrix([[0, 0, 0], [c2, 0, 0], [c3 - a32, a32, 0]]).applyfunc(sp.simplify)
    tableau = Tableau(A, sp.ImmutableMatrix(b), sp.ImmutableMatrix([0, c2, c3]))
    assert not any(map(sp.simplify, runge_kutta_conditions(3, tableau))), "the conditions of order 3 are not met"
    return tableau
