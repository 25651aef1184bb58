"""Splitting integrators, naive and reduced, stochastic and conjugate."""

import sympy as sp
import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.integrators.settings import (
    BUDGETS,
    REVIEWS,
    at_budget,
    error,
    law_error,
    phase_space,
    slope,
    weak_slope,
)
from diffnum.claims.measure import distances, left, quality, table, zero
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, not_tried, several, verdict
from diffnum.derive import psld as derive
from diffnum.measure import analysis


@claim(
    "Naive splitting is poor at few evaluations",
    where=REVIEWS,
    kind="headline",
    page="splitting-claims",
)
def naive_splitting_poor() -> Verdict:
    pairs = {
        "Verlet": ("velocity_verlet", "reduced_velocity_verlet"),
        "symplectic Euler": ("symplectic_euler", "reduced_symplectic_euler"),
    }
    ratio = {(name, n): at_budget(a, n) / at_budget(b, n) for name, (a, b) in pairs.items() for n in (20, 50, 100)}
    parts = {f"{name} with {n}": verdict(r > 1.1, "", {}) for (name, n), r in ratio.items()}
    saw = "error of naive over reduced at EQUAL evaluations 20, 50, 100: " + "; ".join(
        f"{name} {', '.join(f'{ratio[name, n]:.2f}' for n in (20, 50, 100))}" for name in pairs
    )
    return several(parts, saw, {f"{name}_{n}".replace(" ", "_"): r for (name, n), r in ratio.items()})


@claim(
    "Reusing the score keeps the accuracy at equal steps",
    where=REVIEWS,
    kind="headline",
    page="splitting-theory",
    derived="diffnum.derive.psld.local_error",
)
def score_reuse() -> Verdict:
    same = {"last": "current"}
    ratio = {
        "symplectic Euler": error("reduced_symplectic_euler", 512, "uniform", 0.1)
        / error("symplectic_euler", 512, "uniform", 0.1),
        "Verlet": error("reduced_velocity_verlet", 512, "uniform", 0.1, **same)
        / error("velocity_verlet", 512, "uniform", 0.1),
    }
    budget = at_budget("reduced_velocity_verlet", 50, **same) / at_budget("velocity_verlet", 50)
    saw = f"reduced over naive at equal steps and times: {table(ratio, '.2f')}; Verlet at 50 evaluations {budget:.2f}"
    return verdict(
        all(abs(r - 1) < 0.05 for r in ratio.values()),
        saw,
        {"euler": ratio["symplectic Euler"], "verlet": ratio["Verlet"], "equal_nfe": budget},
    )


@claim(
    "The last score belongs at the end time",
    where=REVIEWS,
    kind="headline",
    page="splitting-theory",
)
def fresh_last_time() -> Verdict:
    ratio = {
        n: at_budget("reduced_velocity_verlet", n) / at_budget("reduced_velocity_verlet", n, last="current")
        for n in (50, 2000)
    }
    saw = (
        f"error with the fresh time over that without, quadratic grid: {ratio[50]:.1f} with 50 "
        f"evaluations, {ratio[2000]:.2f} with 2000"
    )
    return conditional(
        "steps are many (2000 evaluations, not 50)",
        ratio[2000] < 1,
        ratio[50] < 1,
        saw,
        {"50": ratio[50], "2000": ratio[2000]},
    )


@claim(
    "Local errors of Verlet, reduced and naive, are of higher order",
    where=REVIEWS,
    kind="theorem",
    page="thm-splitting-order",
    derived="diffnum.derive.psld.local_error",
)
def local_errors_of_verlet() -> Verdict:
    lengths, t, power = (5e-4, 2.5e-4), 0.5, {}
    for Gamma in (0.01, 0.0):
        exact = phase_space(Gamma)
        u = analysis.reference(exact, exact.process.prior((8, 3), dtype=torch.float64, seed=0), [1.0, t], rtol=1e-10)
        sizes = []
        for h in lengths:
            wrong = dn.solve(exact, "velocity_verlet", u, [t, t - h]).u - analysis.reference(
                exact, u, [t, t - h], rtol=1e-13
            )
            sizes.append(wrong.square().sum(2).sqrt().median(0).values)
        power["x" if Gamma else "x_undamped"], power["m" if Gamma else "m_undamped"] = (
            (sizes[0] / sizes[1]).log2().tolist()
        )
    derived = {last: derive.local_error("reduced_velocity_verlet", last=last)[2] for last in ("next", "current")}
    free = all(sp.expand(x).subs(derive.Gamma, 0) == 0 for x, _ in derived.values())
    saw = (
        f"power of h: position {power['x_undamped']:.2f} without damping, {power['x']:.2f} with "
        f"Gamma = 0.01, momentum {power['m']:.2f}"
    )
    inside, outside = free and power["x_undamped"] > 2.9, power["m"] > 2.9
    return conditional("one looks at the position without damping; the momentum has h^2", inside, outside, saw, power)


