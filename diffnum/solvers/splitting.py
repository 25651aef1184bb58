r"""Splitting integrators on phase space (Pandey, Rudolph and Mandt 2023, arXiv:2310.07894).

| paper | here |
|---|---|
| tau, T - tau (reverse time) | t, running down |
| h beta | h, the change of b(t), the integral of beta |
| s_x, s_m | sx, sm |
| gamma (initial momentum) | kappa |

With the score s the reverse ODE of phase-space Langevin diffusion falls into two parts that leave one variable alone,

.. math:: A:\; x' = \tfrac12 (w \Gamma x - M^{-1} m + w \Gamma s_x), \qquad
          B:\; m' = \tfrac12 (x + w \nu m + w M \nu s_m) \qquad \text{(per unit of } b),

with w = 1. The reverse SDE has w = 2, and a third part O, the Ornstein-Uhlenbeck process that is solved exactly. A
method is a sequence of these, each advanced by one explicit Euler substep; *reduced* methods reuse a score. Substeps
that share one are linear in state, score and draw; they act as one, with matrices that are computed once per grid. No
code of the paper is public: names and sequences follow its reviews, and what they leave open (substep order, times of
the last score) is our definition.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, expm1
from typing import Any

import torch
from torch import Tensor

from diffnum.arguments import weight
from diffnum.coefficients import combine, lower_root, on_grid
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import method

PAPER = "Pandey, Rudolph and Mandt 2023, arXiv:2310.07894"
PHASE_SPACE = ("phase_space",)
FIRST = ("momentum", "position")


@dataclass(frozen=True)
class Parts:
    """The parts of the reverse equation of a process, as substeps over a change h of b.

    Attributes:
        Gamma, nu, mass: damping of position and momentum, and M.
        w: 1 for the ODE, 2 for the SDE.
    """

    Gamma: float
    nu: float
    mass: float
    w: float

    def A(self, x: Tensor, m: Tensor, sx: Tensor, h: float, out: Tensor | None = None) -> Tensor:
        """Euler substep of the position."""
        pull = self.w * self.Gamma * h / 2
        return combine((1 + pull, -h / (2 * self.mass), pull), (x, m, sx), out)

    def B(self, x: Tensor, m: Tensor, sm: Tensor, h: float, out: Tensor | None = None) -> Tensor:
        """Euler substep of the momentum."""
        pull = self.w * self.nu * h / 2
        return combine((1 + pull, h / 2, self.mass * pull), (m, x, sm), out)

    def O(self, u: Tensor, z: Tensor, h: float, lam_s: float = 1.0) -> Tensor:  # noqa: E743
        """Exact step of the Ornstein-Uhlenbeck part; ``lam_s`` scales the rate of the position's noise."""
        (x, m), (zx, zm), new = u.unbind(1), z.unbind(1), torch.empty_like(u)
        spread_x = (-expm1(-lam_s * self.Gamma * h)) ** 0.5
        spread_m = (-self.mass * expm1(-self.nu * h)) ** 0.5
        combine((exp(-self.Gamma * h / 2), spread_x), (x, zx), new[:, 0])
        combine((exp(-self.nu * h / 2), spread_m), (m, zm), new[:, 1])
        return new


def parts(process: Any, w: float) -> Parts:
    """The parts of a process's reverse ODE (w = 1) or SDE (w = 2)."""
    return Parts(process.Gamma, process.nu, process.mass, w)


def steps(process: Any, times: Sequence[float]) -> Iterator[tuple[float, float, float]]:
    """``(t, s, h)`` for every step: from, to, and the change of b, which is positive."""
    b = process.clock(torch.tensor(times, dtype=torch.float64, device="cpu")).tolist()
    return ((t, s, now - then) for (t, s), (now, then) in zip(pairwise(times), pairwise(b), strict=True))


# The sequences of substeps that methods share; names read from left to right.


def naive(p: Parts, problem: Problem, u: Tensor, t: float, *sequence: tuple[str, float]) -> Tensor:
    """Substeps A and B over the changes of b given with them, each with its own score at t; u is moved in place."""
    x, m = u[:, 0], u[:, 1]
    for part, h in sequence:
        if part == "A":
            p.A(x, m, problem.score(u, t)[:, 0], h, out=x)
        else:
            p.B(x, m, problem.score(u, t)[:, 1], h, out=m)
    return u


