"""Runs step by step and from data to noise; rectified flow; the noise of DDIM and EDM."""

from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers.targets import smooth, starts
from diffnum.measure import analysis
from diffnum.solvers import registry

PROCESSES = {"vp": dn.VP(), "ve": dn.VE(), "rectified": dn.RectifiedFlow(), "cld": dn.CLD(), "psld": dn.PSLD()}
ODE = [name for name, solver in registry.items() if solver.kind == "ode"]


def problem_on(name):
    process = PROCESSES[name]
    return dn.Problem(process, smooth()), starts(process)


@pytest.mark.parametrize("name", registry)
def test_steps_are_those_of_solve(name):
    """The same states, times and evaluations, and the clean prediction of the last evaluation without another one."""
    problem, u = problem_on("vp" if "isotropic" in registry[name].families else "cld")
    times = grids.log_snr(problem.process, 5)
    whole, counted = dn.solve(problem, name, u, times, trajectory=True), problem.nfe
    states = list(dn.steps(problem, name, u, times))
    assert torch.equal(torch.stack([u, *(state.u for state in states)]), whole.trajectory)
    assert [state.t for state in states] == times[1:].tolist() and [state.step for state in states] == [1, 2, 3, 4, 5]
    assert states[-1].nfe == whole.nfe == problem.nfe - counted and torch.equal(states[-1].x, whole.x)
    if registry[name].nfe and registry[name].nfe(5) == 5:  # one evaluation a step, at its start
        for state, before, t in zip(states, whole.trajectory, times.tolist(), strict=False):
            if name in ("reduced_oba", "sscs"):
                continue  # evaluated after a draw
            checks.assert_close(state.x0, problem.x0(before, t), magnified=1e3)


def test_steps_refuse_at_once_and_stop_when_left():
    problem, u = problem_on("vp")
    with pytest.raises(KeyError, match="did you mean"):
        dn.steps(problem, "ddin", u, [1.0, 0.5])
    with pytest.raises(ValueError, match="gradients"):
        dn.steps(problem, "ddim", u, [1.0, 0.5], gradients="no")
    for _ in dn.steps(problem, "ddim", u, grids.log_snr(problem.process, 20)):
        break
    assert problem.nfe == 1
    with torch.enable_grad():
        for state in dn.steps(problem, "ddim", u, [1.0, 0.5]):
            assert torch.is_grad_enabled() and not state.u.requires_grad  # the caller's mode is the caller's
    start = u.clone().requires_grad_()
    (last,) = dn.steps(problem, "ddim", start, [1.0, 0.5], gradients=True)
    last.x0.sum().backward()
    assert start.grad.abs().max() > 0

    def silent(problem, u, times):
        for _ in times[1:]:
            yield u

    (state,) = dn.steps(problem, silent, u, [1.0, 0.5])
    assert state.x0 is None and state.nfe == 0


def test_a_solver_that_writes_into_its_state_changes_nothing_else():
    """Neither the start, nor a state that it has yielded; with gradients as without."""
    problem, u = problem_on("vp")
    given, times = u.clone(), [1.0, 0.5, 0.2]

    def in_place(problem, u, times):
        for t, s in pairwise(times):
            u.add_(problem.velocity(u, t), alpha=s - t)
            yield u

    whole = dn.solve(problem, in_place, u, times, trajectory=True)
    assert torch.equal(u, given) and torch.equal(
        whole.trajectory, dn.solve(problem, "euler", u, times, trajectory=True).trajectory
    )
    assert torch.equal(torch.stack([state.u for state in dn.steps(problem, in_place, u, times)]), whole.trajectory[1:])
    start = u.clone().requires_grad_()
    with torch.no_grad():
        end = dn.solve(problem, in_place, start, times, gradients=True).u
    (found,) = torch.autograd.grad(end.sum(), start)
    (wanted,) = torch.autograd.grad(dn.solve(problem, "euler", start, times, gradients=True).u.sum(), start)
    checks.assert_close(found, wanted, magnified=1e3)


