"""Grids from a pilot run: what they spread evenly, that orders stay, that they gain where they say so."""

import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum import analysis, grids, targets
from diffnum.measure.analysis import Pilot, equidistributed, rms

METHOD = {"order": 3, "corrector": True}  # of order 4


def starts(problem, seed, count=64):
    return problem.prior((count, *problem.denoiser.shape), dtype=torch.float64, seed=seed)


def flat(process, density, order=4):
    return Pilot(process, grids.log_snr(process, len(density) - 1), torch.tensor(density, dtype=torch.float64), order)


def test_a_flat_density_is_the_log_snr_grid():
    process = dn.VP()
    pilot = flat(process, [3.0] * 129)
    assert pilot.gain == pytest.approx(1, rel=1e-12)
    level = process.log_snr(pilot(10))
    assert torch.allclose(level, process.log_snr(grids.log_snr(process, 10)), rtol=1e-9)


def test_steps_are_short_where_the_density_is_high():
    """Two halves with densities 1 and 3, mean 2: steps in proportion to 1/3 and 1/5, and the gain by hand."""
    process, p = dn.VP(), 4
    pilot = flat(process, [1.0] * 2000 + [3.0] * 2001, p)
    steps = process.log_snr(pilot(80)).diff()
    assert (steps[0] / steps[-1]).item() == pytest.approx(5 / 3, rel=1e-3)
    # the halves have shares 3/8 and 5/8 of the steps, that is w = 3/4 and 5/4 of the even density
    assert pilot.gain == pytest.approx((1 + 3 ** (p + 1)) / (1 / 0.75**p + 3 ** (p + 1) / 1.25**p), rel=1e-2)


@pytest.mark.parametrize("process", [dn.VP(), dn.VE(), dn.processes.RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_a_pilot_grid_keeps_the_order(process):
    """From the prior, where the ramp costs no order, to a level of 0.05, where 640 steps are many."""
    problem, u = dn.Problem(process, targets.smooth()), targets.starts(process)
    end = process.time_of_rho(0.05)
    pilot = equidistributed(problem, u, t_end=end)
    times = pilot(7)
    assert times[0] == process.t_max and times[-1] == end and bool((times.diff() < 0).all())
    for options, order in (({"order": 2}, 2), ({"order": 3}, 3), (METHOD, 4)):
        result = analysis.convergence(problem, "exponential_adams", u, pilot, (160, 320, 640), **options)
        assert abs(result.slopes[-1] - order) < 0.25, (options, result.slopes)


def test_it_gains_on_data_that_it_has_not_seen():
    """Where the errors of steps differ, as on mixtures: 40 steps are enough for most of the predicted gain."""
    process, gains, seen = dn.VP(), [], []
    for seed in range(6):
        generator = torch.Generator("cpu").manual_seed(seed)
        means, stds = (torch.rand(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        problem = dn.Problem(process, dn.GaussianMixture([0.25] * 4, 2 * means - 1, stds=0.1 + 0.3 * stds))
        pilot, u = equidistributed(problem, starts(problem, 1)), starts(problem, 2)
        end = analysis.reference(problem, u, grids.log_snr(process, 1), rtol=1e-11)
        even, own = (rms(dn.solve(problem, "exponential_adams", u, g(40), **METHOD).u - end)
                     for g in (analysis.ladder(grids.log_snr, process), pilot))  # fmt: skip
        gains, seen = [*gains, pilot.gain], [*seen, even / own]
    assert min(gains) > 1.3 and np.exp(np.log(seen).mean()) > 1.3, (gains, seen)


def test_a_pilot_leaves_the_problem_and_the_global_noise_alone():
    problem = dn.Problem(dn.VP(), targets.smooth())
    state, u = torch.get_rng_state(), starts(problem, 1, 8)
    kept = u.clone()
    one, two = (equidistributed(problem, u) for _ in range(2))
    assert torch.equal(one.density, two.density) and torch.equal(u, kept)
    assert problem.nfe == 0 and torch.equal(torch.get_rng_state(), state)
    single = equidistributed(problem, u.float())
    assert np.abs((single.density / one.density).log().numpy()).max() < 0.05  # (2^-24 / 0.3^4)^(1/5) of the largest


@pytest.mark.parametrize(
    "change, match",
    [
        ({"problem": dn.Problem(dn.CLD(), targets.smooth())}, "VP, VE and rectified flow"),
        ({"order": 7}, "order=7"), ({"t_end": 0.0}, "no noise"), ({"u": torch.zeros(2, 3)}, "shape"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(change, match):
    problem = change.pop("problem", dn.Problem(dn.VP(), targets.smooth()))
    u = change.pop("u", problem.prior((2, 4), seed=0))
    with pytest.raises(ValueError, match=match):
        equidistributed(problem, u, **change)


class Odd:
    shape = (2,)

    def __init__(self, factor):
        self.factor = factor

    def eps(self, x, sigma):
        return x * self.factor

    __call__ = eps


@pytest.mark.parametrize("factor", [0.0, float("nan"), 1e200])
def test_predictions_that_tell_nothing_make_no_grid(factor):
    """Not one with repeated times, which is what a density of zero or NaN would give."""
    problem = dn.Problem(dn.VP(), Odd(factor))
    with pytest.raises(dn.DiffnumError, match=r"take grids\.log_snr"):
        equidistributed(problem, starts(problem, 1, 4))


def test_a_pilot_keeps_its_numbers_and_is_not_rough_in_bfloat16():
    problem = dn.Problem(dn.VP(), targets.smooth())
    u, density = starts(problem, 1, 8), torch.ones(129, dtype=torch.float64)
    given = Pilot(problem.process, grids.log_snr(problem.process, 128), density, 2)
    density[:64] = 100.0
    assert given.gain == pytest.approx(1, rel=1e-12) and len(repr(given)) < 100
    gains = [equidistributed(problem, u.to(dtype)).gain for dtype in (torch.bfloat16, torch.float64)]
    assert gains[0] == pytest.approx(gains[1], rel=0.02)  # other starts by 2^-9, and no other rounding
    with pytest.raises(dn.DiffnumError, match="density must be"):
        Pilot(problem.process, given.times, -density, 2)
