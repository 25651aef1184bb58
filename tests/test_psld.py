"""PSLD with splitting and conjugate integrators: golden values, orders, laws, evaluations, the lambda sweep."""

from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import analysis, checks, grids
from diffnum.denoisers.targets import smooth, starts
from diffnum.measure.checks import assert_close as close
from diffnum.measure.checks import rounding
from diffnum.noise import Replay
from diffnum.solvers import registry
from diffnum.solvers.conjugate import conjugate_weights
from diffnum.solvers.splitting import parts, steps

END = 1e-3
DETERMINISTIC = {
    "euler_ode": ("euler", {}),
    "heun_ode": ("heun", {}),
    "nse_AB": ("symplectic_euler", {"first": "position"}),
    "nse_BA": ("symplectic_euler", {"first": "momentum"}),
    "rse_AB": ("reduced_symplectic_euler", {"first": "position"}),
    "rse_BA": ("reduced_symplectic_euler", {"first": "momentum"}),
    "nvv": ("velocity_verlet", {}),
    "rvv": ("reduced_velocity_verlet", {}),
    "rvv_oldtime": ("reduced_velocity_verlet", {"last": "current"}),
    "rvv2_fix": ("verlet2", {}),
    "lamI_0": ("conjugate", {}),
    **{
        f"lam{kind}_{name}": ("conjugate", {"B": B, "lam": lam})
        for kind, B in (("I", "lambda"), ("II", "lambda_ones"))
        for name, lam in (("p0p5", 0.5), ("m0p5", -0.5), ("p2", 2.0))
    },
    **{
        f"{short}_{name}": (solver, options)
        for short, solver in (("cse", "conjugate_symplectic_euler"), ("cvv", "conjugate_velocity_verlet"))
        for name, options in (
            ("0", {}), ("I_p0p5", {"B": "lambda", "lam": 0.5}), ("II_p0p5", {"B": "lambda_ones", "lam": 0.5}),
        )
    },
}  # fmt: skip
STOCHASTIC = {
    "em": ("euler_maruyama", {}),
    "noba": ("oba", {}),
    "roba": ("reduced_oba", {}),
    "roba_lams0p5": ("reduced_oba", {"lam_s": 0.5}),
    "nbao": ("bao", {}),
    "rbao": ("reduced_bao", {}),
    "nobab": ("obab", {}),
    "robab": ("reduced_obab", {}),
    "robab_lams0p5": ("reduced_obab", {"lam_s": 0.5}),
}


def published_grid(kind, n):
    """The grids of the published code: uniform, or quadratic in the step number, from 1 to 1e-3."""
    left = (n - torch.arange(n + 1, dtype=torch.float64)) / n
    return END + (1 - END) * (left if kind == "uniform" else left**2)


def flat(u):
    return u.reshape(*u.shape[:-2], 6)


def close_ends(process, times, end, exact):
    """Ends of two runs on the same grid."""
    close(end, exact, rounding(process, times) * max(1.0, exact.abs().max().item()))


def draws(array):
    return Replay([z.reshape(4, 2, 3) for z in array])


@pytest.fixture(scope="module")
def psld(golden_psld):
    g, process = golden_psld, dn.PSLD()
    problem = dn.Problem(process, dn.GaussianMixture(g["gmm_w"], g["gmm_mu"], stds=g["gmm_sd"]))
    return problem, g["traj_g001_zT"].reshape(4, 2, 3)


# ------------------------------------------------------------------------------------------------------- golden


