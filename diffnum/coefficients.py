"""Weights of the classical methods, in float64, and the two operations that apply them to states.

No weight is typed in that can be computed: Adams-Bashforth weights are integrals of Lagrange polynomials, exact
rationals for uniform steps. ``tests/test_pndm.py`` compares all of them with SymPy.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from math import asinh, ceil, prod, sinh
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum.ambient import unrounded

HEUN_WEIGHTS = (1 / 2, 1 / 2)  # trapezoidal rule: the slopes at both ends
RK4_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)  # Simpson's rule, its middle slope taken twice

PANELS_AT_ONCE = 128  # of 24 points each: 25 MB for a process with 32 x 32 frequencies

GAUSS_NODES, GAUSS_WEIGHTS = map(torch.from_numpy, np.polynomial.legendre.leggauss(24))


def _collocation() -> Tensor:
    """Integrals from -1 to each Gauss node of the Lagrange polynomials of the nodes, ``(24, 24)``."""
    legendre = np.polynomial.legendre
    nodes = GAUSS_NODES.numpy()
    basis = np.linalg.inv(legendre.legvander(nodes, len(nodes) - 1))
    return torch.from_numpy(legendre.legval(nodes, legendre.legint(basis, lbnd=-1)).T.copy())


COLLOCATION = _collocation()


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


def lagrange(nodes: Sequence[float | Tensor], x: Tensor) -> Tensor:
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
    return list(pairwise([a, *sorted(inner, reverse=bool(b < a)), b]))


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
    pieces = torch.tensor([(a, b)] if variable is None else panels(a, b, breaks), dtype=torch.float64, device="cpu")
    middle, half = pieces.mean(1, keepdim=True), pieces.diff(dim=1) / 2
    x, measure = middle + half * GAUSS_NODES, half * GAUSS_WEIGHTS / (b - a)
    values = lagrange(nodes, x if variable is None else variable(x))
    return tuple((values * measure).sum((1, 2)).tolist())


Coefficient = float | Tensor


def combine(weights: Sequence[Coefficient], states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The weighted sum of states, in at most as many passes as there are states, into one new buffer.

    Args:
        weights: one coefficient for each state, all of one kind, as :func:`ready` makes them: Python floats; tensors
            ``(*freq, 1, 1)``, which multiply frequency by frequency; or matrices ``(batch, r, c)``, which turn c
            components of a state into r. Components stand on axis 1, where there are several.
        states: tensors of one dtype and device, and for float weights of one shape; none of them is written to.
        out: where to put the sum of float weights, such as one half of a new state; of the states only the first
            may be the same tensor.
    """
    if out is not None:
        return _combine_into(out, weights, states)  # type: ignore[arg-type]
    if isinstance(weights[0], Tensor):
        return _combine_matrices(weights, states)  # type: ignore[arg-type]
    factors: Sequence[Any] = weights  # floats
    if len(factors) != len(states):
        raise ValueError(f"{len(factors)} weights for {len(states)} states")
    if factors[0] == 1 and len(states) > 1:  # x + b y is one pass, a x + b y two
        out, done = torch.add(states[0], states[1], alpha=factors[1]), 2
    else:
        out, done = states[0] * _scalar(factors[0], states[0].dtype == torch.float64), 1
    for i in range(done, len(states)):
        out.add_(states[i], alpha=factors[i])
    return out


def _combine_into(out: Tensor, weights: Sequence[float], states: Sequence[Tensor]) -> Tensor:
    if torch.is_grad_enabled():  # autograd records no result that is written elsewhere
        return out.copy_(combine(weights, states))
    torch.mul(states[0], _scalar(weights[0], out.dtype == torch.float64), out=out)
    for weight, state in zip(weights[1:], states[1:], strict=True):
        out.add_(state, alpha=weight)
    return out


