"""Processes, grids, noise, problem and runner: identities, and one clear error for every bad input."""

import math

import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum import grids, noise
from diffnum.coefficients import act, adams_weights, combine
from diffnum.denoisers.targets import smooth
from diffnum.measure.analysis import convergence, ladder, law, reference
from diffnum.measure.checks import ROUNDED, assert_close, rounding
from diffnum.runner import draws_noise

PROCESSES = {
    "linear": dn.VP(),
    "cosine": dn.VP.cosine(),
    "table": dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "ve": dn.VE(),
}
GRIDS = ("uniform", "quadratic", "log_snr", "karras", "sigma")


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


# ------------------------------------------------------------------------------------------------------- processes
def test_levels_and_their_inverse(process):
    t = torch.linspace(1e-6, process.t_max * 0.999, 500, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    if isinstance(process, dn.VP):
        assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    assert_close(process.log_snr(t), (alpha**2 / sigma**2).log())
    # a relative error of the level is at most a thousandfold one of the time: a table's first cell begins at level 0
    assert_close(process.time_of_log_snr(process.log_snr(t)) / t, torch.ones_like(t), magnified=1e3)
    assert_close(process.time_of_rho(process.rho(t)) / t, torch.ones_like(t), magnified=1e3)


def test_coefficients_belong_together(process):
    """dalpha/dt = F alpha and d(sigma^2)/dt = 2 F sigma^2 + G^2, by central differences."""
    if process.unit:
        pytest.skip("a table is linear between its knots only in log alpha, so a difference across one proves nothing")
    t, h = torch.linspace(0.05, 0.9, 30, dtype=torch.float64) * process.t_max, 1e-6
    F, G2 = process.F(t)[:, 0, 0], process.G(t)[:, 0, 0] ** 2
    slope = (process.alpha(t + h) - process.alpha(t - h)) / (2 * h)
    assert_close(slope, F * process.alpha(t), ROUNDED / h)
    slope = (process.sigma(t + h) ** 2 - process.sigma(t - h) ** 2) / (2 * h)
    assert_close(slope, 2 * F * process.sigma(t) ** 2 + G2, ROUNDED / h * process.sigma(process.t_max) ** 2)


def test_matrices(process):
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).reshape(2, 3)
    for matrix in (process.F, process.G, process.mean, process.cov, process.cholesky, process.rotation_root):
        assert matrix(t).shape == (2, 3, 1, 1)
        assert matrix(0.5).shape == (1, 1)
        assert matrix(t).dtype == torch.float64
    s = t / 2
    assert_close(process.transition(s, t) * process.mean(t), process.mean(s), magnified=10)
    assert_close(process.integral_F(s, t).exp(), process.transition(s, t), magnified=10)
    assert_close(process.cov(t), process.cholesky(t) @ process.cholesky(t).mT)


def test_floats_give_floats(process):
    for function in (process.alpha, process.sigma, process.beta, process.log_snr, process.time_of_log_snr, process.rho):
        assert type(function(0.3)) is float
        assert function(torch.tensor([0.3, 0.4])).dtype == torch.float64
    assert process.levels(0.3) == (process.alpha(0.3), process.sigma(0.3))


@pytest.mark.parametrize("t", [1e-10, 1e-6, 1e-3, 0.5, 1.0])
def test_small_times_do_not_cancel(t):
    import mpmath as mp

    with mp.workdps(40):
        exponent = mp.mpf(0.1) * t + (20 - mp.mpf(0.1)) * mp.mpf(t) ** 2 / 2
        linear = float(mp.sqrt(-mp.expm1(-exponent)))
        shift = mp.mpf(0.008)
        ratio = [mp.cos((mp.mpf(v) + shift) / (1 + shift) * mp.pi / 2) for v in (min(t, 0.99), 0)]
        cosine = float(mp.sqrt(1 - (ratio[0] / ratio[1]) ** 2))
    assert dn.VP().sigma(t) == pytest.approx(linear, rel=ROUNDED)
    assert dn.VP.cosine().sigma(min(t, 0.99)) == pytest.approx(cosine, rel=10 * ROUNDED)