@pytest.mark.parametrize("kind", ["uniform", "quadratic"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_golden_deterministic(golden_psld, psld, name, kind):
    (problem, u), (solver, options), times = psld, DETERMINISTIC[name], published_grid(kind, 10)
    end = dn.solve(problem, solver, u, times, **options).u
    close_ends(problem.process, times, flat(end), golden_psld[f"own_{name}_{kind}_N10"])


@pytest.mark.parametrize("kind", ["uniform", "quadratic"])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_golden_stochastic(golden_psld, psld, name, kind):
    if f"own_{name}_{kind}_N10" not in golden_psld:
        pytest.skip("not among the golden arrays")
    (problem, u), (solver, options), times = psld, STOCHASTIC[name], published_grid(kind, 10)
    noise = draws(golden_psld["traj_noise_em"])
    end = dn.solve(problem, solver, u, times, noise=noise, **options).u
    close_ends(problem.process, times, flat(end), golden_psld[f"own_{name}_{kind}_N10"])


@pytest.mark.parametrize("kind", ["uniform", "quadratic"])
@pytest.mark.parametrize("name", ["em", "sscs"])
@pytest.mark.parametrize("denoise", [False, True])
def test_golden_published(golden_psld, psld, name, kind, denoise):
    """Euler-Maruyama and SSCS of the PSLD code, also with its last denoising step."""
    problem, u = psld
    solver = {"em": "euler_maruyama", "sscs": "sscs"}[name]
    noise, times = draws(golden_psld[f"traj_noise_{name}"]), published_grid(kind, 10)
    run = dn.solve(problem, solver, u, times, noise=noise, denoise=denoise)
    exact = golden_psld[f"ref_g001_{name}_{kind}_N10_{'den' if denoise else 'raw'}"]
    close_ends(problem.process, times, flat(run.u), exact)
    assert run.nfe == 10 + denoise


def test_golden_variants_by_the_shared_substeps(golden_psld, psld):
    """What the paper leaves open, built from the same substeps: the score of OBA at the end of the step."""
    problem, u = psld
    for kind in ("uniform", "quadratic"):
        times, state = published_grid(kind, 10), u
        p, noise = parts(problem.process, 2), golden_psld["traj_noise_em"]
        for (_, s, h), z in zip(steps(problem.process, times.tolist()), noise, strict=False):
            x, m = p.O(state, z.reshape(4, 2, 3), h).unbind(1)
            sx, sm = problem.score(torch.stack((x, m), 1), s).unbind(1)
            m = p.B(x, m, sm, h)
            state = torch.stack((p.A(x, m, sx, h), m), 1)
        close_ends(problem.process, times, flat(state), golden_psld[f"own_roba_tnext_{kind}_N10"])


def test_golden_process_and_drifts(golden_psld, psld):
    g, (problem, u), t = golden_psld, psld, golden_psld["ref_t"]
    process = problem.process
    S = process.cov(t)
    close(torch.stack([S[:, 0, 0], S[:, 0, 1], S[:, 1, 1]], 1), g["ref_g001_eps0_hsm_cov"])
    close(
        process.cholesky(t)[:, [0, 1, 1], [0, 0, 1]],
        g["ref_g001_eps0_hsm_coeff_lower"][:, [0, 2, 3]],
        magnified=torch.linalg.cond(S).max().item() ** 0.5,
    )  # theirs is the root of a difference
    close(process.clock(t), g["ref_g001_bint"].flatten())
    z = g["ref_ztest"].reshape(5, 2, 3)
    for i, time in enumerate(t.tolist()):
        worst = torch.linalg.cond(process.cov(time)).item()  # theirs is inverted
        close(flat(problem.score(z, time)), g["exact_g001_score"][i], magnified=worst)
        close(flat(-problem.velocity(z, time)), g["ref_g001_rev_ode_drift"][i], magnified=worst)
        drift = problem.drift(z, problem.eps(z, time), time, 1.0)
        close(flat(-drift), g["ref_g001_rev_sde_drift"][i], magnified=worst)
    exact = analysis.reference(problem, u, published_grid("uniform", 10))
    close(flat(exact), g["own_pfode_exact"], 1e-10)  # two integrators, each with 1e-12 a step, over a hundred steps


# ------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("process", [dn.PSLD(), dn.CLD(), dn.PSLD(beta=(0.5, 15.0)), dn.VP()], ids=repr)
@pytest.mark.parametrize("lam", [-1.0, 0.5, 3.0])
def test_lambda_times_identity_commutes(process, lam):
    """B = lambda I: the fundamental matrix is the transition times a scalar, whatever the rate does."""
    edges = list(pairwise(grids.quadratic(process, 5).tolist()))
    linear, _ = conjugate_weights(process, edges, "lambda", lam, "L")
    for A, (t, s) in zip(linear, edges, strict=True):
        h = torch.tensor(t - s, dtype=torch.float64)
        close(A, (lam * h).exp() * (1 - lam * h) * process.transition(s, t))


def test_lambda_times_ones_needs_the_fundamental_matrix():
    """With a growing rate the matrices do not commute, and the exponential of the integral is another matrix."""
    process, lam, (t, s) = dn.PSLD(beta=(0.5, 15.0)), 2.0, (0.9, 0.3)
    ones = lam * torch.ones(2, 2, dtype=torch.float64)
    unit = torch.eye(2, dtype=torch.float64)
    linear, _ = conjugate_weights(process, [(t, s)], "lambda_ones", lam, "L")
    through = linear[0] @ torch.linalg.inv(unit - (t - s) * ones)
    wrong = torch.linalg.matrix_exp(process.integral_F(s, t) - (s - t) * ones)
    product = unit
    fine = torch.linspace(t, s, 4001, dtype=torch.float64).tolist()
    for a, b in pairwise(fine):  # a product of many short exponentials
        product = torch.linalg.matrix_exp(process.F((a + b) / 2) * (b - a) - ones * (b - a)) @ product
    close(through, product, 1e-6 * product.abs().max().item())  # the midpoint rule, 4000 times
    assert (wrong - product).abs().max() > 0.01 * product.abs().max()
    constant = dn.PSLD()  # constant rate: they commute
    linear, _ = conjugate_weights(constant, [(t, s)], "lambda_ones", lam, "L")
    exponential = torch.linalg.matrix_exp(constant.integral_F(s, t) - (s - t) * ones)
    close(linear[0], exponential @ (unit - (t - s) * ones))


def test_reductions(psld):
    problem, u = psld
    times = published_grid("quadratic", 20)
    checks.assert_reduces_to(problem, "conjugate", "gddim", u, times, None, {"K": "R"}, {"order": 1})
    checks.assert_reduces_to(problem, "conjugate", "gddim", u, times, None, {"K": "L"}, {"order": 1, "K": "L"})
    vp = dn.VP()
    flatly = dn.Problem(vp, smooth())
    checks.assert_reduces_to(flatly, "conjugate", "ddim", starts(vp), grids.log_snr(vp, 20))
    checks.assert_reduces_to(flatly, "conjugate", "conjugate", starts(vp), grids.log_snr(vp, 20), None,
                             {"B": "lambda", "lam": 0.7}, {"B": "lambda_ones", "lam": 0.7})  # fmt: skip


def test_substeps_sum_to_the_reverse_drift(psld):
    """A and B together are the velocity (w = 1); with the drift of O the reverse SDE (w = 2)."""
    problem, u = psld
    process, t, h = problem.process, 0.4, 1e-7
    (x, m), (sx, sm) = u.unbind(1), problem.score(u, t).unbind(1)
    for w, lam in ((1, 0.0), (2, 1.0)):
        p = parts(process, w)
        change = torch.stack((p.A(x, m, sx, h) - x, p.B(x, m, sm, h) - m), 1) / h
        if w == 2:
            change = change + (p.O(u, torch.zeros_like(u), h) - u) / h
        drift = -problem.drift(u, problem.eps(u, t), t, lam) / process.beta(t)
        close(change, drift, 1e-6 * drift.abs().max().item())  # h, and rounding over h


def test_the_noise_step_is_exact():
    """O leaves the stationary law alone and forgets at the rates Gamma/2 and nu/2."""
    process = dn.PSLD()
    p, h = parts(process, 2), 0.7
    unit = torch.eye(2, dtype=torch.float64)[:, :, None]
    decay = p.O(unit, torch.zeros_like(unit), h)[..., 0]
    spread = p.O(torch.zeros_like(unit), unit, h)[..., 0]
    S = process.prior_root() @ process.prior_root().mT
    close(decay @ S @ decay.mT + spread @ spread.mT, S)


# -------------------------------------------------------------------------------------------------------- orders


def rungs(n):
    return grids.uniform(dn.PSLD(), n, t_end=0.1)


PHASE_SPACE = [name for name, solver in registry.items() if solver.families == ("phase_space",)]
ODE = [name for name in PHASE_SPACE if registry[name].kind == "ode"]
SDE = [name for name in PHASE_SPACE if registry[name].kind == "sde"]


@pytest.fixture(scope="module")
def toy():
    """The mixture of the published measurements, start states from the prior, and the exact end."""
    process = dn.PSLD()
    denoiser = dn.GaussianMixture([0.4, 0.6], [[-0.7, 0.3, 0.5], [0.6, -0.4, -0.2]], stds=[0.15, 0.25])
    problem = dn.Problem(process, denoiser)
    u = process.prior((8, 2, 3), dtype=torch.float64, seed=2)
    return problem, u, analysis.reference(problem, u, rungs(1), rtol=1e-13)


def median_order(result):
    return analysis.local_slopes(result.steps, result.median)[-1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ODE),
        ("symplectic_euler", {"first": "position"}),
        ("reduced_symplectic_euler", {"first": "position"}),
        ("reduced_velocity_verlet", {"last": "current"}),
        *(("conjugate", {"B": B, "lam": 0.5}) for B in ("zero", "lambda", "lambda_ones")),
        ("conjugate_symplectic_euler", {"B": "lambda_ones", "lam": 0.5}),
        ("conjugate_velocity_verlet", {"B": "lambda", "lam": 0.5}),
        ("euler", {}),
        ("heun", {}),
    ],
    ids=str,
)
def test_order(toy, name, options):
    """Order 1 for every published scheme, Verlet too, and 2 for verlet2; the median over starts is judged."""
    problem, u, truth = toy
    result = analysis.convergence(problem, name, u, rungs, (256, 512), truth=truth, **options)
    assert result.claim == (2 if name in ("verlet2", "heun") else 1)
    assert median_order(result) == pytest.approx(result.claim, abs=0.1), result.table()


