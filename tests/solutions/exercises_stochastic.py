"""Solutions by machine to exercises on stochastic samplers and phase space."""

from itertools import pairwise
from math import log

import torch

import diffnum as dn
from diffnum import analysis, checks, grids, targets
from diffnum.coefficients import act
from diffnum.measure.analysis import ladder, local_slopes, rms
from diffnum.noise import Brownian
from diffnum.solvers import transfer


def two_m(steps=(20, 40, 80)):
    """Distance of er_sde of order 2 with phi = x and dpmpp_2m, and both errors."""
    process = dn.VP()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    truth = analysis.reference(problem, u, grids.log_snr(process, 1), rtol=1e-11)
    apart, errors = [], []
    for n in steps:
        times = grids.log_snr(process, n)
        ours = dn.solve(problem, "er_sde", u, times, order=2, phi="x").u
        theirs = dn.solve(problem, "dpmpp_2m", u, times).u
        apart.append(rms(ours - theirs))
        errors.append((rms(ours - truth), rms(theirs - truth)))
    return local_slopes(steps, apart), errors


def two_clocks(steps=(64, 256, 1024)):
    """Ends of Euler-Maruyama and ancestral sampling, a Brownian for each clock."""
    process = dn.VE(5.0)
    mixture = dn.GaussianMixture([0.4, 0.6], [[-1.0], [0.8]], stds=[0.3, 0.4])
    problem = dn.Problem(process, mixture)
    u = process.prior((400, 1), seed=1, dtype=torch.float64)
    apart = []
    for n in steps:
        times = grids.log_snr(process, n, t_end=0.1)
        ends = []
        for name in ("euler_maruyama", "ancestral"):
            clock = dn.solvers.registry[name].clock(process)
            noise = Brownian(times, clock, seed=3).on(times)
            ends.append(dn.solve(problem, name, u, times, noise=noise).u)
        apart.append(rms(ends[0] - ends[1]))
    return apart, local_slopes(steps, apart)


def langevin(problem, u, times, noise, size=0.1):
    """DDIM, and after each step one of Langevin's equation at the new level."""
    for t, s in pairwise(times):
        sigma = problem.process.levels(s)[1]
        delta = size * sigma**2
        u = transfer(problem, u, problem.eps(u, t), t, s)
        u = u - delta / sigma * problem.eps(u, s) + (2 * delta) ** 0.5 * noise(u)
        yield u


def langevin_errors(steps=(10, 40, 80, 160, 320), sizes=(0.0, 0.1, 0.3)):
    """Relative errors of the variance at the end, for data N(0, 1/4)."""
    problem = dn.Problem(dn.VP(), dn.Gaussian([0.0], [0.25]))
    found = {}
    for n in steps:
        times = grids.log_snr(problem.process, n, t_end=0.05)
        right = analysis.exact_law(problem, times[-1].item())[1].item()
        for size in sizes:
            law = analysis.law(problem, langevin, times, size=size)
            found[n, size] = law[1].item() / right - 1
    return found


@dn.method(weak_order=2, nfe=lambda n: 2 * n, paper="exercise", kind="sde")
def heun_sde(problem, u, times, noise, lam=1.0):
    """The mean of two drifts, and noise of the right variance."""
    process, b = problem.process, 1 + lam**2
    for t, s in pairwise(times):
        z, h = noise(u), s - t

        def drift(u, t):
            F, G = process.F(t).item(), process.G(t).item()
            return F * u - b / 2 * G**2 * problem.score(u, t)

        G = process.G(torch.tensor([t, (t + s) / 2, s])).flatten() ** 2
        spread = lam * (-h * (G[0] + 4 * G[1] + G[2]).item() / 6) ** 0.5
        first = drift(u, t)
        guess = u + h * first + spread * z
        u = u + h / 2 * (first + drift(guess, s)) + spread * z
        yield u


def heun_orders():
    """Weak and strong order of that method on the line."""
    process = dn.VE(10.0)
    gauss = dn.Problem(process, dn.Gaussian([0.5], [0.25]))
    rung = ladder(grids.log_snr, process, t_end=0.1)
    weak = analysis.weak_convergence(gauss, heun_sde, rung, (80, 160, 320))
    return weak.slopes


def psld_sweep(steps=(20, 50), sizes=(-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)):
    """The best lambda with the root R on smooth and on thin data."""
    process, best = dn.PSLD(), {}
    u = process.prior((8, 4), seed=0, dtype=torch.float64)
    for name, target in (("smooth", targets.smooth()), ("thin", targets.thin())):
        problem = dn.Problem(process, target)
        truth = analysis.reference(problem, u, [1.0, process.t_end], rtol=1e-7)
        for n in steps:
            times = grids.quadratic(process, n)
            errors = {
                lam: rms(
                    (
                        dn.solve(
                            problem, "conjugate", u, times, B="lambda", lam=lam, K="R"
                        ).u
                        - truth
                    )[:, 0]
                )
                for lam in sizes
            }
            best[name, n] = (
                min(errors, key=errors.get),
                min(errors.values()) / errors[0.0],
            )
    return best


