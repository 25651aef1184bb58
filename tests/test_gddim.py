"""gDDIM and the processes it is for: golden values, orders, exactness, the sufficient statistic, blurring."""

import pytest
import torch
from scipy.integrate import solve_ivp

import diffnum as dn
from diffnum import analysis, checks, grids
from diffnum.coefficients import exponential_weights
from diffnum.denoisers.targets import smooth, starts
from diffnum.measure.checks import ROUNDED
from diffnum.measure.checks import assert_close as close
from diffnum.noise import Replay

PHASE_SPACE = {
    "cld": dn.CLD(),
    "cld, no initial noise": dn.CLD(eps=0.0),
    "psld": dn.PSLD(),
    "psld, growing rate": dn.PSLD(beta=(0.1, 20.0), eps=1e-4),
}
ALL = {**PHASE_SPACE, "blurring": dn.Blurring((4, 6)), "vp": dn.VP(), "cosine": dn.VP.cosine(), "ve": dn.VE()}
TIMES = torch.tensor([1e-4, 1e-3, 0.02, 0.3, 0.71, 1.0], dtype=torch.float64)

processes = pytest.mark.parametrize("process", ALL.values(), ids=ALL)
phase_space = pytest.mark.parametrize("process", PHASE_SPACE.values(), ids=PHASE_SPACE)

# Two adaptive integrators with a tolerance of 1e-12 a step, over some hundred steps.
INTEGRATED = 1e-10


def close_ends(process, times, end, exact):
    """Ends of two runs; where a method is unstable they are large, and so is their rounding."""
    close(end, exact, checks.rounding(process, times) * max(1.0, exact.abs().max().item()))


def padded(tables, like):
    out = torch.zeros_like(like)
    for row, table in zip(out, tables, strict=True):
        row[: len(table)] = table.reshape(len(table), *like.shape[2:])
    return out


# ------------------------------------------------------------------------------------------------------- golden


def test_golden_process(golden_gddim):
    g, process, t = golden_gddim, dn.CLD(), golden_gddim["t"]
    close(process.transition(t, 0.0), g["cld_Psi_t0"])
    close(process.transition(t[:-1], t[1:]), g["cld_Psi_step"])
    close(process.cov(t), g["cld_Sigma"])
    close(process.cholesky(t), g["cld_L"])
    close(process.rotation_root(t), g["cld_R"])
    close(process.angle(t), g["cld_phi"])
    bare = dn.CLD(eps=0.0)
    close(bare.cov(t) / g["cld0_Sigma"], torch.ones(len(t), 2, 2))  # entry by entry: no cancellation at small t
    close(bare.cholesky(t), g["cld0_L"])


@pytest.mark.parametrize("K", ["R", "L"])
def test_golden_coefficients(golden_gddim, K):
    g, process = golden_gddim, dn.CLD()
    times = g["grid10"].tolist()
    for q in range(4):
        reference = g[f"pred_{K}_q{q}"]
        close(padded(exponential_weights(process, times, q + 1, K), reference), reference)
    for r in range(1, 5):
        reference = g[f"corr_{K}_r{r}"]
        close(padded(exponential_weights(process, times, r, K, ahead=True), reference), reference)


def test_golden_coefficients_of_other_processes(golden_gddim):
    g = golden_gddim
    for q in range(4):
        close(padded(exponential_weights(dn.VP(), g["vp_grid10"].tolist(), q + 1), g[f"vp_pred_q{q}"]),
              g[f"vp_pred_q{q}"])  # fmt: skip
        blurring = dn.Blurring((4, 4), blur_max=2.0)
        close(padded(exponential_weights(blurring, g["bdm_grid10"].tolist(), q + 1), g[f"bdm4_pred_q{q}"]),
              g[f"bdm4_pred_q{q}"])  # fmt: skip


def test_golden_fields(cld, golden_gddim):
    """Score and noise predictions of the mixture, from the isotropic denoiser; the split form keeps them in float32."""
    g = golden_gddim
    for i, t in enumerate(g["probe_t"].tolist()):
        u = g["probe_u"][i].mT.contiguous()
        close(cld.problem.score(u, t).mT, g["probe_score"][i])
        close(cld.problem.eps(u, t).mT, g["probe_eps_R"][i])
        close(cld.problem.eps(u, t, "L").mT, g["probe_eps_L"][i])
        close(cld.problem.score(u.float(), t).mT, g["probe_score"][i])


