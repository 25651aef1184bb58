"""Reverse SDEs: strong and weak order, constants, few steps."""

from functools import lru_cache
from math import log

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import slopes, table
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.measure import analysis
from diffnum.noise import Brownian, Replay, Seeded


def line(std: float, process=None) -> dn.Problem:
    """Gaussian data of mean 1/2."""
    return dn.Problem(process or dn.VP(), dn.Gaussian([0.5], [std**2]))


@lru_cache(maxsize=4)
def mixture() -> tuple[dn.Problem, torch.Tensor]:
    """Two Gaussians on a line, VE from 5, and 1000 start states."""
    data = dn.GaussianMixture([0.4, 0.6], [[-1.0], [0.8]], stds=[0.3, 0.4])
    return dn.Problem(dn.VE(5.0), data), 5 * Seeded(1)(torch.zeros(1000, 1, dtype=torch.float64))


@claim(
    "Euler-Maruyama has strong order 1/2",
    where="Kloeden and Platen 1992, theorem 10.2.2",
    kind="theorem",
    page="thm-reverse-sde-strong",
)
def strong_order_half() -> Verdict:
    exact, start = mixture()
    rule = analysis.ladder(grids.log_snr, exact.process, t_end=0.1)
    run = lambda s: analysis.strong_convergence(exact, s, start, rule, (16, 32, 64), finest=1024)  # noqa: E731
    found = {s: slopes(run(s)) for s in ("euler_maruyama", "ancestral")}
    saw = f"the noise is additive: slopes path by path from 16 to 64 steps {table(found, '.2f')} (1000 paths)"
    return verdict(abs(found["euler_maruyama"] - 0.5) < 0.25, saw, found)


@claim(
    "Weak order 1 on every linear process",
    where="Kloeden and Platen 1992, theorem 14.1.5",
    kind="theorem",
    page="thm-reverse-sde-weak",
    derived="diffnum.derive.reversing.weak_local_errors",
)
def weak_order_one() -> Verdict:
    image = dn.Gaussian(torch.zeros(2, 4), torch.full((2, 4), 0.25), basis="dct")
    found = {}
    for name, exact, counts, t_end in (
        ("VP", line(0.5), (80, 160, 320), 0.05),
        ("CLD", line(0.5, dn.CLD()), (100, 200), 0.1),
        ("blurring", dn.Problem(dn.Blurring((2, 4)), image), (80, 160), 0.1),
    ):
        grid = grids.log_snr if name == "VP" else grids.quadratic
        rule = analysis.ladder(grid, exact.process, t_end=t_end)
        for solver in ("euler_maruyama", "ancestral"):
            found[name, solver] = analysis.weak_convergence(exact, solver, rule, counts).order
    saw = "slopes of Euler-Maruyama and ancestral sampling: " + "; ".join(
        f"{p} {found[p, 'euler_maruyama']:.2f}, {found[p, 'ancestral']:.2f}" for p in ("VP", "CLD", "blurring")
    )
    numbers = {f"{p}_{s}": v for (p, s), v in found.items()}
    return verdict(all(abs(v - 1) < 0.15 for v in found.values()), saw, numbers)


@claim(
    "A stochastic Adams method with q nodes has order q",
    where="Xue et al. 2023, arXiv:2309.05019, theorem 5.1: for the part of the error that is not due to noise",
    kind="implicit",
    page="exponential-noise",
)
def nodes_raise_stochastic_order() -> Verdict:
    exact, rule = line(0.5), analysis.standard_problem().grid
    found = {}
    for tau in (1.0, 0.0):
        for q in (1, 2, 3):
            given = {"order": q, "tau": tau, "corrector": False}
            found[tau, q] = analysis.weak_convergence(exact, "sa_solver", rule, (160, 320), **given).order
    shown = {tau: ", ".join(f"{found[tau, q]:.2f}" for q in (1, 2, 3)) for tau in (1.0, 0.0)}
    saw = (
        f"weak order with 1, 2, 3 nodes from rho = 3: with noise {shown[1.0]}; without (the ramp caps it) {shown[0.0]}"
    )
    two = all(abs(found[1.0, q] - q) < 0.15 for q in (1, 2))
    three = abs(found[1.0, 3] - 3) < 0.3
    numbers = {f"tau_{tau:g}_order_{q}": v for (tau, q), v in found.items()}
    return conditional("q is at most 2", two, three, saw, numbers)


