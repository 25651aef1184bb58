"""What 'Efficient Integrators for Diffusion Generative Models' says: Pandey, Rudolph and Mandt 2023, arXiv:2310.07894.

Its full text was not at hand and its code is not public: claims are those of the abstract and of public reviews.
"""

from functools import lru_cache

import torch

import diffnum as dn
from diffnum import grids
from diffnum.measure import analysis

REVIEWS = "as reviews report it"
BUDGETS = (50, 100)


@lru_cache(maxsize=2)
def phase_space(Gamma: float = 0.01) -> dn.Problem:
    """A mixture in R^3 on PSLD."""
    means, stds = ((-0.7, 0.3, 0.5), (0.6, -0.4, -0.2)), ((0.15,) * 3, (0.25,) * 3)
    return dn.Problem(dn.PSLD(Gamma=Gamma, nu=4 + Gamma), dn.GaussianMixture((0.4, 0.6), means, stds=stds))


@lru_cache(maxsize=8)
def paths(end: float, count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """Start states at t = 1 and the exact states at the end."""
    exact = phase_space()
    u = exact.process.prior((count, 3), dtype=torch.float64, seed=0)
    return u, analysis.reference(exact, u, [1.0, end], rtol=1e-9)


@lru_cache(maxsize=256)
def error(
    solver: str, steps: int, grid: str = "quadratic", end: float = 1e-3, position: bool = True, **options
) -> float:
    """Median over the starts of the error at the end, of the position or of the whole state."""
    u, truth = paths(end)
    times = getattr(grids, grid)(phase_space().process, steps, t_end=end)
    wrong = dn.solve(phase_space(), solver, u, times, **options).u - truth
    return (wrong[:, 0] if position else wrong).flatten(1).square().mean(1).sqrt().median().item()


def at_budget(solver: str, budget: int, **settings) -> float:
    """The error with as many steps as a number of evaluations allows."""
    options = {k: v for k, v in settings.items() if k not in ("grid", "end", "position")}
    process = phase_space().process
    return error(solver, analysis.steps_within(budget, process, solver, process.t_end, **options), **settings)


def slope(solver: str, steps: tuple[int, int] = (256, 512), **options) -> float:
    """Observed order to t = 0.1, uniform steps."""
    errors = [error(solver, n, "uniform", 0.1, False, **options) for n in steps]
    return analysis.local_slopes(steps, errors)[0]


@lru_cache(maxsize=128)
def law_error(
    solver: str, budget: int, grid: str = "quadratic", what: str = "all", end: float = 1e-3, **options
) -> float:
    """Error of the law of Gaussian data: the largest entry of mean and covariance, or the variance of the position."""
    gauss = dn.Problem(phase_space().process, dn.Gaussian([0.5], [0.09]))
    steps = analysis.steps_within(budget, gauss.process, solver, **options)
    times = getattr(grids, grid)(gauss.process, steps, t_end=end)
    found, right = analysis.law(gauss, solver, times, **options), analysis.exact_law(gauss, end)
    if what == "position":
        return (found[1] - right[1])[0, 0].abs().item()
    return max((a - b).abs().max().item() for a, b in zip(found, right, strict=True))


def weak_slope(solver: str, steps: tuple[int, int] = (128, 256), **options) -> float:
    """Weak order to t = 0.1, uniform steps."""
    cost = analysis.evaluations(phase_space().process, solver, 1)
    return analysis.local_slopes(steps, [law_error(solver, cost * n, "uniform", end=0.1, **options) for n in steps])[0]
