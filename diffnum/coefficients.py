"""Weights of the classical methods, in float64, and the two operations that apply them to states.

No weight is typed in that can be computed: Adams-Bashforth weights are integrals of Lagrange polynomials, exact
rationals for uniform steps. ``tests/test_pndm.py`` compares all of them with SymPy.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum.ambient import unrounded
from diffnum.kept import kept

HEUN_WEIGHTS = (1 / 2, 1 / 2)  # trapezoidal rule: the slopes at both ends
RK4_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)  # Simpson's rule, its middle slope taken twice

AT_ONCE = 2**17  # numbers at each of 24 points: 25 MB, be it many panels or many frequencies

gauss = cache(np.polynomial.legendre.leggauss)
GAUSS_NODES, GAUSS_WEIGHTS = map(torch.from_numpy, gauss(24))


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


def lagrange(nodes: Sequence[float | Tensor] | Tensor, x: Tensor) -> Tensor:
    r"""Lagrange polynomials :math:`l_j(x) = \prod_{k \ne j} (x - x_k)/(x_j - x_k)` of the nodes.

    Args:
        nodes: q numbers or tensors, or one tensor ``(q, ...)``, that broadcast against x.
        x: float64 tensor.

    Returns:
        float64 tensor ``(q, *x.shape)``; its rows sum to 1.
    """
    if not isinstance(nodes, Tensor):
        nodes = torch.stack([torch.as_tensor(node, dtype=torch.float64, device="cpu") for node in nodes])
    at = nodes.reshape(len(nodes), *(1,) * (x.ndim + 1 - nodes.ndim), *nodes.shape[1:])
    factors = (x - at) / (at[:, None] - at)  # [j, k] is one of polynomial j, but for k = j
    factors.diagonal().fill_(1)
    return factors.prod(1)


Edges = Sequence[tuple[float, float]]


def panels(edges: Edges | np.ndarray, breaks: Sequence[float] | np.ndarray = ()) -> tuple[np.ndarray, np.ndarray]:
    """Intervals cut into panels on which the maps of this library are smooth.

    Lengths grow with the distance from 0, as ratios of noise levels ask for: one unit of asinh(100 x) each.

    Args:
        edges: start and end of n intervals, in either direction, ``(n, 2)``.
        breaks: points inside at which to cut too.

    Returns:
        start and end of the m panels, ``(m, 2)``, and the interval of each, ``(m,)``; both in the order of ``edges``.
    """
    edges = np.asarray(edges, np.float64)
    a, b = edges.T
    start, end = np.arcsinh(100 * edges).T
    count = np.maximum(np.ceil(np.abs(end - start)), 1).astype(int)
    i, k = _numbered(count - 1)
    inner = np.sinh(start[i] + (end - start)[i] * (k + 1) / count[i]) / 100
    owner, left = np.concatenate([np.arange(len(a)), i]), np.concatenate([a, inner])
    if len(breaks):
        cuts = np.sort(np.asarray(breaks, np.float64))
        first, last = np.searchsorted(cuts, edges.min(1), "right"), np.searchsorted(cuts, edges.max(1), "left")
        j, k = _numbered(np.maximum(last - first, 0))
        owner, left = np.concatenate([owner, j]), np.concatenate([left, cuts[first[j] + k]])
    order = np.lexsort((np.sign(b - a)[owner] * left, owner))
    owner, left = owner[order], left[order]
    right = np.append(left[1:], b[-1])
    ends = np.append(owner[1:] != owner[:-1], True)
    right[ends] = b[owner[ends]]
    return np.stack([left, right], 1), owner


def _numbered(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``count[i]`` times the number i, one after the other, and 0, 1, ... beside each."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)


def quadrature(pieces: np.ndarray) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature with 24 points on every panel ``(m, 2)``: both ``(m, 24)``."""
    table = torch.from_numpy(pieces)
    half = table.diff(dim=1) / 2
    return table.mean(1, keepdim=True) + half * GAUSS_NODES, half * GAUSS_WEIGHTS


def adams_weights(
    nodes: Sequence[float],
    a: float,
    b: float,
    variable: Callable[[Tensor], Tensor] | None = None,
    breaks: Sequence[float] = (),
) -> tuple[float, ...]:
    r"""Mean values of the Lagrange polynomials over a step: Adams weights for any node positions.

    .. math:: w_j = \frac{1}{b - a} \int_a^b l_j(\theta(x)) \, dx

    For equidistant nodes and :math:`\theta(x) = x` these are :func:`adams_bashforth`.

    Args:
        nodes: where the past values stand in the variable theta, newest first, all different.
        a, b: start and end of the step in the variable of integration x.
        variable: the map theta, on float64 tensors; by default the identity.
        breaks: values of x at which theta has a kink.

    Returns:
        ``len(nodes)`` floats, newest first, that sum to 1.
    """
    q = len(nodes)
    return adams_table([*nodes[::-1], b], q, [*[a] * q, b], variable, breaks)[-1]


