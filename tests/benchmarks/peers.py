"""The same methods in other libraries, as ratios within one process: cost of a step, set-up, start, memory, scaling.

`make peers` installs the libraries (:mod:`diffnum.interop.audit.environment`); those that are not there are left out.
Each library is measured in a process of its own, in which its method and ours take turns on the same state, with the
same denoiser: one that answers at once with a stored tensor. A row is the peer's CPU time over ours, the least of many
rounds of each, so that 3 means three times as dear as here and a number below 1 is a place where we are slower. Default
noise is included on both sides. Grids are each library's own, of the same number of steps.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffnum as dn
from diffnum.interop.audit import environment
from tests.benchmarks.overhead import SHAPE, enough, live, timed
from tests.benchmarks.scaling import start

ROOT = Path(__file__).resolve().parents[2]
STEPS, ROUNDS = 20, 7
BATCHES, SIDES, COUNTS = (1, 16, 128), (8, 32, 128), (10, 50, 250)  # for one method of each library

Run = Callable[[], Any]
#: our solver with options and process -> library -> how it is called there.
METHODS: dict[str, tuple[str, dict[str, Any], Callable[[], Any], dict[str, tuple[str, dict[str, Any]]]]] = {
    "ddim": ("ddim", {}, dn.VP, {
        "diffusers": ("DDIMScheduler", {"clip_sample": False}), "k-diffusion": ("sample_euler", {}),
        "azula": ("DDIMSampler", {}),
    }),
    "plms": ("plms", {}, dn.VP, {"diffusers": ("PNDMScheduler", {"skip_prk_steps": True})}),
    "f_pndm": ("f_pndm", {}, dn.VP, {"diffusers": ("PNDMScheduler", {})}),
    "ipndm": ("ipndm", {}, dn.VP, {"diffusers": ("IPNDMScheduler", {})}),
    "dpmpp_2m": ("dpmpp_2m", {}, dn.VP, {
        "diffusers": ("DPMSolverMultistepScheduler", {}), "k-diffusion": ("sample_dpmpp_2m", {}),
    }),
    "dpmpp_3m": ("dpmpp_3m", {}, dn.VP, {"diffusers": ("DPMSolverMultistepScheduler", {"solver_order": 3})}),
    "unipc": ("unipc", {}, dn.VP, {"diffusers": ("UniPCMultistepScheduler", {})}),
    "deis": ("deis", {}, dn.VP, {"diffusers": ("DEISMultistepScheduler", {"solver_order": 3})}),
    "lms": ("lms", {}, dn.VE, {
        "diffusers": ("LMSDiscreteScheduler", {}), "k-diffusion": ("sample_lms", {}),
    }),
    "edm_heun": ("edm_heun", {}, dn.VE, {
        "diffusers": ("HeunDiscreteScheduler", {}), "k-diffusion": ("sample_heun", {}), "azula": ("HeunSampler", {}),
    }),
    "exponential_adams (order 3)": ("exponential_adams", {"order": 3, "prediction": "data"}, dn.VP, {
        "azula": ("xEABSampler", {"order": 3}),
    }),
    "ancestral": ("ancestral", {}, dn.VP, {
        "diffusers": ("DDPMScheduler", {"clip_sample": False}), "k-diffusion": ("sample_euler_ancestral", {}),
        "azula": ("DDPMSampler", {}),
    }),
    "ddim_eta": ("ddim_eta", {"eta": 1.0}, dn.VP, {
        "diffusers": ("DDIMScheduler", {"clip_sample": False, "eta": 1.0}), "azula": ("DDIMSampler", {"eta": 1.0}),
    }),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", {}, dn.VP, {
        "diffusers": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        "k-diffusion": ("sample_dpmpp_2m_sde", {}),
    }),
    "sa_solver": ("sa_solver", {}, dn.VP, {"diffusers": ("SASolverScheduler", {})}),
}  # fmt: skip


class Shared:
    """A denoiser for all libraries: it answers with what it was made for."""

    def __init__(self, answer: Tensor) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, x: Tensor, *level: Any, **more: Any) -> Tensor:
        self.calls += 1
        return self.answer

    eps = __call__


def ours(row: str, network: Shared, u: Tensor, steps: int, fresh: float = 0.0) -> Run:
    """Our run; ``fresh`` moves the grid a little, so that nothing of it is known."""
    solver, options, process, _ = METHODS[row]
    problem = dn.Problem(process(), network)

    def run() -> Any:
        grid = dn.grids.log_snr(problem.process, steps, t_end=problem.process.t_end * (1 + fresh))
        return dn.solve(problem, solver, u, grid, **options)

    return run


def theirs(library: str, name: str, options: dict[str, Any], network: Shared, u: Tensor, steps: int) -> Run:
    """A run in another library, its own set-up of a grid included, as in ours."""
    if library == "diffusers":
        kind = getattr(importlib.import_module("diffusers"), name)
        made = {option: value for option, value in options.items() if option != "eta"}  # which is one of a step
        more = {option: value for option, value in options.items() if option not in made}
        if "generator" in inspect.signature(kind.step).parameters:
            more["generator"] = torch.Generator().manual_seed(0)

        def run() -> Any:
            scheduler, x = kind(**made), u
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x, **more).prev_sample
            return x

        return run
    if library == "k-diffusion":
        from diffnum.interop.audit.of_k_diffusion import sampling

        module = sampling()
        return lambda: getattr(module, name)(
            network, u, module.get_sigmas_karras(steps, 0.01, 80.0), disable=True, **options
        )
    noise, sample, denoise = (importlib.import_module(f"azula.{part}") for part in ("noise", "sample", "denoise"))

    class Exact(denoise.Denoiser):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = noise.VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **more: Any) -> Any:
            return denoise.DiracPosterior(mean=network(x_t))

    exact = Exact()
    return lambda: getattr(sample, name)(exact, steps=steps, silent=True, **options)(u)


def quotient(theirs: Run, ours: Run, network: Shared, rounds: int = ROUNDS) -> float:
    """Their CPU time for an evaluation over ours: least of several rounds, which alternate."""
    calls, times, counts = [], ([], []), []
    for run in (theirs, ours):
        network.calls = 0
        run()
        calls.append(network.calls)
        counts.append(enough(run))
    for _ in range(rounds):
        for i, run in enumerate((theirs, ours)):
            times[i].append(timed(run, counts[i]) / calls[i])
    return min(times[0]) / min(times[1])


def peak(run: Run, u: Tensor) -> float:
    """Largest amount of memory at once, in states."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    return max(live(profile)) / (u.numel() * u.element_size())


