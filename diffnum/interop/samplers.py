"""Our solvers where a k-diffusion sampler is expected: ``sampler(model, x, sigmas)``. It does not need k-diffusion."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diffnum import arguments, noise
from diffnum.interop.networks import from_edm
from diffnum.problem import Problem
from diffnum.processes import VE
from diffnum.runner import draws_noise
from diffnum.solvers import find, solve


def sampler(solver: str | Callable[..., Any], **options: Any) -> Callable[..., Tensor]:
    """A solver as a sampler of k-diffusion.

    .. code-block:: python

        sample = dn.interop.sampler("unipc", order=3)
        x = sample(model, x, sigmas)  # model(x, sigma) -> clean prediction; x has noise of level sigmas[0]

    Args:
        solver: name of a registered solver, or a generator function.
        **options: its options.

    Returns:
        ``sample(model, x, sigmas, extra_args=None, callback=None, disable=None, seed=0)``. The last sigma may be 0
        where the solver's may. ``callback`` gets a dict with x, i, sigma and sigma_hat after every step; ``seed`` is
        that of a stochastic solver.
    """
    run = find(solver)

    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Any,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
        seed: int = 0,
    ) -> Tensor:
        times = arguments.array("sigmas", sigmas)
        if times.ndim != 1 or len(times) < 2:
            raise ValueError(f"sigmas has shape {tuple(times.shape)}; give at least two levels, decreasing")
        process = VE(times.max().item())
        problem = Problem(process, from_edm(model, extra_args))
        source = noise.Seeded(seed) if draws_noise(run) else None

        def told(problem: Any, u: Tensor, grid: list[float], **rest: Any) -> Any:
            for i, state in enumerate(run(problem, u, grid, **rest)):
                if callback is not None:
                    callback({"x": state, "i": i, "sigma": grid[i + 1], "sigma_hat": grid[i + 1]})
                yield state

        def drawing(problem: Any, u: Tensor, grid: list[float], *, noise: Any, **rest: Any) -> Any:
            return told(problem, u, grid, noise=noise, **rest)

        following = run if callback is None else told if source is None else drawing
        return solve(problem, following, x, times, noise=source, **options).u

    return sample