def test_cosine_ends_where_the_ratio_is_twenty_thousand():
    process = dn.VP.cosine()
    assert process.rho(process.t_max) == pytest.approx(2e4, rel=3e4 * ROUNDED)  # d log rho/d log t there


def test_table(golden):
    for schedule in ("linear", "cosine"):
        process = dn.VP.from_betas(golden[f"betas_{schedule}"])
        t = torch.arange(1, 1001, dtype=torch.float64) / 1000
        theirs = golden[f"alphas_cumprod_{schedule}"]
        assert_close(process.alpha(t) ** 2 / theirs, torch.ones_like(t), magnified=100)  # products of 1000 factors
        assert process.levels(0.0) == (1.0, 0.0)
        middle = process.schedule.log_alpha(torch.tensor(0.0105, dtype=torch.float64))
        knots = process.schedule.log_alpha(torch.tensor([0.010, 0.011], dtype=torch.float64))
        assert middle.item() == pytest.approx(knots.mean().item(), rel=100 * ROUNDED)  # 0.0105 in steps of 0.001


@pytest.mark.parametrize(
    "bad", [{"beta_min": 0}, {"beta_min": -1}, {"beta_min": 3, "beta_max": 2}, {"beta_max": math.inf}]
)
def test_bad_vp(bad):
    with pytest.raises(ValueError, match="beta_min"):
        dn.VP(**bad)


def test_other_bad_processes():
    with pytest.raises(ValueError, match="sigma_max"):
        dn.VE(sigma_max=0.0)
    with pytest.raises(ValueError, match="s="):
        dn.VP.cosine(-1)
    for betas in (torch.ones(3), torch.tensor([0.1, math.nan]), torch.zeros(0), torch.full((2, 2), 0.1)):
        with pytest.raises(ValueError, match="betas"):
            dn.VP.from_betas(betas)


# ----------------------------------------------------------------------------------------------------------- grids
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 64])
def test_grids(process, name, steps):
    grid = getattr(grids, name)
    for t_end in (None, 0.0, 0.01):
        times = grid(process, steps, t_end=t_end)
        assert times.dtype == torch.float64
        assert len(times) == steps + 1
        assert (times.diff() < 0).all()
        assert times[0] == process.t_max
        assert times[-1] == (process.t_end if t_end is None else t_end)


def test_what_grids_are_uniform_in(process):
    def even(values):
        return values.diff().std() <= 1e5 * ROUNDED * values.diff().abs().mean()  # differences of large numbers

    ends = {"t_end": 0.01, "t_start": 0.9}
    assert even(grids.uniform(process, 10, **ends))
    assert even(grids.quadratic(process, 10, **ends).sqrt())
    assert even(process.log_snr(grids.log_snr(process, 10, **ends)))
    assert even(process.rho(grids.sigma(process, 10, **ends)))
    assert even(process.rho(grids.karras(process, 10, **ends)) ** (1 / 7))
    assert even(process.rho(grids.karras(process, 10, rho=3, **ends)) ** (1 / 3))


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "10"])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="steps"):
        grids.uniform(dn.VP(), steps)


@pytest.mark.parametrize("ends", [{"t_end": -1e-3}, {"t_end": 1.0}, {"t_start": 1.5}, {"t_end": math.nan}])
def test_bad_ends(ends):
    for name in GRIDS:
        with pytest.raises(ValueError, match="t_end"):
            getattr(grids, name)(dn.VP(), 10, **ends)