def AB(p: Parts, h: float, u: Tensor, s: Tensor) -> Tensor:
    """Position, then momentum, with one score."""
    (x, m), (sx, sm) = u.unbind(1), s.unbind(1)
    x = p.A(x, m, sx, h)
    return torch.stack((x, p.B(x, m, sm, h)), 1)


def BA(p: Parts, h: float, u: Tensor, s: Tensor, share: float = 1.0) -> Tensor:
    """A share of the momentum's step, then the position, with one score."""
    (x, m), (sx, sm) = u.unbind(1), s.unbind(1)
    m = p.B(x, m, sm, share * h)
    return torch.stack((p.A(x, m, sx, h), m), 1)


def BAO(p: Parts, h: float, u: Tensor, s: Tensor, z: Tensor, lam_s: float) -> Tensor:
    """Momentum and position with one score, then noise."""
    return p.O(BA(p, h, u, s), z, h, lam_s)


def matrices(
    process: Any, times: Sequence[float], w: float, step: Callable[..., Tensor], inputs: int, *options: Any
) -> tuple[Tensor, ...]:
    """For all steps of a grid the matrices of a linear ``step(p, h, *inputs, *options)``, to be kept by ``on_grid``.

    Substeps that share a score are linear in state, score and draw together; their matrices are what they do to unit
    vectors.
    """
    unit = torch.eye(2 * inputs, dtype=torch.float64, device="cpu")
    p, units = parts(process, w), unit.view(2 * inputs, inputs, 2).unbind(1)
    whole = torch.stack([step(p, h, *units, *options) for _, _, h in steps(process, times)]).mT
    return whole.split(2, dim=2)


# ------------------------------------------------------------------------------------------------- deterministic


@method(
    order=1,
    nfe=lambda n, first="momentum": 2 * n,
    paper=f"{PAPER}, naive symplectic Euler",
    families=PHASE_SPACE,
    values={"first": FIRST},
    exact_for=None,
    register=True,
)
def symplectic_euler(problem: Problem, u: Tensor, times: list[float], first: str = "momentum") -> Iterator[Tensor]:
    r"""Naive symplectic Euler: one substep of each part, each with its own score at the start time.

    .. math:: m' = B_h(x, m; s_m(x, m, t)), \qquad x' = A_h(x, m'; s_x(x, m', t))

    Order 1; two evaluations a step. State ``(batch, 2, *event)``.

    Args:
        first: which part moves first, "momentum" or "position".
    """
    p = parts(problem.process, 1)
    for t, _, h in steps(problem.process, times):
        sequence = [("B", h), ("A", h)] if first == "momentum" else [("A", h), ("B", h)]
        u = naive(p, problem, u.clone(), t, *sequence)
        yield u


@method(
    order=1,
    nfe=lambda n, first="momentum": n,
    paper=f"{PAPER}, reduced symplectic Euler",
    families=PHASE_SPACE,
    values={"first": FIRST},
    exact_for=None,
    register=True,
)
def reduced_symplectic_euler(
    problem: Problem, u: Tensor, times: list[float], first: str = "momentum"
) -> Iterator[Tensor]:
    r"""Reduced symplectic Euler: both substeps use one score.

    .. math:: m' = B_h(x, m; s_m), \qquad x' = A_h(x, m'; s_x), \qquad s = s(x, m, t)

    Order 1; one evaluation a step. State ``(batch, 2, *event)``.

    Args:
        first: which part moves first, "momentum" or "position".
    """
    table = on_grid(matrices, problem.process, times, u, 1, BA if first == "momentum" else AB, 2)
    for t, together in zip(times, table, strict=False):
        u = combine(together, (u, problem.score(u, t)))
        yield u


