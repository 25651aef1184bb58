"""Errors of the noise prediction: how far each deterministic solver magnifies them, and what is said about it."""

import warnings

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers.targets import smooth
from diffnum.errors import StabilityWarning
from diffnum.kept import kept
from diffnum.measure import analysis
from diffnum.measure.analysis import growth
from diffnum.solvers import registry
from diffnum.stability import BOUND

PROCESSES = {"vp": dn.VP(), "cosine": dn.VP.cosine(), "ve": dn.VE(), "cld": dn.CLD(), "psld": dn.PSLD()}
GRIDS = ("log_snr", "uniform", "quadratic", "karras")
STEPS = (5, 10, 20, 50)
CASES = [
    (name, process, {})
    for name, solver in registry.items()
    for process in PROCESSES
    if solver.kind == "ode" and PROCESSES[process].family in solver.families
]
CASES += [("gddim", process, {"order": order}) for process in PROCESSES for order in (2, 4)]

# Beyond the bound, by solver and process: on which grids, up to how many of the steps above. All else is stable.
STEEP = {"uniform": 50, "quadratic": 50}  # the first step leaves the prior of the cosine schedule behind
COARSE = dict.fromkeys(GRIDS, 5)
UNSTABLE = {
    ("edm_heun", "cosine"): STEEP,
    ("prk", "cosine"): {**STEEP, "log_snr": 5, "karras": 5},
    ("f_pndm", "cosine"): {**STEEP, "log_snr": 5, "karras": 20},
    ("s_pndm", "cosine"): {**STEEP, "log_snr": 5},
    ("plms", "cosine"): {**STEEP, "log_snr": 20, "karras": 20},
    ("pndm_variable", "cosine"): STEEP,
    ("ab4", "cosine"): {"log_snr": 10, "karras": 10},
    ("exponential_rk", "cosine"): STEEP,
    ("fon", "cosine"): {"log_snr": 5},
    ("deis", "cosine"): {"log_snr": 20, "karras": 20},
    ("ipndm", "cosine"): {**COARSE, "log_snr": 20, "karras": 20},
    ("dpmpp_3m", "ve"): {"uniform": 5},
    ("dpmpp_2m", "cosine"): {"quadratic": 5},
    ("euler", "cosine"): {"quadratic": 5},
    **{(name, "ve"): {"uniform": 10} for name in ("heun", "rk4", "edm_heun", "prk")},
    ("heun", "cld"): COARSE,
    ("rk4", "cld"): {"uniform": 5, "karras": 5},
    ("verlet2", "cld"): COARSE,
    ("reduced_velocity_verlet", "cld"): COARSE,
    **{("conjugate", process): COARSE for process in ("cld", "psld")},
    **{("conjugate_velocity_verlet", process): COARSE for process in ("cld", "psld")},
    ("conjugate_symplectic_euler", "cld"): {**COARSE, "log_snr": 10},
    ("conjugate_symplectic_euler", "psld"): COARSE,
}


@pytest.mark.parametrize(("name", "process", "options"), CASES, ids=str)
def test_growth_is_bounded_or_known(name, process, options):
    known = UNSTABLE.get((name, process), {})
    where = {(grid, n) for grid in GRIDS for n in STEPS if n <= known.get(grid, 0)}
    noising = PROCESSES[process]
    grown = {
        (grid, n): growth(noising, name, getattr(grids, grid)(noising, n), 1e-6, **options)
        for grid in GRIDS
        for n in STEPS
    }
    assert not (beyond := {key: g for key, g in grown.items() if g > BOUND and key not in where}), beyond
    # the list is no longer than it must be: within a factor 2 of the bound another arithmetic may decide
    assert not (calm := {key: g for key, g in grown.items() if g < BOUND / 2 and key in where}), calm


@pytest.mark.parametrize("order", [2, 3, 4])
def test_gddim_is_stable_from_the_prior_of_the_cosine_schedule(order):
    """With all nodes of the history it would be 2e3, 1e4 and 1e9 times in 20 steps, 1e11 on the karras grid."""
    process = dn.VP.cosine()
    problem = dn.Problem(process, smooth())
    u = problem.prior((8, 4), dtype=torch.float64, seed=0)
    for grid in (grids.log_snr, grids.karras):
        times = grid(process, 20)
        assert growth(process, "gddim", times, order=order) < 2 * BOUND
        exact = analysis.reference(problem, u, times)
        error, other = (
            (dn.solve(problem, name, u, times, **options).u - exact).abs().max()
            for name, options in (("gddim", {"order": order}), ("ddim", {}))
        )
        assert error < other / 2  # what is given up is not the accuracy
        single = dn.solve(problem, "gddim", u.float(), times, order=order).u
        assert (single - exact).abs().max() < 1.5 * error


def test_growth_is_that_of_the_error_injected():
    """A step of DDIM by hand: an error e of the noise prediction moves its end by the coefficient of e."""
    process, times = dn.VP(), [0.5, 0.25]
    assert growth(process, "ddim", times) == pytest.approx(abs(process.step(0.5, 0.25)[1]), rel=1e-4)
    with pytest.raises(ValueError, match="images"):
        growth(dn.Blurring((4, 4)), "gddim", [1.0, 0.5])


class Counting:
    shape = (4,)

    def __init__(self):
        self.calls, self.exact = 0, smooth()

    def eps(self, x, sigma):
        self.calls += 1
        return self.exact.eps(x, sigma)

    def __call__(self, x, sigma):
        return x - sigma * self.eps(x, sigma)


def test_the_warning_and_what_it_costs():
    """It names the solver and a remedy, comes with the run that needs it, and spends nothing of the denoiser's."""
    process, denoiser = dn.VP.cosine(), Counting()
    problem = dn.Problem(process, denoiser)
    u, times = problem.prior((2, 4), dtype=torch.float64, seed=0), grids.uniform(process, 10)
    with pytest.warns(StabilityWarning, match=r"edm_heun in these 10 steps .*; take more steps, the log_snr grid"):
        run = dn.solve(problem, "edm_heun", u, times)
    assert denoiser.calls == run.nfe == problem.nfe == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("ddim", "gddim", "edm_heun", "f_pndm", "dpmpp_2m", "heun"):
            dn.solve(problem, name, u, grids.log_snr(process, 20))
        dn.solve(problem, "ddim", u, times)


def test_a_wrong_extrapolation_is_caught():
    """Broken on purpose: gDDIM of order 4 that always takes all nodes."""
    from importlib import import_module

    module = import_module("diffnum.solvers.gddim")
    kept.clear()
    plain, times = module.lengths, grids.log_snr(dn.VP.cosine(s=0.0081), 20)
    try:
        module.lengths = lambda process, times, direct, weights: [
            min(weights.shape[1], i + 1) for i in range(len(weights))
        ]
        checks.assert_catches(lambda: _bounded(dn.VP.cosine(s=0.0081), times))
    finally:
        module.lengths = plain
        kept.clear()
    _bounded(dn.VP.cosine(s=0.0081), times)


def _bounded(process, times):
    grown = growth(process, "gddim", times, order=4)
    assert grown < BOUND, grown