def test_a_solver_without_an_end_has_one():
    problem, u = problem_on("vp")

    def endless(problem, u, times):
        while True:
            yield u

    for run in (dn.solve, lambda *args: list(dn.steps(*args))):
        with pytest.raises(dn.DiffnumError, match="3 states for 2 steps"):
            run(problem, endless, u, [1.0, 0.5, 0.2])


def test_a_step_inside_inference_mode_does_not_end_the_gradients_in_silence():
    problem, u = problem_on("vp")
    run = dn.steps(problem, "ddim", u.requires_grad_(), [1.0, 0.5, 0.2], gradients=True)
    assert next(run) != next(dn.steps(problem, "ddim", u, [1.0, 0.5]))  # told apart without a look at the numbers
    with torch.inference_mode(), pytest.raises(dn.DiffnumError, match="records nothing"):
        next(run)


@pytest.mark.parametrize("name", ["exponential_adams", "plms", "sa_solver", "ddim"])
def test_writing_into_what_is_shown_changes_no_run(name):
    problem, u = problem_on("vp")
    times = grids.log_snr(problem.process, 6)
    for state in dn.steps(problem, name, u, times):
        last = state.u.clone()
        for shown in (state.u, state.x0):
            shown.fill_(7.0)
    assert torch.equal(last, dn.solve(problem, name, u, times).u)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("process", ["vp", "ve", "cld"])
def test_from_data_to_noise_and_back(process, name):
    """Against the exact flow, at least to the order that the solver has on the way down: 1, 2 or more."""
    if PROCESSES[process].family not in registry[name].families:
        pytest.skip("not for this process")
    problem, u = problem_on(process)
    u = 3 / 80 * u if process == "ve" else u  # a state at the level 3
    ends = {"t_start": problem.process.time_of_rho(3.0), "t_end": problem.process.time_of_rho(0.05)}
    data = analysis.reference(problem, u, list(ends.values()))
    errors = [
        (dn.solve(problem, name, data, grids.log_snr(problem.process, n, **ends).flip(0)).u - u).abs().max().item()
        for n in (80, 160)
    ]
    least = 0.85 if registry[name].order() == 1 else 1.75
    assert analysis.local_slopes((80, 160), errors)[0] > least, errors


