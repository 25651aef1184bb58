"""Our own solvers, in the same run and by the same judgement."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from diffnum import __version__, grids
from diffnum.interop.audit.bench import Bench, Run, Sampler
from diffnum.problem import Problem
from diffnum.processes import VP
from diffnum.solvers import registry, solve

PROCESS = VP()
#: Where a run ends: at the time at which those of other libraries end, and at a level down to which 1280 steps are
#: enough for every order to show. Below it the prediction turns fastest where few steps stand: there 1280 steps of a
#: method of order 4 can show anything from 3.6 to 4.1.
ENDS = {"": 1e-3, "to rho = 0.05": PROCESS.time_of_rho(0.05)}
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


def run(solver: Any, options: dict[str, Any], bench: Bench, n: int, t_end: float = ENDS[""]) -> Run:
    """On a grid uniform in log-SNR, from the prior on."""
    times = grids.log_snr(PROCESS, n, t_end=t_end)
    start, last, end = (PROCESS.rho(times[i].item()) for i in (0, -2, -1))
    alpha, _ = PROCESS.levels(1.0)
    u = solve(Problem(PROCESS, Counted(bench)), solver, alpha * bench.start(start), times, **options).u
    return Run(u / PROCESS.levels(times[-1].item())[0], start, end, last)


def samplers() -> Iterator[Sampler]:
    """Every deterministic solver on VP, and some options."""
    solvers: dict[str, Any] = dict(registry)
    for name, solver in solvers.items():
        if (
            "isotropic" not in solver.families or solver.nfe is None
        ):  # the steps of an adaptive one are not ours to choose
            continue
        for options in ({}, *MORE.get(name, ())):
            if solver.kind == "sde" and options.get("phi") != "x":
                continue
            claim = solver.order(grid="log_snr", process=PROCESS, **options)
            label = ", ".join(f"{key}={value}" for key, value in options.items())
            for where, t_end in ENDS.items():
                words = "; ".join(filter(None, (label, where)))
                yield Sampler(name, words, claim, partial(run, solver, options, t_end=t_end))
