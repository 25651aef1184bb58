"""Exponential Runge-Kutta: its derivation, what it reduces to, and where it must fail."""

import math
from importlib import import_module
from itertools import pairwise

import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.coefficients import combine
from diffnum.denoisers.targets import smooth, starts
from diffnum.derive import exponential_rk as derive
from diffnum.kept import kept
from diffnum.measure.analysis import reference, rms, standard_problem
from diffnum.solvers.exponential_rk import STAGES, grid_steps, one_step, slope_gain

PREDICTIONS = {"noise": -1, "data": 1}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_order_conditions(prediction):
    """Order 3 holds for every r1, and for r2 = 2/3 alone; DPM-Solver-2 leaves an error of h^3."""
    kappa = PREDICTIONS[prediction]
    free = derive.defect(3, kappa)
    assert (free[1], free[2]) == (0, 0)
    assert sp.expand(free[3] - kappa * (derive.r2 / 4 - sp.Rational(1, 6)) * derive.along(kappa)) == 0
    assert free[3].subs(derive.r2, sp.Rational(2, 3)) == 0 != free[3].subs(derive.r2, sp.Rational(1, 2))
    midpoint = derive.defect(2, kappa)
    assert (midpoint[1], midpoint[2]) == (0, 0) and midpoint[3] != 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_are_the_derived_ones(prediction):
    process, kappa = dn.VP(), PREDICTIONS[prediction]
    for t, s in ((0.9, 0.5), (0.5, 0.4999), (0.01, 0.001)):
        h = (process.log_snr(s) - process.log_snr(t)) / 2
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.levels(t), process.levels(s)
        # Y = x/alpha carries e^{-lambda_t}, Y = x/sigma e^{lambda_t}
        scale, keep = (
            (alpha_s * sigma_t / alpha_t, alpha_s / alpha_t)
            if kappa < 0
            else (sigma_s * alpha_t / sigma_t, sigma_s / sigma_t)
        )
        number = sp.Float(h, 40)
        expected = [keep, *(scale * float(part(kappa, number)) for part in (derive.frozen, derive.line))]
        # the length h is a difference of logarithms
        got = one_step(process, *(torch.tensor([x], dtype=torch.float64) for x in (t, s, h)), prediction)
        assert [part.item() for part in got] == pytest.approx(expected, rel=1e-13 / min(h, 1))
    below, above = slope_gain(torch.tensor([0.5, 0.5 + 1e-9], dtype=torch.float64)).tolist()
    assert below == pytest.approx(above, rel=3e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("grid", ["log_snr", "uniform", "rough"])
def test_order_two(vp, prediction, grid):
    checks.measure(vp.problem, "exponential_rk", vp.u, grid, order=2, prediction=prediction)


@pytest.mark.parametrize("grid", ["uniform", "rough"])
def test_order_three_for_data(vp, grid):
    checks.measure(vp.problem, "exponential_rk", vp.u, grid, prediction="data")


@pytest.mark.parametrize("order", STAGES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_point_mass_and_steps_to_zero(order, prediction):
    process, options = dn.VP.cosine(), {"order": order, "prediction": prediction}
    checks.assert_exact(process, "exponential_rk", grids.log_snr(process, 8), **options)
    problem, _, _, _ = standard_problem()
    u, times = problem.prior((2, 4), dtype=torch.float64), grids.log_snr(problem.process, 5, t_end=0.0)
    checks.assert_nfe(problem, "exponential_rk", u, times, **options)
    one = grids.uniform(problem.process, 1, t_end=0.0)
    checks.assert_reduces_to(problem, "exponential_rk", "ddim", u, one, options=options)


def test_a_second_stage_elsewhere_is_caught(vp, monkeypatch):
    """Broken on purpose: r2 = 1/2."""
    monkeypatch.setitem(STAGES, 3, (1 / 4, 1 / 2))
    kept.clear()
    checks.assert_catches(lambda: checks.measure(vp.problem, "exponential_rk", vp.u, "log_snr"))
    monkeypatch.undo()
    kept.clear()
    checks.measure(vp.problem, "exponential_rk", vp.u, "log_snr")


# ------------------------------------------------------------------------------------------------- adaptive steps


@pytest.fixture
def attempts(monkeypatch):
    """What the control saw: E of every attempt."""
    module, seen = import_module("diffnum.solvers.exponential_rk"), []
    whole = module.attempt

    def noted(*given):
        moved, error = whole(*given)
        seen.append(error)
        return moved, error

    monkeypatch.setattr(module, "attempt", noted)
    return seen


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", [dn.VP(), dn.VE(), dn.VP.cosine()], ids=["linear", "ve", "cosine"])
def test_error_follows_the_tolerance(process, prediction):
    """From the prior to the end in a grid of two times; a tenth of the tolerance, about a tenth of the error."""
    problem, u = dn.Problem(process, smooth()), starts(process)
    times = [process.t_max, process.t_end]
    exact, errors = reference(problem, u, times, rtol=1e-13), []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        run = dn.solve(problem, "dpm_adaptive", u, times, tolerance=tolerance, prediction=prediction)
        errors.append(rms(run.u - exact))
        assert errors[-1] < tolerance
    # A step's error goes like h^3 and there are 1/h of them: E^(2/3) at least, and E^1 where the better method ends it.
    slopes = [math.log10(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > 2 / 3 and sum(slopes) / 3 < 1.2, slopes


def test_what_is_counted(attempts):
    problem, u, _, _ = standard_problem()
    for _ in range(2):  # the first time the grid is tried for its stability
        attempts.clear()
        run = dn.solve(problem, "dpm_adaptive", u, [1.0, 1e-3], tolerance=1e-3)
    taken = sum(error <= 1 for error in attempts)
    assert 0 < taken < len(attempts) and run.nfe == 3 * taken + 2 * (len(attempts) - taken)
    assert checks.assert_nfe(problem, "dpm_adaptive", u, torch.tensor([1.0, 0.1, 0.0])) > 0


def test_fine_grids_are_taken_as_they_are(vp, attempts):
    times = standard_problem().grid(40)
    checks.assert_reduces_to(vp.problem, "dpm_adaptive", "exponential_rk", vp.u, times)
    assert len(attempts) == 40 and max(attempts) < 1


def test_the_estimate_is_the_difference_from_the_method_of_order_two(attempts):
    """With the first stage alone, at 1/3: of order 2 for the weights of a line."""
    problem, u, _, _ = standard_problem()
    t, s, tolerance = 0.3, 0.2, 0.7
    row = grid_steps(problem.process, (t, s), 3, "noise")[0]
    end, first = row.weights[-1], problem.eps(u, t)
    line = 2 * end[-1]  # l(h)/r_1
    second = problem.eps(combine(row.weights[0], (u, first)), row.times[0])
    low = combine((end[0], sum(end[1:]) - line, line), (u, first, second))
    dn.solve(problem, "dpm_adaptive", u, [t, s], tolerance=tolerance)  # its errors are tried first, once for a grid
    attempts.clear()
    high = dn.solve(problem, "dpm_adaptive", u, [t, s], tolerance=tolerance).u
    size = math.hypot(*problem.process.levels(s))
    worst = (high - low).square().mean(1).sqrt().max().item()
    assert attempts == [pytest.approx(worst / tolerance / size, rel=1e-9)]  # a small difference of two states


def test_back_to_noise_and_lost_states(attempts):
    problem, u, _, _ = standard_problem()
    there = dn.solve(problem, "dpm_adaptive", u, [1.0, 1e-2], tolerance=1e-5).u
    back = dn.solve(problem, "dpm_adaptive", there, [1e-2, 1.0], tolerance=1e-5).u
    assert rms(back - u) < 1e-3
    nowhere = dn.Problem(dn.VP(), dn.from_prediction(lambda x, t: x * math.nan, dn.VP()))
    for _ in range(2):
        attempts.clear()
        lost = dn.solve(nowhere, "dpm_adaptive", u, [1.0, 0.5, 0.1]).u
    assert lost.isnan().all() and len(attempts) == 2  # no step is short enough: none is looked for


def test_a_control_that_does_not_look_is_caught(monkeypatch):
    """Broken on purpose: whatever is estimated, the step is taken."""
    module = import_module("diffnum.solvers.exponential_rk")
    whole = module.attempt
    monkeypatch.setattr(module, "attempt", lambda *given: (whole(*given)[0], 0.0))
    with pytest.raises(AssertionError):
        test_error_follows_the_tolerance(dn.VP(), "noise")