@pytest.mark.parametrize("K", ["R", "L"])
def test_golden_samples(cld, golden_gddim, K):
    times = grids.quadratic(cld.process, 10)
    for q in range(4):
        end = dn.solve(cld.problem, "gddim", cld.u, times, order=q + 1, K=K).u
        close_ends(cld.process, times, end.mT, golden_gddim[f"det_{K}_q{q}_N10"])
    for q in range(3):
        for corrector in ("pec", "pece"):
            end = dn.solve(cld.problem, "gddim", cld.u, times, order=q + 1, K=K, corrector=corrector).u
            close_ends(cld.process, times, end.mT, golden_gddim[f"{corrector.upper()}_{K}_q{q}_r{q + 1}_N10"])


def test_golden_reference_and_last_step(cld, golden_gddim):
    exact = analysis.reference(cld.problem, cld.u, [1.0, 1e-3])
    close(exact.mT, golden_gddim["ode_exact"], INTEGRATED)
    end = cld.problem.finish(exact, 1e-3, "ode")
    close(end.mT, golden_gddim["ode_exact_denoised"], INTEGRATED)


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_golden_stochastic(cld, golden_gddim, lam):
    g, times = golden_gddim, grids.quadratic(cld.process, 10)
    through, P = cld.process.reverse_step(times[1:], times[:-1], lam)
    close(through, g[f"sto_Psihat_lam{lam}"], magnified=10)  # a product of panels
    close(P, g[f"sto_P_lam{lam}"], magnified=through.abs().max().item() ** 2)  # P is quadratic in it
    noise = Replay([z.mT.contiguous() for z in g["noise_N10"]])
    end = dn.solve(cld.problem, "gddim_sde", cld.u, times, lam=lam, noise=noise).u
    close_ends(cld.process, times, end.mT, g[f"sto_lam{lam}_N10"])


def test_golden_laws(golden_gddim):
    """Output laws on Gaussian data, which the golden arrays computed by another recursion."""
    g, process = golden_gddim, dn.CLD()
    problem = dn.Problem(process, dn.Gaussian([1.0], [0.25]))
    times = grids.quadratic(process, 10)
    for i, lam in enumerate(g["lam_list"].tolist()):
        mean, cov = analysis.law(problem, "gddim_sde", times, lam=lam)
        close_ends(process, times, mean, g["mom_mean_N10"][i])
        close_ends(process, times, cov, g["mom_cov_N10"][i])


def test_golden_blurring(golden_gddim):
    g, process = golden_gddim, dn.Blurring((32, 32))
    t, rows, columns = g["bdm_t"], *g["bdm_idx"].T
    assert process.t_max == pytest.approx(g["bdm_sampling_T"].item(), rel=ROUNDED)
    pick = lambda x: x[:, rows, columns]  # noqa: E731
    close(process.sigma(t), g["bdm_sigma"])
    close(pick(process.damping(t)), g["bdm_D"])
    close(pick(process.alpha(t)), g["bdm_mu"])
    unit = torch.ones_like(g["bdm_F"])
    close(pick(process.F(t)[..., 0, 0]) / g["bdm_F"], unit, magnified=10)  # a tangent
    close(pick(process.G(t)[..., 0, 0]) ** 2 / g["bdm_G2"], unit, magnified=10)
    small = dn.Blurring((4, 4), blur_max=2.0)
    problem = dn.Problem(small, dn.GaussianMixture(g["bdm4_w"], g["bdm4_m"], stds=g["bdm4_c"], basis="dct"))
    times = grids.quadratic(small, 10)
    for q in range(2):
        end = dn.solve(problem, "gddim", g["bdm4_yT"], times, order=q + 1).u
        close_ends(small, times, end, g[f"bdm4_det_q{q}_N10"])
    exact = analysis.reference(problem, g["bdm4_yT"], [small.t_max, small.t_end])
    close(exact, g["bdm4_ode_exact"], INTEGRATED)


