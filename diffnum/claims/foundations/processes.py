"""Linear SDEs and their reversal."""

from math import sqrt

import numpy as np
import sympy as sp
import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import gaussian_line, left, table, zero
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.denoisers import targets
from diffnum.derive import linear_sde as derive
from diffnum.derive import reversing
from diffnum.measure import analysis


@claim(
    "Mean and covariance of a linear SDE are known in closed form, on phase space and for blurring too",
    where="Song et al. 2021, arXiv:2011.13456; Pandey and Mandt 2023",
    kind="proposition",
    page="thm-linear-sde-moments",
    derived="diffnum.derive.linear_sde.solve_moments",
)
def moments_in_closed_form() -> Verdict:
    from scipy.integrate import solve_ivp

    wrong = {}
    for process in (dn.VP(), dn.VP.cosine(), dn.CLD(), dn.PSLD(), dn.Blurring((2, 3))):
        t, first = 0.7 * process.t_max, process.cov(0.0)

        def rates(s, state, process=process, shape=first.shape):
            Psi, S = torch.from_numpy(state).reshape(2, *shape)
            F, G = process.F(s), process.G(s)
            return torch.stack([F @ Psi, F @ S + S @ F.mT + G @ G.mT]).flatten().numpy()

        start = torch.stack([torch.eye(first.shape[-1], dtype=torch.float64).expand(first.shape), first])
        run = solve_ivp(rates, (0.0, t), start.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-14).y[:, -1]
        exact = torch.stack([process.transition(t, 0.0), process.cov(t)])
        gap = (torch.from_numpy(run).reshape(exact.shape) - exact).abs().max() / exact.abs().max()
        wrong[type(process).__name__] = max(gap.item(), wrong.get(type(process).__name__, 0.0))
    rest = zero(*(sp.simplify(r.doit()) for p in ("vp", "ve") for r in derive.moment_residuals(p)))
    saw = (
        f"{left(rest)}; {', '.join(wrong)}: transition and covariance are those of "
        f"an integrator that knows F and G alone, to 1e-8"
    )
    return verdict(rest and max(wrong.values()) < 1e-8, saw, {"processes": len(wrong)})


@claim(
    "VP and VE are the same up to scaling and clock",
    where="Karras et al. 2022, arXiv:2206.00364",
    kind="proposition",
    page="prop-linear-sde-ve",
    derived="diffnum.derive.linear_sde.rescaled_process_residuals",
)
def vp_is_scaled_ve() -> Verdict:
    x, gap = torch.tensor([[0.3, -0.8]], dtype=torch.float64), 0.0
    for vp in (dn.VP(), dn.VP.cosine()):
        for level in (8.0, 0.0, -8.0):
            t = vp.time_of_log_snr(level)
            draws = [torch.Generator().manual_seed(1) for _ in range(2)]
            pair = vp.perturb(x, t, draws[0]) / vp.alpha(t), dn.VE(200.0).perturb(x, vp.rho(t), draws[1])
            gap = max(gap, ((pair[0] - pair[1]).abs().max() / vp.rho(t)).item())
    unscaled = abs(dn.VP().sigma(0.5) / dn.VP().rho(0.5) - 1)
    rest = zero(*derive.rescaled_process_residuals())
    saw = (
        f"{left(rest)}; x/alpha on two VP schedules is the state of VE, within 1e-12 "
        f"of rho; without the scale noise levels differ by {unscaled:.2f} at t = 1/2"
    )
    return verdict(rest and gap < 1e-12 < unscaled, saw, {"unscaled": unscaled})


@claim(
    "The noise schedule matters",
    where="Nichol and Dhariwal 2021, arXiv:2102.09672",
    kind="headline",
    page="linear-sde-claims",
)
def schedule_matters() -> Verdict:
    wrong = {}
    for grid in ("uniform", "log_snr"):
        for p in ("vp", "vp-cosine"):
            process = dn.VP() if p == "vp" else dn.VP.cosine()
            ends = {"t_start": process.time_of_rho(100.0), "t_end": process.time_of_rho(0.02)}
            u = process.alpha(ends["t_start"]) * 100 * targets.starts(dn.VP())
            exact = dn.Problem(process, targets.smooth())
            rule = grids.uniform if grid == "uniform" else grids.log_snr
            end = analysis.reference(exact, u, list(ends.values()))
            run = dn.solve(exact, "ddim", u, rule(process, 20, **ends)).u
            wrong[grid, p] = analysis.rms(run - end) / process.alpha(ends["t_end"])
    apart = {g: abs(wrong[g, "vp"] / wrong[g, "vp-cosine"] - 1) for g in ("uniform", "log_snr")}
    saw = "20 steps of DDIM between two levels, linear and cosine: " + "; ".join(
        f"{g} grid {wrong[g, 'vp']:.1e}, {wrong[g, 'vp-cosine']:.1e}" for g in ("uniform", "log_snr")
    )
    return conditional(
        "as a clock: on grids that follow t, not on those that follow log-SNR",
        apart["uniform"] > 0.1,
        apart["log_snr"] > 0.1,
        saw,
        {"uniform": apart["uniform"], "linear": wrong["uniform", "vp"], "cosine": wrong["uniform", "vp-cosine"]},
    )