@lru_cache(maxsize=100_000)
def _scalar(value: float, double: bool) -> Tensor:
    """A number as a tensor without axes. A product makes one anew from a Python float, which is a third of its cost."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=torch.float64 if double else torch.float32, device="cpu")


@unrounded
def _combine_matrices(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    weight, first = weights[0], states[0]
    if weight.ndim > 3:
        return _combine_frequencies(weights, states)
    if weight.dtype != first.dtype:  # half precision: matrix products are made in float32
        return _combine_matrices(weights, [state.to(weight.dtype) for state in states]).to(first.dtype)
    batch, rows, columns = weight.shape
    out = torch.bmm(weight, first.reshape(batch, columns, -1))
    for i in range(1, len(states)):
        weight, inner = weights[i], weights[i].shape[2]
        state = states[i].reshape(batch, inner, -1)
        if inner == 1:
            out.addcmul_(weight, state)
        else:
            out.baddbmm_(weight, state)
    if rows == columns:
        return out.view_as(first)
    event = first.shape[1:] if columns == 1 else first.shape[2:]
    return out.view(batch, *event) if rows == 1 else out.view(batch, rows, *event)


def _combine_frequencies(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    factors = [w[..., 0, 0] for w in weights]  # (H, W), or (batch, H, W) with the axes of the state between
    factors = [f if f.ndim == 2 else f.reshape(len(f), *(1,) * (states[0].ndim - 3), *f.shape[1:]) for f in factors]
    out = states[0] * factors[0]
    for factor, state in zip(factors[1:], states[1:], strict=True):
        out.addcmul_(factor, state)
    return out


def ready(A: Tensor, u: Tensor) -> Coefficient:
    """A coefficient in the form in which :func:`combine` takes it, so that a step prepares nothing.

    Args:
        A: float64 ``(*freq, r, c)``, or ``(batch, *freq, r, c)`` with one coefficient per row.
        u: a state that it will meet.

    Returns:
        a float for k = 1, else a tensor on u's device: ``(batch, r, c)``, without copies, or ``(*freq, 1, 1)``.
    """
    if A.shape == (1, 1):
        return A.item()
    if A.ndim > 3:
        return A.to(u.device, u.dtype)
    A = A.to(u.device, torch.float64 if u.dtype == torch.float64 else torch.float32)
    return A if A.ndim == 3 else A.expand(len(u), *A.shape)


def on_grid(
    tables: Callable[..., Iterable[Iterable[Tensor]]], process: Any, times: Sequence[float], u: Tensor, *arguments: Any
) -> list[list[Coefficient]]:
    """The coefficients of all steps of a grid in the form that u meets, computed once per grid and kept.

    Args:
        tables: ``tables(process, times, *arguments)`` gives the float64 coefficients ``(*freq, r, c)`` of each step.
        process, times: the process and the grid.
        u: a state that they will meet.
        *arguments: further hashable arguments of ``tables``.
    """
    return _on_grid(tables, process, tuple(times), len(u), u.dtype, u.device, arguments)


@lru_cache(maxsize=64)
def _on_grid(
    tables: Callable[..., Iterable[Iterable[Tensor]]],
    process: Any,
    times: tuple[float, ...],
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    arguments: tuple[Any, ...],
) -> list[list[Coefficient]]:
    like = torch.empty(batch, 0, dtype=dtype, device=device)
    with torch.inference_mode(False):  # a cached inference tensor would break autograd later
        return [[ready(A, like) for A in step] for step in tables(process, times, *arguments)]


def act(A: Tensor | float, u: Tensor) -> Tensor:
    """Apply a coefficient of a process to a state; :func:`combine` knows how the two meet.

    Args:
        A: a float, or float64 ``(*freq, k, k)``, or ``(batch, *freq, k, k)`` with one coefficient per row.
            k = 1 multiplies, broadcasting over the trailing axes; k = 2 mixes position and momentum, which stand on
            axis 1 of the state. Rectangular matrices turn data into states and back.
        u: state ``(batch, *event)`` for k = 1, ``(batch, 2, *event)`` for k = 2.

    Returns:
        a new tensor with the dtype and device of ``u``.
    """
    return combine((ready(A, u) if isinstance(A, Tensor) else A,), (u,))


def lower_root(P: Tensor) -> Tensor:
    """Lower Cholesky factor of covariances ``(*, k, k)``, k = 1 or 2, also where they are singular or zero."""
    a = P[..., 0, 0].clamp_min(0).sqrt()
    if P.shape[-1] == 1:
        return a[..., None, None]
    b = torch.where(a > 0, P[..., 1, 0] / a, 0.0)
    c = (P[..., 1, 1] - b**2).clamp_min(0).sqrt()
    return torch.stack([torch.stack([a, torch.zeros_like(a)], -1), torch.stack([b, c], -1)], -2)


def time_quadrature(
    edges: Sequence[tuple[float, float]], breaks: Sequence[float] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Gauss-Legendre quadrature over many intervals of time at once, in the variable :math:`r = \sqrt\tau`.

    In r the coefficients of every process are smooth down to time 0. An interval is cut into :func:`panels`, each
    with 24 points, as many as it needs: :math:`\int_a^b f \, d\tau \approx \sum w f(\tau)` to 1e-13.

    Args:
        edges: pairs of times (a, b), in either direction.
        breaks: times at which to cut: where integrands have a kink.

    Returns:
        times ``(m, 24)``, weights ``(m, 24)`` with the sign of b - a, and for each of the m panels the index of the
        interval that it belongs to, ``(m,)``.
    """
    roots = [x**0.5 for x in breaks]
    pieces = [panels(a**0.5, b**0.5, roots) for a, b in edges]
    table = torch.tensor([piece for interval in pieces for piece in interval], dtype=torch.float64, device="cpu")
    owner = torch.tensor([i for i, interval in enumerate(pieces) for _ in interval], device="cpu")
    r, half = table.mean(1, keepdim=True) + table.diff(dim=1) / 2 * GAUSS_NODES, table.diff(dim=1) / 2
    return r**2, 2 * r * half * GAUSS_WEIGHTS, owner