@claim(
    "Ancestral sampling is Euler-Maruyama on the reverse SDE",
    where="Song et al. 2021, arXiv:2011.13456, appendix E",
    kind="implicit",
    page="reverse-sde-claims",
)
def ancestral_is_euler_maruyama() -> Verdict:
    exact, t, steps = line(0.5), 0.6, (0.005, 0.0025)
    z, gaps = Seeded(1)(torch.zeros(8, 2, dtype=torch.float64)), {"state": [], "law": []}
    for h in steps:
        pair = ("ancestral", "euler_maruyama")
        one, two = (dn.solve(exact, s, z[:, :1], [t, t - h], noise=Replay([z[:, 1:]])).u for s in pair)
        laws = [analysis.law(exact, s, torch.tensor([t, t - h], dtype=torch.float64))[1] for s in pair]
        gaps["state"].append(analysis.rms(one - two))
        gaps["law"].append((laws[0] - laws[1]).abs().item())
    power = {k: analysis.local_slopes([1, 2], v)[0] for k, v in gaps.items()}
    saw = f"one step apart by h^{power['state']:.2f} in the state and h^{power['law']:.2f} in the variance"
    return verdict(max(gaps["law"]) < 1e-12, saw, power)


@claim(
    "SDE samplers need more steps than the ODE",
    where="everyday practice; ER-SDE, section 3.4",
    kind="implicit",
    page="reverse-sde-claims",
    derived="diffnum.derive.reversing.weak_constants",
)
def sde_needs_more_steps() -> Verdict:
    exact, ends, found = line(0.5, dn.VE(10.0)), {"t_start": 10.0, "t_end": 0.1}, {}
    right = analysis.exact_law(exact, 0.1)[1].item()
    for solver in ("gddim_sde", "euler_maruyama"):
        for lam in (0.0, 1.0, 2.0):
            scaled = []
            for n in (160, 320):
                cov = analysis.law(exact, solver, grids.log_snr(exact.process, n, **ends), lam=lam)[1].item()
                scaled.append((cov - right) * n / log(100))
            found[solver, lam] = 2 * scaled[1] - scaled[0]
    size = {k: abs(v) for k, v in found.items()}
    shown = {s: ", ".join(f"{found[s, lam]:.3f}" for lam in (0.0, 1.0, 2.0)) for s in ("gddim_sde", "euler_maruyama")}
    saw = (
        f"error of the variance over the step, lambda 0, 1, 2: frozen step {shown['gddim_sde']}, of which DDIM is the "
        f"first; Euler-Maruyama {shown['euler_maruyama']}"
    )
    inside = size["gddim_sde", 2.0] > size["gddim_sde", 1.0] > 1.5 * size["gddim_sde", 0.0]
    outside = size["euler_maruyama", 1.0] > 1.5 * size["gddim_sde", 0.0]
    numbers = {f"{s}_{lam:g}": v for (s, lam), v in found.items()}
    return conditional(
        "data are frozen in a step; not for Euler-Maruyama, once steps are many", inside, outside, saw, numbers
    )


@claim(
    "The error of an SDE sampler has to be found by Monte Carlo",
    where="everyday practice",
    kind="implicit",
    page="reverse-sde-claims",
    derived="diffnum.derive.reversing.weak_constants",
)
def monte_carlo_is_necessary() -> Verdict:
    exact, n = line(0.5), 320
    times = grids.log_snr(exact.process, n, t_end=0.05)
    right = analysis.exact_law(exact, 0.05)[1].item()
    known = analysis.law(exact, "ancestral", times)[1].item() - right
    spread = right * (2 / 2000) ** 0.5  # standard error of a variance from 2000 draws
    needed = 2 * (10 * right / known) ** 2
    saw = (
        f"Gaussian data, {n} steps of ancestral sampling: the error of the variance is {known:.4f}, exactly; 2000 "
        f"samples have a standard error of {spread:.4f}; a tenth of it would take {needed:.0e}"
    )
    return verdict(abs(known) > 3 * spread, saw, {"known": known, "spread": spread, "needed": needed})