@claim(
    "Velocity Verlet keeps the second order that it has in mechanics",
    where=f"{REVIEWS}; implicit in the name",
    kind="implicit",
    page="thm-splitting-order",
    derived="diffnum.derive.psld.local_error",
)
def verlet_second_order() -> Verdict:
    found = {s: slope(s) for s in ("velocity_verlet", "reduced_velocity_verlet", "verlet2")}
    saw = (
        f"slopes {found['velocity_verlet']:.2f} naive, {found['reduced_velocity_verlet']:.2f} "
        f"reduced; with our correction (`verlet2`) {found['verlet2']:.2f}"
    )
    holds = min(found["velocity_verlet"], found["reduced_velocity_verlet"]) > 1.7
    return verdict(holds, saw, found)


@claim(
    "OBA, BAO, OBAB and SSCS, symmetric to look at, are of weak order 2",
    where=f"{REVIEWS}; implicit in the symmetry",
    kind="implicit",
    page="prop-splitting-weak",
)
def weak_orders() -> Verdict:
    found = {s: weak_slope(s) for s in ("oba", "bao", "obab", "sscs", "reduced_oba", "reduced_bao", "reduced_obab")}
    saw = f"weak slopes at 256 steps: {table(found, '.2f')}"
    return verdict(min(found.values()) > 1.7, saw, found)


@claim(
    "A factor lambda_s on the noise of the position improves the samples",
    where=REVIEWS,
    kind="headline",
    page="splitting-theory",
)
def lambda_s_helps() -> Verdict:
    left = {lam: law_error("reduced_obab", 2 * 256, "uniform", end=0.1, lam_s=lam) for lam in (0.0, 1.0, 2.0)}
    few = {lam: law_error("reduced_oba", 25, "quadratic", lam_s=lam) for lam in (0.0, 1.0, 2.0)}
    parts = {
        "25 steps of ROBA, lambda_s = 2": verdict(few[2.0] < few[1.0], "", {}),
        "25 steps of ROBA, lambda_s = 0": verdict(few[0.0] < few[1.0], "", {}),
        "in the limit, lambda_s = 2": verdict(left[2.0] < left[1.0], "", {}),
    }
    saw = (
        f"error of the law at lambda_s 0, 1, 2: {', '.join(f'{few[k]:.1e}' for k in few)} in 25 "
        f"steps of ROBA; {', '.join(f'{left[k]:.1e}' for k in left)} in 256 of ROBAB: a bias stays"
    )
    return several(parts, saw, {f"few_{k:g}": v for k, v in few.items()} | {f"many_{k:g}": v for k, v in left.items()})


@claim(
    "With lambda_s other than 1 a bias stays, an integral of the reverse drift (ours)",
    where="not in the paper",
    kind="proposition",
    page="prop-splitting-bias",
    derived="diffnum.derive.psld.bias_residuals",
)
def bias_of_lambda_s() -> Verdict:
    from scipy.integrate import solve_ivp

    process, end, away = phase_space().process, 0.1, {}
    gauss = dn.Problem(process, dn.Gaussian([0.5], [0.09]))

    def rate(t, state):
        D, G, a = torch.from_numpy(state).reshape(2, 2), process.G(t), process.mean(t)
        Q = G @ G.mT
        V = process.F(t) + Q @ torch.linalg.inv(process.cov(t) + 0.09 * a @ a.mT)  # of the reverse SDE
        extra = torch.diag(torch.stack([Q[0, 0], Q.new_zeros(())]))  # what lambda_s = 2 adds
        return (V @ D + D @ V.mT - extra).flatten().numpy()

    run = solve_ivp(rate, (1.0, end), [0.0] * 4, method="DOP853", rtol=1e-10, atol=1e-14)
    predicted = torch.from_numpy(run.y[:, -1]).reshape(2, 2)
    for n in (128, 512):
        times = grids.uniform(process, n, t_end=end)
        one, two = (analysis.law(gauss, "reduced_obab", times, lam_s=lam)[1] for lam in (1.0, 2.0))
        away[n] = ((two - one - predicted).abs().max() / predicted.abs().max()).item()
    rest = zero(*derive.bias_residuals())
    saw = (
        f"{left(rest)}; covariance with lambda_s = 2 less that with 1: largest entry "
        f"{predicted.abs().max():.2e} in the limit, from which 128 steps of ROBAB are {away[128]:.1%} away, 512 "
        f"{away[512]:.1%}"
    )
    numbers = {"predicted": predicted[0, 0].item(), "128": away[128], "512": away[512]}
    return verdict(rest and away[512] < 0.02 and away[512] < away[128] / 2, saw, numbers)


