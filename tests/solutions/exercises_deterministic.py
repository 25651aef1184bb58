"""Solutions by machine to exercises of the chapters on deterministic samplers."""

from itertools import pairwise
from math import exp, log

import numpy as np
import torch

import diffnum as dn
from diffnum import analysis, checks, grids, targets
from diffnum.coefficients import combine, lagrange
from diffnum.derive.gddim import start_defect
from diffnum.derive.pndm import order_one_constant
from diffnum.measure.analysis import ladder, local_slopes, rms
from diffnum.solvers import transfer


def euler_on_ve():
    """On VE Euler in t is DDIM: the time is the noise level, and F = 0."""
    process = dn.VE(10.0)
    problem = dn.Problem(process, targets.smooth())
    u = targets.starts(process)
    times = grids.log_snr(process, 20, t_end=0.05)
    return rms(
        dn.solve(problem, "euler", u, times).u - dn.solve(problem, "ddim", u, times).u
    )


def overtaking(steps=(6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 50)):
    """Errors of S-PNDM, F-PNDM and PLMS on thin data, and z of the log-SNR grids."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.thin()), targets.starts(process)
    truth = analysis.reference(problem, u, grids.log_snr(process, 1), rtol=1e-12)
    span = log(process.rho(1.0) / process.rho(1e-3))
    rows = {}
    for n in steps:
        times = grids.log_snr(process, n)
        rows[n] = (
            1 - exp(-span / n),
            *(
                rms(dn.solve(problem, s, u, times).u - truth)
                for s in ("s_pndm", "f_pndm", "plms")
            ),
        )
    return rows


@dn.method(order=2, nfe=lambda n: n + 1, paper="exercise")
def two_points(problem, u, times):
    """S-PNDM with the weights of the actual nodes in rho."""
    rho, old, before = problem.process.rho, None, None
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        if old is None:
            bar = combine(
                (0.5, 0.5), (e, problem.eps(transfer(problem, u, e, t, s), s))
            )
        else:
            r = (rho(s) - rho(t)) / (rho(t) - rho(before))
            bar = combine((1 + r / 2, -r / 2), (e, old))
        u, old, before = transfer(problem, u, bar, t, s), e, t
        yield u


def two_points_measured():
    """Order 2 on three grids, and the error over that of S-PNDM on the log-SNR grid."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    ends = {"t_start": process.time_of_rho(3.0), "t_end": process.time_of_rho(0.05)}
    for kind in (grids.log_snr, grids.quadratic, grids.uniform):
        found = analysis.convergence(
            problem, two_points, u, ladder(kind, process, **ends), (160, 320, 640)
        )
        checks.assert_order(found)
    grid = ladder(grids.log_snr, process)
    errors = [
        analysis.convergence(problem, s, u, grid, (320, 640)).errors
        for s in (two_points, "s_pndm")
    ]
    return errors[0][-1] / errors[1][-1]


def two_points_on_a_line(s0=0.5):
    """The ratio for Gaussian data: measured, and from both local errors."""
    process = dn.VP()
    problem = dn.Problem(process, dn.Gaussian([0.0], [s0**2]))
    ends = (3.0, 0.05)
    times = grids.log_snr(process, 800, *(process.time_of_rho(r) for r in ends[::-1]))
    u = torch.full((1, 1), process.alpha(times[0].item()), dtype=torch.float64)
    shrink = ((s0**2 + ends[1] ** 2) / (s0**2 + ends[0] ** 2)) ** 0.5
    exact = process.alpha(times[-1].item()) * shrink
    errors = [
        dn.solve(problem, s, u, times).u.item() - exact for s in (two_points, "s_pndm")
    ]
    w = np.linspace(ends[1] ** 2, ends[0] ** 2, 200_001)  # rho^2
    integrand = (5 * 3 * w / (s0**2 + w) ** 3, -(6 * s0**2 - 9 * w) / (s0**2 + w) ** 3)
    integrals = [float(((f[1:] + f[:-1]) / 2).sum()) for f in integrand]
    return errors[0] / errors[1], integrals[0] / integrals[1]