# ---------------------------------------------------------------------------------------------------- processes


@processes
def test_transition_is_a_group_that_solves_its_equation(process):
    t, s = (x * process.t_max for x in (0.83, 0.21))
    m = 0.4 * process.t_max
    close(process.transition(t, m) @ process.transition(m, s), process.transition(t, s))
    h = 1e-5 * process.t_max
    slope = (process.transition(t + h, s) - process.transition(t - h, s)) / (2 * h)
    close(slope, process.F(t) @ process.transition(t, s), magnified=1e6)  # t_max/h = 1e5, and ten for the truncation
    close(process.integral_F(t, s) + process.integral_F(s, 0.1), process.integral_F(t, 0.1))


@processes
def test_covariance_solves_its_equation(process):
    t = 0.37 * process.t_max
    h = 1e-5 * process.t_max
    F, Q, S = process.F(t), process.G(t) @ process.G(t).mT, process.cov(t)
    close((process.cov(t + h) - process.cov(t - h)) / (2 * h), F @ S + S @ F.mT + Q, magnified=1e6)
    R, L = process.rotation_root(t), process.cholesky(t)
    close(R @ R.mT, S)
    close(L @ L.mT, S)
    slope = (process.rotation_root(t + h) - process.rotation_root(t - h)) / (2 * h)
    close(slope, (F + Q @ torch.linalg.inv(S) / 2) @ R, magnified=1e6)
    for K, root in (("R", R), ("L", L)):
        close(process.gain(t, K), Q @ torch.linalg.inv(root).mT / 2)


