"""Errors of the noise prediction: how far each deterministic solver magnifies them, and what is said about it."""

import random
import warnings

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids, stability
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

# What the book tells of: the first step leaves the prior of the cosine schedule behind; five steps are too few.
STEEP = [
    ("edm_heun", "cosine", "uniform", 50),
    ("prk", "cosine", "quadratic", 20),
    ("plms", "cosine", "log_snr", 10),
    ("edm_heun", "ve", "uniform", 5),
    ("dpmpp_3m", "ve", "uniform", 5),
    ("heun", "cld", "log_snr", 5),
    ("conjugate", "psld", "uniform", 5),
]


@pytest.mark.parametrize(("name", "process", "options"), CASES, ids=str)
def test_a_run_that_magnifies_errors_warns_and_no_other(name, process, options):
    """Every solver of the registry, on every process that it integrates; within a factor 2 rounding may decide."""
    noising, wrong = PROCESSES[process], {}
    for grid in GRIDS:
        for n in STEPS:
            times = getattr(grids, grid)(noising, n)
            grown, warned = growth(noising, name, times, 1e-6, **options), warns(noising, name, times, options)
            if (grown > 2 * BOUND and not warned) or (grown < BOUND / 2 and warned):
                wrong[grid, n] = grown, warned
    assert not wrong


@pytest.mark.parametrize(("name", "process", "options"), CASES, ids=str)
def test_what_the_warning_advises_is_stable(name, process, options):
    assert growth(PROCESSES[process], name, grids.log_snr(PROCESSES[process], 50), 1e-6, **options) < BOUND


def test_what_is_not_tried_is_stable():
    """Grids that count as tame, of other ends, lengths and schedules: every solver as it is by default."""
    processes = (dn.VP(), dn.VE(), dn.VP(0.05, 40), dn.VP(0.1, 10), dn.VE(1000), dn.VE(10))
    grown, chance = {}, random.Random(0)
    names = [name for name, solver in registry.items() if solver.kind == "ode" and "isotropic" in solver.families]
    while len(grown) < 150:
        process, grid, n = (
            chance.choice(processes),
            chance.choice((*GRIDS, "sigma", "alternating")),
            chance.randrange(4, 100),
        )
        times = getattr(grids, grid)(process, n, t_end=process.t_end * chance.choice((0.1, 1, 3, 10)))
        if stability.tame(process, times.tolist()):
            name = chance.choice(names)
            grown[name, str(process), grid, n] = growth(process, name, times, 1e-6)
    assert max(grown.values()) < BOUND, max(grown.items(), key=lambda entry: entry[1])


def test_options_are_tried_on_every_grid():
    """Order 3 of the noise with a corrector: half a million times, on a grid on which the default is stable."""
    process = dn.VP(0.05, 40)
    times = grids.log_snr(process, 27)
    assert warns(process, "unipc", times, {"order": 3, "prediction": "noise"})
    assert not warns(process, "unipc", times, {}) and stability.tame(process, times.tolist())


@pytest.mark.parametrize(("name", "process", "grid", "n"), STEEP, ids=str)
def test_known_cases_are_beyond_the_bound(name, process, grid, n):
    assert growth(PROCESSES[process], name, getattr(grids, grid)(PROCESSES[process], n), 1e-6) > BOUND


def warns(process, name, times, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stability.look(process, name, registry[name].__wrapped__, times.tolist(), options)
    return any(issubclass(w.category, StabilityWarning) for w in caught)


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