def adams_table(
    nodes: Sequence[float],
    order: int,
    ends: Sequence[float] | None = None,
    variable: Callable[[Tensor], Tensor] | None = None,
    breaks: Sequence[float] = (),
) -> list[tuple[float, ...]]:
    """:func:`adams_weights` of every step of a grid, newest first; none for the first steps, which lack nodes.

    Polynomials are integrated exactly, other maps by Gauss-Legendre quadrature over :func:`panels`, to 1e-12.

    Args:
        nodes: the n + 1 times of the grid in the variable theta.
        order: number of nodes.
        ends: the times in the variable of integration; by default the same.
        variable, breaks: as for one step.
    """
    n = len(nodes) - 1
    if n < order:
        return [()] * n
    x = np.array(nodes if ends is None else ends, np.float64)[order - 1 :]
    steps, theta = np.stack([x[:-1], x[1:]], 1), np.array(nodes, np.float64)
    past = np.stack([theta[order - 1 - j : n - j] for j in range(order)])
    if variable is None:
        means = _polynomial_means(past, steps)
    else:
        pieces, owner = panels(steps, breaks)
        (at, measure), rows = quadrature(pieces), torch.from_numpy(owner)
        values = (lagrange(torch.from_numpy(past)[:, rows, None], variable(at)) * measure).sum(2)
        sums = torch.zeros(order, len(steps), dtype=torch.float64, device="cpu").index_add_(1, rows, values)
        means = sums.numpy() / np.diff(steps)[:, 0]
    return [()] * (order - 1) + list(zip(*means.tolist(), strict=True))


def _polynomial_means(nodes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mean values over the steps ``(n, 2)`` of the Lagrange polynomials of nodes ``(q, n)``, by as few points as do."""
    own = np.arange(len(nodes))
    points, weights = gauss((len(nodes) + 1) // 2)
    x = steps.mean(1) + points[:, None] * (np.diff(steps)[:, 0] / 2)
    above, below = np.repeat((x[:, None] - nodes)[:, None], len(nodes), 1), nodes[:, None] - nodes
    above[:, own, own] = below[own, own] = 1.0  # [..., j, k] is the factor of node k in polynomial j
    means: np.ndarray = (above.prod(2) * weights[:, None, None]).sum(0) / (2 * below.prod(1))
    return means


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


@lru_cache(maxsize=2**14)  # about 10 MB
def _scalar(value: float, double: bool) -> Tensor:
    """A number as a tensor without axes. A product makes one anew from a Python float, which is a third of its cost."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return _scalar.__wrapped__(value, double)
    return torch.scalar_tensor(value, dtype=torch.float64 if double else torch.float32, device="cpu")


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


def each(A: Tensor, u: Tensor) -> Sequence[Coefficient]:
    """A coefficient of n steps, float64 ``(n, *freq, r, c)``, in the form in which :func:`combine` takes each."""
    if A.shape[1:] == (1, 1):
        return A.flatten().tolist()
    if A.ndim > 3:
        return A.to(u.device, u.dtype).unbind()
    A = A.to(u.device, torch.float64 if u.dtype == torch.float64 else torch.float32)
    return A[:, None].expand(-1, len(u), -1, -1).unbind()


def on_grid(
    tables: Callable[..., Any], process: Any, times: Sequence[float], u: Tensor, *arguments: Any
) -> list[list[Coefficient]]:
    """The coefficients of all steps of a grid in the form that u meets; what no state changes is kept.

    Args:
        tables: ``tables(process, times, *arguments)`` gives each float64 coefficient of a step for all n steps at once,
            ``(n, *freq, r, c)``; or a pair of these and, for each step, how many of them it has.
        process, times: the process and the grid.
        u: a state that they will meet.
        *arguments: further hashable arguments of ``tables``.
    """
    times = tuple(times)
    made = kept.get((tables, process, times, arguments), lambda: tuple(tables(process, times, *arguments)))
    counted = isinstance(made[-1], list)
    rows = zip(*(each(A, u) for A in (made[0] if counted else made)), strict=True)
    return [list(row[:count]) for row, count in zip(rows, made[1], strict=True)] if counted else list(map(list, rows))


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


def time_quadrature(edges: Edges, breaks: Sequence[float] = ()) -> tuple[Tensor, Tensor, Tensor]:
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
    pieces, owner = panels(np.sqrt(np.asarray(edges, np.float64)), np.sqrt(np.asarray(breaks, np.float64)))
    r, weights = quadrature(pieces)
    return r**2, 2 * r * weights, torch.from_numpy(owner)


def propagators(
    drift: Callable[[Tensor], Tensor], edges: Edges, breaks: Sequence[float] = ()
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
    table = exponential_table(process, times, order, K, ahead)
    return [row[: min(order, i + 1) + ahead] for i, row in enumerate(table)]


def exponential_table(process: Any, times: Sequence[float], order: int, K: str = "R", ahead: bool = False) -> Tensor:
    """:func:`exponential_weights` of all n steps as one tensor ``(n, nodes, *freq, k, k)``; missing nodes have 0."""
    grid, n = torch.tensor(times, dtype=torch.float64, device="cpu"), len(times) - 1
    tau, weights, owner = time_quadrature(list(pairwise(times)), process.knots.tolist())
    known = (owner + 1).clamp_max(order)  # nodes from t_i on
    basis = tau.new_zeros(order + ahead, *tau.shape)
    for size in range(1, min(order, n) + 1):
        some = (known == size).nonzero()[:, 0]
        nodes = grid[owner[some] - torch.arange(-ahead, size, device="cpu")[:, None], None]
        basis[: size + ahead, some] = lagrange(nodes, tau[some]) * weights[some]
    table: Tensor | None = None
    for some in torch.arange(len(owner), device="cpu").split(max(1, AT_ONCE // process.numbers)):
        x, i = tau[some], owner[some]
        values = process.transition(grid[i + 1, None], x) @ process.gain(x, K)
        parts = torch.einsum("qmx,mx...->mq...", basis[:, some], values)
        if table is None:
            table = parts.new_zeros((n, *parts.shape[1:]))
        table.index_add_(0, i, parts)
    assert table is not None
    return table