@phase_space
def test_root_by_rotation_is_the_solution_of_its_equation(process):
    """DOP853 on the equation of R itself, from 0.05 to 1."""

    def field(t, r):
        Q = process.G(t) @ process.G(t).mT
        return ((process.F(t) + Q @ torch.linalg.inv(process.cov(t)) / 2) @ torch.from_numpy(r).reshape(2, 2)).flatten()

    start = process.rotation_root(0.05).flatten().numpy()
    end = solve_ivp(field, (0.05, 1.0), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    close(process.rotation_root(1.0).flatten(), torch.from_numpy(end), INTEGRATED)


@phase_space
def test_stationary_law_is_kept(process):
    """F S + S F^T + G G^T = 0 for S = diag(1, M), the law of the prior."""
    S = process.prior_root() @ process.prior_root().mT
    F, Q = process.F(0.3), process.G(0.3) @ process.G(0.3).mT
    close(F @ S + S @ F.mT, -Q)
    prior = process.prior((20_000, 3), dtype=torch.float64, seed=1)
    assert prior.shape == (20_000, 2, 3)
    assert prior.square().mean((0, 2)) == pytest.approx(torch.diag(S), rel=0.03)


def test_cld_is_a_psld_without_noise_in_position():
    cld, psld = dn.CLD(eps=1e-3), dn.PSLD(beta=8.0, Gamma=0.0, nu=4.0, eps=1e-3)
    close(cld.cov(TIMES), psld.cov(TIMES))
    close(cld.F(TIMES), psld.F(TIMES))
    close(cld.rotation_root(TIMES), psld.rotation_root(TIMES))


@processes
def test_coefficients_of_order_one_are_the_closed_form(process):
    r"""int 1/2 Psi Q R^-T = R_s - Psi R_t, which cancels; grids of one and of eight steps."""
    for n in (1, 8):
        times = grids.quadratic(process, n)
        s, t = times[1:], times[:-1]
        closed = process.rotation_root(s) - process.transition(s, t) @ process.rotation_root(t)
        allowed = checks.rounding(process, times)  # what cancels is as large as the state of a run
        for C, exact in zip(exponential_weights(process, times.tolist(), 1), closed, strict=True):
            close(C[0], exact, allowed)


@processes
@pytest.mark.parametrize("K", ["R", "L"])
def test_moments_of_the_coefficients(process, K):
    """Extrapolation is exact for polynomials: all coefficients of a step sum to that of order one."""
    times = grids.quadratic(process, 6).tolist()
    ones = exponential_weights(process, times, 1, K)
    for order, ahead in ((2, False), (3, False), (4, False), (3, True)):
        for C, one in zip(exponential_weights(process, times, order, K, ahead), ones, strict=True):
            close(C.sum(0), one[0], ROUNDED * C.abs().sum(0).max().item())


@processes
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_reverse_step(process, lam):
    s, t = 0.2 * process.t_max, 0.6 * process.t_max
    through, P = process.reverse_step(s, t, lam)
    R, worst = process.rotation_root, 10 * torch.linalg.cond(process.cov(t)).max().item()  # ten: a product of panels
    close(through @ process.cov(t) @ through.mT + P, process.cov(s), magnified=worst)
    if lam == 0:
        close(through, R(s) @ torch.linalg.inv(R(t)), magnified=worst)
        assert P.abs().max() == 0
    if lam == 1:  # the gain of a Gaussian posterior
        close(through, process.cov(s) @ process.transition(t, s).mT @ torch.linalg.inv(process.cov(t)), magnified=worst)


@pytest.mark.parametrize("process", [*PHASE_SPACE.values(), dn.VP(), dn.VE()], ids=[*PHASE_SPACE, "vp", "ve"])
def test_grids_meet_their_definition(process):
    even = lambda x: torch.allclose(x.diff(), x.diff().mean(), rtol=1e-8)  # noqa: E731
    assert even(process.log_snr(grids.log_snr(process, 12)))
    assert even(process.rho(grids.karras(process, 12)) ** (1 / 7))


def test_ratio_of_the_sufficient_statistic():
    """Noise levels that the denoiser sees, listed in the specification to three digits."""
    expected = {1e-3: 0.0012, 0.01: 0.0151, 0.1: 0.408, 0.3: 2.36, 0.5: 8.43, 0.8: 61.5, 1.0: 248}
    for t, s in expected.items():
        assert dn.CLD().rho(t) == pytest.approx(s, rel=0.03)


# ------------------------------------------------------------------------------------------- sufficient statistic


@phase_space
@pytest.mark.parametrize("K", ["R", "L"])
def test_score_from_the_sufficient_statistic(process, K):
    """The mixture's own score on phase space, by autograd of its log density there, against the isotropic denoiser."""
    weights, stds = torch.tensor([0.3, 0.7], dtype=torch.float64), (0.3, 0.5)
    means = torch.tensor([[1.0, -0.5, 0.2], [-0.8, 0.4, 0.9]], dtype=torch.float64)
    problem = dn.Problem(process, dn.GaussianMixture(weights, means, stds=stds))
    for t in (1e-3, 0.03, 0.4, 1.0):
        u = process.perturb(means[[0, 1, 0, 1]], t, torch.Generator().manual_seed(3)).requires_grad_()
        a, S = process.mean(t)[:, 0], process.cov(t)
        logs, worst = [], torch.linalg.cond(S).item()  # the references invert it, the split form does not
        for w, m, sd in zip(weights, means, stds, strict=True):
            C = S + sd**2 * torch.outer(a, a)
            d = u - a[:, None] * m
            quadratic = torch.einsum("bie,ij,bje->b", d, torch.linalg.inv(C), d)
            logs.append(w.log() - quadratic / 2 - 1.5 * torch.logdet(C))
        (score,) = torch.autograd.grad(torch.stack(logs).logsumexp(0).sum(), u)
        u = u.detach()
        close(problem.score(u, t), score, magnified=worst)
        eps = -torch.einsum("ji,bje->bie", process.root(t, K), score)
        close(problem.eps(u, t, K), eps, ROUNDED * worst * (process.root(t, K).abs().max() * score.abs().max()).item())
        x0 = problem.x0(u, t)
        close(-torch.linalg.solve(S, u - a[:, None] * x0[:, None]), score, magnified=worst)


def test_one_time_for_each_row(cld):
    u, t = cld.u[:3], torch.tensor([0.9, 0.4, 0.05], dtype=torch.float64)
    for field in (cld.problem.eps, cld.problem.score, cld.problem.velocity, cld.problem.x0):
        together = field(u, t)
        for i in range(3):
            close(together[i : i + 1], field(u[i : i + 1], t[i].item()))
    noisy = cld.process.perturb(torch.ones(3, 3, dtype=torch.float64), t)
    assert noisy.shape == (3, 2, 3)


# ------------------------------------------------------------------------------------------------------- solvers


def cld_rungs(n):
    return grids.quadratic(dn.CLD(), n, t_end=0.05)


@pytest.mark.parametrize(
    ("order", "corrector", "expected"),
    [
        *((1, None, 1), (2, None, 2), (3, None, 3), (4, None, 4)),
        *((1, "pece", 2), (2, "pece", 3), (3, "pece", 4), (2, "pec", 3)),
    ],
)
def test_order_with_rotation_root(cld, order, corrector, expected):
    steps = (100, 200, 400) if order == 4 or (order == 3 and corrector) else (200, 400, 800)
    result = analysis.convergence(cld.problem, "gddim", cld.u[:4], cld_rungs, steps, order=order, corrector=corrector)
    assert result.claim == expected
    checks.assert_order(result)
    assert result.order == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    ("order", "corrector", "stalls"), [(1, None, 1), (2, None, 2), (3, None, 2), (4, None, 2), (3, "pece", 3)]
)
def test_order_with_cholesky_root_stalls(cld, order, corrector, stalls):
    """The first steps have a short history, and eps_L turns there: local error h^2 once, global order 2."""
    result = analysis.convergence(
        cld.problem, "gddim", cld.u[:4], cld_rungs, (200, 400, 800), order=order, K="L", corrector=corrector
    )
    assert result.claim == stalls
    checks.assert_order(result, within=0.1)