def damping(Gamma=0.2, t=0.5, halvings=8):
    """Local error of velocity Verlet in the position: clock steps, and slopes."""
    process = dn.PSLD(Gamma=Gamma, nu=4 + Gamma)
    problem = dn.Problem(process, targets.smooth())
    u = analysis.reference(
        problem,
        process.prior((8, 4), seed=0, dtype=torch.float64),
        [1.0, t],
        rtol=1e-10,
    )
    lengths = [0.05 / 2**k for k in range(halvings)]
    errors = []
    for h in lengths:
        exact = analysis.reference(problem, u, [t, t - h], rtol=1e-13)
        one = dn.solve(problem, "velocity_verlet", u, [t, t - h]).u
        errors.append(rms((one - exact)[:, 0]))
    clock = [process.clock(t) - process.clock(t - h) for h in lengths]
    return clock, local_slopes([1 / h for h in lengths], errors)


def checked():
    """heun_sde moves a state as a method should: it writes into nothing."""
    process = dn.VE(10.0)
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.25]))
    u = process.prior((3, 1), seed=0, dtype=torch.float64)
    checks.assert_pure(problem, heun_sde, u, grids.log_snr(process, 8, t_end=0.1))
    return act(torch.eye(1, dtype=torch.float64), u).shape


def rule_shows(steps=(160, 640), N=100):
    """Error of published order 2 over that with exact integrals; predicted steps."""
    process = dn.VE()
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    rung, ratios = ladder(grids.log_snr, process), []
    ends = rung(1).tolist()
    truth = analysis.reference(problem, u, ends, rtol=1e-12)
    for n in steps:
        published, right = (
            rms(
                dn.solve(
                    problem, "er_sde", u, rung(n), order=2, phi="x", quadrature=rule
                ).u
                - truth
            )
            for rule in ("riemann100", "gauss")
        )
        ratios.append(published / right)
    return ratios, log(ends[0] / ends[1]) / (6 / (5 * N))


def stable_steps(t=0.1, width=0.3, h=0.08):
    """The l_i, the largest stable h, the bound at lambda = 0 and growth with L, R."""
    process = dn.PSLD()
    problem = dn.Problem(process, dn.Gaussian([0.0], [width**2]))
    a, G = process.mean(t), process.G(t)
    C = process.cov(t) + width**2 * a @ a.mT
    levels = torch.linalg.eigvalsh(-G @ torch.linalg.inv(C) @ G / 2)
    unit, growth = torch.eye(2, dtype=torch.float64)[:, :, None], {}
    for K in ("L", "R"):
        step = dn.solve(
            problem, "conjugate", unit, [t, t - h], B="lambda", lam=0.0, K=K
        ).u
        growth[K] = torch.linalg.eigvals(step[..., 0].mT).abs().max().item()
    bound = (1 + h * levels).abs().max().item()
    return levels.tolist(), 2 / (levels[1] - levels[0]).item(), bound, growth


def bought(accuracy=1e-3):
    """Steps for a variance within the accuracy, on VE from 10 to 0.1."""
    process = dn.VE(10.0)
    problem = dn.Problem(process, dn.Gaussian([0.0], [0.25]))
    right, found = analysis.exact_law(problem, 0.1)[1].item(), {}
    for solver, lam, c in (
        ("gddim_sde", 0.0, -0.125),
        ("gddim_sde", 1.0, -0.25),
        ("euler_maruyama", 1.0, 0.139),
    ):
        n = predicted = abs(c) * log(100) / accuracy
        for _ in range(2):  # the error falls like 1/n
            times = grids.log_snr(process, round(n), t_end=0.1)
            law = analysis.law(problem, solver, times, lam=lam)[1].item()
            n *= abs(law - right) / accuracy
        found[solver, lam] = predicted, n
    return found


def fresh_time(evaluations=(60, 240, 960)):
    """Covariance errors, reduced OBAB over OBAB; radius of the last step by grid."""
    process = dn.PSLD()
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.09]))
    centred = dn.Problem(process, dn.Gaussian([0.0], [0.09]))
    unit = torch.eye(2, dtype=torch.float64)[:, :, None]
    ratios, radii = {}, {}
    for kind in (grids.uniform, grids.quadratic):
        for n in evaluations:
            reduced, plain = (
                analysis.weak_convergence(
                    problem, solver, ladder(kind, process), (n // cost,)
                ).errors[0]
                for solver, cost in (("reduced_obab", 2), ("obab", 3))
            )
            ratios[kind.__name__, n] = reduced / plain
            last = kind(process, n // 2)[-2:]
            step = dn.solve(
                centred, "reduced_obab", unit, last, noise=torch.zeros_like
            ).u
            radius = torch.linalg.eigvals(step[..., 0].mT).abs().max().item()
            radii[kind.__name__, n] = radius
    return ratios, radii


def another_grid(sizes=(-10.0, -8.0, -6.0, -4.0, -2.0, 0.0), n=25):
    """Median errors on the uniform grid: a sweep of lambda, and reduced Verlet."""
    process = dn.PSLD()
    data = dn.GaussianMixture(
        (0.4, 0.6),
        ((-0.7, 0.3, 0.5), (0.6, -0.4, -0.2)),
        stds=((0.15,) * 3, (0.25,) * 3),
    )
    problem = dn.Problem(process, data)
    u = process.prior((32, 3), dtype=torch.float64, seed=0)
    times = grids.uniform(process, n)
    exact = process.decode(analysis.reference(problem, u, times[[0, -1]], rtol=1e-7))

    def error(solver, **options):
        away = dn.solve(problem, solver, u, times, **options).x - exact
        return away.square().mean(1).sqrt().median().item()

    swept = {
        lam: error("conjugate_velocity_verlet", B="lambda", lam=lam) for lam in sizes
    }
    plain = {
        last: error("reduced_velocity_verlet", last=last)
        for last in ("next", "current")
    }
    return swept, plain