@pytest.mark.parametrize("name", [*SDE, "euler_maruyama", "gddim_sde", "ancestral"])
def test_weak_order(name):
    """Every stochastic scheme on Gaussian data, by its exact law."""
    process = dn.PSLD()
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.09]))
    result = analysis.weak_convergence(problem, name, rungs, (64, 128, 256))
    assert result.claim == 1
    assert result.order == pytest.approx(1, abs=0.1), result.table()


# Covariance errors at 512 steps from independent runs (data N(0.5, 0.09), uniform grid from 1 to 0.1).
@pytest.mark.parametrize(("name", "error"), [
    ("euler_maruyama", 8.6e-3), ("sscs", 1.2e-3), ("oba", 1.23e-2), ("reduced_oba", 1.25e-2), ("bao", 1.22e-2),
    ("reduced_bao", 1.24e-2), ("obab", 2.1e-3), ("reduced_obab", 1.7e-3),
])  # fmt: skip
def test_independent_covariances(name, error):
    problem = dn.Problem(dn.PSLD(), dn.Gaussian([0.5], [0.09]))
    _, cov = analysis.law(problem, name, rungs(512))
    measured = (cov - analysis.exact_law(problem, 0.1)[1]).abs().max().item()
    assert measured == pytest.approx(error, rel=0.03)