@pytest.mark.parametrize("order", [3, 4])
def test_exact_starting_values_restore_the_order(cld, order):
    """K = L again, the first order - 1 states exact: the stall was the start alone."""
    process, problem, u = cld.process, cld.problem, cld.u[:4]
    errors = []
    for n in (200, 400, 800):
        times = cld_rungs(n)
        exact = analysis.reference(problem, u, times[:order], rtol=1e-13, trajectory=True)
        tables = exponential_weights(process, times.tolist(), order, "L")
        past = [problem.eps(exact[i], times[i].item(), "L") for i in range(order - 1)][::-1]
        v = exact[-1]
        for i in range(order - 1, n):
            t, s = times[i].item(), times[i + 1].item()
            past = [problem.eps(v, t, "L"), *past[: order - 1]]
            v = torch.einsum("ij,bje->bie", process.transition(s, t), v) + sum(
                torch.einsum("ij,bje->bie", C, e) for C, e in zip(tables[i], past, strict=True)
            )
        errors.append(v)
    truth = analysis.reference(problem, u, cld_rungs(1)[[0, -1]], rtol=1e-13)
    measured = [analysis.rms(v - truth) for v in errors]
    slopes = analysis.local_slopes((200, 400, 800), measured)
    assert slopes[-1] == pytest.approx(order, abs=0.15), (measured, slopes)


def test_from_the_prior_the_short_history_does_no_harm():
    """VP: order 3 from t = 1, where eps stands still, and 2 from rho = 3, where it does not."""
    process = dn.VP()
    problem, u = dn.Problem(process, smooth()), starts(process)
    end = process.time_of_rho(0.05)
    full = analysis.ladder(grids.log_snr, process, t_end=end)
    inside = analysis.ladder(grids.log_snr, process, t_start=process.time_of_rho(3.0), t_end=end)
    for order in (3, 4):  # before 320 steps the slope is still rising, after 640 what is left of order 2 can show
        checks.assert_order(analysis.convergence(problem, "gddim", u, full, (80, 320, 640), order=order), order, 0.3)
        result = analysis.convergence(problem, "gddim", u, inside, (160, 320, 640), order=order)
        assert result.claim == 2
        checks.assert_order(result, within=0.1)


