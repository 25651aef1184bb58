"""What PNDM says: Liu, Ren, Lin and Zhao 2022, arXiv:2202.09778."""

from math import log

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import converge, ends, error, local_slope, problem, quality, table, truth, two
from diffnum.claims.verdicts import Verdict, claim, conditional, not_tried, several, verdict
from diffnum.denoisers import targets
from diffnum.derive import pndm as derive
from diffnum.measure import analysis

HALVED = (40, 80, 160, 320)


@claim(
    "The difference form of a DDIM step, divided by the step, tends to the probability-flow ODE",
    where="equations 9 and 10",
    kind="proposition",
    page="pndm-theory",
    derived="diffnum.derive.pndm.ode_limit",
)
def ddim_tends_to_the_ode() -> Verdict:
    vp, t, h = problem(), 0.4, 1e-5
    x = targets.starts(vp.process)
    quotient = (x - dn.solve(vp, "ddim", x, [t, t - h]).u) / h
    wrong = analysis.rms(quotient - vp.velocity(x, t)) / analysis.rms(quotient)
    residual = derive.ddim_difference_residual()
    saw = f"SymPy leaves {residual}; a quotient over h = {h:.0e} differs from the velocity by {wrong:.0e} of it"
    return verdict(residual == 0 and wrong < 1e-3, saw, {"relative": wrong})


@claim(
    "The velocity is unbounded as t tends to 0",
    where="section 3.1",
    kind="implicit",
    page="pndm-theory",
)
def velocity_unbounded() -> Verdict:
    speed = {}
    for target in ("thin", "smooth"):
        for t in (1e-3, 1e-5):
            vp = problem(target)
            speed[target, t] = analysis.rms(vp.velocity(truth(target, "vp", 1.0, t)[1], t))
    growth = {target: speed[target, 1e-5] / speed[target, 1e-3] for target in ("thin", "smooth")}
    saw = (
        f"from t = 1e-3 to 1e-5 the speed grows by {growth['thin']:.1f} on thin data (1/sqrt t: 10), "
        f"{growth['smooth']:.1f} else"
    )
    return conditional("the data are thin", growth["thin"] > 5, growth["smooth"] > 5, saw, growth)


@claim(
    "Classical methods fail near t = 0",
    where="sections 3.1 and 4",
    kind="headline",
    page="pndm-claims",
)
def classical_methods_fail() -> Verdict:
    names = ("f_pndm", "fon", "heun")
    wrong = {(d, s): error(s, 160, target=d) for d in ("thin", "smooth") for s in names}
    fails = {d: max(wrong[d, "fon"], wrong[d, "heun"]) > 10 * wrong[d, "f_pndm"] for d in ("thin", "smooth")}
    saw = "; ".join(f"{d} data, 160 steps: {table({s: wrong[d, s] for s in names})}" for d in ("thin", "smooth"))
    numbers = {f"{d}_{s}": e for (d, s), e in wrong.items()}
    return conditional("the data are thin", fails["thin"], fails["smooth"], saw, numbers)


@claim(
    "DDIM is the pseudo Euler method: Euler's gradient part, then the transfer part",
    where="section 3.3",
    kind="proposition",
    page="pndm-theory",
    derived="diffnum.derive.pndm.ddim_difference_residual",
)
def ddim_is_pseudo_euler() -> Verdict:
    from diffnum.solvers import transfer

    vp, x = problem(), targets.starts(problem().process)
    t, s = 0.7, 0.4
    by_hand = transfer(vp, x, vp.eps(x, t), t, s)
    apart = (by_hand - dn.solve(vp, "ddim", x, [t, s]).u).abs().max().item()
    euler = (dn.solve(vp, "euler", x, [t, s]).u - by_hand).abs().max().item()
    saw = (
        f"one step: DDIM and pseudo Euler differ by less than {max(apart, 1e-15):.0e}, Euler on the "
        f"raw ODE by {euler:.1e}"
    )
    return verdict(apart < 1e-12 < euler, saw, {"euler": euler})