def test_other_bad_grids():
    with pytest.raises(ValueError, match="rho"):
        grids.karras(dn.VP(), 10, rho=0)
    with pytest.raises(ValueError, match="use fewer"):
        grids.from_table(dn.VP(), 5000)
    with pytest.raises(ValueError, match="repeats"):
        grids.uniform(dn.VP(), 10, t_start=0.5 + 1e-16 * 4, t_end=0.5)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1e-3, 0.5, 0.4], "decrease strictly"),
        ([1.0, 0.5, 0.5, 0.1], "decrease strictly"),
        ([1.0, math.nan, 0.1], "not finite"),
        ([1.0, -0.1], "lives on"),
        ([1.2, 0.1], "lives on"),
        ([1.0], "at least two"),
        ([[1.0, 0.5]], "at least two"),
    ],
)
def test_bad_times(vp, times, message):
    before = vp.problem.nfe
    with pytest.raises(ValueError, match=message):
        dn.solve(vp.problem, "ddim", vp.u, times)
    with pytest.raises(ValueError, match=message):
        list(dn.solvers.registry["ddim"](vp.problem, vp.u, times))
    assert vp.problem.nfe == before


# --------------------------------------------------------------------------------------------- problem and runner
def test_fields_agree(vp):
    t, (alpha, sigma) = 0.3, vp.process.levels(0.3)
    eps = vp.problem.eps(vp.u, t)
    assert_close(vp.problem.x0(vp.u, t), (vp.u - sigma * eps) / alpha, ROUNDED * (vp.u.abs().max() / alpha).item())
    assert_close(vp.problem.score(vp.u, t), -eps / sigma)
    F, G = vp.process.F(t), vp.process.G(t)
    velocity = act(F, vp.u) - 0.5 * act(G @ G.mT, vp.problem.score(vp.u, t))
    assert_close(vp.problem.velocity(vp.u, t), velocity, magnified=100)  # a difference of drift and score
    assert torch.equal(vp.problem.eps(vp.u, t, K="L"), eps)
    assert_close(vp.problem.eps(vp.u, torch.full((8,), t, dtype=torch.float64)), eps, magnified=10)


def test_evaluations_are_counted_once(vp):
    problem = dn.Problem(vp.process, smooth())
    for count, field in enumerate((problem.eps, problem.x0, problem.score, problem.velocity), 1):
        field(vp.u, 0.5)
        assert problem.nfe == count
    assert dn.solve(problem, "ddim", vp.u, [1.0, 0.5, 0.1]).nfe == 2
    assert problem.nfe == 6
    reference(problem, vp.u, [1.0, 0.5])
    assert problem.nfe == 6


def test_solution(vp):
    times = grids.log_snr(vp.process, 5)
    run = dn.solve(vp.problem, "ddim", vp.u, times, trajectory=True)
    assert run.trajectory.shape == (6, 8, 4)
    assert torch.equal(run.trajectory[0], vp.u)
    assert torch.equal(run.trajectory[-1], run.u)
    assert torch.equal(run.x, run.u)
    assert torch.equal(run.times, times)
    assert dn.solve(vp.problem, "ddim", vp.u, times).trajectory is None


def test_last_step_to_clean_data(vp):
    times = grids.log_snr(vp.process, 5)
    plain, final = dn.solve(vp.problem, "ddim", vp.u, times), dn.solve(vp.problem, "ddim", vp.u, times, denoise=True)
    assert final.nfe == plain.nfe + 1
    assert_close(final.x, vp.problem.x0(plain.u, times[-1].item()))
    with pytest.raises(ValueError, match="denoise"):
        dn.solve(vp.problem, "ddim", vp.u, grids.uniform(vp.process, 5, t_end=0.0), denoise=True)


def test_any_generator_function_is_a_solver(vp):
    def half(problem, u, times, factor=0.5):
        for _ in times[1:]:
            u = u * factor
            yield u

    assert torch.equal(dn.solve(vp.problem, half, vp.u, [1.0, 0.5, 0.2]).u, vp.u / 4)
    assert torch.equal(dn.solve(vp.problem, half, vp.u, [1.0, 0.5], factor=3.0).u, vp.u * 3)