@pytest.mark.parametrize("process", [dn.VP.cosine(), dn.VP()], ids=["cosine", "linear"])
def test_a_steep_start_caps_the_order(process):
    """Where rho has a pole at the start the noise does change there, unless the grid is uniform in log-SNR."""
    problem, u = dn.Problem(process, smooth()), starts(process)
    for grid, order in ((grids.log_snr, 3), (grids.quadratic, 2 if process.t_max < 1 else 3)):
        rung = analysis.ladder(grid, process, t_end=0.05)
        result = analysis.convergence(problem, "gddim", u, rung, (80, 160, 320), order=3)
        assert result.claim == order
        assert result.order == pytest.approx(order, abs=0.15), result.table()


@processes
def test_a_point_mass_in_one_step(process):
    event = (3, 4, 6) if process.family == "blurring" else (5,)
    checks.assert_exact(process, "gddim", grids.quadratic(process, 1), event=event, order=1)


def test_a_point_mass_in_one_step_on_cld():
    checks.assert_exact(dn.CLD(), "gddim", torch.tensor([1.0, 1e-3]), order=1)


@pytest.mark.parametrize("process", [dn.CLD(eps=0.0), dn.PSLD(), dn.PSLD(Gamma=0.0, nu=4.0), dn.CLD()], ids=repr)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_point_mass_down_to_a_start_without_noise(process, steps):
    """There R is its limit from above: with Gamma = 0 the position follows the momentum, and L is not diagonal."""
    checks.assert_exact(process, "gddim", grids.uniform(process, steps, t_end=0.0), order=1)
    near = process.rotation_root(1e-14)
    assert (process.rotation_root(0.0) - near).abs().max() < 1e-5 * near.abs().max()


@processes
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_stochastic_step_keeps_the_law_of_a_point(process, lam):
    if process.family == "blurring":
        denoiser = dn.Gaussian(torch.linspace(-1, 1, 24).reshape(4, 6), torch.zeros(4, 6), basis="dct")
    else:
        denoiser = dn.Gaussian([0.7], [0.0])
    problem = dn.Problem(process, denoiser)
    times = grids.quadratic(process, 1)
    mean, cov = analysis.law(problem, "gddim_sde", times, lam=lam)
    exact_mean, exact_cov = analysis.exact_law(problem, times[-1].item())
    close_ends(process, times, mean, exact_mean)
    close_ends(process, times, cov, exact_cov)


@pytest.mark.parametrize("process", ["cld", "psld", "vp"])
def test_weak_order_of_the_stochastic_method(process):
    process = ALL[process]
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.25]))
    for lam in (0.3, 1.0):
        rung = analysis.ladder(grids.quadratic, process, t_end=0.05)
        result = analysis.weak_convergence(problem, "gddim_sde", rung, (80, 160, 320), lam=lam)
        assert result.order == pytest.approx(result.claim, abs=0.1), result.table()


def test_reductions():
    vp = dn.VP()
    problem, u, times = dn.Problem(vp, smooth()), starts(vp), grids.log_snr(vp, 20)
    checks.assert_reduces_to(problem, "gddim", "ddim", u, times, options={"order": 1})
    checks.assert_reduces_to(problem, "gddim_sde", "ddim", u, times, options={"lam": 0.0})
    checks.assert_reduces_to(problem, "gddim", "gddim", u, times, 0.0, {"K": "L"}, {"K": "R"})
    cld = dn.CLD()
    checks.assert_reduces_to(dn.Problem(cld, smooth()), "gddim_sde", "gddim", starts(cld), times,
                             options={"lam": 0.0}, other_options={"order": 1})  # fmt: skip


