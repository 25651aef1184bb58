"""Exponential Runge-Kutta: its derivation, what it reduces to, and where it must fail."""

import pytest
import sympy as sp
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.derive import exponential_rk as derive
from diffnum.kept import kept
from diffnum.measure.analysis import standard_problem
from diffnum.solvers.exponential_rk import STAGES, one_step, slope_gain

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