@claim(
    "Reduced OBA beats Euler-Maruyama and SSCS",
    where=REVIEWS,
    kind="headline",
    page="conjugate-splitting-claims",
)
def roba_beats() -> Verdict:
    cases = [
        (g, w, n) for g, w in (("quadratic", "all"), ("uniform", "all"), ("quadratic", "position")) for n in (20, 50)
    ]
    parts, cells = {}, []
    for grid, what, n in cases:
        own = law_error("reduced_oba", n, grid, what)
        for other, name in (("euler_maruyama", "EM"), ("sscs", "SSCS")):
            rival = law_error(other, n, grid, what)
            kind = "law" if what == "all" else "variance of the position"
            parts[f"{kind}, {grid} grid, {n}, against {name}"] = verdict(own < rival, "", {})
            cells.append((f"{grid}_{what}_{n}_{name}", own / rival))
    for n in BUDGETS:
        for name in ("EM", "SSCS"):
            parts[f"network, {n}, against {name}"] = quality(("ROBA", n), (name, n))
    numbers = dict(cells)
    saw = (
        "error over that of EM and SSCS: law, quadratic grid, 50 evaluations "
        f"{numbers['quadratic_all_50_EM']:.1f} and {numbers['quadratic_all_50_SSCS']:.1f}; uniform grid "
        f"{numbers['uniform_all_50_EM']:.2f} and {numbers['uniform_all_50_SSCS']:.2f}; variance of "
        f"the position, quadratic "
        f"{numbers['quadratic_position_50_EM']:.1f} and {numbers['quadratic_position_50_SSCS']:.1f}; with the network "
        + ", ".join(
            f"{parts[f'network, {n}, against {m}'].numbers['limit']:+.0f} ({m}, {n})"
            for n in BUDGETS
            for m in ("EM", "SSCS")
        )
    )
    return several(parts, saw, numbers)


@claim(
    "Conjugate splitting is the best",
    where=f"abstract; {REVIEWS}",
    kind="headline",
    page="conjugate-splitting-claims",
    derived="diffnum.derive.psld.lambda_substep_residuals",
)
def conjugate_splitting_best() -> Verdict:
    verlet, settings = {n: at_budget("reduced_velocity_verlet", n) for n in BUDGETS}, {}
    for B, lam in (("zero", 0.0), ("lambda", -5.0), ("lambda", -6.0), ("lambda", -7.0), ("lambda_ones", 2.0)):
        for n in BUDGETS:
            options = {} if B == "zero" else {"B": B, "lam": lam}
            settings[B, lam, n] = at_budget("conjugate_velocity_verlet", n, **options) / verlet[n]
    names = {"zero": "B = 0", "lambda": "I", "lambda_ones": "II"}
    parts = {
        f"{names[B]}{f', lambda = {lam:g}' if lam else ''}, {n} evaluations": verdict(r < 1, "", {})
        for (B, lam, n), r in settings.items()
    }
    gddim = {n: at_budget("gddim", n, order=4) / verlet[n] for n in BUDGETS}
    saw = (
        "conjugate Verlet over reduced Verlet at 50 and 100: "
        + "; ".join(
            f"{names[B]}{f' {lam:g}' if lam else ''} {settings[B, lam, 50]:.1f}, {settings[B, lam, 100]:.1f}"
            for B, lam in dict.fromkeys((B, lam) for B, lam, _ in settings)
        )
        + f"; gDDIM of order 4 {gddim[50]:.2f}, {gddim[100]:.3f}"
    )
    numbers = {f"{B}_{lam:g}_{n}": r for (B, lam, n), r in settings.items()}
    return several(parts, saw, numbers)


@claim(
    "Conjugation hurts stochastic methods",
    where=REVIEWS,
    kind="implicit",
    page="conjugate-splitting-claims",
    needs="results",
)
def conjugacy_hurts_stochastic() -> Verdict:
    return not_tried(
        "the paper's conjugate stochastic schemes are not public and reviews do not define them; the library has none"
    )


@claim(
    "FID 2.11 deterministic and 2.36 stochastic with 100 evaluations on CIFAR-10",
    where="abstract",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def fids() -> Verdict:
    return not_tried("FIDs of networks that are not at hand, in features that are not ours")


@claim(
    "Deterministic splitting with score reuse beats the stochastic baselines",
    where=REVIEWS,
    kind="headline",
    page="quality-claims",
    needs="results",
)
def splitting_beats_baselines() -> Verdict:
    pairs = {f"{n} against {other}": quality(("RVV", n), (other, n)) for n in BUDGETS for other in ("EM", "SSCS")}
    return distances(pairs, "distance of RVV less that of the other", ".0f")


@claim(
    "Conjugate Verlet, the paper's best, gives better pictures than reduced Verlet",
    where=f"abstract; {REVIEWS}",
    kind="headline",
    page="quality-claims",
    needs="results",
)
def conjugate_verlet_pictures() -> Verdict:
    pairs = {f"{n} evaluations": quality(("conjugate Verlet", n), ("RVV", n)) for n in BUDGETS}
    recorded = results("psld_100.json")["distance"]
    ratio = recorded["conjugate_velocity_verlet, lam=-6"] / recorded["reduced_velocity_verlet"]
    saw = (
        "; ".join(p.saw for p in pairs.values())
        + f"; distance of two paths from the network's reference at 100, lambda = -6: {ratio:.2f} of RVV's"
    )
    return several(pairs, saw, {"paths": ratio})