def test_scaled_noise_does_not_converge():
    """lambda_s = 0: the covariance keeps a bias, and the slope falls towards 0."""
    problem = dn.Problem(dn.PSLD(), dn.Gaussian([0.5], [0.09]))
    result = analysis.weak_convergence(problem, "reduced_oba", rungs, (512, 1024, 2048), lam_s=0.0)
    assert result.claim == 0
    assert result.slopes[1] < result.slopes[0] < 0.6
    assert result.slopes[-1] == pytest.approx(0.39, abs=0.03)


@pytest.mark.parametrize("name", PHASE_SPACE)
@pytest.mark.parametrize("process", [dn.PSLD(), dn.CLD()], ids=["psld", "cld"])
def test_evaluations_purity_and_single_precision(process, name):
    problem, u = dn.Problem(process, smooth()), starts(process, 3)
    for n in (1, 2, 7):
        checks.assert_nfe(problem, name, u, grids.quadratic(process, n))
    checks.assert_pure(problem, name, u, grids.quadratic(process, 5))
    checks.assert_pure(problem, name, u.to(torch.bfloat16), grids.quadratic(process, 5))
    times = grids.quadratic(process, 40)
    double, single = (
        dn.solve(problem, name, u.to(dtype), times).u.double() for dtype in (torch.float64, torch.float32)
    )
    checks.assert_close(double, single, 2e-4)


def test_last_score_at_the_end_is_stiff_on_uniform_grids():
    """At few steps to t = 1e-3 a score at the end of the step makes the last one unstable; at the start it does not."""
    problem = dn.Problem(dn.PSLD(), dn.Gaussian([0.5], [0.09]))
    errors = {}
    for name in ("obab", "reduced_obab"):
        _, cov = analysis.law(problem, name, grids.uniform(problem.process, 25))
        errors[name] = (cov - analysis.exact_law(problem, 1e-3)[1]).abs().max().item()
    assert errors["obab"] == pytest.approx(4.6e-2, rel=0.05)
    assert errors["reduced_obab"] == pytest.approx(7.0, rel=0.05)


# -------------------------------------------------------------------------------------------------------- lambda