def one(library: str) -> dict[str, Any]:
    """All that is measured of one library, in its process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    found: dict[str, Any] = {"cost": {}, "setup_ms": {}, "memory_states": {}, "scaling": {}}
    for row, (_, _, _, peers) in METHODS.items():
        if library not in peers:
            continue
        name, options = peers[library]

        def pair(shape: tuple[int, ...] = SHAPE, steps: int = STEPS, row: str = row) -> tuple[Run, Run, Shared]:
            u = dn.noise.Seeded(0)(torch.empty(shape))
            network = Shared(dn.noise.Seeded(1)(u))
            name, options = METHODS[row][3][library]
            return theirs(library, name, options, network, u, steps), ours(row, network, u, steps), network

        run, mine, network = pair()
        small = torch.zeros(2, 3, 4, 4)
        quick = Shared(small)
        again = theirs(library, name, options, quick, small, STEPS)
        found["cost"][row] = {"name": name, "ratio": quotient(run, mine, network)}
        found["setup_ms"][row] = {  # of a grid: a peer makes it anew in every run, we once
            "theirs": 1e3 * min(timed(again, 1) for _ in range(9)),
            "ours": 1e3 * min(timed(ours(row, quick, small, STEPS, 1e-4 * i), 1) for i in range(1, 10)),
            "ours_known": 1e3 * min(timed(ours(row, quick, small, STEPS), 1) for _ in range(9)),
        }
        u = network.answer
        found["memory_states"][row] = {"theirs": peak(run, u), "ours": peak(mine, u)}
        if row in ("ddim", "dpmpp_2m"):
            found["scaling"][row] = {
                "batch": {n: quotient(*pair((n, 3, 32, 32)), rounds=3) for n in BATCHES},
                "side": {n: quotient(*pair((4, 3, n, n)), rounds=3) for n in SIDES},
                "steps": {n: quotient(*pair((4, 3, 32, 32), n), rounds=3) for n in COUNTS},
            }
    return found


IMPORTS = {
    "diffusers": "import torch; from diffusers import DDIMScheduler",
    "k-diffusion": "from diffnum.interop.audit.of_k_diffusion import sampling; sampling()",
    "azula": "import azula.sample, azula.noise, azula.denoise",
}


def measure() -> dict[str, Any]:
    """Every library that `make peers` has installed; empty where there is none."""
    results: dict[str, Any] = {}
    ours = start("import diffnum; diffnum.solve")
    for library in METHODS["ddim"][3]:
        path = environment.installed(library)
        if path is None:
            continue
        about = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
        command = [sys.executable, "-m", "tests.benchmarks.peers", library]
        done = subprocess.run(command, capture_output=True, text=True, env=about, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{library}: {done.stderr.strip().splitlines()[-1]}")
        results[library] = json.loads(done.stdout.splitlines()[-1])
        results[library]["version"] = environment.PINS[library][0].partition("==")[2]
        results[library]["import_ratio"] = start(IMPORTS[library], env=about) / ours
    return results


def fastest(results: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """For every method the cheapest peer, and its cost in units of ours."""
    found: dict[str, tuple[str, float]] = {}
    for library, result in results.items():
        for row, cost in result["cost"].items():
            found[row] = min(found.get(row, (library, float("inf"))), (library, cost["ratio"]), key=lambda f: f[1])
    return found


if __name__ == "__main__":
    print(json.dumps(one(sys.argv[1])))
