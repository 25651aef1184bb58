"""Stochastic exponential Adams: what they reduce to, the released formula, the law of a point, orders."""

import math
from importlib import import_module
from itertools import pairwise

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers import PointMass
from diffnum.denoisers.targets import smooth, starts
from diffnum.measure import analysis
from diffnum.noise import Replay, Seeded

family = import_module("diffnum.solvers.exponential_adams")  # the name is that of the solver, too
PROCESSES = {"linear": dn.VP(), "cosine": dn.VP.cosine(), "ve": dn.VE()}
EVERY = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@EVERY
@pytest.mark.parametrize(("name", "options", "twin", "others"), [
    ("sa_solver", {"tau": 0.0}, "exponential_adams", {"prediction": "data", "corrector": True}),
    ("sa_solver", {"tau": 0.0, "order": 2, "corrector": False}, "deis", None),
    ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
    ("sa_solver", {"order": 1, "corrector": False}, "ancestral", {}),
    ("sa_solver", {"order": 1, "corrector": False, "tau": 0.7}, "gddim_sde", {"lam": 0.7}),
], ids=str)  # fmt: skip
def test_reductions(process, name, options, twin, others):
    """Without noise to the methods of that kind, with one node to the step that freezes the data; the same draws."""
    if others is None:
        twin, others = "exponential_adams", {"prediction": "data", "order": 2}
    problem, u, times = dn.Problem(process, smooth()), starts(process), grids.log_snr(process, 20)
    checks.assert_reduces_to(problem, name, twin, u, times, options=options, other_options=others)


@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras, grids.uniform])
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_dpmpp_2m_sde_of_the_code(grid, eta):
    """sample_dpmpp_2m_sde of k-diffusion, midpoint, again in its own words."""
    process = dn.VP()
    problem, u, times = dn.Problem(process, smooth()), starts(process), grid(process, 12).tolist()
    draws = [Seeded(i)(u) for i in range(12)]
    sigmas, x = process.rho(times).tolist(), u / process.levels(times[0])[0]
    old, last = None, None
    for i, t in enumerate(times[:-1]):
        denoised = problem.x0(process.levels(t)[0] * x, t)
        h = math.log(sigmas[i]) - math.log(sigmas[i + 1])
        eta_h = eta * h
        x = sigmas[i + 1] / sigmas[i] * math.exp(-eta_h) * x - math.expm1(-h - eta_h) * denoised
        if old is not None:
            x = x + 0.5 * -math.expm1(-h - eta_h) * (h / last) * (denoised - old)
        x = x + draws[i] * sigmas[i + 1] * math.sqrt(-math.expm1(-2 * eta_h))
        old, last = denoised, h
    end = process.levels(times[-1])[0] * x
    got = dn.solve(problem, "dpmpp_2m_sde", u, times, eta=eta, noise=Replay(draws)).u
    # levels from 152 on, and noise that the next steps remove again
    checks.assert_close(got, end, checks.rounding(process, torch.tensor(times, dtype=torch.float64)))


@EVERY
@pytest.mark.parametrize(("name", "options"), [
    ("sa_solver", {}), ("sa_solver", {"tau": 0.3, "order": 4}), ("dpmpp_2m_sde", {"eta": 2.0}),
], ids=str)  # fmt: skip
def test_the_law_of_data_at_one_point(process, name, options):
    problem = dn.Problem(process, dn.Gaussian([0.5], [0.0]))
    for n in (1, 6):
        times = grids.log_snr(process, n)
        mean, cov = analysis.law(problem, name, times, **options)
        right = analysis.exact_law(problem, times[-1].item())
        bound = checks.rounding(process, times)
        checks.assert_close(mean, right[0], bound)
        checks.assert_close(cov, right[1], bound)


def test_a_step_to_zero_lands_on_the_prediction():
    process, u = dn.VP(), starts(dn.VP())
    problem = dn.Problem(process, PointMass(torch.full((4,), 0.5, dtype=torch.float64)))
    for name in ("sa_solver", "dpmpp_2m_sde"):
        end = dn.solve(problem, name, u, grids.log_snr(process, 5, t_end=0.0)).u
        checks.assert_close(
            end, torch.full_like(u, 0.5), checks.rounding(process, grids.log_snr(process, 5, t_end=0.0))
        )


def test_nodes_do_not_raise_the_weak_order_and_the_free_corrector_lowers_the_error():
    """From two nodes on it is 2, as measured for every option in test_orders; the corrector takes nine tenths of it."""
    problem = dn.Problem(dn.VP(), dn.Gaussian([0.5], [0.25]))
    _, _, rung, _ = analysis.standard_problem()
    found = {
        (q, c): analysis.weak_convergence(problem, "sa_solver", rung, (160, 320), order=q, corrector=c)
        for q in (2, 3, 4) for c in (False, True)
    }  # fmt: skip
    for q in (3, 4):
        for c in (False, True):
            checks.assert_order(found[q, c], 2, within=0.15)
    assert found[3, False].errors[-1] < found[2, False].errors[-1] / 4


def test_a_corrector_with_another_draw_is_caught(monkeypatch):
    """Broken on purpose: the corrector forgets the noise of its step."""
    whole = family.table

    def forgetful(*given):
        rows = whole(*given)
        return [(*row[:-1], 0.0) for row in rows] if given[5] and given[7] else rows

    monkeypatch.setattr(family, "table", forgetful)
    problem = dn.Problem(dn.VP(), dn.Gaussian([0.5], [0.25]))
    _, _, rung, _ = analysis.standard_problem()
    result = analysis.weak_convergence(problem, "sa_solver", rung, (40, 80, 160))
    checks.assert_catches(lambda: checks.assert_order(result, within=0.15))


def test_mean_values_are_those_of_the_weight():
    """Two nodes in log-SNR: the mean place over d exp((1 + tau^2) lambda), in closed form."""
    process, power = dn.VP(), 1 + 0.8**2
    times = grids.log_snr(process, 6).tolist()
    w = family.mean_values(process, times, 2, "log_snr", "data", False, power)
    lam = (process.log_snr(times) / 2).tolist()
    for i, (a, b) in enumerate(pairwise(lam)):
        h = b - a
        place = h / -math.expm1(-power * h) - 1 / power  # of the mean, from a
        assert sum(w[i]) == pytest.approx(1, rel=checks.ROUNDED)
        if i:
            assert w[i][1] == pytest.approx(-place / (a - lam[i - 1]), rel=1e-11)  # h is a difference of logarithms
