"""Solutions by machine to exercises of the chapters on problems."""

from itertools import pairwise
from math import log

import sympy as sp
import torch

import diffnum as dn
from diffnum import analysis, grids, targets
from diffnum.derive import linear_sde as derive
from diffnum.measure.analysis import ladder, rms


def semigroup():
    """Two steps are one, in mean and variance, for all three processes."""
    r = sp.Symbol("r", positive=True)
    for name in ("vp-linear", "vp-cosine", "ve"):
        factor, variance = derive.transition(name)

        def between(expression, late, early):
            moved = expression.subs(
                {derive.t: late, derive.s: early}, simultaneous=True
            )
            return moved.subs(
                {derive.B0: 0.1, derive.B1: 20, derive.omega: 1.5, derive.phi: 0.01}
            )

        times = {derive.t: 0.7, r: 0.4, derive.s: 0.2}
        once = between(variance, derive.t, derive.s)
        twice = between(variance, derive.t, r) + between(
            factor, derive.t, r
        ) ** 2 * between(variance, r, derive.s)
        product = between(factor, derive.t, r) * between(factor, r, derive.s)
        assert (
            abs(sp.N((product - between(factor, derive.t, derive.s)).subs(times)))
            < 1e-12
        )
        assert abs(sp.N((once - twice).subs(times))) < 1e-12
    process = dn.VP()
    start, middle, end = 0.2, 0.4, 0.7
    added = {
        (t, s): process.cov(t) - process.transition(t, s) ** 2 * process.cov(s)
        for t, s in ((end, start), (end, middle), (middle, start))
    }
    two = (
        added[end, middle] + process.transition(end, middle) ** 2 * added[middle, start]
    )
    assert (added[end, start] - two).abs().max() < 1e-14


def sub_vp():
    """sigma^2 = (1 - alpha^2)^2 solves the moment equation of sub-VP, for any rate."""
    t = sp.Symbol("t", positive=True)
    b = sp.Function("b")(t)  # the integral of beta
    beta, alpha = sp.diff(b, t), sp.exp(-b / 2)
    variance = (1 - alpha**2) ** 2
    residual = sp.diff(variance, t) + beta * variance - beta * (1 - sp.exp(-2 * b))
    assert sp.simplify(residual) == 0


def prior_forgotten(mean=0.7, std=0.3):
    """The least lambda, to a tenth, that leaves less than 1e-9 in the mean."""
    process = dn.VP()
    ends = [std**2 + process.rho(t) ** 2 for t in (1e-3, 1.0)]
    shrink = ends[0] / ends[1]
    left = {
        k / 10: process.alpha(1e-3) * mean * shrink ** ((1 + (k / 10) ** 2) / 2)
        for k in range(31)
    }
    return min(lam for lam, error in left.items() if error < 1e-9)


def basins(points=6):
    """The log-SNR from which the nearest data point stays the same, sorted."""
    process = dn.VP()
    data = torch.randn(
        points, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    problem = dn.Problem(process, dn.Empirical(data))
    times = grids.log_snr(process, 60)
    u = problem.prior((20, 8), dtype=torch.float64, seed=1)
    path = dn.solve(problem, "ddim", u, times, trajectory=True).trajectory
    nearest = torch.stack(
        [
            torch.cdist(problem.x0(x, t), data).argmin(1)
            for x, t in zip(path, times.tolist(), strict=True)
        ]
    )
    settled = [int((nearest[:, i] != nearest[-1, i]).sum()) for i in range(20)]
    levels = process.log_snr(times)
    return sorted(levels[k].item() for k in settled)


def transport():
    """The antisymmetric part of the derivative of the flow over the derivative."""
    mixture = dn.GaussianMixture(
        [0.2, 0.5, 0.3], [[1.2, 0.9], [-1.1, 0.7], [0.1, -1.2]], stds=[0.1, 0.2, 0.3]
    )
    problem, h = dn.Problem(dn.VP(), mixture), 1e-5
    start = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    moves = h * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    ends = analysis.reference(problem, start + moves, [1.0, 1e-3], rtol=1e-12)
    J = torch.stack([ends[0] - ends[1], ends[2] - ends[3]], 1) / (2 * h)
    return abs(J[0, 1] - J[1, 0]).item() / J.norm().item()


def bfloat_floors(steps=(10, 20, 40, 80, 160, 320, 640)):
    """Heun with states in bfloat16: errors, and the share of idle entries."""
    process = dn.VP()
    problem, start = dn.Problem(process, targets.smooth()), targets.starts(process, 64)
    truth = analysis.reference(problem, start, [1.0, 0.01], rtol=1e-10)
    errors, still = [], []
    for n in steps:
        times = grids.uniform(process, n, t_end=0.01)
        u, stuck = start.bfloat16(), 0.0
        for t, s in pairwise(times.tolist()):
            exact = u.double()
            k = problem.velocity(exact, t)
            k = (k + problem.velocity(exact + (s - t) * k, s)) / 2
            new = (exact + (s - t) * k).bfloat16()  # the state is rounded, nothing else
            stuck += (new == u).double().mean().item() / n
            u = new
        errors.append(rms(u.double() - truth))
        still.append(stuck)
    return errors, still


def bfloat_compensated(steps=(80, 160, 320, 640)):
    """The same with rounding that is right on average, up or down by chance."""
    process, draw = dn.VP(), torch.Generator().manual_seed(0)
    problem, start = dn.Problem(process, targets.smooth()), targets.starts(process, 64)
    truth = analysis.reference(problem, start, [1.0, 0.01], rtol=1e-10)
    errors = []
    for n in steps:
        u = start.bfloat16().double()
        for t, s in pairwise(grids.uniform(process, n, t_end=0.01).tolist()):
            k = problem.velocity(u, t)
            k = (k + problem.velocity(u + (s - t) * k, s)) / 2
            new = u + (s - t) * k
            last = torch.exp2(
                torch.floor(torch.log2(new.abs())) - 7
            )  # the last of 8 bits
            noise = torch.rand(new.shape, generator=draw, dtype=torch.float64)
            u = torch.floor(new / last + noise) * last
        errors.append(rms(u - truth))
    return errors


def slopes_to(end=0.1):
    """Slopes of AB2 on uniform steps that end at another time."""
    process = dn.VP()
    problem, start = dn.Problem(process, targets.smooth()), targets.starts(process)
    grid = ladder(grids.uniform, process, t_end=end)
    return analysis.convergence(
        problem, "ab2", start, grid, (10, 20, 40, 80, 160)
    ).slopes


def same_end():
    """Linear VP that ends at rho = 80, and the time at which it has rho = 40."""
    process = dn.VP(0.1, 2 * log(1 + 80**2) - 0.1)
    return process.rho(1.0), process.time_of_rho(40.0)