# Largest modulus of an eigenvalue of one step on N(0, 0.09) data at t = 0.9, (h, lambda): radius.
@pytest.mark.parametrize(("h", "lam", "radius"), [
    (0.1, 0.0, 1.18), (0.1, 2.0, 0.87), (0.1, 4.0, 0.85), (0.1, 10.0, 6.8),
    (0.2, -10.0, 1.8), (0.2, 0.0, 3.4), (0.2, 2.0, 12.0),
])  # fmt: skip
def test_stability_map(h, lam, radius):
    problem = dn.Problem(dn.PSLD(), dn.Gaussian([0.0], [0.09]))
    units = torch.eye(2, dtype=torch.float64)[:, :, None]
    end = dn.solve(problem, "conjugate", units, [0.9, 0.9 - h], B="lambda", lam=lam).u
    assert torch.linalg.eigvals(end[..., 0].mT).abs().max().item() == pytest.approx(radius, rel=0.03)


def test_positive_lambda_helps_and_ones_help_more(toy):
    """Median position error against the exact flow at 50 steps, grid uniform to 1e-3."""
    problem, _, _ = toy
    process = problem.process
    u = process.prior((32, 2, 3), dtype=torch.float64, seed=5)
    times = grids.uniform(process, 50)
    exact = analysis.reference(problem, u, times[[0, -1]])

    def error(**options):
        end = dn.solve(problem, "conjugate", u, times, **options).u
        return (end - exact)[:, 0].square().mean(1).sqrt().median().item()

    zero = error()
    assert error(B="lambda_ones", lam=2.0) < 0.7 * zero
    assert error(B="lambda", lam=4.0) < zero < error(B="lambda", lam=-4.0)
    assert error(K="R") < 0.5 * zero


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", PHASE_SPACE)
@pytest.mark.parametrize("process", [dn.VP(), dn.VE()], ids=["vp", "ve"])
def test_splitting_needs_phase_space(process, name):
    problem = dn.Problem(process, smooth())
    with pytest.raises(dn.DiffnumError, match=f"{name} integrates phase_space processes; .* is isotropic"):
        dn.solve(problem, name, starts(process), grids.log_snr(process, 4))
    assert problem.nfe == 0


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("conjugate", {"lam": float("nan")}, ValueError, "lam=nan must be finite"),
        ("conjugate", {"lam": float("inf"), "B": "lambda"}, ValueError, "lam=inf must be finite"),
        ("conjugate", {"lam": "1"}, TypeError, "lam='1' must be a number"),
        ("conjugate", {"B": "ones"}, ValueError, "B='ones' must be one of 'zero', 'lambda', 'lambda_ones'"),
        ("reduced_oba", {"lam_s": -1.0}, ValueError, "lam_s=-1.0 must be finite and at least 0"),
        ("symplectic_euler", {"first": "x"}, ValueError, "first='x' must be one of 'momentum', 'position'"),
    ],
)
def test_bad_options(name, options, error, message):
    process = dn.PSLD()
    problem = dn.Problem(process, smooth())
    with pytest.raises(error, match=message):
        dn.solve(problem, name, starts(process), rungs(4), **options)
    assert problem.nfe == 0


@pytest.mark.parametrize("name", [n for n in PHASE_SPACE if not registry[n].reaches_zero(4)])
def test_grids_that_end_at_zero_are_refused_where_a_score_is_taken_there(name):
    process = dn.PSLD()
    problem = dn.Problem(process, smooth())
    with pytest.raises(dn.DiffnumError, match="end the grid above 0"):
        dn.solve(problem, name, starts(process), grids.uniform(process, 4, t_end=0.0))
    assert problem.nfe == 0


# Broken on purpose.


def test_a_stale_substep_is_noticed(toy):
    """Reduced symplectic Euler with half the momentum's pull: consistent-looking, and wrong."""
    problem, u, truth = toy

    def broken(problem, u, times):
        p = parts(problem.process, 1)
        for t, _, h in steps(problem.process, times):
            (x, m), (sx, sm) = u.unbind(1), problem.score(u, t).unbind(1)
            m = p.B(x, m, sm / 2, h)
            u = torch.stack((p.A(x, m, sx, h), m), 1)
            yield u

    result = analysis.convergence(problem, broken, u, rungs, (128, 256, 512), truth=truth)
    assert "order 1 is claimed" in checks.assert_catches(lambda: checks.assert_order(result, 1))
