"""How cost grows: with batch, resolution and steps; a new grid; the start of the program; memory of long runs.

Everything is a ratio to something timed beside it, or counted: passes of `torch.lerp` over a state of the same size,
the same run on a grid that is known, `import torch`.
"""

import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

import diffnum as dn
from tests.benchmarks.overhead import enough, live, timed

SOLVERS = ("ddim", "plms", "dpmpp_2m")
BATCHES, SIDES, STEPS = (1, 4, 16, 64, 256), (8, 32, 64, 128), (10, 50, 250)
GRIDS = {
    "ddim": {}, "plms": {}, "pndm_variable": {}, "dpmpp_2m": {}, "gddim": {"order": 4}, "er_sde": {"order": 3},
}  # fmt: skip
LENGTHS = (20, 1000)


class Nothing:
    """A denoiser of any shape that answers with what it was given."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x

    eps = __call__


def lerps(solver: str, shape: tuple[int, ...], steps: int = 20, rounds: int = 5) -> float:
    """Cost of an evaluation without the network, in passes of `torch.lerp` over a state of that shape."""
    problem = dn.Problem(dn.VP(), Nothing())
    u, times = problem.prior(shape), dn.grids.log_snr(problem.process, steps)
    run = partial(dn.solve, problem, solver, u, times)
    nfe, out = run().nfe, torch.empty_like(u)
    floor = partial(torch.lerp, u, u, 0.3, out=out)
    few, many = enough(run), enough(floor)
    pairs = [(timed(run, few) / nfe, timed(floor, many)) for _ in range(rounds)]
    return statistics.median(a / b for a, b in pairs)


def new_grid(solver: str, steps: int, rounds: int = 5, **options: Any) -> float:
    """Milliseconds that a grid costs which the process has not seen, beyond the same run on one it has."""
    problem, extra = dn.Problem(dn.VP(), Nothing()), []
    u, draws = problem.prior((2, 4)), {"noise": torch.zeros_like} if dn.solvers.registry[solver].draws else {}
    for i in range(rounds + 1):
        times = dn.grids.log_snr(problem.process, steps, t_end=1e-3 * (1 + 1e-3 * i))
        run = partial(dn.solve, problem, solver, u, times, **draws, **options)
        extra.append(timed(run, 1) - timed(run, 1))
    return 1e3 * statistics.median(extra[1:])


def start(code: str, rounds: int = 5, env: dict[str, str] | None = None) -> float:
    """CPU seconds of a Python that runs this code, and says nothing on standard output: the median of some."""
    lines = [
        "import os, sys, time",
        "sys.stdout = open(os.devnull, 'w')",
        code,
        "print(time.process_time(), file=sys.stderr)",
    ]
    taken = []
    for _ in range(rounds):
        words = [sys.executable, "-c", "\n".join(lines)]
        run = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
        taken.append(float(run.stderr.split()[-1]))
    return statistics.median(taken)


HELP = "sys.argv = ['diffnum', '--help']\nimport diffnum.__main__ as m\ntry: m.main()\nexcept SystemExit: pass"


def extra_memory(solver: str, steps: int) -> float:
    """Largest amount of memory at once during a run, in states; the start state is not counted."""
    problem = dn.Problem(dn.VP(), Nothing())
    u, times = problem.prior((4, 3, 32, 32)), dn.grids.log_snr(problem.process, steps)
    dn.solve(problem, solver, u, times)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        dn.solve(problem, solver, u, times)
    return max(live(profile)) / (u.numel() * u.element_size())


def measure() -> dict[str, Any]:
    """All of it."""
    begun = time.perf_counter()
    torch_alone = start("import torch")
    return {
        "lerps": {
            name: {
                "batch": {n: lerps(name, (n, 3, 32, 32)) for n in BATCHES},
                "side": {n: lerps(name, (4, 3, n, n)) for n in SIDES},
                "steps": {n: lerps(name, (4, 3, 32, 32), n) for n in STEPS},
            }
            for name in SOLVERS
        },
        "new_grid_ms": {name: {n: new_grid(name, n, **given) for n in LENGTHS} for name, given in GRIDS.items()},
        "import": {
            "diffnum_over_torch": start("import diffnum") / torch_alone,
            "all_over_torch": start("import diffnum; diffnum.solve") / torch_alone,
            "help_s": start(HELP),
        },
        "memory_states": {name: {n: extra_memory(name, n) for n in LENGTHS} for name in SOLVERS},
        "seconds": time.perf_counter() - begun,
    }