@claim(
    "The transfer is exact over any step when the noise is",
    where="property 3.1",
    kind="theorem",
    page="prop-pndm-exact",
    derived="diffnum.derive.pndm.exactness_residual",
)
def transfer_is_exact() -> Verdict:
    process = problem().process
    point, noise = torch.tensor([1.0, -0.5], dtype=torch.float64), dn.noise.Seeded(0).normal((4, 2))
    exact = dn.Problem(process, dn.PointMass(point))
    (a, n), (b, m) = process.levels(1.0), process.levels(1e-3)
    wrong = (dn.solve(exact, "ddim", a * point + n * noise, [1.0, 1e-3]).u - (b * point + m * noise)).abs().max().item()
    classical = (
        (dn.solve(exact, "euler", a * point + n * noise, [1.0, 1e-3]).u - (b * point + m * noise)).abs().max().item()
    )
    residual = derive.exactness_residual()
    holds = residual == 0 and wrong < 1e-9 < classical
    saw = f"SymPy leaves {residual}; one step from t = 1 to 1e-3 is right to 1e-9, Euler's is wrong by {classical:.1f}"
    return verdict(holds, saw, {"euler": classical})


@claim(
    "One step of S-PNDM and F-PNDM has a local error of O(h^3)",
    where="property 3.2",
    kind="theorem",
    page="thm-pndm-order",
    derived="diffnum.derive.pndm.local_error",
)
def local_error() -> Verdict:
    terms = {name: derive.local_error(name) for name in ("s_pndm", "f_pndm")}
    powers = {name: min(k for k, c in term.items() if c != 0) for name, term in terms.items()}
    slope = local_slope("prk", 0.339, 0.1)
    saw = f"derived: h^{powers['s_pndm']} and h^{powers['f_pndm']}; a start-up step (PRK) has slope {slope:.2f}"
    return verdict(min(powers.values()) == 3 and abs(slope - 3) < 0.15, saw, {**powers, "slope": slope})


@claim(
    "S-PNDM and F-PNDM converge with order 2",
    where="property 3.2",
    kind="theorem",
    page="thm-pndm-order",
    derived="diffnum.derive.pndm.global_error_constant",
)
def order_two() -> Verdict:
    found = {s: converge(s, HALVED, "log_snr").order for s in ("s_pndm", "f_pndm")}
    saw = f"log-SNR grid to t = 1e-3, 320 steps: slopes {two(found.values())}"
    return verdict(all(abs(p - 2) < 0.1 for p in found.values()), saw, found)


@claim(
    "The order holds on the steps that are used, uniform down to t = 0",
    where="property 3.2 and section 4",
    kind="implicit",
    page="pndm-order-theorem",
    derived="diffnum.derive.pndm.last_step_defect",
)
def order_down_to_zero() -> Verdict:
    grids_used = ("uniform", "quadratic")
    found = {g: converge("f_pndm", (160, 320, 640), g, t_end=0.0).order for g in grids_used}
    saw = (
        f"F-PNDM to t = 0: slope {found['quadratic']:.2f} on steps uniform in sqrt t, "
        f"{found['uniform']:.2f} uniform in t"
    )
    held = {g: p > 1.8 for g, p in found.items()}
    return conditional("steps are uniform in sqrt t", held["quadratic"], held["uniform"], saw, found)


@claim(
    "DDIM converges with order 1",
    where="section 3.3",
    kind="theorem",
    page="ddim-theory",
    derived="diffnum.derive.ddim.local_error",
)
def ddim_order_one() -> Verdict:
    inner = converge("ddim", HALVED, "log_snr")
    at_zero = converge("ddim", (320, 640), target="thin", t_end=0.0)
    logarithm = at_zero.errors[1] / at_zero.errors[0] / (log(640) / 640 * 320 / log(320))
    saw = f"slope {inner.order:.2f}; uniform down to t = 0 {at_zero.order:.2f}, where the error is h log(1/h)"
    numbers = {"slope": inner.order, "at_zero": at_zero.order, "over_h_log_h": logarithm}
    return verdict(abs(inner.order - 1) < 0.05 and at_zero.order > 0.9, saw, numbers)


@claim(
    "F-PNDM, 'fourth-order pseudo numerical method', is of fourth order (the paper itself proves 2)",
    where="section 3.4, the name",
    kind="implicit",
    page="thm-pndm-order",
    derived="diffnum.derive.pndm.local_error",
)
def fourth_order_name() -> Verdict:
    span = ends(problem().process)
    usual = converge("f_pndm", (160, 320, 640), "log_snr", **span).order
    straight = converge("f_pndm", (320, 640, 1280), "sigma", midpoint="sigma", **span).order
    constant = derive.local_error("f_pndm")[3]
    saw = (
        f"slope {usual:.2f} on the log-SNR grid, {straight:.2f} on nodes uniform in sigma/alpha, "
        f"where {constant} h^3 is 0"
    )
    numbers = {"log_snr": usual, "sigma": straight}
    return conditional("nodes are uniform in sigma/alpha", straight > 3.7, usual > 3.7, saw, numbers)


