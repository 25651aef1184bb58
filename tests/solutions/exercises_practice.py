"""Solutions by machine to exercises of the chapters on practice."""

from itertools import pairwise
from math import exp, log

import numpy as np
import torch

import diffnum as dn
from diffnum import analysis, checks, files, grids, targets
from diffnum.denoisers.targets import MEANS, STDS
from diffnum.images import metrics
from diffnum.measure.analysis import ladder, rms


def window(tops=(1, 2, 4, 8, 16, 32, 64), weight=8, steps=8):
    """Error of F-PNDM at weight 8 with the window closed above hi; where it ends."""
    process, mixture = dn.VP(), targets.smooth()
    u = targets.starts(process, 64)
    times = grids.log_snr(process, steps)
    centre = torch.tensor(MEANS[1], dtype=torch.float64)
    rows = {}
    for hi in tops:
        guided = dn.Guided(mixture, mixture, 1, weight, windows=(None, (0.1, hi)))
        problem = dn.Problem(process, guided)
        run = dn.solve(problem, "f_pndm", u, times)
        truth = analysis.reference(problem, u, times[[0, -1]], rtol=1e-8)
        away = (truth - process.alpha(times[-1].item()) * centre).norm(dim=1)
        rows[hi] = rms(run.u - truth), away.median().item()
    return rows


def known(variances):
    """A reference with mean 0 and these variances, known exactly."""
    mean, cov = torch.zeros(len(variances)).double(), torch.diag(variances.double())
    return metrics.Reference(mean, cov, 10**9, mean[None], "")


def wrong_shape(d=64, sizes=(128, 256, 512, 1024), repetitions=6):
    """What extrapolation leaves if a sampler has a quarter of the directions."""
    reference = known(torch.ones(d))
    part = np.zeros(d)
    part[: d // 4] = 1.0
    truth, rows = d - d // 4, {}

    def plain(x, reference):
        return metrics.frechet(x, reference)

    for n in sizes:
        left = []
        for r in range(repetitions):
            x = part * np.random.default_rng([n, r]).standard_normal((n, d))
            own = metrics.estimate(
                metrics.frechet, x, reference, halves=20, seed=r
            ).limit
            line = metrics.estimate(plain, x, reference, halves=20, seed=r).limit
            left.append((own - truth, line - truth))
        rows[n] = tuple(np.mean(left, 0))
    return rows


def wrong_pairs(trials=40, n=250, d=12):
    """Length and coverage of the interval, rows paired and shifted by one."""
    variances = 0.5 + np.arange(d) / d
    reference = known(torch.from_numpy(variances))
    apart = ((np.sqrt(variances + 0.16) - np.sqrt(variances)) ** 2).sum()
    lengths, covered = [], []
    for r in range(trials):
        rng = np.random.default_rng(r)
        x = np.sqrt(variances) * rng.standard_normal((n, d))
        y = x + 0.4 * rng.standard_normal((n, d))
        pair = [
            metrics.difference(metrics.frechet, x, other, reference, halves=20, seed=r)
            for other in (y, np.roll(y, 1, 0))
        ]
        lengths.append([e.high - e.low for e in pair])
        covered.append([e.low < -apart < e.high for e in pair])
    return np.mean(lengths, 0), np.mean(covered, 0)


def half_precision(budgets=(5, 10, 20)):
    """The network in bfloat16: error of the noise on a path, and of PLMS at the end."""
    process, network = dn.VP(), dn.load("cifar10")
    full, half = (dn.Problem(process, net) for net in (network, network.in_bfloat16()))
    u = full.prior((1, 3, 32, 32), seed=0)
    times = grids.log_snr(process, 24)
    run = dn.solve(full, "gddim", u, times, order=3, trajectory=True)
    spots = (0, 8, 16, 24)
    delta = [
        rms(
            half.eps(run.trajectory[i], times[i].item())
            - full.eps(run.trajectory[i], times[i].item())
        )
        for i in spots
    ]
    ends = {
        n: [
            rms(dn.solve(p, "plms", u, grids.log_snr(process, n - 1)).x - run.x)
            for p in (full, half)
        ]
        for n in budgets
    }
    return delta, ends


def texture(sizes=(-1.0, 0.0, 1.0, 2.0), steps=25):
    """Roughness of one image, and distance from the reference; type II, 50 NFE."""
    process = dn.PSLD()
    problem = dn.Problem(process, dn.load("cifar10"))
    u = problem.prior((1, 3, 32, 32), seed=0)
    best = dn.solve(problem, "gddim", u, grids.quadratic(process, 60), order=4).x
    rows = {}
    for lam in sizes:
        x = dn.solve(
            problem,
            "conjugate_velocity_verlet",
            u,
            grids.quadratic(process, steps),
            B="lambda_ones",
            lam=lam,
        ).x
        rows[lam] = rms(x.diff(dim=-1)), rms(x - best)
    return rows, rms(best.diff(dim=-1))


def one_at_a_time(sampler="HeunDiscrete"):
    """What the stored audit says of diffusers' Heun: last error, and remarks."""
    return {
        row["variant"]: (min(row["errors"]), row["remarks"])
        for row in files.stored("audit")["rows"]
        if row["library"] == "diffusers" and row["sampler"] == sampler
    }


def widths(scales=(1.0, 0.5, 0.25), weight=8, steps=6):
    """Errors of guided runs by solver and width, and the largest rates on a line."""
    process, errors, rates = dn.VP(), {}, []
    for scale in scales:
        stds = [[scale * s for s in row] for row in STDS]
        data = dn.GaussianMixture([0.4, 0.6], MEANS, stds=stds)
        problem = dn.Problem(process, dn.Guided(data, data, 1, weight))
        u, times = targets.starts(process), grids.log_snr(process, steps)
        truth = analysis.reference(problem, u, times[[0, -1]], rtol=1e-7)
        for solver, options in (
            ("ddim", {}),
            ("s_pndm", {}),
            ("gddim", {"order": 3}),
            ("dpmpp_2m", {}),
            ("f_pndm", {}),
        ):
            end = dn.solve(problem, solver, u, times, **options).u
            errors.setdefault(solver, []).append(rms(end - truth))
        line = dn.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], stds=[0.4 * scale] * 2)
        guided = dn.Guided(line, line, 1, weight)
        x, fine = torch.zeros(1, 1, dtype=torch.float64), grids.log_snr(dn.VE(), 80)
        path = dn.solve(
            dn.Problem(dn.VE(), guided), "gddim", x, fine, order=2, trajectory=True
        ).trajectory
        found, near = [], torch.tensor([[-1e-5], [1e-5]], dtype=torch.float64)
        for state, sigma in zip(path, fine.tolist(), strict=True):
            low, high = guided.eps(state + near * sigma, sigma).flatten().tolist()
            found.append(((high - low) / 2e-5, sigma))
        rates.append(max(found))
    return errors, rates


