"""What 'Efficient Integrators for Diffusion Generative Models' says: Pandey, Rudolph and Mandt 2023, arXiv:2310.07894.

Its full text was not at hand and its code is not public: claims are those of the abstract and of public reviews.
"""

from functools import lru_cache
from itertools import pairwise

import sympy as sp
import torch

import diffnum as dn
from diffnum import grids
from diffnum.claims.measure import quality, table
from diffnum.claims.store import results
from diffnum.claims.verdicts import Verdict, claim, conditional, not_tried, several, verdict
from diffnum.coefficients import act, time_quadrature
from diffnum.derive import psld as derive
from diffnum.measure import analysis

REVIEWS = "as reviews report it"
BUDGETS = (50, 100)


@lru_cache(maxsize=2)
def phase_space(Gamma: float = 0.01) -> dn.Problem:
    """A mixture in R^3 on PSLD."""
    means, stds = ((-0.7, 0.3, 0.5), (0.6, -0.4, -0.2)), ((0.15,) * 3, (0.25,) * 3)
    return dn.Problem(dn.PSLD(Gamma=Gamma, nu=4 + Gamma), dn.GaussianMixture((0.4, 0.6), means, stds=stds))


@lru_cache(maxsize=8)
def paths(end: float, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Start states at t = 1 and the exact states at the end."""
    exact = phase_space()
    u = exact.process.prior((count, 3), dtype=torch.float64, seed=0)
    return u, analysis.reference(exact, u, [1.0, end], rtol=1e-9)


@lru_cache(maxsize=256)
def error(
    solver: str, steps: int, grid: str = "quadratic", end: float = 1e-3, position: bool = True, **options
) -> float:
    """Median over the starts of the error at the end, of the position or of the whole state."""
    u, truth = paths(end)
    times = getattr(grids, grid)(phase_space().process, steps, t_end=end)
    wrong = dn.solve(phase_space(), solver, u, times, **options).u - truth
    return (wrong[:, 0] if position else wrong).flatten(1).square().mean(1).sqrt().median().item()


def at_budget(solver: str, budget: int, **settings) -> float:
    """The error with as many steps as a number of evaluations allows."""
    options = {k: v for k, v in settings.items() if k not in ("grid", "end", "position")}
    process = phase_space().process
    return error(solver, analysis.steps_within(budget, process, solver, process.t_end, **options), **settings)


def slope(solver: str, steps: tuple[int, int] = (256, 512), **options) -> float:
    """Observed order to t = 0.1, uniform steps."""
    errors = [error(solver, n, "uniform", 0.1, False, **options) for n in steps]
    return analysis.local_slopes(steps, errors)[0]


@lru_cache(maxsize=128)
def law_error(
    solver: str, budget: int, grid: str = "quadratic", what: str = "all", end: float = 1e-3, **options
) -> float:
    """Error of the law of Gaussian data: the largest entry of mean and covariance, or the variance of the position."""
    gauss = dn.Problem(phase_space().process, dn.Gaussian([0.5], [0.09]))
    steps = analysis.steps_within(budget, gauss.process, solver, **options)
    times = getattr(grids, grid)(gauss.process, steps, t_end=end)
    found, right = analysis.law(gauss, solver, times, **options), analysis.exact_law(gauss, end)
    if what == "position":
        return (found[1] - right[1])[0, 0].abs().item()
    return max((a - b).abs().max().item() for a, b in zip(found, right, strict=True))


def weak_slope(solver: str, steps: tuple[int, int] = (128, 256), **options) -> float:
    """Weak order to t = 0.1, uniform steps."""
    cost = dn.solvers.registry[solver].nfe(1)
    return analysis.local_slopes(steps, [law_error(solver, cost * n, "uniform", end=0.1, **options) for n in steps])[0]


def zero(*residuals) -> bool:
    """Whether SymPy left nothing."""
    return all(r == 0 or r == 0 * r for r in residuals)


# -------------------------------------------------------------------------------------------------- conjugation


@claim(
    "The conjugate transform turns the equation into one with a chosen linear part",
    where=REVIEWS,
    kind="theorem",
    page="psld-theory",
    derived="diffnum.derive.psld.conjugate_residuals",
)
def conjugate_transform() -> Verdict:
    rest = zero(*derive.conjugate_residuals(), derive.conjugate_local_error())
    found = slope("conjugate", B="lambda", lam=2.0)
    saw = f"SymPy leaves {'nothing' if rest else 'a rest'} for arbitrary matrices; a step with B = 2 I converges with order {found:.2f}"
    return verdict(rest and abs(found - 1) < 0.1, saw, {"slope": found})


@claim(
    "With B = 0 on VP it is DDIM",
    where=REVIEWS,
    kind="proposition",
    page="psld-theory",
    derived="diffnum.derive.psld.ddim_residuals",
)
def b_zero_on_vp_is_ddim() -> Verdict:
    rest = zero(*derive.ddim_residuals())
    saw = f"SymPy leaves {'nothing' if rest else 'a rest'}: A = 1/alpha, Phi = sigma/alpha"
    return verdict(rest, saw, {})


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
    page="psld-theory",
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
    saw = f"coefficients of three nodes agree to 1e-10 with the integrals of A^-1 Phi' l_j; on PSLD order {order:.2f} for 3 nodes"
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
    saw = f"B = ones: slope {found['constant']:.2f} with a constant rate, {found['changing']:.2f} with a rate from 2 to 14"
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
        f"{'I' if B == 'lambda' else 'II'} with {n} evaluations": verdict(r < 0.95, "", {})
        for (B, n), r in best.items()
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
    saw = f"50 steps, best lambda: I {left['lambda']:.1e}, II {left['lambda_ones']:.1e}; B = 0 with K = R, no lambda: {left['R']:.1e}"
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
    saw = f"type II, 25, 50, 100 steps: best lambda {', '.join(f'{v:g}' for v in best.values())}; gain {', '.join(f'{v:.1f}' for v in gain.values())}"
    numbers = {f"best_{n}": v for n, v in best.items()} | {f"gain_{n}": v for n, v in gain.items()}
    return verdict(best[100] < best[25], saw, numbers)


@claim(
    "The stability theorem tells which lambda to take",
    where=REVIEWS,
    kind="theorem",
    page="psld-theory",
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


# ---------------------------------------------------------------------------------------------------- splitting


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
        for n in (50, 1000)
    }
    saw = f"error with the fresh time over that without, quadratic grid: {ratio[50]:.1f} with 50 evaluations, {ratio[1000]:.2f} with 1000"
    return conditional(
        "steps are many (1000 evaluations, not 50)",
        ratio[1000] < 1,
        ratio[50] < 1,
        saw,
        {"50": ratio[50], "1000": ratio[1000]},
    )


@claim(
    "Local errors of Verlet, reduced and naive, are of higher order",
    where=REVIEWS,
    kind="theorem",
    page="splitting-order-theorem",
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
    saw = f"power of h: position {power['x_undamped']:.2f} without damping, {power['x']:.2f} with Gamma = 0.01, momentum {power['m']:.2f}"
    inside, outside = free and power["x_undamped"] > 2.9, power["m"] > 2.9
    return conditional("one looks at the position without damping; the momentum has h^2", inside, outside, saw, power)


@claim(
    "Velocity Verlet keeps the second order that it has in mechanics",
    where=f"{REVIEWS}; implicit in the name",
    kind="implicit",
    page="splitting-order-theorem",
    derived="diffnum.derive.psld.local_error",
)
def verlet_second_order() -> Verdict:
    found = {s: slope(s) for s in ("velocity_verlet", "reduced_velocity_verlet", "verlet2")}
    saw = f"slopes {found['velocity_verlet']:.2f} naive, {found['reduced_velocity_verlet']:.2f} reduced; with our correction (`verlet2`) {found['verlet2']:.2f}"
    holds = min(found["velocity_verlet"], found["reduced_velocity_verlet"]) > 1.7
    return verdict(holds, saw, found)


@claim(
    "OBA, BAO, OBAB and SSCS, symmetric to look at, are of weak order 2",
    where=f"{REVIEWS}; implicit in the symmetry",
    kind="implicit",
    page="splitting-theory",
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
    saw = f"error of the law at lambda_s 0, 1, 2: {', '.join(f'{few[k]:.1e}' for k in few)} in 25 steps of ROBA; {', '.join(f'{left[k]:.1e}' for k in left)} in 256 of ROBAB: a bias stays"
    return several(parts, saw, {f"few_{k:g}": v for k, v in few.items()} | {f"many_{k:g}": v for k, v in left.items()})


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
        f"{numbers['uniform_all_50_EM']:.2f} and {numbers['uniform_all_50_SSCS']:.2f}; variance of the position, quadratic "
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
    saw = "distance of RVV less that of the other: " + ", ".join(
        f"{k} {p.numbers['limit']:.0f} [{p.numbers['low']:.0f}, {p.numbers['high']:.0f}]" for k, p in pairs.items()
    )
    return several(pairs, saw, {k.replace(" against ", "_"): p.numbers["limit"] for k, p in pairs.items()})


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
