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
method is a sequence of these, each advanced by one explicit Euler substep; *reduced* methods reuse a score. No code of
the paper is public: names and sequences follow its reviews, and what they leave open (substep order, times of the last
score) is our definition.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, expm1
from typing import Any

import torch
from torch import Tensor

from diffnum.coefficients import combine, lower_root, on_grid
from diffnum.noise import Noise
from diffnum.problem import Problem
from diffnum.runner import method, weight

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
        (x, m), (zx, zm), (new, x_new, m_new) = u.unbind(1), z.unbind(1), fresh(u)
        spread_x = (-expm1(-lam_s * self.Gamma * h)) ** 0.5
        spread_m = (-self.mass * expm1(-self.nu * h)) ** 0.5
        combine((exp(-self.Gamma * h / 2), spread_x), (x, zx), x_new)
        combine((exp(-self.nu * h / 2), spread_m), (m, zm), m_new)
        return new


def fresh(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A new state to be filled, and its position and momentum."""
    new = torch.empty_like(u)
    x, m = new.unbind(1)
    return new, x, m


def parts(process: Any, w: float) -> Parts:
    """The parts of a process's reverse ODE (w = 1) or SDE (w = 2)."""
    return Parts(process.Gamma, process.nu, process.mass, w)


def steps(process: Any, times: Sequence[float]) -> Iterator[tuple[float, float, float]]:
    """``(t, s, h)`` for every step: from, to, and the change of b, which is positive."""
    b = process.clock(torch.tensor(times, dtype=torch.float64)).tolist()
    for (t, s), (now, then) in zip(pairwise(times), pairwise(b), strict=True):
        yield t, s, now - then


def score(problem: Problem, x: Tensor, m: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Score of position and momentum at the state (x, m); one evaluation."""
    sx, sm = problem.score(torch.stack((x, m), 1), t).unbind(1)
    return sx, sm


# The sequences of substeps that methods share; names read from left to right, every score is taken at t.


def naive_BA(p: Parts, problem: Problem, u: Tensor, t: float, h: float) -> Tensor:
    """Momentum, then position, each with its own score."""
    (x, m), (_, sm) = u.unbind(1), problem.score(u, t).unbind(1)
    m = p.B(x, m, sm, h)
    x = p.A(x, m, score(problem, x, m, t)[0], h)
    return torch.stack((x, m), 1)


def reduced_BA(p: Parts, problem: Problem, u: Tensor, t: float, h: float) -> Tensor:
    """Momentum, then position, with one score."""
    (x, m), (sx, sm), (new, x_new, m_new) = u.unbind(1), problem.score(u, t).unbind(1), fresh(u)
    p.B(x, m, sm, h, m_new)
    p.A(x, m_new, sx, h, x_new)
    return new


def naive_BAB(p: Parts, problem: Problem, u: Tensor, t: float, h: float) -> Tensor:
    """Half of the momentum, position, half of the momentum, each with its own score."""
    (x, m), (_, sm) = u.unbind(1), problem.score(u, t).unbind(1)
    m = p.B(x, m, sm, h / 2)
    x = p.A(x, m, score(problem, x, m, t)[0], h)
    m = p.B(x, m, score(problem, x, m, t)[1], h / 2)
    return torch.stack((x, m), 1)


def reduced_BAB(p: Parts, problem: Problem, u: Tensor, t: float, h: float, last: float) -> Tensor:
    """The same with two scores: one for the first two substeps, and one at the time ``last`` for the third."""
    (x, m), (sx, sm) = u.unbind(1), problem.score(u, t).unbind(1)
    m = p.B(x, m, sm, h / 2)
    x = p.A(x, m, sx, h)
    m = p.B(x, m, score(problem, x, m, last)[1], h / 2)
    return torch.stack((x, m), 1)


# ------------------------------------------------------------------------------------------------- deterministic


@method(
    order=1,
    nfe=lambda n, first="momentum": 2 * n,
    paper=f"{PAPER}, naive symplectic Euler",
    families=PHASE_SPACE,
    values={"first": FIRST},
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
        if first == "momentum":
            u = naive_BA(p, problem, u, t, h)
        else:
            (x, m), (sx, _) = u.unbind(1), problem.score(u, t).unbind(1)
            x = p.A(x, m, sx, h)
            m = p.B(x, m, score(problem, x, m, t)[1], h)
            u = torch.stack((x, m), 1)
        yield u


@method(
    order=1,
    nfe=lambda n, first="momentum": n,
    paper=f"{PAPER}, reduced symplectic Euler",
    families=PHASE_SPACE,
    values={"first": FIRST},
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
    p = parts(problem.process, 1)
    for t, _, h in steps(problem.process, times):
        if first == "momentum":
            u = reduced_BA(p, problem, u, t, h)
        else:
            (x, m), (sx, sm), (u, x_new, m_new) = u.unbind(1), problem.score(u, t).unbind(1), fresh(u)
            p.A(x, m, sx, h, x_new)
            p.B(x_new, m, sm, h, m_new)
        yield u


@method(
    order=1,
    nfe=lambda n: 3 * n,
    paper=f"{PAPER}, naive velocity Verlet",
    families=PHASE_SPACE,
    register=True,
)
def velocity_verlet(problem: Problem, u: Tensor, times: list[float]) -> Iterator[Tensor]:
    r"""Naive velocity Verlet: half a momentum substep, a position substep, half a momentum substep.

    Every score is taken at the start time t. Order 1 in spite of its name: B is neither solved exactly nor
    symmetrically. Three evaluations a step. State ``(batch, 2, *event)``.
    """
    p = parts(problem.process, 1)
    for t, _, h in steps(problem.process, times):
        u = naive_BAB(p, problem, u, t, h)
        yield u


@method(
    order=1,
    nfe=lambda n, last="next": 2 * n,
    paper=f"{PAPER}, reduced velocity Verlet",
    families=PHASE_SPACE,
    reaches_zero=lambda n, last="next": last == "current",
    values={"last": ("next", "current")},
    register=True,
)
def reduced_velocity_verlet(problem: Problem, u: Tensor, times: list[float], last: str = "next") -> Iterator[Tensor]:
    r"""Reduced velocity Verlet: the first score serves two substeps, the last one is taken at the end time.

    .. math:: m_2 = B_{h/2}(x, m; s_m), \quad x' = A_h(x, m_2; s_x), \quad m' = B_{h/2}(x', m_2; s_m(x', m_2, t'))

    Order 1; two evaluations a step. State ``(batch, 2, *event)``.

    Args:
        last: time of the last score, "next" (the end of the step) or "current" (its start).
    """
    p = parts(problem.process, 1)
    for t, s, h in steps(problem.process, times):
        u = reduced_BAB(p, problem, u, t, h, s if last == "next" else t)
        yield u


@method(
    order=2,
    nfe=lambda n: 2 * n,
    paper="ours: velocity Verlet made second order",
    families=PHASE_SPACE,
    reaches_zero=lambda n: False,
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
    p = parts(problem.process, 1)
    for t, s, h in steps(problem.process, times):
        (x, m), (sx, sm) = u.unbind(1), problem.score(u, t).unbind(1)
        middle = p.B(x, m, sm, h / 2)
        m_end, x_end = combine((2.0, -1.0), (middle, m)), p.A(x, middle, sx, h)
        sx_end, sm_end = score(problem, x_end, m_end, s)
        q, (u, x_new, m_new) = p.Gamma * h / 4, fresh(u)
        combine((1 + q, -h / (2 * p.mass), q, q, q), (x, middle, x_end, sx, sx_end), x_new)
        combine((1.0, h / 4, p.nu * h / 4, p.mass * p.nu * h / 4), (middle, x_new, m_end, sm_end), m_new)
        yield u


# ---------------------------------------------------------------------------------------------------- stochastic


def _weak(grid: str = "log_snr", process: Any = None, lam_s: float = 1.0) -> int:
    """Weak order: 1, and none at all where the noise is not that of the SDE."""
    return 1 if lam_s == 1 else 0


def _splitting(name: str, nfe: int, **claims: Any) -> Any:
    """The claims that all stochastic splitting methods share."""
    return method(
        weak_order=_weak, nfe=lambda n, lam_s=1.0: nfe * n, paper=f"{PAPER}, {name}", kind="sde", families=PHASE_SPACE,
        values={"lam_s": weight}, register=True, **claims,
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
        u = naive_BA(p, problem, p.O(u, noise(u), h, lam_s), t, h)
        yield u


@_splitting("reduced OBA", 1)
def reduced_oba(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced OBA: exact noise, then momentum and position with one score at t.

    Weak order 1; one evaluation and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = reduced_BA(p, problem, p.O(u, noise(u), h, lam_s), t, h)
        yield u


@_splitting("naive BAO", 2)
def bao(problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""BAO: momentum, then position, each with its own score at t, then exact noise.

    Weak order 1; two evaluations and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = p.O(naive_BA(p, problem, u, t, h), noise(u), h, lam_s)
        yield u


@_splitting("reduced BAO", 1)
def reduced_bao(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced BAO: momentum and position with one score at t, then exact noise.

    Weak order 1; one evaluation and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = p.O(reduced_BA(p, problem, u, t, h), noise(u), h, lam_s)
        yield u


@_splitting("naive OBAB", 3)
def obab(problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise) -> Iterator[Tensor]:
    r"""OBAB: exact noise, then a velocity Verlet step with every score at t.

    Weak order 1, symmetric as it looks; three evaluations and one draw a step. State ``(batch, 2, *event)``; options
    as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, _, h in steps(problem.process, times):
        u = naive_BAB(p, problem, p.O(u, noise(u), h, lam_s), t, h)
        yield u


@_splitting("reduced OBAB", 2, reaches_zero=lambda n, lam_s=1.0: False)
def reduced_obab(
    problem: Problem, u: Tensor, times: list[float], lam_s: float = 1.0, *, noise: Noise
) -> Iterator[Tensor]:
    r"""Reduced OBAB: exact noise, then a velocity Verlet step with one score at t and the last one at the end time.

    Weak order 1; two evaluations and one draw a step. State ``(batch, 2, *event)``; options as for :func:`oba`.
    """
    p = parts(problem.process, 2)
    for t, s, h in steps(problem.process, times):
        u = reduced_BAB(p, problem, p.O(u, noise(u), h, lam_s), t, h, s)
        yield u


@method(
    weak_order=1,
    nfe=lambda n: n,
    paper="Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068; for PSLD arXiv:2303.01748",
    kind="sde",
    families=PHASE_SPACE,
    register=True,
)
def sscs(problem: Problem, u: Tensor, times: list[float], *, noise: Noise) -> Iterator[Tensor]:
    r"""SSCS: half a step of the linear part with its noise, exactly, an Euler step of the score, half a step again.

    .. math:: \text{linear: } e^{C h/2}, \quad C = \tfrac12 \begin{pmatrix} -\Gamma & -M^{-1} \\ 1 & -\nu \end{pmatrix},
              \qquad \text{score: } u + h \, G G^T (s(u, t) + \Sigma_\infty^{-1} u)

    The score is that of the start time, and :math:`10^{-9}` is added to the variances, as published. Weak order 1, for
    the score part is one Euler step; one evaluation and two draws a step. State ``(batch, 2, *event)``.
    """
    halves = on_grid(analytic_halves, problem.process, times, u)
    for (t, _, h), half in zip(steps(problem.process, times), halves, strict=True):
        u = combine(half, (u, noise(u)))
        u = push(problem, u, t, h)
        u = combine(half, (u, noise(u)))
        yield u


def push(problem: Problem, u: Tensor, t: float, h: float) -> Tensor:
    """The score part of :func:`sscs`: an Euler step of each half with its own score."""
    p = parts(problem.process, 2)
    (x, m), (sx, sm), (new, x_new, m_new) = u.unbind(1), problem.score(u, t).unbind(1), fresh(u)
    a, b = p.Gamma * h, p.mass * p.nu * h
    combine((1 + a, a), (x, sx), x_new)
    combine((1 + b / p.mass, b), (m, sm), m_new)
    return new


def analytic_halves(process: Any, times: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """For every step of :func:`sscs` the coefficients of state and draw in its analytic halves."""
    stationary = process.prior_root() @ process.prior_root().mT
    # the transition of the process with the rotation reversed
    mirror = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    for _, _, h in steps(process, times):
        E = mirror @ process.propagator(h / 2) @ mirror
        yield E, lower_root(stationary - E @ stationary @ E.mT + 1e-9 * torch.eye(2, dtype=torch.float64))
