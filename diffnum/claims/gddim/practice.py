"""What is claimed of samplers, networks and the released code."""

from itertools import pairwise

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.gddim.settings import cld_errors, spread
from diffnum.claims.measure import gaussian_line, left, problem, quality, table, truth, zero
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, not_tried, several, unresolved, verdict
from diffnum.coefficients import act, lagrange
from diffnum.denoisers import targets
from diffnum.derive import gddim as derive
from diffnum.measure import analysis


@claim(
    "A corrector pays at equal evaluations",
    where="section 5, table 4",
    kind="headline",
    page="gddim-claims",
)
def corrector_pays() -> Verdict:
    ratio = {}
    for n in (20, 50, 100):
        pece = cld_errors((n // 2,), 1e-3, order=2, corrector="pece").errors[0]
        ratio[n] = pece / cld_errors((n,), 1e-3, order=3).errors[0]
    saw = f"PECE of order 2 over the predictor of order 3, at equal evaluations: {table(ratio, '.1f')}"
    return verdict(all(r < 1 for r in ratio.values()), saw, {str(k): v for k, v in ratio.items()})


@claim(
    "Old noise predictions are extrapolated by polynomials in t, whatever the process",
    where="section 4",
    kind="implicit",
    page="gddim-stable",
)
def extrapolated_in_time() -> Verdict:
    vp, cosine = dn.VP(), dn.VP.cosine()
    grown = {
        "linear": analysis.growth(vp, "pndm_variable", grids.log_snr(vp, 20), variable="t"),
        "cosine": analysis.growth(cosine, "pndm_variable", grids.log_snr(cosine, 20), variable="t"),
        "fewer_nodes": analysis.growth(cosine, "gddim", grids.log_snr(cosine, 20), order=4),
    }
    saw = f"four nodes, 20 steps in log-SNR from the prior: errors of the noise grow {table(grown, '.0e')} times"
    return conditional("the schedule is linear", grown["linear"] < 1e4, grown["cosine"] < 1e4, saw, grown)


@claim(
    "K = R is better than K = L",
    where="section 5, table 2",
    kind="headline",
    page="gddim-claims",
)
def R_better_than_L() -> Verdict:
    ratio = {
        n: cld_errors((n,), 1e-3, order=3, K="L").errors[0] / cld_errors((n,), 1e-3, order=3).errors[0]
        for n in (20, 50)
    }
    pairs = {f"network, {n}": quality(("gDDIM, K = R", n), ("gDDIM, K = L", n)) for n in (20, 30, 50)}
    parts = {f"exact score, {n}": verdict(r > 1, "", {}) for n, r in ratio.items()} | pairs
    saw = f"error of L over R, order 3: {table(ratio, '.3g')} at so many steps; distance with the network " + ", ".join(
        f"{p.numbers['limit']:.0f} [{p.numbers['low']:.0f}, {p.numbers['high']:.0f}] at {k.split()[-1]}"
        for k, p in pairs.items()
    )
    return several(parts, saw, {f"ratio_{n}": r for n, r in ratio.items()})


@claim(
    "Higher order is better at 20 to 50 evaluations",
    where="section 5, table 3",
    kind="headline",
    page="gddim-claims",
)
def higher_order_better() -> Verdict:
    runs = [cld_errors((20, 50), 1e-3, count=64, order=q) for q in (1, 2, 3, 4)]
    errors = {n: [run.median[i] for run in runs] for i, n in enumerate((20, 50))}
    saw = "median over 64 starts; " + "; ".join(
        f"{n} steps, orders 1 to 4: {', '.join(f'{e:.1e}' for e in row)}" for n, row in errors.items()
    )
    better = {n: all(a > b for a, b in pairwise(row)) for n, row in errors.items()}
    numbers = {f"{n}_{q}": e for n, row in errors.items() for q, e in enumerate(row, 1)}
    return conditional("evaluations are 50; at 20 order 4 is level with 3", better[50], better[20], saw, numbers)


@claim(
    "One stochastic step has the right mean and covariance of a point, for every lambda",
    where="section 4, proposition 4",
    kind="proposition",
    page="prop-gddim-stochastic",
    derived="diffnum.derive.gddim.stochastic_residuals",
)
def stochastic_step_exact() -> Verdict:
    process = dn.CLD()
    times = torch.tensor([process.t_max, process.t_end], dtype=torch.float64)
    line = gaussian_line(0.0, process)
    wrong = []
    for lam in (0.3, 1.0):
        cov = analysis.law(line, "gddim_sde", times, lam=lam)[1]
        right = analysis.exact_law(line, times[-1].item())
        wrong += [((cov - right[1]).abs().max() / right[1].abs().max()).item()]
    rest = zero(*derive.stochastic_residuals())
    saw = f"{left(rest)}; one step from 1 to 1e-3 on CLD has the right covariance to 1e-4"
    return verdict(rest and max(wrong) < 1e-4, saw, {})


@claim(
    "lambda = 0 is deterministic gDDIM",
    where="section 4",
    kind="proposition",
    page="gddim-stochastic",
    derived="diffnum.derive.gddim.scalar_step_residuals",
)
def lambda_zero_is_deterministic() -> Verdict:
    exact = problem("smooth", "cld")
    u, times = targets.starts(exact.process), grids.quadratic(exact.process, 10)
    ends = [
        dn.solve(exact, s, u, times, **o).u
        for s, o in (("gddim", {"order": 1}), ("gddim_sde", {"lam": 0.0}), ("gddim_sde", {"lam": 1.0}))
    ]
    apart = [(end - ends[0]).abs().max().item() / ends[0].abs().max().item() for end in ends[1:]]
    saw = f"ten steps agree to 1e-9; with lambda = 1 they differ by {apart[1]:.1f} of the state"
    return verdict(apart[0] < 1e-9 < apart[1], saw, {"one": apart[1]})


@claim(
    "lambda = 1 draws from the posterior",
    where="section 4",
    kind="proposition",
    page="gddim-stochastic",
    derived="diffnum.derive.gddim.posterior_gain_residual",
)
def lambda_one_is_the_posterior() -> Verdict:
    process, t, s = dn.CLD(), 0.6, 0.3
    through, P = process.reverse_step(s, t, 1.0)
    gain = process.cov(s) @ process.transition(t, s).mT @ torch.linalg.inv(process.cov(t))
    posterior = process.cov(s) - gain @ process.cov(t) @ gain.mT
    wrong = max((through - gain).abs().max().item(), (P - posterior).abs().max().item())
    rest = zero(derive.posterior_gain_residual(), *derive.posterior_residuals())
    saw = f"{left(rest)}; on CLD gain and covariance are those of Bayes' formula to 1e-9"
    return verdict(rest and wrong < 1e-9, saw, {})


@claim(
    "Noise, lambda > 0, hurts at few steps",
    where="section 5, table 5",
    kind="headline",
    page="gddim-claims",
)
def noise_hurts() -> Verdict:
    process = dn.CLD()
    ratio = {
        (std, n, lam): spread(process, "gddim_sde", std, grids.quadratic(process, n), lam=lam)
        for std in (0.1, 0.5) for n in (10, 20) for lam in (0.0, 1.0)
    }  # fmt: skip
    change = {
        (std, n): abs(ratio[std, n, 1.0] - 1) - abs(ratio[std, n, 0.0] - 1) for std in (0.1, 0.5) for n in (10, 20)
    }
    network = {f"network, {n} steps": quality(("gDDIM, lambda 0", n), ("gDDIM, lambda 1", n)) for n in (20, 50)}
    parts = {f"Gaussian law, width {std}, {n} steps": verdict(c > 0.1, "", {}) for (std, n), c in change.items()}
    saw = (
        f"deviation over the right one in 20 steps with lambda 0 and 1: narrow data {ratio[0.1, 20, 0.0]:.2f} and "
        f"{ratio[0.1, 20, 1.0]:.2f}, wide {ratio[0.5, 20, 0.0]:.2f} and {ratio[0.5, 20, 1.0]:.2f}; "
        + "; ".join(pair.saw for pair in network.values())
    )
    numbers = {f"narrow_{n}_{lam:g}": ratio[0.1, n, lam] for n in (10, 20) for lam in (0.0, 1.0)}
    return several(parts | network, saw, numbers)


@claim(
    "The released covariance of the stochastic step is the method's",
    where="code",
    kind="implicit",
    page="gddim-stochastic",
    derived="diffnum.derive.gddim.missing_transpose",
)
def released_covariance() -> Verdict:
    from scipy.integrate import solve_ivp

    process, lam = dn.CLD(), 0.3
    t, s = grids.quadratic(process, 10)[:2].tolist()

    def slope(time, p):
        P, Q = torch.from_numpy(p).reshape(2, 2), process.G(time) @ process.G(time).mT
        F = process.F(time) + (1 + lam**2) / 2 * Q @ torch.linalg.inv(process.cov(time))
        return (F @ P + P @ F - lam**2 * Q).flatten().numpy()  # the second product lacks its transpose

    run = solve_ivp(slope, (t, s), [0.0] * 4, method="DOP853", rtol=1e-8, atol=1e-10)
    released, right = run.y[0, -1], process.reverse_step(s, t, lam)[1][0, 0].item()
    saw = f"variance of the position after the first of ten steps: {released:.4f} as released, {right:.4f} right"
    saw += f"; derived: entries 12 and 21 differ by {derive.missing_transpose()}"
    return verdict(abs(released - right) < 1e-3, saw, {"released": released, "right": right})


@claim(
    "Blurring diffusion is linear in the DCT, and its R is the noise level",
    where="section 5.2",
    kind="proposition",
    page="gddim-theory",
)
def blurring_is_linear() -> Verdict:
    process = dn.Blurring((8, 8), blur_max=2.0)
    t, s = 0.6, 0.3
    root = process.rotation_root(t)[..., 0, 0]
    flat = (root - process.sigma(t)).abs().max().item()
    alone = (process.transition(s, t)[..., 0, 0] - process.alpha(s) / process.alpha(t)).abs().max().item()
    exact = dn.Problem(process, dn.PointMass(torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(8, 8)))
    u = exact.process.prior((2, 8, 8), dtype=torch.float64)
    path = analysis.reference(exact, u, [process.t_max, t, s], trajectory=True)
    e = [exact.eps(x, at) for x, at in zip(path, (process.t_max, t, s), strict=True)]
    moved = max((x - e[0]).abs().max().item() for x in e)
    saw = "each frequency has its own factor, R = sigma, and eps of a point is constant: to 1e-7"
    return verdict(max(flat, alone, moved) < 1e-7, saw, {})


@claim(
    "gDDIM samples the blurring process more than 20 times faster",
    where="abstract",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def blurring_faster() -> Verdict:
    cells = {(c["name"], c["budget"]): c["frechet"] for c in results("quality.json")["cells"]}
    few = cells["blurring, gDDIM", 20]
    budgets = sorted(n for name, n in cells if name == "blurring, ancestral")
    reached = [n for n in budgets if cells["blurring, ancestral", n]["limit"] <= few["high"]]
    factor = (reached[0] if reached else budgets[-1]) / 20
    saw = (
        f"distance {few['limit']:.0f} with 20 evaluations; ancestral sampling has "
        + ", ".join(f"{cells['blurring, ancestral', n]['limit']:.0f} with {n}" for n in budgets)
        + (f": as good from a factor {factor:g} on" if reached else f": not reached, the factor is above {factor:g}")
    )
    low = verdict(factor > 20, saw, {"factor": factor, "gddim_20": few["limit"]})
    return low if reached or low.word == "holds" else unresolved(saw, low.numbers)


@claim(
    "A network has to be trained for CLD",
    where="section 5 and code",
    kind="implicit",
    page="gddim-theory",
    derived="diffnum.derive.gddim.split_score_residual",
)
def network_must_be_trained_for_cld() -> Verdict:
    exact = problem("smooth", "cld")
    u, t = targets.starts(exact.process, 4), 0.3
    x = analysis.reference(exact, u, [1.0, t])
    weights, means = (torch.tensor(v, dtype=torch.float64) for v in (targets.WEIGHTS, targets.MEANS))
    stds = torch.tensor(targets.STDS, dtype=torch.float64)
    mean, noise = exact.process.mean(t), exact.process.cov(t)

    def log_density(v: torch.Tensor) -> torch.Tensor:
        """Of the noisy data in phase space, coordinate by coordinate: nothing of the denoiser is used."""
        parts = []
        for w, m, std in zip(weights, means, stds, strict=True):
            cov = mean @ mean.mT * (std**2)[:, None, None] + noise
            gap = v.mT - m[:, None] * mean[:, 0]
            quad = torch.einsum("bci,cij,bcj->b", gap, torch.linalg.inv(cov), gap)
            parts.append(w.log() - (quad + torch.linalg.slogdet(cov)[1].sum()) / 2)
        return torch.logsumexp(torch.stack(parts), 0).sum()

    with torch.enable_grad():
        v = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_density(v), v)
    wrong = analysis.rms(exact.score(x, t) - score) / analysis.rms(score)
    saw = "a denoiser of white noise gives the score of the phase-space density through a statistic, to 1e-9"
    return verdict(wrong > 1e-9, saw, {})


@claim(
    "The final denoising step matters",
    where="code",
    kind="implicit",
    page="gddim-claims",
)
def final_denoising_matters() -> Verdict:
    process, change = dn.CLD(), {}
    line = gaussian_line(0.3, process)
    for n in (20, 200):
        laws = []
        for options, t in (({}, process.t_end), ({"denoise": True}, 0.0)):
            found = analysis.law(line, "gddim", grids.quadratic(process, n), order=3, **options)[1][0, 0]
            laws.append((found / analysis.exact_law(line, t)[1][0, 0]).item() - 1)
        change[n] = abs(laws[1] - laws[0])
    saw = (
        f"it changes the error of the variance by "
        f"{table({f'{n} steps': 100 * c for n, c in change.items()}, '.2f')} percent"
    )
    return verdict(max(change.values()) > 0.01, saw, {f"change_{n}": c for n, c in change.items()})


@claim(
    "Coefficients by 10^4 left rectangles suffice",
    where="code",
    kind="implicit",
    page="gddim-claims",
)
def rectangles_suffice() -> Verdict:
    exact = problem("smooth", "cld")
    u, end = truth("smooth", "cld", 1.0, 0.05, 4)

    def rough(problem, u, times, points=10_000, order=4):
        """gddim of order 4 with left rectangles for its integrals."""
        process, past = problem.process, []
        for i, (t, s) in enumerate(pairwise(times)):
            past = [problem.eps(u, t), *past[: order - 1]]
            tau = t + (s - t) * torch.arange(points, dtype=torch.float64) / points
            weight = process.transition(s, tau) @ process.gain(tau)
            nodes = times[max(i - order + 1, 0) : i + 1][::-1]
            C = torch.einsum("jm,mab->jab", lagrange(nodes, tau), weight) * (s - t) / points
            u = act(process.transition(s, t), u) + sum(act(c, e) for c, e in zip(C, past, strict=True))
            yield u

    wrong, gauss = {}, {}
    for n in (50, 200, 400):
        times = grids.quadratic(exact.process, n, t_end=0.05)
        wrong[n] = analysis.rms(dn.solve(exact, rough, u, times).u - end)
        gauss[n] = cld_errors((n,), order=4).errors[0]
    slope = analysis.local_slopes((200, 400), (wrong[200], wrong[400]))[0]
    excess = {n: wrong[n] / gauss[n] for n in wrong}
    saw = (
        f"order 4 on CLD: error over that with accurate integrals {table(excess, '.1f')}; slope "
        f"{slope:.2f} at 400 steps, so the order falls to 1"
    )
    numbers = {"slope": slope, **{f"ratio_{n}": r for n, r in excess.items()}}
    return conditional("steps are few (50, not 400)", excess[50] < 2, excess[400] < 2, saw, numbers)


@claim(
    "FID 2.26 with 50 evaluations on CLD, 2.86 with 27",
    where="abstract",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def fids() -> Verdict:
    return not_tried("FIDs of networks that are not at hand, in features that are not ours")
