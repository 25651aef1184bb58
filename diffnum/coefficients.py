"""Weights of the classical methods, in float64, and the two operations that apply them to states.

No weight is typed in that can be computed: Adams-Bashforth weights are integrals of Lagrange polynomials, exact
rationals for uniform steps. ``tests/test_derive_pndm.py`` compares all of them with SymPy.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor

HEUN_WEIGHTS = (1 / 2, 1 / 2)  # trapezoidal rule: the slopes at both ends
RK4_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)  # Simpson's rule, its middle slope taken twice

GAUSS_NODES, GAUSS_WEIGHTS = map(torch.from_numpy, np.polynomial.legendre.leggauss(24))


@cache
def adams_bashforth(order: int) -> tuple[float, ...]:
    r"""Adams-Bashforth weights for uniform steps, newest first.

    .. math:: b_j = \int_0^1 \prod_{k \ne j} \frac{x + k}{k - j} \, dx, \qquad j = 0, \dots, q - 1

    Args:
        order: number of past values q, at least 1.

    Returns:
        q floats that sum to 1; for q = 4 they are (55, -59, 37, -9)/24.

    Source: Hairer, Norsett, Wanner 1993, section III.1.
    """
    weights = []
    for j in range(order):
        polynomial = [Fraction(1)]  # coefficients of 1, x, x^2, ... of prod (x + k)/(k - j)
        for k in (k for k in range(order) if k != j):
            shifted = [Fraction(0), *polynomial]
            polynomial = [(a + k * b) / (k - j) for a, b in zip(shifted, [*polynomial, Fraction(0)], strict=True)]
        weights.append(float(sum(c / (power + 1) for power, c in enumerate(polynomial))))
    return tuple(weights)


def lagrange(nodes: Sequence[float], x: Tensor) -> Tensor:
    r"""Lagrange polynomials :math:`l_j(x) = \prod_{k \ne j} (x - x_k)/(x_j - x_k)` of the nodes.

    Returns:
        float64 tensor ``(len(nodes), *x.shape)``; its rows sum to 1.
    """
    columns = [
        prod(((x - other) / (node - other) for k, other in enumerate(nodes) if k != j), start=torch.ones_like(x))
        for j, node in enumerate(nodes)
    ]
    return torch.stack(columns)


def gauss_points(a: float, b: float) -> Tensor:
    """The 24 Gauss-Legendre points of the interval from a to b (b may be the smaller)."""
    return (a + b) / 2 + (b - a) / 2 * GAUSS_NODES


def adams_weights(nodes: Sequence[float], a: float, b: float, variable: Callable | None = None) -> tuple[float, ...]:
    r"""Mean values of the Lagrange polynomials over a step: Adams weights for any node positions.

    .. math:: w_j = \frac{1}{b - a} \int_a^b l_j(\theta(x)) \, dx

    For equidistant nodes and :math:`\theta(x) = x` these are :func:`adams_bashforth`. Gauss-Legendre quadrature with
    24 points is exact for the polynomials, and better than 1e-12 for the smooth maps used here.

    Args:
        nodes: where the past values stand in the variable theta, newest first, all different.
        a, b: start and end of the step in the variable of integration x.
        variable: the map theta, on float64 tensors; by default the identity.

    Returns:
        ``len(nodes)`` floats, newest first, that sum to 1.
    """
    x = gauss_points(a, b)
    values = lagrange(nodes, x if variable is None else variable(x))
    return tuple((values @ GAUSS_WEIGHTS / 2).tolist())


def combine(weights: Sequence[float], states: Sequence[Tensor]) -> Tensor:
    """The weighted sum of states, in as many passes as there are states, into one new buffer.

    Args:
        weights: Python floats.
        states: tensors of one shape, dtype and device; none of them is written to.
    """
    out = states[0] * weights[0]
    for weight, state in zip(weights[1:], states[1:], strict=True):
        out.add_(state, alpha=weight)
    return out


def act(A: Tensor | float, u: Tensor) -> Tensor:
    """Apply a coefficient of a process to a state: the only place that knows how the two meet.

    Args:
        A: float64 ``(*freq, k, k)`` or a float. k = 1 multiplies, broadcasting over the trailing axes;
            k = 2 mixes position and momentum, which stand on axis 1 of the state.
        u: state ``(batch, *event)`` for k = 1, ``(batch, 2, *event)`` for k = 2.

    Returns:
        a new tensor with the shape, dtype and device of ``u``.
    """
    if not isinstance(A, Tensor):
        return u * A
    A = A.to(u.device, u.dtype)
    if A.shape[-1] == 1:
        return u * A[..., 0, 0]
    return torch.einsum("ij,bj...->bi...", A, u)
