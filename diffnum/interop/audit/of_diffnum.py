"""Our own solvers, in the same run and by the same judgement."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from diffnum import __version__, grids
from diffnum.interop.audit.bench import STEPS, Bench, Run, Sampler
from diffnum.problem import Problem
from diffnum.processes import VP
from diffnum.solvers import registry, solve

PROCESS = VP()
MORE: dict[str, tuple[dict[str, Any], ...]] = {
    "gddim": ({"order": 4}, {"order": 3, "corrector": "pec"}),
    "exponential_adams": ({"order": 4}, {"prediction": "data"}, {"corrector": True}),
    "unipc": ({"order": 1}, {"order": 3}),
    "dpmpp_3m": ({"published": True},),
    "er_sde": ({"phi": "x"},),
    "prk": ({"midpoint": "sigma"},),
}


def version() -> str:
    """Of this library."""
    return __version__


class Counted:
    """The exact denoiser behind the bench's count."""

    shape = (4,)

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __call__(self, x: Any, sigma: Any) -> Any:
        """Clean prediction."""
        return self.bench.data(x, sigma)

    def eps(self, x: Any, sigma: Any) -> Any:
        """Noise prediction."""
        return self.bench.noise(x, sigma)


def run(solver: Any, options: dict[str, Any], bench: Bench, n: int) -> Run:
    """On a grid uniform in log-SNR, from the prior to t = 1e-3."""
    times = grids.log_snr(PROCESS, n)
    start, last, end = (PROCESS.rho(times[i].item()) for i in (0, -2, -1))
    alpha, _ = PROCESS.levels(1.0)
    u = solve(Problem(PROCESS, Counted(bench)), solver, alpha * bench.start(start), times, **options).u
    return Run(u / PROCESS.levels(times[-1].item())[0], start, end, last)


def samplers() -> Iterator[Sampler]:
    """Every deterministic solver on VP, and some options."""
    solvers: dict[str, Any] = dict(registry)
    for name, solver in solvers.items():
        if "isotropic" not in solver.families:
            continue
        for options in ({}, *MORE.get(name, ())):
            if solver.kind == "sde" and options.get("phi") != "x":
                continue
            claim = solver.order(grid="log_snr", process=PROCESS, **options)
            label = ", ".join(f"{key}={value}" for key, value in options.items())
            yield Sampler(name, label, claim, partial(run, solver, options), STEPS)