@claim(
    "Pseudo methods stay near the data manifold: norms and distances",
    where="sections 3.1 and 4.3",
    kind="headline",
    page="pndm-claims",
)
def stays_near_the_manifold() -> Verdict:
    process, vp = problem("thin").process, problem("thin")
    u, end = truth("thin", "vp", 1.0, process.t_end)
    planes = process.alpha(process.t_end) * torch.tensor(targets.MEANS, dtype=torch.float64)

    def distance(x: torch.Tensor) -> float:
        return torch.linalg.vector_norm((x[:, None] - planes)[..., [1, 3]], dim=-1).amin(1).mean().item()

    found = {
        (s, n): distance(dn.solve(vp, s, u, grids.uniform(process, n)).u) / distance(end)
        for s in ("ddim", "f_pndm", "fon")
        for n in (10, 50)
    }
    near = {n: abs(found["f_pndm", n] - 1) < 0.1 < abs(found["fon", n] - 1) for n in (10, 50)}
    saw = "distance from the planes over the right one: " + "; ".join(
        f"{n} steps " + table({s: found[s, n] for s in ("ddim", "f_pndm", "fon")}, ".2f") for n in (10, 50)
    )
    numbers = {f"{s}_{n}": v for (s, n), v in found.items()}
    return conditional("steps are not too few (50, not 10)", near[50], near[10], saw, numbers)


@claim(
    "F-PNDM is better than S-PNDM",
    where="section 4.2",
    kind="headline",
    page="pndm-claims",
)
def f_pndm_better_than_s_pndm() -> Verdict:
    cases = {
        "on steps uniform in t": ("smooth", "uniform", 40),
        "from 40 log-SNR steps on": ("thin", "log_snr", 40),
        "at 10 log-SNR steps": ("thin", "log_snr", 10),
    }
    ratio = {k: error("f_pndm", n, g, target=d) / error("s_pndm", n, g, target=d) for k, (d, g, n) in cases.items()}
    saw = f"error of F-PNDM over that of S-PNDM at equal steps: {table(ratio, '.2f')}"
    parts = {k: verdict(r < 1, saw, {}) for k, r in ratio.items()}
    return several(parts, saw, dict(zip(("uniform", "many", "few"), ratio.values(), strict=True)))


@claim(
    "The Runge-Kutta start is needed",
    where="section 3.4, algorithm 2",
    kind="implicit",
    page="pndm-claims",
)
def runge_kutta_start_is_needed() -> Verdict:
    runs = {s: converge(s, (20, 40, 80), "log_snr") for s in ("f_pndm", "plms")}
    worst = max(b / a for a, b in zip(runs["f_pndm"].errors, runs["plms"].errors, strict=True))
    saved = runs["f_pndm"].nfe[0] - runs["plms"].nfe[0]
    saw = f"`plms`, with {saved} evaluations fewer, has at most {worst:.3f} times the error of F-PNDM at equal steps"
    return verdict(worst > 1.1, saw, {"ratio": worst, "saved": saved})


class OffByOne:
    """A denoiser that takes the state at time t for one at t - 1/N, as the released table does."""

    def __init__(self, denoiser, process) -> None:
        self.denoiser, self.process = denoiser, process

    def __call__(self, x, sigma):
        """The clean prediction."""
        return x - sigma * self.eps(x, sigma)

    def eps(self, x, sigma):
        """The noise prediction of the entry before."""
        t = self.process.time_of_rho(sigma)
        alpha, noise = self.process.levels(t - self.process.unit)
        return self.denoiser.eps(self.process.alpha(t) * x / alpha, noise / alpha)


@claim(
    "The released code is the method",
    where="code",
    kind="implicit",
    page="pndm-claims",
)
def released_code_is_the_method() -> Verdict:
    process = dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    right, released = (dn.Problem(process, d) for d in (targets.smooth(), OffByOne(targets.smooth(), process)))
    u, wrong = targets.starts(process), {}
    for n in (50, 200):
        times = grids.from_table(process, n, t_end=0.0)
        end = analysis.reference(right, u, times[[0, -1]])
        for name, exact, shift in (("method", right, 0.0), ("code", released, 1e-3)):
            wrong[name, n] = analysis.rms(dn.solve(exact, "f_pndm", u, times + shift).u - end)
    gain = {name: wrong[name, 50] / wrong[name, 200] for name in ("method", "code")}
    saw = (
        f"four times the steps, 50 to 200: error of the method / {gain['method']:.1f}, of the code / {gain['code']:.2f}"
    )
    numbers = {**gain, "method_50": wrong["method", 50], "code_50": wrong["code", 50], "code_200": wrong["code", 200]}
    return verdict(gain["code"] > 2, saw + f"; it stops at {wrong['code', 200]:.1e}", numbers)