def test_gradients_only_when_asked_for(vp):
    u = vp.u.clone().requires_grad_()
    assert not dn.solve(vp.problem, "ddim", u, [1.0, 0.5]).u.requires_grad
    dn.solve(vp.problem, "f_pndm", u, grids.log_snr(vp.process, 5), gradients=True).u.sum().backward()
    assert u.grad.isfinite().all()


def test_unknown_names(vp):
    with pytest.raises(KeyError, match="f_pndm"):
        dn.solve(vp.problem, "fpndm", vp.u, [1.0, 0.5])
    with pytest.raises(TypeError, match="midpoint"):
        dn.solve(vp.problem, "f_pndm", vp.u, [1.0, 0.5], middle="t")
    with pytest.raises(TypeError, match="it has none"):
        dn.solve(vp.problem, "ddim", vp.u, [1.0, 0.5], eta=1.0)
    with pytest.raises(TypeError, match="neither a name"):
        dn.solve(vp.problem, 3, vp.u, [1.0, 0.5])
    with pytest.raises(AttributeError, match="no attribute"):
        _ = dn.nothing


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prk", {"midpoint": "rho"}, "midpoint"),
        ("f_pndm", {"midpoint": None}, "midpoint"),
        ("pndm_variable", {"order": "3"}, "order"),
        ("pndm_variable", {"order": 2.0}, "order"),
        ("fon", {"published": "yes"}, "published"),
        ("pndm_variable", {"order": 5}, "order"),
        ("pndm_variable", {"variable": "x"}, "variable"),
    ],
)
def test_bad_option_values(vp, name, options, message):
    with pytest.raises(ValueError, match=message):
        dn.solve(vp.problem, name, vp.u, [1.0, 0.5, 0.4, 0.3, 0.2], **options)


def test_a_process_the_solver_cannot_integrate(vp):
    class Other(dn.VP):
        family = "phase space"

    with pytest.raises(dn.DiffnumError, match="isotropic"):
        dn.solve(dn.Problem(Other(), smooth()), "ddim", vp.u, [1.0, 0.5])


@pytest.mark.parametrize(
    ("u", "error", "message"),
    [
        (torch.full((2, 4), math.nan), ValueError, "NaN"),
        (torch.full((2, 4), math.inf), ValueError, "infinity"),
        (torch.zeros(2, 5), ValueError, "needs"),
        (torch.zeros(4), ValueError, "batch"),
        (torch.zeros(0, 4), ValueError, "no sample"),
        (torch.zeros(2, 4, dtype=torch.int64), TypeError, "floating"),
        ([[0.0] * 4], TypeError, "list"),
    ],
)
def test_bad_states(vp, u, error, message):
    before = vp.problem.nfe
    for attempt in (
        lambda: dn.solve(vp.problem, "ddim", u, [1.0, 0.5]),
        lambda: dn.solvers.registry["ddim"](vp.problem, u, [1.0, 0.5]),
    ):
        with pytest.raises(error, match=message):
            attempt()
    assert vp.problem.nfe == before


def test_times_as_tensors(vp):
    rows = torch.linspace(0.1, 0.8, 8, dtype=torch.float64)
    for field in (vp.problem.eps, vp.problem.x0, vp.problem.score, vp.problem.velocity):
        one_by_one = torch.cat([field(vp.u[i : i + 1], rows[i].item()) for i in range(8)])
        assert_close(field(vp.u, rows), one_by_one, magnified=100)  # eps and state cancel in the others
        for bad in (0.0, torch.tensor(0.0), torch.zeros(8), torch.ones(3), -1.0, 5.0):
            with pytest.raises(ValueError, match=r"t=|t has"):
                field(vp.u, bad)
    assert vp.process.alpha([0.3, 0.5]).shape == (2,)
    assert torch.equal(vp.process.alpha([0.3, 0.5]), vp.process.alpha(torch.tensor([0.3, 0.5], dtype=torch.float64)))


