"""Weights of the classical methods, in float64, and the two operations that apply them to states.

No weight is typed in that can be computed: Adams-Bashforth weights are integrals of Lagrange polynomials, exact
rationals for uniform steps. ``tests/test_pndm.py`` compares all of them with SymPy.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import asinh, ceil, prod, sinh

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


def panels(a: float, b: float, breaks: Sequence[float] = ()) -> list[tuple[float, float]]:
    """The interval from a to b cut into panels on which the maps of this library are smooth.

    Lengths grow with the distance from 0, as ratios of noise levels ask for: one unit of asinh(100 x) each. ``breaks``
    inside the interval are cut points too.
    """
    start, end = asinh(100 * a), asinh(100 * b)
    count = ceil(abs(end - start))
    inner = {sinh(start + (end - start) * k / count) / 100 for k in range(1, count)}
    inner |= {x for x in breaks if min(a, b) < x < max(a, b)}
    return list(pairwise([a, *sorted(inner, reverse=b < a), b]))


def adams_weights(
    nodes: Sequence[float],
    a: float,
    b: float,
    variable: Callable[[Tensor], Tensor] | None = None,
    breaks: Sequence[float] = (),
) -> tuple[float, ...]:
    r"""Mean values of the Lagrange polynomials over a step: Adams weights for any node positions.

    .. math:: w_j = \frac{1}{b - a} \int_a^b l_j(\theta(x)) \, dx

    For equidistant nodes and :math:`\theta(x) = x` these are :func:`adams_bashforth`. Gauss-Legendre quadrature with
    24 points is exact for the polynomials; other maps are integrated over :func:`panels`, to 1e-12.

    Args:
        nodes: where the past values stand in the variable theta, newest first, all different.
        a, b: start and end of the step in the variable of integration x.
        variable: the map theta, on float64 tensors; by default the identity.
        breaks: values of x at which theta has a kink.

    Returns:
        ``len(nodes)`` floats, newest first, that sum to 1.
    """
    pieces = torch.tensor([(a, b)] if variable is None else panels(a, b, breaks), dtype=torch.float64)
    middle, half = pieces.mean(1, keepdim=True), pieces.diff(dim=1) / 2
    x, measure = middle + half * GAUSS_NODES, half * GAUSS_WEIGHTS / (b - a)
    values = lagrange(nodes, x if variable is None else variable(x))
    return tuple((values * measure).sum((1, 2)).tolist())


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
