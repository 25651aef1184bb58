"""Guidance: weights, laws and orders on mixtures, whose log odds are known."""

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import left, table, zero
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, verdict
from diffnum.denoisers import targets
from diffnum.derive import guidance as derive
from diffnum.measure import analysis

DHARIWAL = "Dhariwal and Nichol 2021, arXiv:2105.05233"


def line(weight: float) -> dn.Problem:
    """Two Gaussians on a line on VE, guided to the right one."""
    data = dn.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], stds=[0.4, 0.4])
    return dn.Problem(dn.VE(), dn.Guided(data, data, 1, weight))


def quantiles(weight: float) -> torch.Tensor:
    """Quantiles 0.1, 0.5 and 0.9 of what the ODE draws with a weight."""
    exact = line(weight)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    u = exact.process.t_max * torch.special.ndtri(levels)[:, None]
    return dn.solve(exact, "gddim", u, grids.log_snr(exact.process, 160, t_end=0.01), order=3).u[:, 0]


@claim(
    "The gradient of a classifier makes a denoiser conditional",
    where=DHARIWAL,
    kind="proposition",
    page="prop-guidance-one",
    derived="diffnum.derive.guidance.posterior_mean_residuals",
)
def gradient_makes_conditional() -> Verdict:
    data, gap = targets.smooth(), {}
    alone = dn.Gaussian(targets.MEANS[1], [s**2 for s in targets.STDS[1]])
    for weight in (1.0, 2.0):
        guided = dn.Guided(data, data, 1, weight)
        for sigma in (0.1, 1.0, 10.0):
            x = (1 + sigma) * targets.starts(dn.VP())
            gap[weight] = max(gap.get(weight, 0.0), (guided.eps(x, sigma) - alone.eps(x, sigma)).abs().max().item())
    rest = zero(derive.bayes_residual(), *derive.posterior_mean_residuals(2))
    saw = f"{left(rest)}; on a mixture the component alone to 1e-11 with weight 1, {gap[2.0]:.1f} away with 2"
    return conditional("the weight is 1", rest and gap[1.0] < 1e-11, gap[2.0] < 1e-11, saw, {"two": gap[2.0]})


@claim(
    "Gradients scaled by s sample from p(x) p(y | x)^s, normalised",
    where=f"{DHARIWAL}, section 4.3",
    kind="implicit",
    page="thm-guidance-defect",
    derived="diffnum.derive.guidance.field_defect",
)
def scaled_gradients_sample_the_power() -> Verdict:
    grid = torch.linspace(-3, 5, 8001, dtype=torch.float64)[:, None]
    mixture = dn.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], stds=[0.4, 0.4])
    logits, medians = mixture.logits(grid, 0.01), {}
    for weight in (1.0, 4.0):
        density = (logits.logsumexp(1) + weight * logits.log_softmax(1)[:, 1]).exp().cumsum(0)
        named = grid[torch.searchsorted(density / density[-1], 0.5)].item()
        medians[weight] = (quantiles(weight)[1].item(), named)
    apart = {w: abs(a - b) for w, (a, b) in medians.items()}
    saw = "median of the ODE's samples and of the named density: " + "; ".join(
        f"weight {w:g} {a:.2f}, {b:.2f}" for w, (a, b) in medians.items()
    )
    numbers = {f"{k}_{w:g}": v for w, pair in medians.items() for k, v in zip(("ode", "named"), pair, strict=True)}
    return conditional("s = 1", apart[1.0] < 0.05, apart[4.0] < 0.05, saw, numbers)


@claim(
    "A larger weight trades variety for fidelity",
    where="Ho and Salimans 2022, arXiv:2207.12598",
    kind="headline",
    page="guidance-claims",
)
def weight_trades_variety() -> Verdict:
    found = {w: quantiles(w) for w in (1.0, 8.0)}
    width = {w: (q[2] - q[0]).item() for w, q in found.items()}
    off = {w: abs(q[1].item() - 1.0) for w, q in found.items()}
    saw = (
        f"from weight 1 to 8 the middle 80 % shrink from {width[1.0]:.2f} to {width[8.0]:.2f}, and the median moves "
        f"from {found[1.0][1]:.2f} to {found[8.0][1]:.2f}, away from the class at 1"
    )
    inside, outside = width[8.0] < 0.8 * width[1.0], off[8.0] < 0.4
    return conditional("fidelity means certainty of the classifier: it moves out of the class", inside, outside, saw,
                       {"width_1": width[1.0], "width_8": width[8.0], "median_8": found[8.0][1].item()})  # fmt: skip