def test_times_as_arrays(vp):
    times = np.linspace(0.1, 1, 5)[::-1]
    assert torch.equal(dn.solve(vp.problem, "ddim", vp.u, times).u, dn.solve(vp.problem, "ddim", vp.u, list(times)).u)
    assert len(grids.uniform(vp.process, np.int64(4))) == 5


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (lambda problem, u, times: u, "generator"),
        (lambda problem, u, times: None, "generator"),
        (lambda problem, u, times: iter([]), "yielded 0 states"),
        (lambda problem, u, times: iter([u, u, u, u]), "yielded 3 states"),
        (lambda problem, u, times: iter([u.float(), u]), "keep shape"),
        (lambda problem, u, times: iter([u[:1], u]), "keep shape"),
    ],
)
def test_solvers_that_are_not(vp, solver, message):
    with pytest.raises(dn.DiffnumError, match=message):
        dn.solve(vp.problem, solver, vp.u, [1.0, 0.5, 0.2])


def test_devices_that_do_not_exist(vp):
    for device in ("cuda:97", "nonsense", "meta"):
        with pytest.raises(dn.DiffnumError, match="does not exist here"):
            vp.problem.prior((2, 4), device=device)


@pytest.mark.parametrize("steps", [1, 10])
def test_table_grids_end_at_zero_only_when_asked(steps):
    for process in (dn.VE(), *(PROCESSES[name] for name in ("linear", "cosine", "table"))):
        size = 1000 if process.t_max <= 1 else 10
        assert grids.from_table(process, steps, t_end=1e-5, size=size)[-1] > 0


@pytest.mark.parametrize("t_end", [None, 0.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 334, 500, 600, 999])
def test_table_grids_start_where_the_prior_belongs(steps, t_end):
    """Data N(1, 1) in closed form: the mean of the samples is 1, up to what the start and the steps of DDIM lose."""
    process = PROCESSES["table"]
    times = grids.from_table(process, steps, t_end=t_end)
    assert grids.at_prior(times, process) is times and times[0] > 0.9
    assert (
        times.diff().max() <= -0.5 / 1000 and times.diff().diff().abs()[:-1].max(0).values < 1.5e-3 if steps > 2 else 1
    )
    if steps >= 334:
        mean, _ = law(dn.Problem(process, dn.Gaussian([1.0], [1.0])), "ddim", times)
        assert mean.item() == pytest.approx(1.0, abs=2e-3)


def test_published_strides_start_where_they_did():
    times = grids.from_table(PROCESSES["table"], 500, t_end=1e-3, published=True)
    assert times[0] == 0.501 and grids.from_table(PROCESSES["table"], 500, t_end=1e-3)[0] == 1.0
    with pytest.raises(ValueError, match="start states from the prior belong to t = 1"):
        grids.at_prior(times, PROCESSES["table"])
    assert grids.from_table(PROCESSES["table"], 20, t_end=0.0)[0] == 0.951  # PNDM's own choice
    assert grids.from_table(PROCESSES["table"], 20, t_end=0.0, published=False)[0] == 1.0


@pytest.mark.parametrize("shape", [(0, 4), (2, -4), (4,), (2, 5)])
def test_bad_prior_shapes(vp, shape):
    with pytest.raises(ValueError, match="shape"):
        vp.problem.prior(shape)


def test_other_bad_problems(vp):
    with pytest.raises(TypeError, match="from_prediction"):
        dn.Problem(vp.process, lambda x, sigma: x)
    for process in ("vp", dn.VP):
        with pytest.raises(TypeError, match="process"):
            dn.Problem(process, smooth())
    with pytest.raises(TypeError, match="from_prediction"):
        dn.Problem(vp.process, dn.Gaussian)
    with pytest.raises(TypeError, match=r"dn.Problem"):
        dn.solve(vp.process, "ddim", vp.u, [1.0, 0.5])
    with pytest.raises(TypeError, match="not a process"):
        grids.uniform("vp", 3)
    with pytest.raises(ValueError, match="no noise"):
        vp.problem.eps(vp.u, 0.0)
    with pytest.raises(ValueError, match="K="):
        vp.problem.eps(vp.u, 0.5, K="Q")
    with pytest.raises(TypeError, match="floating"):
        vp.process.prior((2, 4), dtype=torch.int32)