def rectangle_gddim(points):
    """A copy of gddim of order 4 whose coefficients are left Riemann sums."""

    @dn.method(order=1, nfe=lambda n: n, paper="exercise")
    def rough(problem, u, times):
        process, past = problem.process, []
        for i, (t, s) in enumerate(pairwise(times)):
            past = [problem.eps(u, t), *past[:3]]
            q = min(4, i + 1)
            tau = t + (s - t) * torch.arange(points, dtype=torch.float64) / points
            weight = (process.transition(s, tau) @ process.gain(tau)).flatten()
            C = (
                lagrange(times[i - q + 1 : i + 1][::-1], tau)
                @ weight
                * (s - t)
                / points
            )
            u = process.alpha(s) / process.alpha(t) * u + sum(
                c * e for c, e in zip(C.tolist(), past, strict=True)
            )
            yield u

    return rough


def rectangles(steps=(20, 40, 80, 160), points=(100, 1000, 10_000)):
    """Errors of order 4 with Riemann sums; the last slope of each."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    grid = ladder(grids.log_snr, process)
    return {
        m: analysis.convergence(problem, rectangle_gddim(m), u, grid, steps).errors
        for m in points
    }


def data_adams(order):
    """Exponential Adams for the data prediction, polynomial in lambda = -log(rho)."""
    nodes, weights = np.polynomial.legendre.leggauss(12)

    @dn.method(order=order, nfe=lambda n: n, paper="exercise")
    def stepper(problem, u, times):
        process, past = problem.process, []
        lam = [-log(process.rho(t)) for t in times]
        for i, (t, s) in enumerate(pairwise(times)):
            past = [problem.x0(u, t), *past[: order - 1]]
            q = min(order, i + 1)
            h = lam[i + 1] - lam[i]
            at = torch.from_numpy(lam[i] + h * (nodes + 1) / 2)
            grow = torch.exp(at - lam[i + 1]) * torch.from_numpy(weights) * h / 2
            C = lagrange(lam[i - q + 1 : i + 1][::-1], at) @ grow
            u = process.sigma(s) / process.sigma(t) * u + process.alpha(s) * sum(
                c * x for c, x in zip(C.tolist(), past, strict=True)
            )
            yield u

    return stepper


def data_adams_measured():
    """Orders from the prior, and errors beside dpmpp_2m at 10, 20 and 40 steps."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    grid, steps = ladder(grids.log_snr, process), (10, 20, 40, 160, 320)
    rows = {
        name: analysis.convergence(problem, solver, u, grid, steps)
        for name, solver in (
            ("order 2", data_adams(2)),
            ("order 3", data_adams(3)),
            ("2M", "dpmpp_2m"),
        )
    }
    return {name: (row.errors[:3], row.slopes[-1]) for name, row in rows.items()}


def cosine_slopes(steps=(40, 80, 160, 320)):
    """Last slopes of gddim of orders 3 and 4 on the cosine schedule, grid by grid."""
    process = dn.VP.cosine()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    slopes = {}
    for kind in (grids.uniform, grids.quadratic, grids.log_snr):
        grid = ladder(kind, process, t_end=0.05)
        truth = analysis.reference(problem, u, grid(1), rtol=1e-11)
        for q in (3, 4):
            errors = [
                rms(dn.solve(problem, "gddim", u, grid(n), order=q).u - truth)
                for n in steps
            ]
            slopes[kind.__name__, q] = local_slopes(steps, errors)[-1]
    return slopes


def bug_ratio():
    """Find the order of the bug: the error with e_(i-4), over that of DDIM."""

    @dn.method(order=1, nfe=lambda n: n, paper="broken on purpose")
    def bug(problem, u, times):
        past = []
        for t, s in pairwise(times):
            past = [problem.eps(u, t), *past[:4]]
            u = transfer(problem, u, combine((1.5, -0.5), (past[0], past[-1])), t, s)
            yield u

    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    times = grids.log_snr(process, 1280)
    truth = analysis.reference(problem, u, times[[0, -1]], rtol=1e-12)
    wrong, ddim = (dn.solve(problem, s, u, times).u - truth for s in (bug, "ddim"))
    return rms(wrong) / rms(ddim), rms(wrong + 3 * ddim) / rms(wrong)