@claim(
    "VP preserves the variance",
    where="the name; Song et al. 2021, arXiv:2011.13456",
    kind="implicit",
    page="linear-sde-claims",
)
def variance_is_preserved() -> Verdict:
    vp = dn.VP()
    change = {s: abs(vp.alpha(0.3) ** 2 * s**2 + vp.sigma(0.3) ** 2 - s**2) / s**2 for s in (1.0, 0.5)}
    saw = (
        f"at t = 0.3 it stays, to 1e-12, for data of variance 1, and becomes {1 + change[0.5]:.2f} times itself for 1/4"
    )
    numbers = {"quarter": change[0.5]}
    return conditional("the data have variance 1", change[1.0] < 1e-12, change[0.5] < 1e-12, saw, numbers)


@claim(
    "The process ends in pure noise",
    where="Song et al. 2021, arXiv:2011.13456",
    kind="implicit",
    page="linear-sde-claims",
)
def ends_in_noise() -> Verdict:
    share = {
        "VP": 1 / dn.VP().rho(1.0),
        "VE": 1 / dn.VE().t_max,
        "cosine": 1 / dn.VP.cosine().rho(dn.VP.cosine().t_max),
    }
    saw = f"signal of size 1 over the noise at the end: {table(share)}; the prior ignores it"
    parts = {"to a per cent": max(share.values()) < 0.02, "to 1e-5": max(share.values()) < 1e-5}
    return conditional("to a per cent or two", parts["to a per cent"], parts["to 1e-5"], saw, share)


@claim(
    "1 - alpha^2 is a formula for sigma^2",
    where="many codes",
    kind="implicit",
    page="linear-sde-claims",
    derived="diffnum.derive.linear_sde.clean_variance",
)
def difference_for_the_variance() -> Verdict:
    wrong = {}
    for dtype in (np.float32, np.float64):
        for t in (1e-3, 1e-6):
            alpha = dtype(dn.VP().alpha(t))
            wrong[dtype.__name__, t] = abs(float(dtype(1) - alpha * alpha) / dn.VP().sigma(t) ** 2 - 1)
    saw = "relative error " + "; ".join(
        f"{d} {wrong[d, 1e-3]:.0e} at t = 1e-3, {wrong[d, 1e-6]:.0e} at 1e-6" for d in ("float32", "float64")
    )
    inside, outside = ((max(wrong[d, t] for t in (1e-3, 1e-6)) < 1e-6) for d in ("float64", "float32"))
    numbers = {"single_1e3": wrong["float32", 1e-3], "single_1e6": wrong["float32", 1e-6]}
    return conditional("computed in double precision", inside, outside, saw, numbers)


@claim(
    "lambda is free: any noise may be added to the reverse equation",
    where="Huang et al. 2021, arXiv:2106.02808; gDDIM and ER-SDE",
    kind="proposition",
    page="thm-reversing-family",
    derived="diffnum.derive.reversing.reverse_family_residual",
)
def lambda_is_free() -> Verdict:
    t, x = sp.Symbol("t", positive=True), sp.Symbol("x", real=True)
    rest = {
        "of the time": reversing.reverse_family_residual(sp.Function("lambda")(t)),
        "of the state": sp.simplify(reversing.reverse_family_residual(sp.Function("lambda")(x))),
    }
    none = {name: rest[name] == 0 for name in rest}
    saw = (
        f"SymPy leaves {rest['of the time']} for lambda(t) and a derivative for lambda(x), which an extra drift repairs"
    )
    return conditional("it depends on the time alone", none["of the time"], none["of the state"], saw, {})


@claim(
    "The reverse SDE retraces the forward process",
    where="Anderson 1982",
    kind="theorem",
    page="prop-reversing-gaussian",
    derived="diffnum.derive.reversing.joint_covariance",
)
def retraces_the_forward_process() -> Verdict:
    vp, std = dn.VP(), 0.3
    forward = vp.alpha(1.0) / vp.alpha(1e-3) * (vp.alpha(1e-3) ** 2 * std**2 + vp.sigma(1e-3) ** 2)
    ends = [sqrt(vp.alpha(t) ** 2 * std**2 + vp.sigma(t) ** 2) for t in (1.0, 1e-3)]
    at = {reversing.s0: std, reversing.rho_t: vp.rho(1.0), reversing.rho_s: vp.rho(1e-3)}
    found = {}
    for lam in (0, 1, 2):
        joint = float(reversing.joint_covariance(sp.Integer(lam)).subs(at)) * vp.alpha(1.0) * vp.alpha(1e-3)
        found[lam] = joint / ends[0] / ends[1]
    right = forward / ends[0] / ends[1]
    same = {lam: abs(found[lam] / right - 1) < 1e-6 for lam in found}
    saw = (
        f"correlation of start and end for lambda 0, 1, 2: {', '.join(f'{c:.1e}' for c in found.values())}; of the "
        f"forward process {right:.1e}"
    )
    numbers = {f"lam_{lam}": c for lam, c in found.items()}
    return conditional("lambda = 1", same[1], same[0] or same[2], saw, numbers)


