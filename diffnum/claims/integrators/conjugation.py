"""Conjugate integrators: the transform, its special cases, lambda, the stability theorem."""

from itertools import pairwise
from typing import Any

import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.integrators.settings import REVIEWS, error, paths, phase_space, slope
from diffnum.claims.measure import left, problem, zero
from diffnum.claims.verdicts import Verdict, claim, conditional, not_tried, several, verdict
from diffnum.coefficients import act, time_quadrature
from diffnum.denoisers import targets
from diffnum.derive import psld as derive
from diffnum.measure import analysis


@claim(
    "The conjugate transform turns the equation into one with a chosen linear part",
    where=REVIEWS,
    kind="theorem",
    page="thm-psld-conjugate",
    derived="diffnum.derive.psld.conjugate_residuals",
)
def conjugate_transform() -> Verdict:
    rest = zero(*derive.conjugate_residuals(), derive.conjugate_local_error())
    found = slope("conjugate", B="lambda", lam=2.0)
    saw = f"{left(rest)} for arbitrary matrices; a step with B = 2 I converges with order {found:.2f}"
    return verdict(rest and abs(found - 1) < 0.1, saw, {"slope": found})


@claim(
    "With B = 0 on VP it is DDIM",
    where=REVIEWS,
    kind="proposition",
    page="prop-psld-special",
    derived="diffnum.derive.psld.ddim_residuals",
)
def b_zero_on_vp_is_ddim() -> Verdict:
    rest, exact = zero(*derive.ddim_residuals()), problem()
    u, times = targets.starts(exact.process), grids.log_snr(exact.process, 20)
    settings: tuple[tuple[str, dict[str, Any]], ...] = (("ddim", {}), ("gddim", {"order": 1}), ("gddim", {}))
    ends = [dn.solve(exact, s, u, times, **o).u for s, o in settings]
    gap = [(end - ends[0]).abs().max().item() for end in ends[1:]]
    saw = (
        f"{left(rest)}: A = 1/alpha, Phi = sigma/alpha; 20 steps of the exponential "
        f"integrator with one node agree with DDIM to 1e-10, with the default's nodes they are {gap[1]:.1e} away"
    )
    return verdict(rest and gap[0] < 1e-10 < gap[1], saw, {"more_nodes": gap[1]})


def apart(one: dict, other: dict, steps: int = 50) -> float:
    """Largest difference of two runs of `conjugate` and `gddim`."""
    u, _ = paths(1e-3)
    times = grids.quadratic(phase_space().process, steps)
    ends = [dn.solve(phase_space(), s, u, times, **o).u for s, o in (("conjugate", one), ("gddim", other))]
    return (ends[0] - ends[1]).abs().max().item()


@claim(
    "With B = 0 it is gDDIM",
    where=REVIEWS,
    kind="proposition",
    page="prop-psld-special",
    derived="diffnum.derive.psld.gddim_residuals",
)
def b_zero_is_gddim() -> Verdict:
    rest = zero(*derive.gddim_residuals())
    gap = {K: apart({"K": K}, {"order": 1}) for K in ("R", "L")}
    saw = f"equal to `gddim(order=1)` to 1e-9 with K = R; with K = L, the paper's as we know it, {gap['L']:.1f} away"
    return conditional("K = R", rest and gap["R"] < 1e-9, gap["L"] < 1e-9, saw, {"L": gap["L"]})


@claim(
    "With B = 0 it is DEIS, multistep too",
    where=REVIEWS,
    kind="proposition",
    page="psld-theory",
    derived="diffnum.derive.gddim.local_error",
)
def b_zero_is_deis() -> Verdict:
    from diffnum.coefficients import exponential_weights, lagrange

    process, times = dn.VP(), grids.log_snr(dn.VP(), 6).tolist()
    tables, gap = exponential_weights(process, times, 3), 0.0
    for i in (2, 4, 5):
        t, s = times[i : i + 2]
        tau, weights, _ = time_quadrature([(t, s)], process.knots.tolist())
        # DEIS: the integral of the transformed gain, Phi' l_j, then back with 1/A = alpha
        speed = process.transition(s, tau) @ process.gain(tau)
        inside = lagrange(times[i - 2 : i + 1][::-1], tau)
        own = torch.einsum("jmx,mx,mx->j", inside, weights, speed[..., 0, 0])
        gap = max(gap, (own - tables[i][..., 0, 0]).abs().max().item() / own.abs().max().item())
    order = slope_of_gddim(3)
    saw = (
        f"coefficients of three nodes agree to 1e-10 with the integrals of A^-1 Phi' l_j; on PSLD "
        f"order {order:.2f} for 3 nodes"
    )
    return verdict(gap < 1e-10 and abs(order - 3) < 0.2, saw, {"order": order})


