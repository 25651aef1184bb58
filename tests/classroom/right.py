"""Right solvers in many styles: all must pass."""

from collections import deque
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