def propagators(
    drift: Callable[[Tensor], Tensor], edges: Sequence[tuple[float, float]], breaks: Sequence[float] = ()
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""Fundamental matrices of a linear equation over many steps, and at the nodes of a quadrature inside them.

    :math:`X(s, \tau)` with :math:`\partial_\tau X = -X A(\tau)`, :math:`X(s, s) = I` brings a state from tau to s
    along :math:`\dot u = A u`. It is found by collocation at the Gauss points of :func:`time_quadrature`, to rounding.

    Args:
        drift: A, from times ``(m, 24)`` to float64 matrices ``(m, 24, k, k)``; they need not commute.
        edges: pairs (s, t) of the n steps, s < t.
        breaks: times at which to cut.

    Returns:
        :math:`X(s, t)` ``(n, k, k)``; nodes tau and weights ``(m, 24)``; the step of each panel ``(m,)``; and
        :math:`X(s, \tau)` there, ``(m, 24, k, k)``.
    """
    tau, weights, owner = time_quadrature(edges, breaks)
    rate = -drift(tau).mT * (weights / GAUSS_WEIGHTS)[..., None, None]
    panel, nodes, k, _ = rate.shape
    unit = torch.eye(k, dtype=torch.float64, device="cpu")
    system = torch.einsum("ij,mjpq->mipjq", COLLOCATION, rate).reshape(panel, nodes * k, nodes * k)
    system = torch.eye(nodes * k, dtype=torch.float64, device="cpu") - system
    inside = torch.linalg.solve(system, unit.repeat(nodes, 1)).reshape(panel, nodes, k, k)
    across = unit + torch.einsum("j,mjpq,mjqr->mpr", GAUSS_WEIGHTS, rate, inside)
    through = unit.repeat(len(edges), 1, 1)
    starts = torch.empty(panel, k, k, dtype=torch.float64, device="cpu")
    for i, step in enumerate(owner.tolist()):
        starts[i] = through[step]
        through[step] = through[step] @ across[i].mT
    return through, tau, weights, owner, starts[:, None] @ inside.mT


def exponential_weights(
    process: Any, times: Sequence[float], order: int, K: str = "R", ahead: bool = False
) -> list[Tensor]:
    r"""Coefficients of the exponential multistep method on a grid: exact integrals of the extrapolated noise.

    .. math:: C_{i,j} = \int_{t_i}^{t_{i+1}} \tfrac12 \Psi(t_{i+1}, \tau) \, G G^T K_\tau^{-T} \, l_j(\tau) \, d\tau

    with the Lagrange polynomials :math:`l_j` in time. The nodes are :math:`t_i, t_{i-1}, \dots`, at most ``order`` of
    them and only those of the grid, so that the first steps have fewer.

    Args:
        process: gives :math:`\Psi` and the gain :math:`\tfrac12 G G^T K^{-T}`.
        times: decreasing times.
        order: largest number of nodes.
        K: root of the covariance that defines the noise, "R" or "L".
        ahead: begin with the node :math:`t_{i+1}`, as a corrector does, and one node more.

    Returns:
        for every step a float64 tensor ``(nodes, *freq, k, k)``, newest node first.

    Source: Zhang, Tao and Chen 2023, arXiv:2206.05564, equation for the multistep exponential integrator.
    """
    grid, n = torch.tensor(times, dtype=torch.float64, device="cpu"), len(times) - 1
    tau, weights, owner = time_quadrature(list(pairwise(times)), process.knots.tolist())
    tables: list[Tensor] = []
    for size in range(1, min(order, n) + 1):  # the steps whose history has this length
        first, last = size - 1, size if size < order else n
        inside = ((owner >= first) & (owner < last)).nonzero().flatten()
        table: Tensor | None = None
        for some in inside.split(PANELS_AT_ONCE):
            x, i = tau[some], owner[some]
            nodes = [grid[i - j, None] for j in range(-1 if ahead else 0, size)]
            values = process.transition(grid[i + 1, None], x) @ process.gain(x, K)
            parts = torch.einsum("qmx,mx...->mq...", lagrange(nodes, x) * weights[some], values)
            if table is None:
                table = parts.new_zeros((last - first, *parts.shape[1:]))
            table.index_add_(0, i - first, parts)
        assert table is not None
        tables += table
    return tables