def slope_of_gddim(order: int) -> float:
    """Observed order of the multistep method with B = 0, quadratic steps to t = 0.05."""
    u, steps = paths(0.05)[0], (100, 200)
    rule = analysis.ladder(grids.quadratic, phase_space().process, t_end=0.05)
    truth = analysis.reference(phase_space(), u[:8], [1.0, 0.05], rtol=1e-12)
    return analysis.convergence(phase_space(), "gddim", u[:8], rule, steps, truth=truth, order=order).order


def exponential_of_the_integral(problem, u, times, lam=1.0):
    """The conjugate integrator with A = exp(integral of K): wrong where the values of K do not commute."""
    p, ones = problem.process, torch.ones(2, 2, dtype=torch.float64)
    tau, weights, owner = time_quadrature(list(pairwise(times)), p.knots.tolist())
    A, inside = (
        torch.linalg.matrix_exp(lam * t[..., None, None] * ones - p.integral_F(t, 0.0))
        for t in (torch.tensor(times, dtype=torch.float64), tau)
    )
    parts = torch.einsum("mj,mjpq,mjqr->mpr", weights, inside, p.gain(tau, "L"))
    change = torch.zeros(len(times) - 1, 2, 2, dtype=torch.float64).index_add_(0, owner, parts)  # of Phi
    for i, (t, s) in enumerate(pairwise(times)):
        back, e = torch.linalg.inv(A[i + 1]), problem.eps(u, t, "L")
        u = act(back @ A[i] @ (torch.eye(2, dtype=torch.float64) - (t - s) * lam * ones), u) + act(back @ change[i], e)
        yield u


@claim(
    "A is the exponential of the integral of its rate",
    where=REVIEWS,
    kind="proposition",
    page="psld-theory",
    derived="diffnum.derive.psld.wrong_exponential_defect",
)
def exponential_of_integral() -> Verdict:
    u, steps, found = paths(0.1)[0][:16], (100, 200, 400), {}
    for name, process in (("constant", dn.PSLD()), ("changing", dn.PSLD(beta=(2.0, 14.0)))):
        exact = dn.Problem(process, phase_space().denoiser)
        rule = analysis.ladder(grids.quadratic, process, t_end=0.1)
        truth = analysis.reference(exact, u, [1.0, 0.1], rtol=1e-8)
        run = analysis.convergence(exact, exponential_of_the_integral, u, rule, steps, truth=truth)
        found[name] = analysis.local_slopes(steps, run.median)[-1]
    saw = (
        f"B = ones: slope {found['constant']:.2f} with a constant rate, {found['changing']:.2f} with "
        f"a rate from 2 to 14"
    )
    return conditional(
        "the values of the rate commute (a constant rate)", found["constant"] > 0.9, found["changing"] > 0.9, saw, found
    )


@claim(
    "lambda-DDIM and lambda-DDIM-II are better than B = 0",
    where=REVIEWS,
    kind="headline",
    page="psld-claims",
)
def lambda_ddim_better() -> Verdict:
    lams = (0.5, 1.0, 2.0, 3.0)
    best = {
        (B, n): min(error("conjugate", n, "uniform", B=B, lam=lam) for lam in lams) / error("conjugate", n, "uniform")
        for B in ("lambda", "lambda_ones") for n in (25, 50)
    }  # fmt: skip
    parts = {
        f"{'I' if B == 'lambda' else 'II'} with {n} evaluations": verdict(r < 0.8, "", {}) for (B, n), r in best.items()
    }
    saw = "least error over lambda, over that of B = 0: " + ", ".join(
        f"{k.replace(' with', ',')} {r:.2f}" for k, r in zip(parts, best.values(), strict=True)
    )
    return several(parts, saw, {f"{B}_{n}": r for (B, n), r in best.items()})