@claim(
    "50 steps of PNDM beat 1000 of DDIM, and 250 by 0.4",
    where="abstract",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def fifty_steps_beat_a_thousand() -> Verdict:
    parts = {f"against {n}": quality(("F-PNDM", 50), ("DDIM", n)) for n in (250, 1000)}
    saw = "; ".join(part.saw for part in parts.values())
    return several(parts, saw, {f"limit_{k.split()[-1]}": p.numbers["limit"] for k, p in parts.items()})


@claim(
    "The method works as well on the cosine schedule",
    where="section 4.2, table 1",
    kind="headline",
    page="pndm-claims",
)
def cosine_works_as_well() -> Verdict:
    found = {p: converge("f_pndm", (80, 160, 320), "log_snr", process=p).order for p in ("vp", "vp-cosine")}
    gain = {p: error("ddim", 29, "log_snr", process=p) / error("f_pndm", 20, "log_snr", process=p) for p in found}
    saw = (
        f"order {found['vp']:.2f} linear, {found['vp-cosine']:.2f} cosine; with 29 evaluations DDIM has "
        f"{gain['vp']:.1f} and {gain['vp-cosine']:.1f} times the error"
    )
    holds = all(abs(p - 2) < 0.15 for p in found.values()) and min(gain.values()) > 1
    return verdict(holds, saw, {"linear": gain["vp"], "cosine": gain["vp-cosine"]})


@claim(
    "The probability-flow baseline, adaptive RK45, is worse at equal evaluations",
    where="section 4.2, table 1, row PF",
    kind="headline",
    page="pndm-claims",
)
def adaptive_baseline_is_worse() -> Verdict:
    from scipy.integrate import solve_ivp

    ratio, spent = {}, {}
    for target in ("thin", "smooth"):
        vp = dn.Problem(problem(target).process, targets.target(target))
        u, end = truth(target, "vp", 1.0, 1e-3)

        def velocity(t, x, vp=vp, u=u):
            return vp.velocity(torch.from_numpy(x).reshape(u.shape), t).numpy().ravel()

        run = solve_ivp(velocity, (1.0, 1e-3), u.numpy().ravel(), method="RK45", rtol=1e-5, atol=1e-5)
        wrong = analysis.rms(torch.from_numpy(run.y[:, -1]).reshape(u.shape) - end)
        spent[target] = vp.nfe
        ratio[target] = wrong / error("f_pndm", vp.nfe - 9, target=target)
    saw = "; ".join(f"{d} data, {spent[d]} evaluations: {r:.2g} times the error of F-PNDM" for d, r in ratio.items())
    numbers = {**ratio, **{f"nfe_{d}": n for d, n in spent.items()}}
    return conditional("the data are thin", ratio["thin"] > 1, ratio["smooth"] > 1, saw, numbers)


@claim(
    "A step costs what a DDIM step costs",
    where="section 4.2, table 3",
    kind="headline",
    page="pndm-claims",
)
def a_step_costs_a_ddim_step() -> Verdict:
    spent = {(s, n): analysis.evaluations(dn.VP(), s, n) for s in ("ddim", "f_pndm") for n in (20, 50, 250)}
    extra = {n: spent["f_pndm", n] - spent["ddim", n] for n in (20, 50, 250)}
    share = {n: (n + e) / n for n, e in extra.items()}
    late = (spent["f_pndm", 250] - spent["f_pndm", 50]) / 200
    saw = f"{late:g} evaluation a step after the start, which takes 9 more: {table(share, '.2f')} times DDIM's"
    return conditional(
        "steps are many (250, not 20)",
        share[250] < 1.05,
        share[20] < 1.05,
        saw,
        {"20": share[20], "50": share[50], "250": share[250]},
    )


@claim(
    "FID 3.26 on CIFAR-10 and 2.71 on CelebA",
    where="abstract and table 1",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def fids() -> Verdict:
    return not_tried("FIDs of networks that are not at hand, in features that are not ours")
