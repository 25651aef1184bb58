"""What an order is, and what a slope shows."""

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import converge, error, gaussian_line, problem, table, truth
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.denoisers import targets
from diffnum.derive import classical
from diffnum.measure import analysis

ORDERS = {"euler": 1, "heun": 2, "rk4": 4}


@claim(
    "A local error h^(p + 1) gives a global error h^p",
    where="Hairer, Norsett and Wanner 1993, section II.3",
    kind="theorem",
    page="thm-order-global",
)
def local_to_global() -> Verdict:
    exact, t, local, whole = problem(), 0.5, {}, {}
    x = analysis.reference(exact, targets.starts(exact.process), [1.0, t], rtol=1e-13)
    for name in ORDERS:
        errors = []
        for h in (0.025, 0.0125):
            end = analysis.reference(exact, x, [t, t - h], rtol=3e-14)
            errors.append(analysis.rms(dn.solve(exact, name, x, [t, t - h]).u - end))
        local[name] = analysis.local_slopes([1, 2], errors)[0]
        whole[name] = converge(name, (80, 160, 320), t_end=0.01).order
    saw = f"slopes of one step {table(local, '.2f')}; of whole runs {table(whole, '.2f')}"
    holds = all(abs(local[k] - p - 1) < 0.5 and abs(whole[k] - p) < 0.3 for k, p in ORDERS.items())
    return verdict(holds, saw, {f"local_{k}": v for k, v in local.items()} | whole)


@claim(
    "The constant of the error is the integral of the propagated local errors",
    where="Hairer, Norsett and Wanner 1993, section II.8",
    kind="theorem",
    page="thm-order-global",
    derived="diffnum.derive.classical.global_error_constant",
)
def constant_is_the_integral() -> Verdict:
    import sympy as sp
    from mpmath import quad

    t = sp.Symbol("t", positive=True)
    S = sp.sqrt(1 - sp.Rational(3, 4) * sp.exp(-(t / 10 + sp.Rational(199, 20) * t**2)))
    first, last = (float(S.subs(t, at)) for at in (1, 0.01))
    line, ratio = gaussian_line(0.5, dn.VP()), {}
    for name, tableau in (("euler", classical.euler()), ("heun", classical.improved_euler())):
        integral = classical.global_error_constant(tableau, S, t, 1, sp.Rational(1, 100))
        predicted = float(quad(sp.lambdify(t, integral.function, "mpmath"), [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]))
        u, scaled = torch.full((1, 1), first, dtype=torch.float64), []
        for n in (400, 800):
            end = dn.solve(line, name, u, grids.uniform(line.process, n, t_end=0.01)).u.item()
            scaled.append((end - last) / (-0.99 / n) ** ORDERS[name])
        ratio[name] = (2 * scaled[1] - scaled[0]) / predicted
    saw = f"Gaussian data, measured over predicted: {table(ratio, '.3f')}"
    return verdict(all(abs(r - 1) < 1e-2 for r in ratio.values()), saw, ratio)


@claim(
    "The slope at the usual numbers of steps is the order",
    where="plots of many papers",
    kind="implicit",
    page="order-claims",
)
def slope_is_the_order() -> Verdict:
    found = {g: converge("f_pndm", (20, 40, 80, 160), g).slopes for g in ("uniform", "log_snr")}
    saw = "F-PNDM, order 2, from 20 to 160 steps: " + "; ".join(
        f"{g} to t = 1e-3 {', '.join(f'{p:.1f}' for p in found[g])}" for g in found
    )
    near = {g: all(abs(p - 2) < 0.6 for p in found[g]) for g in found}
    numbers = {f"{g}_{n}": p for g in found for n, p in zip((40, 80, 160), found[g], strict=True)}
    return conditional("steps are smooth in log-SNR, not uniform in t", near["log_snr"], near["uniform"], saw, numbers)


@claim(
    "More steps never hurt",
    where="everyday practice",
    kind="implicit",
    page="order-claims",
)
def more_steps_never_hurt() -> Verdict:
    exact, wrong = problem(), {}
    u, end = truth("smooth", "vp", 1.0, 0.01)
    for dtype in (torch.float64, torch.float32):
        for n in (160, 1280):
            run = dn.solve(exact, "rk4", u.to(dtype), grids.uniform(exact.process, n, t_end=0.01)).u
            wrong[str(dtype)[6:], n] = analysis.rms(run.double() - end)
    saw = "RK4 with 160 and 1280 steps: " + "; ".join(
        f"{d} {wrong[d, 160]:.0e}, {wrong[d, 1280]:.0e}" for d in ("float64", "float32")
    )
    better = {d: wrong[d, 1280] < wrong[d, 160] for d in ("float64", "float32")}
    numbers = {f"{d}_{n}": e for (d, n), e in wrong.items()}
    return conditional(
        "rounding is out of sight (double precision)", better["float64"], better["float32"], saw, numbers
    )


@claim(
    "Richardson's estimate is the error",
    where="Richardson 1911",
    kind="proposition",
    page="order-claims",
)
def richardson_is_the_error() -> Verdict:
    exact, ratio = problem(), {}
    for where, grid, n in (("tail", "log_snr", 80), ("before", "uniform", 40)):
        u, end = truth("smooth", "vp", 1.0, exact.process.t_end)
        coarse, fine = (dn.solve(exact, "f_pndm", u, getattr(grids, grid)(exact.process, m)).u for m in (n, 2 * n))
        ratio[where] = analysis.rms(analysis.richardson(coarse, fine, 2)[1]) / analysis.rms(fine - end)
    saw = (
        f"F-PNDM, estimate over error: {ratio['tail']:.2f} on the log-SNR grid at 160 steps, {ratio['before']:.2f} at "
        f"80 uniform steps, where the slope is not yet 2"
    )
    near = {where: abs(r - 1) < 0.1 for where, r in ratio.items()}
    return conditional("the slope is the order already", near["tail"], near["before"], saw, ratio)