@claim(
    "The noise of a coarse step is the scaled mean of the fine draws",
    where="everyday practice",
    kind="implicit",
    page="reverse-sde-claims",
)
def coarse_noise_is_a_mean() -> Verdict:
    exact, start = mixture()
    rule = analysis.ladder(grids.log_snr, exact.process, t_end=0.1)
    even = rule(128)
    middle = (even[:-1] ** 0.05) * even[1:] ** 0.95
    fine = {"even": rule(256), "uneven": torch.cat([torch.stack([even[:-1], middle], 1).flatten(), even[-1:]])}
    clock, gain = getattr(dn.solvers.registry["ancestral"], "clock")(exact.process), {}  # noqa: B009 - a claim of it
    for shape, times in fine.items():
        ticks = {t: float(i) for i, t in enumerate(times.tolist())}
        last = dn.solve(exact, "ancestral", start, times, noise=Brownian(times, clock, 0).on(times)).u
        equal = Brownian(times, ticks.__getitem__, 0)
        left = [dn.solve(exact, "ancestral", start, rule(n), noise=equal.on(rule(n))).u - last for n in (8, 64)]
        gain[shape] = analysis.rms(left[0]) / analysis.rms(left[1])
    saw = (
        f"with equal weights the error path by path falls from 8 to 64 steps by {gain['even']:.1f} if the finest grid "
        f"is smooth, by {gain['uneven']:.1f} if its steps alternate 19 to 1"
    )
    return conditional("the finest grid is smooth", gain["even"] > 3, gain["uneven"] > 3, saw, gain)


@lru_cache(maxsize=64)
def share(solver: str, n: int, grid: str = "uniform", lam: float = 1.0) -> float:
    """Standard deviation of narrow data (0.1) after a run, over the right one."""
    narrow = line(0.1)
    cov = analysis.law(narrow, solver, getattr(grids, grid)(narrow.process, n), lam=lam)[1].item()
    return (cov / analysis.exact_law(narrow, narrow.process.t_end)[1].item()) ** 0.5


@claim(
    "Euler-Maruyama fails at few steps",
    where="everyday practice",
    kind="implicit",
    page="reverse-sde-claims",
)
def euler_maruyama_fails() -> Verdict:
    found = {(g, n): share("euler_maruyama", n, g) for g in ("uniform", "log_snr") for n in (10, 20)}
    saw = "deviation over the right one with 10 and 20 steps, data of width 0.1: " + "; ".join(
        f"{g} {found[g, 10]:.2f}, {found[g, 20]:.2f}" for g in ("uniform", "log_snr")
    )
    failed = {g: all(found[g, n] > 2 for n in (10, 20)) for g in ("uniform", "log_snr")}
    numbers = {f"{g}_{n}": v for (g, n), v in found.items()}
    return conditional("steps are uniform in t, not in log-SNR", failed["uniform"], failed["log_snr"], saw, numbers)


@claim(
    "Ancestral sampling smooths at few steps, more than DDIM",
    where="everyday practice",
    kind="implicit",
    page="reverse-sde-claims",
    derived="diffnum.derive.reversing.weak_constants",
)
def ancestral_smooths() -> Verdict:
    found = {lam: share("gddim_sde", 20, "log_snr", lam) for lam in (0.0, 1.0)}
    saw = f"20 log-SNR steps leave {found[1.0]:.3f} of the deviation of narrow data, DDIM {found[0.0]:.3f}"
    return verdict(found[1.0] < found[0.0] < 1, saw, {"ancestral": found[1.0], "ddim": found[0.0]})
