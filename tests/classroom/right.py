"""Right solvers in many styles: all must pass."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch

import diffnum as dn
from diffnum.coefficients import adams_bashforth, combine
from diffnum.solvers import transfer

PAPER = "in many styles"


# undecorated, as short as it gets
def ddim(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# undecorated, by indices and without the library's helpers, on the raw equation
def midpoint(problem, u, times):
    n = len(times) - 1
    for i in range(n):
        h = times[i + 1] - times[i]
        k = problem.velocity(u, times[i])
        u = u + h * problem.velocity(u + h / 2 * k, times[i] + h / 2)
        yield u


# declared, a closure
def make_heun(order):
    @dn.method(order=order, nfe=lambda n: 2 * n, paper=PAPER, reaches_zero=lambda n: False)
    def heun(problem, u, times):
        for t, s in pairwise(times):
            k = problem.velocity(u, t)
            yield (u := u + (s - t) * (k + problem.velocity(u + (s - t) * k, s)) / 2)

    return heun


heun = make_heun(2)


# S-PNDM with a deque, its weights those of equal steps, as published
@dn.method(order=2, nfe=lambda n: n + 1, paper=PAPER, exact_for="a point mass", reaches_zero=lambda n: n > 1)
def pseudo(problem, u, times):
    past = deque(maxlen=2)
    for t, s in pairwise(times):
        past.appendleft(problem.eps(u, t))
        if len(past) == 1:
            bar = (past[0] + problem.eps(transfer(problem, u, past[0], t, s), s)) / 2
        else:
            bar = combine(adams_bashforth(2), list(past))
        u = transfer(problem, u, bar, t, s)
        yield u


# two steps with the true step ratio, in the clean prediction
@dn.method(order=2, nfe=lambda n: n, paper=PAPER, exact_for="a point mass")
def two_steps(problem, u, times):
    process, old, before = problem.process, None, None
    for t, s in pairwise(times):
        (_, sigma_t), (alpha_s, sigma_s) = process.levels(t), process.levels(s)
        clean = problem.x0(u, t)
        if sigma_s == 0:
            bar, gain = clean, alpha_s
        else:
            h = (process.log_snr(s) - process.log_snr(t)) / 2
            bar = clean if old is None else clean + h / (2 * before) * (clean - old)
            gain, before = -alpha_s * float(np.expm1(-h)), h
        u, old = sigma_s / sigma_t * u + gain * bar, clean
        yield u


# an object that is called
class RungeKutta:
    def __init__(self, nodes, weights):
        self.nodes, self.weights = nodes, weights

    def __call__(self, problem, u, times):
        for t, s in pairwise(times):
            h, slopes = s - t, []
            for row in self.nodes:
                c = sum(row)
                v = u + h * sum(a * k for a, k in zip(row, slopes, strict=True)) if row else u
                slopes.append(problem.velocity(v, t + c * h))
            u = u + h * sum(b * k for b, k in zip(self.weights, slopes, strict=True))
            yield u


kutta = RungeKutta(((), (0.5,), (-1.0, 2.0)), (1 / 6, 4 / 6, 1 / 6))


# options with defaults, and a helper that is a generator itself
def _theta(problem, u, times, a):
    for t, s in pairwise(times):
        m = t + a * (s - t)
        k = problem.velocity(u, t)
        l = problem.velocity(u + (m - t) * k, m)
        u = u + (s - t) * ((1 - 1 / (2 * a)) * k + 1 / (2 * a) * l)
        yield u


@dn.method(
    order=2,
    nfe=lambda n, a=0.5: 2 * n,
    paper=PAPER,
    reaches_zero=lambda n, a=0.5: a < 1,
    families=("isotropic", "phase_space"),
)
def family(problem, u, times, a=2 / 3):
    return _theta(problem, u, times, a)


ralston = partial(_theta, a=2 / 3)


# numbers through numpy, and back into the dtype of the state
def by_numpy(problem, u, times):
    for i in range(len(times) - 1):
        t, s = times[i], times[i + 1]
        psi, c = (np.float64(x) for x in problem.process.step(t, s))
        e = problem.eps(u, t).numpy()
        u = torch.from_numpy((psi * u.numpy() + c * e).astype(e.dtype))
        yield u


# stochastic: the exact step of the reverse SDE with the clean prediction frozen
@dn.method(weak_order=1, nfe=lambda n: n, paper=PAPER, kind="sde")
def ancestral(problem, u, times, noise):
    for t, s in pairwise(times):
        psi, P = (float(x) for x in problem.process.reverse_step(s, t, 1.0))
        (a, sa), (c, _) = map(problem.process.levels, (t, s))
        x0 = (u - sa * problem.eps(u, t)) / a
        u = psi * u + (c - psi * a) * x0 + P**0.5 * noise(u)
        yield u


# stochastic, undecorated: Euler and Maruyama
def maruyama(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u)
        yield u


# phase space: momentum first, then position, one score a step
@dn.method(order=1, nfe=lambda n: n, paper=PAPER, families=("phase_space",))
def symplectic(problem, u, times):
    for t, s in pairwise(times):
        v = problem.velocity(u, t)
        m = u[:, 1] + (s - t) * v[:, 1]
        moved = torch.stack((u[:, 0], m), 1)
        F = problem.process.F(t)
        x = u[:, 0] + (s - t) * (v[:, 0] + F[0, 1].item() * (m - u[:, 1]))
        u = torch.stack((x, moved[:, 1]), 1)
        yield u


# adaptive: an embedded pair between the times of the grid, evaluations counted and not claimed
@dn.method(order=None, nfe=None, paper=PAPER, reaches_zero=lambda n: False)
def adaptive(problem, u, times, tol=1e-4):
    for t, s in pairwise(times):
        now, h = t, s - t
        while now > s:
            h = max(h, s - now)
            k1 = problem.velocity(u, now)
            k2 = problem.velocity(u + h * k1, now + h)
            gap = (h / 2 * (k2 - k1)).abs().max().item()
            if gap <= tol:
                u, now = u + h / 2 * (k1 + k2), now + h if now + h > s else s
            h *= min(2.0, max(0.2, 0.9 * (tol / (gap + 1e-300)) ** 0.5))
        yield u


# type hints, a dataclass that is called, in-place arithmetic on tensors of its own
@dataclass
class Explicit:
    a: float = 0.5

    def __call__(self, problem: dn.Problem, u: torch.Tensor, times: list[float]) -> Iterator[torch.Tensor]:
        for t, s in pairwise(times):
            k = problem.velocity(u, t)
            v = u.clone()
            v += self.a * (s - t) * k
            k *= 1 - 1 / (2 * self.a)
            k += problem.velocity(v, t + self.a * (s - t)) / (2 * self.a)
            w = u.clone()
            w.add_(k, alpha=s - t)
            u = w
            yield w.clone()


two_thirds = Explicit(2 / 3)


# other names, and a helper that is defined inside
def taylor_free(prob, x, ts):
    def f(y, time):
        return prob.velocity(y, time)

    i = 0
    while i + 1 < len(ts):
        h = ts[i + 1] - ts[i]
        k1 = f(x, ts[i])
        k2 = f(x + h / 2 * k1, ts[i] + h / 2)
        k3 = f(x + h / 2 * k2, ts[i] + h / 2)
        k4 = f(x + h * k3, ts[i + 1])
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        i += 1
        yield x


# all coefficients of the grid first, in numpy, then the loop; an alternative way to claim
def _weights(rho, order):
    rows = []
    for i in range(len(rho) - 1):
        q = min(order, i + 1)
        nodes = rho[i - q + 1 : i + 1][::-1] - rho[i]
        moments = [(rho[i + 1] - rho[i]) ** (k + 1) / (k + 1) for k in range(q)]
        rows.append(np.linalg.solve(np.vander(nodes, q, increasing=True).T, moments))
    return rows


@dn.method(order=2, nfe=lambda n: n, paper=PAPER, exact_for="a point mass")
def precomputed(problem, u, times):
    alpha, sigma = (np.array(x) for x in zip(*(problem.process.levels(t) for t in times), strict=True))
    rho, past = sigma / alpha, []
    for i, row in enumerate(_weights(rho, 2)):
        past.insert(0, problem.eps(u, times[i]))
        move = sum(float(w) * e for w, e in zip(row, past, strict=False))
        u = alpha[i + 1] * (u / alpha[i] + move)
        yield u


# the score, with everything from the process
def by_score(problem, u, times):
    process = problem.process
    for t, s in pairwise(times):
        beta = -2 * float(process.F(t))
        G2 = float(process.G(t)) ** 2
        u = u + (s - t) * (-0.5 * beta * u - 0.5 * G2 * problem.score(u, t))
        yield u


# order 4, started by Runge-Kutta, with a list as its memory
@dn.method(order=lambda grid="log_snr", process=None: 4 if grid == "uniform" else 1,
           nfe=lambda n: n + 3 * min(n, 3), paper=PAPER, reaches_zero=lambda n: n > 3)  # fmt: skip
def adams_four(problem, u, times):
    past: list[torch.Tensor] = []
    for i, (t, s) in enumerate(pairwise(times)):
        h = s - t
        k = problem.velocity(u, t)
        past = [k, *past[:3]]
        if i < 3:
            b = problem.velocity(u + h / 2 * k, t + h / 2)
            c = problem.velocity(u + h / 2 * b, t + h / 2)
            d = problem.velocity(u + h * c, s)
            u = u + h * (k + 2 * b + 2 * c + d) / 6
        else:
            u = u + h / 24 * (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3])
        yield u


# a default argument that is a function, an option that is a string, and a match
@dn.method(order=2, nfe=lambda n, **_: 2 * n, paper=PAPER, reaches_zero=lambda n, **_: False)
def configurable(problem, u, times, kind="heun", mix=lambda a, b: (a + b) / 2):
    for t, s in pairwise(times):
        match kind:
            case "heun":
                a = problem.velocity(u, t)
                u = u + (s - t) * mix(a, problem.velocity(u + (s - t) * a, s))
            case _:
                raise ValueError(kind)
        yield u


# the last step goes along the line through the last two noises, and asks for none at the end
@dn.method(order=2, nfe=lambda n: 2 * n - (n > 1), paper=PAPER, exact_for="a point mass",
           reaches_zero=lambda n: n > 1)  # fmt: skip
def corrected(problem, u, times):
    rho, old, before = problem.process.rho, None, None
    for i, (t, s) in enumerate(pairwise(times), 2):
        e = problem.eps(u, t)
        if i == len(times) and old is not None:
            slope = (e - old) / (rho(t) - before)
            bar = e + (rho(s) - rho(t)) / 2 * slope
        else:
            bar = (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2
        old, before = e, rho(t)
        u = transfer(problem, u, bar, t, s)
        yield u


# vmap over rows, and a recursion in place of a loop
def recursive(problem, u, times):
    t, s, *rest = times
    psi, c = (float(x) for x in problem.process.step(t, s))
    u = torch.func.vmap(lambda x, e: psi * x + c * e)(u, problem.eps(u, t))
    yield u
    if rest:
        yield from recursive(problem, u, [s, *rest])


# times as a tensor of its own, states kept in a list, yielded at the end of each step by a helper generator
def _walk(problem, u, grid):
    states = [u]
    for i in range(grid.numel() - 1):
        t, s = grid[i].item(), grid[i + 1].item()
        alpha, sigma = problem.process.levels(s)
        x0, e = problem.x0(states[-1], t), None
        a, b = problem.process.levels(t)
        e = (states[-1] - a * x0) / b
        states.append(alpha * x0 + sigma * e)
        yield states[-1]


def delegating(problem, u, times):
    grid = torch.tensor(times, dtype=torch.float64)
    yield from _walk(problem, u, grid)


# a Taylor method: the second derivative along the path, from the derivative of the noise
@dn.method(order=2, nfe=lambda n: 3 * n, paper=PAPER, reaches_zero=lambda n: False)
def by_derivative(problem, u, times):
    process = problem.process
    for t, s in pairwise(times):
        (alpha, _), h = process.levels(t), 1e-4 * (process.rho(s) - process.rho(t))
        e = problem.eps(u, t)
        _, along = torch.func.jvp(lambda x: problem.eps(x, t), (u,), (alpha * e,))
        moved = process.time_of_rho(process.rho(t) + h)
        in_time = (problem.eps(process.alpha(moved) / alpha * u, moved) - e) / h
        bar = e + (process.rho(s) - process.rho(t)) / 2 * (along + in_time)
        u = transfer(problem, u, bar, t, s)
        yield u


# stochastic, no correlation between first and second half of a step: churn, then DDIM
@dn.method(weak_order=1, nfe=lambda n: n, paper=PAPER, kind="sde")
def churned(problem, u, times, noise, eta=0.7):
    process = problem.process
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        (a, sa), (c, sc) = process.levels(t), process.levels(s)
        var = sc**2 * (1 - (sc * a / (sa * c)) ** 2) * eta**2
        x0 = (u - sa * e) / a
        u = c * x0 + (sc**2 - var) ** 0.5 * e + var**0.5 * noise(u)
        yield u


# the start is a generator of its own and hands its history back
def _start(problem, u, t, s):
    e = problem.eps(u, t)
    u = transfer(problem, u, (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2, t, s)
    yield u
    return u, e, problem.process.rho(s) - problem.process.rho(t)


@dn.method(order=2, nfe=lambda n: n + 1, paper=PAPER, exact_for="a point mass", reaches_zero=lambda n: n > 1)
def handed_over(problem, u, times):
    u, old, before = yield from _start(problem, u, *times[:2])
    for t, s in pairwise(times[1:]):
        e, h = problem.eps(u, t), problem.process.rho(s) - problem.process.rho(t)
        u = transfer(problem, u, e + h / (2 * before) * (e - old), t, s)
        old, before = e, h
        yield u


# torch.jit, which reads the source of what it compiles
@torch.jit.script
def _mix(u: torch.Tensor, e: torch.Tensor, psi: float, c: float) -> torch.Tensor:
    return psi * u + c * e


def scripted(problem, u, times):
    for t, s in pairwise(times):
        psi, c = problem.process.step(t, s)
        u = _mix(u, problem.eps(u, t), float(psi), float(c))
        yield u