@claim(
    "lambda-DDIM-II is the best of them",
    where=REVIEWS,
    kind="headline",
    page="psld-claims",
)
def second_type_best() -> Verdict:
    left = {
        B: min(error("conjugate", 50, B=B, lam=lam) for lam in (0.5, 1.0, 2.0, 3.0)) for B in ("lambda", "lambda_ones")
    }
    left["R"] = error("conjugate", 50, K="R")
    saw = (
        f"50 steps, best lambda: I {left['lambda']:.1e}, II {left['lambda_ones']:.1e}; B = 0 with K "
        f"= R, no lambda: {left['R']:.1e}"
    )
    inside = left["lambda_ones"] < left["lambda"]
    return conditional(
        "K = L: the root R without any lambda is better still", inside, left["lambda_ones"] < left["R"], saw, left
    )


@claim(
    "The best lambda shrinks as the budget grows",
    where=REVIEWS,
    kind="headline",
    page="psld-claims",
)
def best_lambda_shrinks() -> Verdict:
    lams = [float(v) for v in range(-1, 7)]
    best, gain = {}, {}
    for n in (25, 50, 100):
        errors = [error("conjugate", n, "uniform", B="lambda_ones", lam=lam) for lam in lams]
        best[n] = lams[errors.index(min(errors))]
        gain[n] = errors[lams.index(0.0)] / min(errors)
    saw = (
        f"type II, 25, 50, 100 steps: best lambda {', '.join(f'{v:g}' for v in best.values())}; gain "
        f"{', '.join(f'{v:.1f}' for v in gain.values())}"
    )
    numbers = {f"best_{n}": v for n, v in best.items()} | {f"gain_{n}": v for n, v in gain.items()}
    return verdict(best[100] < best[25], saw, numbers)


@claim(
    "The stability theorem tells which lambda to take",
    where=REVIEWS,
    kind="theorem",
    page="thm-psld-stability",
    derived="diffnum.derive.psld.best_lambda",
)
def stability_theorem() -> Verdict:
    process = phase_space().process
    linear, unit, t = (
        dn.Problem(process, dn.Gaussian([0.0], [0.09])),
        torch.eye(2, dtype=torch.float64)[:, :, None],
        0.9,
    )
    a, G = process.mean(t), process.G(t)
    levels = torch.linalg.eigvalsh(-G @ torch.linalg.inv(process.cov(t) + 0.09 * a @ a.mT) @ G / 2)

    def radius(h: float, lam: float) -> float:
        """Spectral radius of one step of u from t to t - h."""
        matrix = dn.solve(linear, "conjugate", unit, [t, t - h], B="lambda", lam=lam).u[..., 0].mT
        return torch.linalg.eigvals(matrix).abs().max().item()

    lams, picked, best = [v / 2 for v in range(-60, 21)], {}, {}
    for h in (0.1, 0.2):
        picked[h] = 1 / h + (levels.min() + levels.max()).item() / 2
        best[h] = min(lams, key=lambda lam: radius(h, lam))
    rest = derive.frozen_step_residual()
    close = {h: rest == 0 * rest and abs(picked[h] - best[h]) < 3 for h in picked}
    saw = ", ".join(f"h = {h}: it picks {picked[h]:.1f}, growth is least at {best[h]:g}" for h in picked)
    numbers = {f"picked_{h}": v for h, v in picked.items()} | {f"best_{h}": v for h, v in best.items()}
    return conditional("the step is short (0.1, not 0.2)", close[0.1], close[0.2], saw, numbers)


@claim(
    "Mixed score and preconditioning of the network help",
    where=REVIEWS,
    kind="headline",
    page="psld-theory",
    needs="results",
)
def mixed_score() -> Verdict:
    return not_tried("a network trained on PSLD with these parametrisations is not at hand; the library builds neither")