def eyes(budgets=(10, 20)):
    """One image by dpmpp_2m: error, share of bytes that change, and by how much."""
    process, found = dn.VP(), {}
    problem = dn.Problem(process, dn.load("cifar10"))
    u = problem.prior((1, 3, 32, 32), seed=0)
    best = dn.solve(
        problem, "prk", u, grids.log_snr(process, 12), midpoint="sigma"
    ).x.clamp(-1, 1)
    for n in budgets:
        image = dn.solve(problem, "dpmpp_2m", u, grids.log_snr(process, n)).x
        image = image.clamp(-1, 1)
        levels = ((image - best) * 127.5).round().abs()
        changed = (levels > 0).double().mean().item()
        found[n] = rms(image - best), changed, levels.mean().item()
    return found


@dn.method(order=2, nfe=lambda n, power=-1: n, paper="exercise")
def upside_down(problem, u, times, power=-1):
    """DPM-Solver++(2M) with r to a power; with power 1 it is the published method."""
    process, old, before = problem.process, None, None
    for t, s in pairwise(times):
        (a, sigma), (a_s, sigma_s) = process.levels(t), process.levels(s)
        h, D = log(a_s / sigma_s) - log(a / sigma), problem.x0(u, t)
        mean = D
        if old is not None:
            r = (before / h) ** power
            mean = (1 + 1 / (2 * r)) * D - old / (2 * r)
        u = sigma_s / sigma * u + a_s * (1 - exp(-h)) * mean
        old, before = D, h
        yield u


def upside_down_judged():
    """Slopes on Karras grids, and what the comparison with the library says."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    ends = {"t_start": process.time_of_rho(3.0), "t_end": process.time_of_rho(0.05)}
    rung = ladder(grids.karras, process, **ends)
    found = analysis.convergence(problem, upside_down, u, rung, (80, 160, 320))
    checks.assert_order(found)
    checks.assert_reduces_to(
        problem, upside_down, "dpmpp_2m", u, rung(20), options={"power": 1}
    )
    said = checks.assert_catches(
        lambda: checks.assert_reduces_to(problem, upside_down, "dpmpp_2m", u, rung(20))
    )
    return found.slopes, said