@method(
    order=1,
    nfe=lambda n: 3 * n,
    paper=f"{PAPER}, naive velocity Verlet",
    families=PHASE_SPACE,
    exact_for=None,
    register=True,
)
def velocity_verlet(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Naive velocity Verlet: half a momentum substep, a position substep, half a momentum substep.

    Every score is taken at the start time t. Order 1 in spite of its name: B is neither solved exactly nor
    symmetrically. Three evaluations a step. State ``(batch, 2, *event)``.
    """
    p = parts(problem.process, 1)
    for t, _, h in steps(problem.process, times):
        u = naive(p, problem, u.clone(), t, ("B", h / 2), ("A", h), ("B", h / 2))
        yield u


@method(
    order=1,
    nfe=lambda n, last="next": 2 * n,
    paper=f"{PAPER}, reduced velocity Verlet",
    families=PHASE_SPACE,
    reaches_zero=lambda n, last="next": last == "current",
    values={"last": ("next", "current")},
    exact_for=None,
    register=True,
)
def reduced_velocity_verlet(problem: Problem, u: Tensor, times: list[float], last: str = "next") -> Iterator[Tensor]:
    r"""Reduced velocity Verlet: the first score serves two substeps, the last one is taken at the end time.

    .. math:: m_2 = B_{h/2}(x, m; s_m), \quad x' = A_h(x, m_2; s_x), \quad m' = B_{h/2}(x', m_2; s_m(x', m_2, t'))

    Order 1; two evaluations a step. State ``(batch, 2, *event)``.

    Args:
        last: time of the last score, "next" (the end of the step) or "current" (its start).
    """
    p, table = parts(problem.process, 1), on_grid(matrices, problem.process, times, u, 1, BA, 2, 0.5)
    for (t, s, h), together in zip(steps(problem.process, times), table, strict=True):
        u = combine(together, (u, problem.score(u, t)))
        u = naive(p, problem, u, s if last == "next" else t, ("B", h / 2))
        yield u


@method(
    order=2,
    nfe=lambda n: 2 * n,
    paper="ours: velocity Verlet made second order",
    families=PHASE_SPACE,
    reaches_zero=lambda n: False,
    exact_for=None,
    register=True,
)
def verlet2(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""A velocity Verlet method of order 2: the implicit halves are predicted.

    .. math:: m_2 &= B_{h/2}(x, m; s_m), \quad m_p = 2 m_2 - m, \quad x_p = A_h(x, m_2; s_x), \\
              s' &= s(x_p, m_p, t') \\
              x' &= x + \tfrac{h}{2} \bigl(-M^{-1} m_2 + \tfrac{\Gamma}{2} (x + x_p + s_x + s'_x)\bigr), \quad
              m' = m_2 + \tfrac{h}{4} (x' + \nu m_p + M \nu s'_m)

    Two evaluations a step, as the reduced method of order 1. State ``(batch, 2, *event)``. Not in the paper.
    """
    prediction = on_grid(matrices, problem.process, times, u, 1, predicted, 2)
    correction = on_grid(matrices, problem.process, times, u, 1, corrected, 3)
    for i, (t, s) in enumerate(pairwise(times)):
        e = problem.score(u, t)
        e_end = problem.score(combine(prediction[i], (u, e)), s)
        u = combine(correction[i], (u, e, e_end))
        yield u


def predicted(p: Parts, h: float, u: Tensor, s: Tensor) -> Tensor:
    """End of a step of :func:`verlet2` as its first score predicts it."""
    (x, m), (sx, sm) = u.unbind(1), s.unbind(1)
    middle = p.B(x, m, sm, h / 2)
    return torch.stack((p.A(x, middle, sx, h), 2 * middle - m), 1)


def corrected(p: Parts, h: float, u: Tensor, s: Tensor, s_end: Tensor) -> Tensor:
    """End of a step of :func:`verlet2` with the score at the predicted end."""
    (x, m), (sx, sm), (sx_end, sm_end) = u.unbind(1), s.unbind(1), s_end.unbind(1)
    x_end, m_end = predicted(p, h, u, s).unbind(1)
    middle = p.B(x, m, sm, h / 2)
    x = x + h / 2 * (-middle / p.mass + p.Gamma / 2 * (x + x_end + sx + sx_end))
    m = middle + h / 4 * (x + p.nu * m_end + p.mass * p.nu * sm_end)
    return torch.stack((x, m), 1)


# ---------------------------------------------------------------------------------------------------- stochastic


def _weak(grid: str = "log_snr", process: Any = None, lam_s: float = 1.0) -> int:
    """Weak order: 1, and none at all where the noise is not that of the SDE."""
    return 1 if lam_s == 1 else 0


def _splitting(name: str, nfe: int, **claims: Any) -> Any:
    """The claims that all stochastic splitting methods share."""
    return method(
        weak_order=_weak, nfe=lambda n, lam_s=1.0: nfe * n, paper=f"{PAPER}, {name}", kind="sde", families=PHASE_SPACE,
        values={"lam_s": weight}, exact_for=None, register=True, **claims,
    )  # fmt: skip


@_splitting("naive OBA", 2)
def oba(problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""OBA: exact noise, then momentum, then position, each with its own score at t.

    Weak order 1; two evaluations and one draw a step. State ``(batch, 2, *event)``.

    Args:
        lam_s: factor on the rate of the position's noise; other values than 1 sample another process.
        noise: source of standard normal draws.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = naive(p, problem, p.O(u, noise(u), h, lam_s), t, ("B", h), ("A", h))
        yield u


@_splitting("reduced OBA", 1)
def reduced_oba(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced OBA: exact noise, then momentum and position with one score at t.

    Weak order 1; one evaluation and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p, table = parts(problem.process, 2), on_grid(matrices, problem.process, times, u, 2, BA, 2)
    for (t, _, h), together in zip(steps(problem.process, times), table, strict=True):
        u = p.O(u, noise(u), h, lam_s)
        u = combine(together, (u, problem.score(u, t)))
        yield u


@_splitting("naive BAO", 2)
def bao(problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""BAO: momentum, then position, each with its own score at t, then exact noise.

    Weak order 1; two evaluations and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = naive(p, problem, u.clone(), t, ("B", h), ("A", h))
        u = p.O(u, noise(u), h, lam_s)
        yield u


@_splitting("reduced BAO", 1)
def reduced_bao(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced BAO: momentum and position with one score at t, then exact noise.

    Weak order 1; one evaluation and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    table = on_grid(matrices, problem.process, times, u, 2, BAO, 3, lam_s)
    for t, together in zip(times, table, strict=False):
        u = combine(together, (u, problem.score(u, t), noise(u)))
        yield u


@_splitting("naive OBAB", 3)
def obab(problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""OBAB: exact noise, then a velocity Verlet step with every score at t.

    Weak order 1, symmetric as it looks; three evaluations and one draw a step. State ``(batch, 2, *event)``; options
    as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = naive(p, problem, p.O(u, noise(u), h, lam_s), t, ("B", h / 2), ("A", h), ("B", h / 2))
        yield u


@_splitting("reduced OBAB", 2, reaches_zero=lambda n, lam_s=1.0: False)
def reduced_obab(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced OBAB: exact noise, then a velocity Verlet step with one score at t and the last one at the end time.

    Weak order 1; two evaluations and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p, table = parts(problem.process, 2), on_grid(matrices, problem.process, times, u, 2, BA, 2, 0.5)
    for (t, s, h), together in zip(steps(problem.process, times), table, strict=True):
        u = p.O(u, noise(u), h, lam_s)
        u = combine(together, (u, problem.score(u, t)))
        u = naive(p, problem, u, s, ("B", h / 2))
        yield u


@method(
    weak_order=1,
    nfe=lambda n: n,
    paper="Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068; for PSLD arXiv:2303.01748",
    kind="sde",
    families=PHASE_SPACE,
    exact_for=None,
    register=True,
)
def sscs(problem: Problem, u: Tensor, times: list[float], *, noise: Noise) -> Iterator[Tensor]:
    r"""SSCS: half a step of the linear part with its noise, exactly, an Euler step of the score, half a step again.

    .. math:: \text{linear: } e^{C h/2}, \quad C = \tfrac12 \begin{pmatrix} -\Gamma & -M^{-1} \\ 1 & -\nu \end{pmatrix},
              \qquad \text{score: } u + h \, G G^T (s(u, t) + \Sigma_\infty^{-1} u)

    The score is that of the start time, and :math:`10^{-9}` is added to the variances, as published. Weak order 1, for
    the score part is one Euler step; one evaluation and two draws a step. State ``(batch, 2, *event)``.
    """
    table = on_grid(symmetric, problem.process, times, u)
    for t, (E, L, *late) in zip(times, table, strict=False):
        u = combine((E, L), (u, noise(u)))
        u = combine(late, (u, problem.score(u, t), noise(u)))
        yield u


def symmetric(process: Any, times: Sequence[float]) -> tuple[Tensor, ...]:
    """For all steps of :func:`sscs` the matrices of its first half, and of the score part and the second half as one.

    These are E and L for state and draw, then those for state, score and draw.
    """
    stationary = process.prior_root() @ process.prior_root().mT
    unit = torch.eye(2, dtype=torch.float64, device="cpu")
    # the transition of the process with the rotation reversed
    mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64, device="cpu"))
    h = torch.tensor([h for _, _, h in steps(process, times)], dtype=torch.float64, device="cpu")
    E = mirror @ process.propagator(h / 2) @ mirror
    L = lower_root(stationary - E @ stationary @ E.mT + 1e-9 * unit)
    pull = h[:, None, None] * torch.diag(
        torch.tensor([process.Gamma, process.mass * process.nu], dtype=torch.float64, device="cpu")
    )
    return E, L, E @ (unit + pull @ stationary.inverse()), E @ pull, L