@pytest.mark.parametrize("process", ["cld", "psld", "blurring"])
@pytest.mark.parametrize("name", ["gddim", "gddim_sde"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_states_keep_shape_and_dtype(process, name, dtype):
    process = ALL[process]
    event = (3, 4, 6) if process.family == "blurring" else (4,)
    problem = dn.Problem(
        process, dn.PointMass(torch.linspace(-1, 1, 72).reshape(event)) if len(event) > 1 else smooth()
    )
    u = problem.prior((3, *event), dtype=dtype, seed=2)
    checks.assert_pure(problem, name, u, grids.quadratic(process, 5))
    if dtype == torch.float32:
        double = dn.solve(problem, name, u.double(), grids.quadratic(process, 20)).x
        checks.assert_close(dn.solve(problem, name, u, grids.quadratic(process, 20)).x, double, 1e-4)


@pytest.mark.parametrize("process", ["cld", "psld"])
def test_evaluations_on_phase_space(process):
    process = ALL[process]
    problem, u = dn.Problem(process, smooth()), starts(process, 2)
    for n in (1, 2, 5):
        for corrector in (None, "pec", "pece"):
            checks.assert_nfe(problem, "gddim", u, grids.quadratic(process, n), corrector=corrector)
    assert dn.solve(problem, "gddim", u, grids.quadratic(process, 5), denoise=True).nfe == 6


def test_last_step_follows_the_equation_solved():
    """PSLD ends with the drift of what was solved, CLD with that of the SDE, blurring with nothing."""
    u = starts(dn.PSLD())
    for process, kind, lam in ((dn.PSLD(), "ode", 0.0), (dn.PSLD(), "sde", 1.0), (dn.CLD(), "ode", 1.0)):
        problem = dn.Problem(process, smooth())
        Q = process.G(0.01) @ process.G(0.01).mT
        drift = torch.einsum("ij,bje->bie", process.F(0.01), u)
        drift -= (1 + lam**2) / 2 * torch.einsum("ij,bje->bie", Q, problem.score(u, 0.01))
        close(problem.finish(u, 0.01, kind), u - 0.01 * drift)
    blurring = dn.Blurring((4, 6))
    problem = dn.Problem(blurring, dn.PointMass(torch.ones(4, 6)))
    run = dn.solve(problem, "gddim", problem.prior((2, 4, 6)), grids.quadratic(blurring, 3), denoise=True)
    assert run.nfe == 3


# ------------------------------------------------------------------------------------------------------ blurring


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 12, 20), (9, 5)], ids=str)
def test_blurring_an_empirical_data_set(shape):
    """From noise to data points: every sample ends on one of the images it is made from."""
    data = torch.rand((6, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    process = dn.Blurring(shape)
    problem = dn.Problem(process, dn.Empirical(data))
    u = problem.prior((4, *shape), dtype=torch.float64, seed=1)
    for name, options in (("gddim", {"order": 2}), ("gddim_sde", {"lam": 1.0})):
        x = dn.solve(problem, name, u, grids.quadratic(process, 60), **options).x
        noise = process.sigma(process.t_end)
        distance = (x[:, None] - data).flatten(2).square().mean(2).sqrt().amin(1)
        assert distance.max() < 2 * noise, (distance, noise)


def test_blurring_is_gddim_on_every_frequency_alone():
    """A Gaussian with independent coefficients: each frequency is a process of its own, and the law is exact."""
    process = dn.Blurring((2, 3), blur_max=2.0)
    problem = dn.Problem(process, dn.Gaussian(torch.zeros(2, 3), torch.full((2, 3), 0.25), basis="dct"))
    rung = analysis.ladder(grids.quadratic, process, t_end=0.05)
    result = analysis.weak_convergence(problem, "gddim", rung, (80, 160, 320), order=2)
    checks.assert_order(result, 2, within=0.1)


def test_encode_and_decode():
    x = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    for process in (dn.Blurring((6, 9)), dn.CLD(), dn.VP()):
        close(process.decode(process.encode(x)), x)
    assert dn.CLD().encode(x).shape == (2, 2, 3, 6, 9)


# -------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 5}, "order=5 must be one of 1, 2, 3, 4"),
        ({"order": 0}, "order=0 must be one of"),
        ({"corrector": "pc"}, "corrector='pc' must be one of None, 'pec', 'pece'"),
        ({"K": "U"}, "K='U' must be one of 'R', 'L'"),
    ],
)
def test_bad_options(cld, options, message):
    before = cld.problem.nfe
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        dn.solve(cld.problem, "gddim", cld.u, cld_rungs(4), **options)
    assert cld.problem.nfe == before


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf")])
def test_bad_lambda(cld, lam):
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        dn.solve(cld.problem, "gddim_sde", cld.u, cld_rungs(4), lam=lam)


