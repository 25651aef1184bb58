r"""gDDIM: exponential multistep methods for every linear diffusion (Zhang, Tao and Chen 2023, arXiv:2206.05564).

| paper | here |
|---|---|
| Psi(t, s), Sigma_t | transition(t, s), cov(t) |
| K_t, L_t, R_t | K = "R" or "L": rotation_root(t), cholesky(t) |
| v | m, the momentum |
| order q (a polynomial degree) | order = q + 1, the number of nodes |
| step from t to s < t | the same |

With the noise :math:`\epsilon_K = -K^T \nabla \log p` the probability-flow ODE is
:math:`\dot u = F u + \tfrac12 G G^T K^{-T} \epsilon_K`; its linear part is solved exactly, and the noise is
extrapolated by a polynomial in t. Coefficients are 1x1 (VP, VE), 2x2 (phase space) or one per frequency (blurring),
and nothing below knows which.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffnum.arguments import weight
from diffnum.coefficients import combine, exponential_table, on_grid
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import EVERY, method, still_start
from diffnum.solvers.reverse_sde import frozen_clock, frozen_data

PAPER = "Zhang, Tao and Chen 2023, arXiv:2206.05564"


def _order(
    grid: str = "log_snr",
    process: Any = None,
    order: int = 3,
    K: str = "R",
    corrector: str | None = None,
    first: float | None = None,
) -> int:
    """Observed order: the short history of the first steps caps it at 2 unless the noise stands still there.

    From the prior the term of order 2 is there too, but thousands of times smaller than the rest on usual grids; not
    where rho rises like a tangent (the cosine schedule, blurring), unless the grid is uniform in log-SNR.
    """
    family = getattr(process, "family", "phase_space")
    capped = not still_start(grid, process, first) or (K == "L" and family == "phase_space")
    return min(order, 2 if capped else 4) + (corrector is not None)


SHARE = 4.0  # of the noise at a step's end: what earlier noise predictions may bring into it, where errors would grow
MAGNIFIED = 1e4  # errors grow where they reach the end so many times as large
VARIANCES = (0.0, 1 / 16, 1.0)  # of Gaussian data: a point, where noise decides longest, up to what images have


def multistep(process: Any, times: Sequence[float], order: int, K: str, ahead: bool) -> tuple[list[Tensor], list[int]]:
    """For all steps the coefficients of the state and of the noise predictions; see ``exponential_weights``.

    With K = R a step uses fewer nodes than there are where :func:`lengths` says so. How many it uses is told too.
    """
    grid = torch.tensor(times, dtype=torch.float64, device="cpu")
    direct = process.transition(grid[1:], grid[:-1])
    full = [min(order, i + 1) for i in range(len(direct))]
    table = exponential_table(process, times, order, K)
    nodes = lengths(process, times, direct, table) if K == "R" else full
    if ahead:
        table = exponential_table(process, times, order, K, ahead)
    for q in set(nodes) - {order}:
        fewer = [i for i, (a, b) in enumerate(zip(nodes, full, strict=True)) if a == q < b]
        if fewer:
            table[fewer, : q + ahead] = exponential_table(process, times, q, K, ahead)[fewer]
    return [direct, *table.unbind(1)], [1 + q + ahead for q in nodes]


def lengths(process: Any, times: Sequence[float], direct: Tensor, weights: Tensor) -> list[int]:
    r"""How many nodes each step uses: all there are, but fewer on a grid on which errors would grow.

    On Gaussian data of variance c an error :math:`\delta` of the state changes the noise prediction by
    :math:`R^T (\Sigma + c \, a a^T)^{-1} \delta`, with a the factor on the data: errors of noise predictions run
    through the coefficients alone. Where for one of :data:`VARIANCES` they reach the end more than :data:`MAGNIFIED`
    times as large, a step takes the most nodes with which

    .. math:: \sum_{j \ge 1} |R_{t_{i+1}}^{-1} C_{ij}| \le 4 :

    what old noise predictions bring into the step is at most :data:`SHARE` times the noise at its end. On finer grids
    the sum falls like the step, so that many steps show the full order. It matters where t crowds: from the prior of
    the cosine schedule a step in log-SNR is many times longer in t than the one before it.
    """
    n, most = weights.shape[:2]
    full, grid = [min(most, i + 1) for i in range(n)], torch.tensor(times, dtype=torch.float64, device="cpu")
    last = len(full) - process.singular(times[-1])  # no noise prediction answers to the errors of a step to no noise
    root, signal, cov = (f(grid[: last + 1]) for f in (process.rotation_root, process.mean, process.cov))
    inverse = torch.linalg.inv(root[1:])

    def shares(weights: Tensor) -> Tensor:
        return (inverse[:, None] @ weights[:last, 1:]).abs().sum(-1).flatten(2).amax(2).sum(1)

    if max(full) == 1 or not last or bool((shares(weights) <= SHARE).all()):
        return full
    answer = torch.stack([root.mT @ torch.linalg.inv(cov + c * signal @ signal.mT) for c in VARIANCES], 1)
    reached = [torch.zeros_like(answer[0])] * len(full)  # of the noise prediction at each node, in the final state
    onward = torch.eye(direct.shape[-1], dtype=torch.float64, device="cpu").expand_as(answer[0])
    for i in reversed(range(len(full))):
        for j, C in enumerate(weights[i, : full[i]]):
            reached[i - j] = reached[i - j] + onward @ C
        onward = onward @ direct[i] + reached[i] @ answer[i]
    if torch.stack(reached).abs().sum((0, -1)).max() <= MAGNIFIED:
        return full
    nodes = [1] * len(full)
    for q in range(2, max(full) + 1):
        fits = shares(exponential_table(process, times, q)) <= SHARE
        nodes = [q if full[i] >= q and (i >= last or fits[i]) else nodes[i] for i in range(n)]
    return nodes


@method(
    order=_order,
    nfe=lambda n, order=3, K="R", corrector=None: {None: n, "pec": n + 1, "pece": 2 * n}[corrector],
    paper=f"{PAPER}, section 4 and algorithm 1",
    families=EVERY,
    exact_for="a point mass with K = R, in one step",
    reaches_zero=lambda n, order=3, K="R", corrector=None: corrector is None,
    values={"order": (1, 2, 3, 4), "K": ("R", "L"), "corrector": (None, "pec", "pece")},
    register=True,
)
def gddim(
    problem: Problem, u: Tensor, times: list[float], order: int = 3, K: str = "R", corrector: str | None = None
) -> Iterator[Tensor]:
    r"""gDDIM: the exponential Adams-Bashforth method in time, with an optional Adams-Moulton corrector.

    .. math:: u_{i+1} = \Psi u_i + \sum_{j<q} C_{ij} \, \epsilon_{i-j}, \qquad
              C_{ij} = \int_{t_i}^{t_{i+1}} \tfrac12 \Psi(t_{i+1}, \tau) \, G G^T K_\tau^{-T} \, l_j(\tau) \, d\tau

    with the Lagrange polynomials of the last q nodes, fewer in the first steps. The corrector repeats the step with
    the node :math:`t_{i+1}` added, where the noise is that of the prediction. Order q, with a corrector q + 1, when
    the short history of the first steps does no harm: from the prior, with K = R, it does so little that a few hundred
    steps do not show it, because :math:`\epsilon_R` hardly changes there (for the cosine schedule and blurring on
    grids uniform in log-SNR only). Started further down, or with K = L on phase space, where
    :math:`\epsilon_L` rotates, the first step caps the order at 2 (3 with a corrector).
    State ``(batch, *event)``, on phase space ``(batch, 2, *event)``.

    Args:
        order: q, from 1 to 4; order 1 with K = R is deterministic gDDIM, and DDIM on VP and VE.
        K: "R", with which a point mass is solved exactly in one step, or "L", as CLD was published.
        corrector: None; "pec" keeps the noise of the prediction, n + 1 evaluations; "pece" evaluates again, 2n.
    """
    past, e = [], None
    tables = [
        on_grid(multistep, problem.process, times, u, order, K, ahead) for ahead in (False, True)[: 1 + bool(corrector)]
    ]
    predict, correct = tables[0], tables[-1]
    for i, (t, s) in enumerate(pairwise(times)):
        past = [problem.eps(u, t, K) if e is None else e, *past[: order - 1]]
        v = combine(predict[i], (u, *past[: len(predict[i]) - 1]))
        if corrector:
            e = problem.eps(v, s, K)
            v = combine(correct[i], (u, e, *past[: len(correct[i]) - 2]))
            e = e if corrector == "pec" else None
        u = v
        yield u


@method(
    weak_order=1,
    strong_order=1,
    nfe=lambda n, lam=1.0: n,
    paper=f"{PAPER}, section 5, with the transpose that the released code lacks",
    kind="sde",
    families=EVERY,
    exact_for="the law of data at one point, for every lambda, in one step",
    values={"lam": weight},
    clock=frozen_clock,
    register=True,
)
def gddim_sde(problem: Problem, u: Tensor, times: list[float], lam: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""Stochastic gDDIM: the exact step of the reverse SDE with the data prediction frozen.

    .. math:: u_{i+1} \sim N\bigl(\Psi u_i + (\hat\Psi - \Psi) R_{t_i} \epsilon_R, \, P\bigr), \qquad
              P = \Sigma_{t_{i+1}} - \hat\Psi \Sigma_{t_i} \hat\Psi^T

    :math:`\hat\Psi` solves :math:`\hat\Psi' = (F + \tfrac{1 + \lambda^2}{2} G G^T \Sigma^{-1}) \hat\Psi`. Lambda 0 is
    :func:`gddim` of order 1; on VP lambda 1 is ancestral sampling. One evaluation and one draw a step, the last one
    included. State ``(batch, *event)``, on phase space ``(batch, 2, *event)``.

    Args:
        lam: weight of the noise, at least 0.
        noise: source of standard normal draws; its numbers are multiplied by the lower Cholesky factor of P.

    Raises:
        ValueError: lam is negative or not finite.
    """
    return frozen_data(problem, u, times, lam, noise)