def test_predictions_of_one_model_give_the_same_samples(vp):
    """eps, x0, v and score forms of one model: the same images up to rounding."""
    times, exact = grids.quadratic(vp.process, 12), vp.problem

    def model(kind):
        def predict(u, t):
            alpha, sigma = vp.process.levels(t)
            eps = exact.eps(u, t)
            x0 = exact.x0(u, t)
            return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma}[kind]

        return dn.from_prediction(predict, vp.process, kind)

    samples = [dn.solve(dn.Problem(vp.process, model(k)), "s_pndm", vp.u, times).u for k in ("eps", "x0", "v", "score")]
    for other in samples[1:]:
        assert_close(other, samples[0], rounding(vp.process, times, stages=2))


# --------------------------------------------------------------------------------------------- analysis and helpers
def test_convergence(vp):
    result = convergence(vp.problem, "ddim", vp.u, ladder(grids.log_snr, vp.process), (10, 20, 40))
    assert result.nfe == (10, 20, 40)
    assert len(result.slopes) == 2
    assert result.claim == 1
    assert result.by_start.shape == (3, 8)
    assert len(result.median) == 3
    assert "slope" in result.table()
    for steps in ((), (20, 10), (0, 10)):
        with pytest.raises(ValueError, match="steps"):
            convergence(vp.problem, "ddim", vp.u, ladder(grids.log_snr, vp.process), steps)
    with pytest.raises(ValueError, match="common end"):
        convergence(vp.problem, "ddim", vp.u, lambda n: grids.uniform(vp.process, n, t_end=1 / (n + 10)), (10, 20))


def test_reference_trajectory_and_flow(vp):
    times = [1.0, 0.6, 0.2, 0.0]
    states = reference(vp.problem, vp.u, times, trajectory=True)
    assert states.shape == (4, 8, 4)
    assert_close(states[0], vp.u)
    assert_close(reference(vp.problem, states[1], times[1:]), states[-1], 1e-9)  # a thousand steps, 1e-12 each


def test_combine_and_act():
    u = torch.arange(12, dtype=torch.float64).reshape(2, 2, 3)
    copy = u.clone()
    assert torch.equal(combine((2.0, -1.0), (u, u)), u)
    A = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(act(A, u)[:, 0], u[:, 1])
    assert torch.equal(act(A, u)[:, 1], 2 * u[:, 0])
    assert torch.equal(act(A[:1, 1:], u), u)
    frequencies = torch.rand(2, 3, 1, 1, dtype=torch.float64)
    assert_close(act(frequencies, u), u * frequencies[..., 0, 0])
    assert torch.equal(u, copy)
    assert sum(adams_weights([0.5, 0.7, 0.8], 0.5, 0.1)) == pytest.approx(1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", sorted(dn.solvers.registry))
def test_a_solver_gives_the_same_on_every_device(name, dtype, device, vp, cld):
    """From the same start and the same noise; the state stays where it was."""
    families = dn.solvers.registry[name].families
    case = vp if "isotropic" in families else cld
    times = grids.quadratic(case.process, 20)
    ends = []
    for where in ("cpu", device):
        u = case.u[:4].to(where, dtype)
        given = noise.Seeded(0, range(4)) if draws_noise(dn.solvers.registry[name]) else None
        end = dn.solve(case.problem, name, u, times, noise=given).u
        assert end.device.type == where
        ends.append(end.cpu())
    assert_close(*ends, rounding(case.process, times, dtype, stages=4))