def test_what_is_refused_on_the_way_to_noise():
    problem, u = problem_on("vp")
    up = grids.uniform(problem.process, 5).flip(0)
    with pytest.raises(ValueError, match=r"must decrease strictly; noise is added by process.perturb"):
        dn.solve(problem, "ancestral", u, up)
    with pytest.raises(dn.DiffnumError, match="no noise to predict; start above 0"):
        dn.solve(problem, "ddim", u, [0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="from data to noise; leave it out"):
        dn.solve(problem, "ddim", u, up, denoise=True)
    with pytest.raises(ValueError, match="or all increase"):
        dn.solve(problem, "ddim", u, [0.1, 0.5, 0.4])
    assert problem.nfe == 0


def test_rectified_flow_is_vp_on_another_clock():
    """DDIM depends on the noise levels alone: the same levels, the same data."""
    flow, vp = PROCESSES["rectified"], PROCESSES["vp"]
    levels = torch.logspace(1.5, -2, 12, dtype=torch.float64)
    ends = {}
    for process in (flow, vp):
        times = process.time_of_rho(levels)
        y = 30 * starts(vp)  # x/alpha
        problem = dn.Problem(process, smooth())
        run = dn.solve(problem, "ddim", y * process.alpha(times[0]), times)
        ends[process] = run.u / process.alpha(times[-1])
    checks.assert_close(ends[flow], ends[vp], magnified=1e3)
    # the velocity is the difference of noise and data, which is what these models are trained for
    problem, u = problem_on("rectified")
    for t in (0.9, 0.5, 0.1):
        checks.assert_close(problem.velocity(u, t), problem.eps(u, t) - problem.x0(u, t), magnified=1e3)


def test_rectified_flow_from_its_prior():
    flow = PROCESSES["rectified"]
    assert flow.rho(flow.t_max) == pytest.approx(2e4) and flow.time_of_rho(1.0) == 0.5
    for t in (1e-6, 0.3, 0.99):
        assert flow.time_of_rho(flow.rho(t)) == pytest.approx(t, rel=1e-13)
    checks.assert_exact(flow, "gddim", grids.uniform(flow, 3), order=1)
    mean, cov = analysis.law(dn.Problem(flow, dn.Gaussian([1.0], [0.25])), "ancestral", grids.log_snr(flow, 400))
    assert mean.item() == pytest.approx(1.0, abs=0.01) and cov.item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("process", ["vp", "ve", "rectified"])
def test_eta_between_ddim_and_ancestral(process):
    """eta^2 = P(lambda)/P(1), with Song et al.'s variance on VP."""
    problem, u = problem_on(process)
    noising, times = problem.process, grids.log_snr(problem.process, 6)
    source = dn.noise.Replay(
        [torch.randn(u.shape, generator=torch.Generator().manual_seed(i), dtype=u.dtype) for i in range(6)]
    )
    by_eta = {eta: dn.solve(problem, "ddim_eta", u, times, eta=eta, noise=source).u for eta in (0.0, 0.6, 1.0)}
    assert torch.allclose(by_eta[0.0], dn.solve(problem, "ddim", u, times).u, rtol=1e-10, atol=1e-12)
    assert torch.allclose(by_eta[1.0], dn.solve(problem, "ancestral", u, times, noise=source).u, rtol=1e-10, atol=1e-10)
    t, s = 0.6, 0.4
    q2 = (noising.rho(s) / noising.rho(t)) ** 2
    lam = (torch.tensor(1 - 0.36 * (1 - q2)).log() / torch.tensor(q2).log()).sqrt().item()
    one = dn.noise.Replay(source.draws[:1])
    small = dn.solve(problem, "ddim_eta", u, [t, s], eta=0.6, noise=one).u
    other = dn.solve(problem, "gddim_sde", u, [t, s], lam=lam, noise=one).u
    assert torch.allclose(small, other, rtol=1e-6, atol=1e-7)
    if process == "vp":
        (a, n), (b, m) = noising.levels(t), noising.levels(s)
        moved = small - dn.solve(problem, "ddim_eta", u, [t, s], eta=0.6, noise=dn.noise.Replay([-one.draws[0]])).u
        published = 0.6 * m / n * (1 - a**2 / b**2) ** 0.5
        assert torch.allclose(moved, 2 * published * one.draws[0], rtol=1e-9)
    with pytest.raises(ValueError, match="eta"):
        dn.solve(problem, "ddim_eta", u, times, eta=1.5)


def test_churn_raises_the_level_and_no_further_than_the_process():
    problem, u = problem_on("vp")
    times = grids.log_snr(problem.process, 6)
    plain = dn.solve(problem, "edm_heun", u, times).u
    checks.assert_close(dn.solve(problem, "edm_churn", u, times, churn=0.0).u, plain, magnified=1e3)
    run = dn.solve(problem, "edm_churn", u, times, churn=30.0)
    assert run.nfe == 12 and run.u.isfinite().all() and (run.u - plain).abs().max() > 0.1
    # the law at Gaussian data: noise that is added and not counted would widen it
    gaussian = dn.Problem(problem.process, dn.Gaussian([0.5], [0.25]))
    mean, cov = analysis.law(gaussian, "edm_churn", grids.log_snr(problem.process, 200), churn=30.0)
    assert mean.item() == pytest.approx(0.5, abs=0.01) and cov.item() == pytest.approx(0.25, abs=0.01)
