r"""Conjugate integrators (Pandey, Rudolph and Mandt 2023, arXiv:2310.07894).

| paper | here |
|---|---|
| A_t, Phi_t | X(s, t) and the integral of X times the gain: never A_t itself, which reaches e^8 |
| B_t | B = 0, lambda I or lambda times a matrix of ones |
| C_out | -K^{-T}, K the root of the covariance |
| z-hat | the state between A_t and its inverse; it does not appear |

The probability-flow ODE is split into :math:`\dot u = (F - B) u + B u + \tfrac12 G G^T K^{-T} \epsilon_K`. The first
part is solved exactly by its fundamental matrix X, on the second and third Euler's method acts:

.. math:: u_s = X(s, t) (I - h B) u_t
              + \Bigl[\int_t^s X(s, \tau) \tfrac12 G G^T K_\tau^{-T} \, d\tau\Bigr] \epsilon_K(u_t, t),
          \qquad h = t - s .

The paper writes X as the exponential of an integral. That is right where the matrices commute; here X is the
fundamental matrix always.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffnum.arguments import rate
from diffnum.coefficients import combine, on_grid, propagators
from diffnum.problem import Problem
from diffnum.runner import method

PAPER = "Pandey, Rudolph and Mandt 2023, arXiv:2310.07894"
KINDS = ("zero", "lambda", "lambda_ones")


def conjugate_weights(
    process: Any,
    edges: Sequence[tuple[float, float]],
    B: str,
    lam: float,
    K: str,
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Factors of state and noise prediction for steps (t, s): :math:`X (I - h B)` and :math:`\int X \, \mathrm{gain}`.

    Args:
        process: VP, VE, CLD or PSLD.
        edges: pairs (t, s), s < t.
        B: "zero", "lambda" (lam I) or "lambda_ones" (lam times ones).
        lam: lambda, per unit time.
        K: root of the covariance, "R" or "L".
        rows: the rows of the equation that move, for a splitting; by default all.

    Returns:
        two float64 tensors ``(n, k, k)``.
    """
    k = process.mean(process.t_max).shape[-2]
    unit = torch.eye(k, dtype=torch.float64, device="cpu")
    part = unit if rows is None else unit[list(rows)].mT @ unit[list(rows)]
    matrix = (
        part @ {"zero": torch.zeros_like(unit), "lambda": lam * unit, "lambda_ones": lam * torch.ones_like(unit)}[B]
    )
    through, tau, weights, owner, inside = propagators(
        lambda time: part @ process.F(time) - matrix, [(s, t) for t, s in edges], process.knots.tolist()
    )
    gained = torch.einsum("mj,mjpq,mjqr->mpr", -weights, inside, part @ process.gain(tau, K))
    noise = torch.zeros_like(through).index_add_(0, owner, gained)
    h = torch.tensor([t - s for t, s in edges], dtype=torch.float64, device="cpu")
    return through @ (unit - h[:, None, None] * matrix), noise


@method(
    order=1,
    nfe=lambda n, **options: n,
    paper=f"{PAPER}, lambda-DDIM",
    families=("isotropic", "phase_space"),
    exact_for="a point mass, with B = 0 and on phase space K = R",
    values={"B": KINDS, "lam": rate, "K": ("L", "R")},
    register=True,
)
def conjugate(
    problem: Problem, u: Tensor, times: list[float], B: str = "zero", lam: float = 0.0, K: str = "L"
) -> Iterator[Tensor]:
    r"""Conjugate integrator: part of the linear drift is solved exactly, the rest by Euler's method.

    .. math:: u_s = X (I - h B) u_t + C \, \epsilon_K(u_t, t)

    B = 0 is DDIM on VP and VE, and with K = R gDDIM of order 1 everywhere. Order 1; one evaluation a step. State
    ``(batch, *event)``, on phase space ``(batch, 2, *event)``.

    Args:
        B: "zero", "lambda" (lambda I, lambda-DDIM) or "lambda_ones" (lambda times a matrix of ones).
        lam: lambda, per unit time; without meaning for "zero".
        K: root of the covariance that defines the noise prediction, "L" as in the paper or "R".
    """
    table = on_grid(substeps, problem.process, times, u, B, lam, K, (None, "whole"))
    for t, coefficients in zip(times, table, strict=False):
        u = combine(coefficients, (u, problem.eps(u, t, K)))
        yield u


