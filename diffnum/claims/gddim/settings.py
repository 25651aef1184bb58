"""What gDDIM says: Zhang, Tao and Chen 2023, arXiv:2206.05564."""

from functools import lru_cache

import torch

import diffnum as dn
from diffnum import grids, named
from diffnum.claims.measure import gaussian_line, problem, truth
from diffnum.measure import analysis


@lru_cache(maxsize=32)
def cld_errors(steps: tuple[int, ...], t_end: float = 0.05, count: int = 4, **options) -> analysis.Convergence:
    """`gddim` with options on CLD and the smooth target, quadratic grid; so many starts."""
    exact = problem("smooth", "cld")
    rule = analysis.ladder(grids.quadratic, exact.process, t_end=t_end)
    u, end = truth("smooth", "cld", exact.process.t_max, t_end, count)
    return analysis.convergence(exact, "gddim", u, rule, steps, truth=end, **options)


@lru_cache(maxsize=2)
def point(process: str) -> tuple[dn.Problem, tuple[float, ...], torch.Tensor]:
    """Data at one point on a process, five times, and three exact paths there."""
    exact, times = dn.Problem(named.process(process), dn.PointMass([0.7, -0.4])), (1.0, 0.5, 0.1, 1e-2, 1e-3)
    u = exact.process.prior((3, 2), dtype=torch.float64)
    return exact, times, analysis.reference(exact, u, list(times), trajectory=True)


def noise_moves(process: str, K: str) -> float:
    """How far the noise prediction of a point moves along its exact path, from t = 1 to 0.01."""
    exact, times, path = point(process)
    e = torch.stack([exact.eps(x, t, K) for x, t in zip(path[:4], times[:4], strict=True)])
    return (e - e[0]).abs().max().item()


def spread(process, solver: str, std: float, times, **options) -> float:
    """Standard deviation of the position of Gaussian data after a run, over the right one."""
    line = gaussian_line(std, process)
    found, right = analysis.law(line, solver, times, **options)[1], analysis.exact_law(line, float(times[-1]))[1]
    return (found[0, 0] / right[0, 0]).item() ** 0.5