@claim(
    "The probability flow is a bijection between noise and data",
    where="Song et al. 2021, arXiv:2011.13456",
    kind="proposition",
    page="prop-reversing-quantile",
    derived="diffnum.derive.reversing.quantile_residuals",
)
def flow_is_a_bijection() -> Verdict:
    ve, points = dn.VE(), torch.tensor([[-1.0], [-0.4], [0.2], [1.1]], dtype=torch.float64)
    exact = dn.Problem(ve, dn.Empirical(points))
    u = 80 * torch.special.ndtri(torch.linspace(0.05, 0.95, 40, dtype=torch.float64))[:, None]
    apart = {}
    for end in (0.3, 0.0):
        times = grids.log_snr(ve, 200, t_end=end or 1e-4)
        x = dn.solve(exact, "ddim", u, times if end else torch.cat([times, times.new_zeros(1)])).u
        apart[end] = x.ravel().diff().min().item() / (x.max() - x.min()).item()
    rest = zero(*reversing.quantile_residuals())
    saw = (
        f"{left(rest)} along quantiles; of 40 starts the nearest two ends are "
        f"{apart[0.3]:.1e} of the range apart at rho = 0.3 and {abs(apart[0.0]):.0e} at 0, where the data are 4 points"
    )
    inside, outside = rest and apart[0.3] > 1e-6, apart[0.0] > 1e-6
    return conditional("there is noise left", inside, outside, saw, {"noise": apart[0.3]})


@claim(
    "Noise corrects errors: a wrong start is forgotten",
    where="Karras et al. 2022, arXiv:2206.00364, section 4",
    kind="headline",
    page="prop-reversing-gaussian",
    derived="diffnum.derive.reversing.gaussian_moment_residuals",
)
def noise_forgets_the_start() -> Verdict:
    line, left = gaussian_line(0.3, dn.VP()), {}
    two = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    times = grids.log_snr(line.process, 400)
    for lam in (0.0, 1.0):
        draws = [torch.zeros(2, 1, dtype=torch.float64)] * 400
        ends = dn.solve(line, "gddim_sde", two, times, noise=dn.noise.Replay(draws), lam=lam).u
        left[lam] = (ends[1] - ends[0]).item() / 0.3
    saw = f"a start that is wrong by 1 ends wrong by {left[0.0]:.1e} deviations with lambda = 0, {left[1.0]:.1e} with 1"
    return verdict(left[1.0] < 0.1 * left[0.0], saw, {"ode": left[0.0], "sde": left[1.0]})


@claim(
    "eps, x0, score and v are one prediction",
    where="Salimans and Ho 2022, arXiv:2202.00512",
    kind="proposition",
    page="reversing-claims",
    derived="diffnum.derive.reversing.convert",
)
def one_prediction() -> Verdict:
    y, gaps = reversing.y, []
    unit = {reversing.alpha: sp.cos(sp.Symbol("theta")), reversing.sigma: sp.sin(sp.Symbol("theta"))}
    for a in ("eps", "x0", "score", "v"):
        for b in ("eps", "x0", "score", "v"):
            gaps.append(sp.simplify((reversing.convert(reversing.convert(y, a, b), b, a) - y).subs(unit)))
    saw = f"SymPy: {len(gaps)} conversions there and back leave {sorted(set(gaps))}"
    return verdict(all(gap == 0 for gap in gaps), saw, {})


@claim(
    "Sampling makes new data",
    where="implicit in every sampler",
    kind="implicit",
    page="reversing-claims",
)
def makes_new_data() -> Verdict:
    vp, points = dn.VP(), targets.starts(dn.VP(), 8, seed=3)
    ends = {}
    for name, denoiser in (("finite", dn.Empirical(points)), ("smooth", targets.smooth())):
        times = grids.log_snr(vp, 60, t_end=0.0)
        x = dn.solve(dn.Problem(vp, denoiser), "ddim", targets.starts(vp, 40, seed=4), times).u
        ends[name] = torch.cdist(x, points).amin(1).max().item()
    saw = (
        f"40 starts end within {max(ends['finite'], 1e-9):.0e} of one of the 8 points that are the data; with a smooth "
        f"density up to {ends['smooth']:.1f} away from them"
    )
    return conditional(
        "the score is not the exact one of a finite set", ends["smooth"] > 1e-6, ends["finite"] > 1e-6, saw, {}
    )