def test_grids_that_reach_zero():
    """The predictor can end at 0; a corrector evaluates there, which a start without noise does not allow."""
    process = dn.PSLD()
    problem, u = dn.Problem(process, smooth()), starts(process, 2)
    times = grids.quadratic(process, 8, t_end=0.0)
    assert dn.solve(problem, "gddim", u, times).u.isfinite().all()
    with pytest.raises(dn.DiffnumError, match="end the grid above 0"):
        dn.solve(problem, "gddim", u, times, corrector="pec")
    with pytest.raises(ValueError, match="no noise"):
        problem.eps(u, 0.0)
    noisy = dn.CLD()
    assert dn.solve(dn.Problem(noisy, smooth()), "gddim", starts(noisy, 2), times, corrector="pec").u.isfinite().all()


def test_what_does_not_fit_is_refused(cld):
    with pytest.raises(TypeError, match="knows white noise only"):
        dn.Problem(dn.Blurring((32, 32)), dn.load("cifar10"))
    with pytest.raises(dn.DiffnumError, match="ddim integrates isotropic processes; CLD is"):
        dn.solve(cld.problem, "ddim", cld.u, cld_rungs(4))
    with pytest.raises(ValueError, match="position, momentum"):
        cld.problem.check(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"needs \(batch, 2, 3\)"):
        cld.problem.check(torch.zeros(4, 2, 5))
    with pytest.raises(ValueError, match=r"takes \(batch, ..., 4, 6\)"):
        dn.Blurring((4, 6)).event_shape(torch.zeros(2, 6, 4))
    for make, message in (
        (lambda: dn.CLD(beta=-1.0), "beta=-1.0 must be finite and positive"),
        (lambda: dn.CLD(eps=-1e-3), "eps=-0.001 must be finite and at least 0"),
        (lambda: dn.PSLD(Gamma=5.0), "critical damping needs Gamma < nu"),
        (lambda: dn.PSLD(beta=(1.0, 2.0, 3.0)), "must be a number or a pair"),
        (lambda: dn.Blurring((32,)), "height and a width"),
        (lambda: dn.Blurring((32, 32), d_min=0.0), "d_min=0.0 must be finite and positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# Broken on purpose: the instruments must notice.


def test_a_missing_transpose_is_noticed(cld):
    """The covariance of the released code, dP = F P + P F instead of F P + P F^T, is not one."""
    process = dn.CLD()
    times = grids.quadratic(process, 10)
    grid = times.tolist()

    def slope(tau, p):
        P = torch.from_numpy(p).reshape(2, 2)
        Q = process.G(tau) @ process.G(tau).mT
        F = process.F(tau) + (1 + 0.3**2) / 2 * Q @ torch.linalg.inv(process.cov(tau))
        return (F @ P + P @ F - 0.3**2 * Q).flatten().numpy()

    wrong = torch.from_numpy(solve_ivp(slope, grid[:2], [0.0] * 4, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1])
    right = process.reverse_step(grid[1], grid[0], 0.3)[1]
    assert wrong[0] == pytest.approx(-0.0517, abs=2e-4)  # a negative variance
    assert right[0, 0] == pytest.approx(0.2066, abs=2e-4)

    class Released(dn.CLD):
        def reverse_step(self, to, frm, lam):
            return super().reverse_step(to, frm, lam)[0], torch.zeros(10, 2, 2).double()

    problem = dn.Problem(Released(), dn.Gaussian([0.7], [0.0]))
    _, cov = analysis.law(problem, "gddim_sde", times, lam=0.3)
    assert (cov - analysis.exact_law(problem, grid[-1])[1]).abs().max() > 1e-5


def test_swapped_roots_are_noticed(cld):
    """eps_L with the coefficients of R: the order test must see it."""

    def swapped(problem, u, times):
        tables = exponential_weights(problem.process, times, 1, "R")
        for i, C in enumerate(tables):
            e = problem.eps(u, times[i], "L")
            u = torch.einsum("ij,bje->bie", problem.process.transition(times[i + 1], times[i]), u)
            u = u + torch.einsum("ij,bje->bie", C[0], e)
            yield u

    result = analysis.convergence(cld.problem, swapped, cld.u[:2], cld_rungs, (100, 200, 400))
    checks.assert_catches(lambda: checks.assert_order(result, 1))
