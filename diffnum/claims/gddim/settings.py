"""What gDDIM says: Zhang, Tao and Chen 2023, arXiv:2206.05564."""

from functools import lru_cache

from diffnum import grids
from diffnum.claims.measure import gaussian_line, problem, truth
from diffnum.measure import analysis


@lru_cache(maxsize=32)
def cld_errors(steps: tuple[int, ...], t_end: float = 0.05, count: int = 4, **options) -> analysis.Convergence:
    """`gddim` with options on CLD and the smooth target, quadratic grid; so many starts."""
    exact = problem("smooth", "cld")
    rule = analysis.ladder(grids.quadratic, exact.process, t_end=t_end)
    u, end = truth("smooth", "cld", exact.process.t_max, t_end, count)
    return analysis.convergence(exact, "gddim", u, rule, steps, truth=end, **options)


def spread(process, solver: str, std: float, times, **options) -> float:
    """Standard deviation of the position of Gaussian data after a run, over the right one."""
    line = gaussian_line(std, process)
    found, right = analysis.law(line, solver, times, **options)[1], analysis.exact_law(line, float(times[-1]))[1]
    return (found[0, 0] / right[0, 0]).item() ** 0.5