def substeps(
    process: Any, times: Sequence[float], B: str, lam: float, K: str, *sequence: tuple[int | None, str]
) -> tuple[Tensor, Tensor]:
    """For all steps the coefficients of state and noise prediction, of substeps in sequence as one.

    A substep is a row that moves (None for both) and its span: the "whole" step, or its "early" or "late" half.
    """
    ends = {"whole": (0.0, 1.0), "early": (0.0, 0.5), "late": (0.5, 1.0)}
    total: tuple[Tensor, Tensor] | None = None
    for row, span in sequence:
        a, b = ends[span]
        edges = [(t + a * (s - t), t + b * (s - t)) for t, s in pairwise(times)]
        linear, gain = conjugate_weights(process, edges, B, lam, K, None if row is None else (row,))
        # with one noise prediction for both, a substep after another is one affine map
        total = (linear, gain) if total is None else (linear @ total[0], linear @ total[1] + gain)
    assert total is not None
    return total


@method(
    order=1,
    nfe=lambda n, **options: n,
    paper=f"{PAPER}, conjugate symplectic Euler",
    families=("phase_space",),
    values={"B": KINDS, "lam": rate, "first": ("position", "momentum")},
    exact_for=None,
    register=True,
)
def conjugate_symplectic_euler(
    problem: Problem, u: Tensor, times: list[float], B: str = "zero", lam: float = 0.0, first: str = "position"
) -> Iterator[Tensor]:
    r"""Conjugate symplectic Euler: conjugate substeps of position and momentum with one noise prediction.

    .. math:: u_1 = A_{[t, t']}(u, e), \qquad u' = B_{[t, t']}(u_1, e), \qquad e = \epsilon_L(u, t)

    Order 1; one evaluation a step. State ``(batch, 2, *event)``.

    Args:
        B, lam: as for :func:`conjugate`, the rows of B going to the substeps.
        first: which part moves first.
    """
    rows = ((0, "whole"), (1, "whole")) if first == "position" else ((1, "whole"), (0, "whole"))
    table = on_grid(substeps, problem.process, times, u, B, lam, "L", *rows)
    for t, coefficients in zip(times, table, strict=False):
        u = combine(coefficients, (u, problem.eps(u, t, "L")))
        yield u


@method(
    order=1,
    nfe=lambda n, **options: 2 * n,
    paper=f"{PAPER}, conjugate velocity Verlet",
    families=("phase_space",),
    reaches_zero=lambda n, **options: False,
    values={"B": KINDS, "lam": rate},
    exact_for=None,
    register=True,
)
def conjugate_velocity_verlet(
    problem: Problem, u: Tensor, times: list[float], B: str = "zero", lam: float = 0.0
) -> Iterator[Tensor]:
    r"""Conjugate velocity Verlet: momentum over the first half, position, momentum over the second half.

    .. math:: u_1 = B_{[t, t_m]}(u, e), \quad u_2 = A_{[t, t']}(u_1, e), \quad
              u' = B_{[t_m, t']}(u_2, \epsilon_L(u_2, t'))

    with :math:`e = \epsilon_L(u, t)` and :math:`t_m = (t + t')/2`. Order 1; two evaluations a step. State
    ``(batch, 2, *event)``.

    Args:
        B, lam: as for :func:`conjugate`, the rows of B going to the substeps.
    """
    first = on_grid(substeps, problem.process, times, u, B, lam, "L", (1, "early"), (0, "whole"))
    last = on_grid(substeps, problem.process, times, u, B, lam, "L", (1, "late"))
    for i, (t, s) in enumerate(pairwise(times)):
        u = combine(first[i], (u, problem.eps(u, t, "L")))
        u = combine(last[i], (u, problem.eps(u, s, "L")))
        yield u