@claim(
    "Guidance spoils the order",
    where="everyday practice",
    kind="implicit",
    page="guidance-claims",
)
def guidance_spoils_the_order() -> Verdict:
    vp, data = dn.VP(), targets.smooth()
    exact, u = dn.Problem(vp, dn.Guided(data, data, 1, 8.0)), targets.starts(vp)
    rule = analysis.ladder(grids.log_snr, vp)
    truth = analysis.reference(exact, u, rule(1), rtol=1e-10)
    orders = {"ddim": ({}, 1), "s_pndm": ({}, 2), "gddim": ({"order": 3}, 3)}
    found = {
        s: analysis.convergence(exact, s, u, rule, (80, 160), truth=truth, **o).order for s, (o, _) in orders.items()
    }
    saw = f"slopes at weight 8: {table(found, '.2f')}"
    return verdict(any(found[s] < p - 0.25 for s, (_, p) in orders.items()), saw, found)


@claim(
    "Strong guidance needs many steps",
    where="everyday practice",
    kind="implicit",
    page="guidance-claims",
    derived="diffnum.derive.guidance.overshoot_limit",
)
def strong_guidance_needs_steps() -> Verdict:
    vp, data = dn.VP(), targets.smooth()
    u, wrong = targets.starts(vp), {}
    for weight in (1.0, 8.0):
        exact = dn.Problem(vp, dn.Guided(data, data, 1, weight))
        end = analysis.reference(exact, u, [1.0, 1e-3], rtol=1e-9)
        for s in ("ddim", "f_pndm"):
            wrong[s, weight] = analysis.rms(dn.solve(exact, s, u, grids.log_snr(vp, 6)).u - end)
    ratio = {s: wrong[s, 8.0] / wrong[s, 1.0] for s in ("ddim", "f_pndm")}
    saw = "error with 6 log-SNR steps at weights 1 and 8: " + "; ".join(
        f"{s} {wrong[s, 1.0]:.1e}, {wrong[s, 8.0]:.1e}" for s in ratio
    )
    many = {s: r > 10 for s, r in ratio.items()}
    return conditional("the method extrapolates (F-PNDM, not DDIM)", many["f_pndm"], many["ddim"], saw, ratio)


@claim(
    "A guide that is trained on tells more, at every noise level up to 5",
    where="everyday practice; the guide that was handed over, and the one that is shipped",
    kind="implicit",
    page="guidance-claims",
    needs="results",
)
def guide_trained_on() -> Verdict:
    run = results("training.json")["cifar10-guide"]
    more = run["images"] - run["images_of_init"]
    before, after = ({row["sigma"]: row for row in run[key]} for key in ("validation_of_init", "validation"))
    loss = {s: (before[s]["loss"], after[s]["loss"]) for s in before}
    odds = {s: (before[s]["odds"], after[s]["odds"]) for s in before}
    saw = (
        f"cross-entropy of the classes at a noise level of 0.5: {loss[0.5][0]:.2f}, then {loss[0.5][1]:.2f}; area "
        f"under the curve real against drawn: {before[0.5]['auc']:.2f}, then {after[0.5]['auc']:.2f}; "
        f"{more:,} images more"
    )
    numbers = {"loss_before": loss[0.5][0], "loss_after": loss[0.5][1], "auc_before": before[0.5]["auc"],
               "auc_after": after[0.5]["auc"], "images": more}  # fmt: skip
    better = [new < old for pair in (loss, odds) for s, (old, new) in pair.items() if s <= 5]
    return verdict(all(better), saw, numbers)