def width_of_change(widths=(0.005, 0.05), n=400):
    """The width of Gaussian data at which DDIM and Euler err by the same amount."""
    process, found = dn.VP(), {}
    width = torch.logspace(*(log(w) / log(10) for w in widths), 200).double()
    problem = dn.Problem(process, dn.Gaussian(0 * width, width**2))
    for label, times in (
        ("uniform to 0.01", grids.uniform(process, n, t_end=0.01)),
        ("log-SNR to 0.001", grids.log_snr(process, n)),
    ):
        start, exact = (
            ((width * process.alpha(t)) ** 2 + process.sigma(t) ** 2).sqrt()
            for t in (1.0, times[-1].item())
        )
        ddim, euler = (
            (dn.solve(problem, s, start[None], times).u[0] - exact).abs()
            for s in ("ddim", "euler")
        )
        found[label] = width[(ddim < euler).sum() - 1].item()
    return found


def cap(s0=0.5, steps=(100, 800, 1600)):
    """Order 4 from the prior: where the start takes over, and slopes: two each."""
    process = dn.VP()
    problem = dn.Problem(process, dn.Gaussian([0.0], [s0**2]))
    t_end, rho = process.time_of_rho(0.05), process.rho(1.0)
    exact = ((s0**2 + 0.05**2) / (s0**2 + rho**2)) ** 0.5 * process.alpha(t_end)
    u = torch.full((1, 1), process.alpha(1.0), dtype=torch.float64)
    errors = []
    for n in steps:
        times = grids.log_snr(process, n, t_end=t_end)
        end = dn.solve(problem, "gddim", u, times, order=4).u.item()
        errors.append(end / exact - 1)
    h = [log(rho / 0.05) / n for n in steps]
    level, width = sorted(start_defect().free_symbols, key=str)
    C2 = float(start_defect().subs({level: rho, width: s0}))
    C4 = errors[0] / h[0] ** 4  # where the slope is 4
    predicted = [C4 * k**4 + C2 * k**2 for k in h]
    slopes = [local_slopes(steps[1:], map(abs, e[1:])) for e in (errors, predicted)]
    return h[0] * steps[0] * (C4 / C2) ** 0.5, slopes


def tiny_steps(powers=(2, 3), steps=(50, 100, 200)):
    """Last slopes of gDDIM with K = L, orders 3 and 4, behind tiny steps h^power."""
    process = dn.CLD()
    two = dn.GaussianMixture([0.3, 0.7], [[-1.2], [0.8]], stds=[[0.2], [0.4]])
    problem = dn.Problem(process, two)
    u = process.prior((8, 1), seed=0, dtype=torch.float64)
    truth = analysis.reference(problem, u, [1.0, 0.05], rtol=1e-9)
    found = {}
    for power in powers:
        for order in (3, 4):
            errors = []
            for n in steps:
                delta, m = n**-power, order - 1
                first = 1 - delta * torch.arange(m, dtype=torch.float64)
                rest = grids.quadratic(process, n, t_end=0.05, t_start=1 - m * delta)
                times = torch.cat([first, rest])
                end = dn.solve(problem, "gddim", u, times, order=order, K="L").u
                errors.append(rms(end - truth))
            found[power, order] = local_slopes(steps, errors)
    return found


def ratio_at_zero(steps=(640, 2560)):
    """Error of S-PNDM over that of F-PNDM on uniform steps to 0; the prediction."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    truth = analysis.reference(problem, u, [1.0, 0.0], rtol=1e-12)
    constants = [float(order_one_constant(s).evalf(8)) for s in ("s_pndm", "f_pndm")]
    ratios = []
    for n in steps:
        times = grids.uniform(process, n, t_end=0.0)
        errors = [
            rms(dn.solve(problem, s, u, times).u - truth) for s in ("s_pndm", "f_pndm")
        ]
        ratios.append(errors[0] / errors[1])
    return constants, ratios
