"""Solutions by machine to exercises of the chapters on practice."""

import numpy as np
import torch

import diffnum as dn
from diffnum import analysis, grids, targets
from diffnum.denoisers.targets import MEANS
from diffnum.images import metrics
from diffnum.measure.analysis import rms


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