@claim(
    "Runs that end at different times can be compared",
    where="published grids that end at 1/n",
    kind="implicit",
    page="order-claims",
)
def moving_ends() -> Verdict:
    exact, steps = problem(), (320, 640, 1280)
    u, clean = truth("smooth", "vp", 1.0, 0.0)
    wrong = [
        analysis.rms(dn.solve(exact, "f_pndm", u, grids.uniform(exact.process, n, t_end=1 / n)).u - clean)
        for n in steps
    ]
    slope = analysis.local_slopes(steps, wrong)[-1]
    saw = f"F-PNDM, order 2, ends at t = 1/n judged against clean data: slope {slope:.2f}, that of the grid"
    return verdict(abs(slope - 2) < 0.15, saw, {"slope": slope})


@claim(
    "Runs that converge converge to the solution",
    where="everyday practice: finer runs agree with each other",
    kind="implicit",
    page="order-claims",
)
def converges_to_the_solution() -> Verdict:
    def wrong_factor(problem, u, times):
        """Euler's method with 0.9 times the score."""
        from itertools import pairwise

        for t, s in pairwise(times):
            F, G2 = problem.process.F(t).item(), problem.process.G(t).item() ** 2
            u = u + (s - t) * (F * u - 0.9 * G2 / 2 * problem.score(u, t))
            yield u

    exact = problem()
    u, end = truth("smooth", "vp", 1.0, 0.01)
    runs = [dn.solve(exact, wrong_factor, u, grids.uniform(exact.process, n, t_end=0.01)).u for n in (80, 160, 320)]
    own = analysis.local_slopes([1, 2], [analysis.rms(runs[0] - runs[1]), analysis.rms(runs[1] - runs[2])])[0]
    true = analysis.local_slopes([1, 2], [analysis.rms(run - end) for run in runs[1:]])[0]
    saw = f"Euler lacking a tenth of the score: slope {own:.2f} among its own runs, {true:.2f} against the solution"
    return verdict(true > 0.5, saw, {"own": own, "true": true})


@claim(
    "Exponential methods of order q show it from any start",
    where="Zhang and Chen 2023, arXiv:2204.13902",
    kind="implicit",
    page="exponential-claims",
    derived="diffnum.derive.gddim.start_defect",
)
def ramp_does_no_harm() -> Verdict:
    middle = problem().process.time_of_rho(3.0)
    prior = {q: converge("gddim", (160, 320, 640), "log_snr", order=q).order for q in (1, 2, 3, 4)}
    late = {q: converge("gddim", (160, 320, 640), "log_snr", t_start=middle, order=q).order for q in (3, 4)}
    good = converge("pndm_variable", (160, 320, 640), "log_snr", t_start=middle, variable="t").order
    saw = (
        f"orders 1 to 4 from the prior {', '.join(f'{p:.2f}' for p in prior.values())}; 3 and 4 from rho = 3 "
        f"{late[3]:.2f}, {late[4]:.2f}, with a Runge-Kutta start {good:.2f}"
    )
    inside, outside = all(abs(p - q) < 0.35 for q, p in prior.items()), all(abs(p - q) < 0.35 for q, p in late.items())
    numbers = {f"prior_{q}": p for q, p in prior.items()} | {f"late_{q}": p for q, p in late.items()} | {"good": good}
    return conditional(
        "the start is the prior, or is made with Runge-Kutta; else the ramp shows", inside, outside, saw, numbers
    )


@claim(
    "Higher order is better at five steps",
    where="Zhang and Chen 2023, arXiv:2204.13902",
    kind="headline",
    page="exponential-claims",
)
def higher_order_at_five_steps() -> Verdict:
    wrong = {(g, q): error("gddim", 5, g, target="thin", order=q) for g in ("log_snr", "uniform") for q in (1, 2, 4)}
    saw = "thin data, orders 1, 2, 4 of `gddim`: " + "; ".join(
        f"{g} {', '.join(f'{wrong[g, q]:.2g}' for q in (1, 2, 4))}" for g in ("log_snr", "uniform")
    )
    better = {g: wrong[g, 4] < wrong[g, 2] < wrong[g, 1] for g in ("log_snr", "uniform")}
    numbers = {f"{g}_{q}": e for (g, q), e in wrong.items()}
    return conditional("steps are uniform in log-SNR, not in t", better["log_snr"], better["uniform"], saw, numbers)


@claim(
    "DPM-Solver++(2M) is an exponential Adams method",
    where="Lu et al. 2022, arXiv:2211.01095",
    kind="implicit",
    page="exponential-claims",
    derived="diffnum.derive.gddim.dpmpp_2m_defect",
)
def two_m_is_adams() -> Verdict:
    from math import exp

    gap = []
    for h in (0.02, 0.01):  # equal steps in log(alpha/sigma): weight of the slope, over its exact value
        gap.append(abs(h / 2 * (1 - exp(-h)) - (h - 1 + exp(-h))))
    power = analysis.local_slopes([1, 2], gap)[0]
    order = {
        "dpmpp_2m": converge("dpmpp_2m", (80, 160, 320), "log_snr").order,
        "gddim": converge("gddim", (80, 160, 320), "log_snr", order=2).order,
    }
    saw = (
        f"its weights differ from the exact integrals by h^{power:.1f}/12; the order is {order['dpmpp_2m']:.2f} all "
        f"the same, `gddim(order=2)` {order['gddim']:.2f}"
    )
    return verdict(gap[1] < 1e-12, saw, {"power": power, "order": order["dpmpp_2m"]})
