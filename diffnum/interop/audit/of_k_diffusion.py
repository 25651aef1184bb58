"""k-diffusion: every ``sample_*`` function of its module `sampling`, in the ODE limit."""

import inspect
import sys
import types
from collections.abc import Iterator
from functools import partial
from importlib import import_module, metadata, util
from typing import Any

import torch

from diffnum import grids
from diffnum.interop.audit.bench import Bench, Run, Sampler
from diffnum.processes import VP

PROCESS = VP()
ENDS = (PROCESS.rho(1.0), PROCESS.rho(1e-3))
CLAIMS = {
    "euler": 1, "euler_ancestral": 1, "heun": 2, "dpm_2": 2, "dpm_2_ancestral": 2, "lms": 4, "dpmpp_2m": 2,
    "dpmpp_2s_ancestral": 2, "dpmpp_sde": 2, "dpmpp_2m_sde": 2, "dpmpp_3m_sde": 3, "dpm_fast": 3,
}  # fmt: skip  # the order in the name or in the paper that it names


def sampling() -> Any:
    """The module `k_diffusion.sampling` alone: the package itself imports trackers and image metrics.

    It imports `torchvision` for reading image files, which a sampler never does; where that is missing, an empty module
    takes its place.
    """
    if "k_diffusion" not in sys.modules:
        found = util.find_spec("k_diffusion")
        if found is None:
            raise ModuleNotFoundError("k_diffusion", name="k_diffusion")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(found.submodule_search_locations or [])
        sys.modules["k_diffusion"] = package
        if util.find_spec("torchvision") is None:
            for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
                sys.modules[name] = types.ModuleType(name)
            vars(sys.modules["torchvision.transforms"])["functional"] = sys.modules["torchvision.transforms.functional"]
    return import_module("k_diffusion.sampling")


def version() -> str:
    """Of the package."""
    return metadata.version("k-diffusion")


def levels(kind: str, n: int, shipped: Any) -> torch.Tensor:
    """The sigmas of n steps: ours in float64, or those of the library, float32 with a 0 behind."""
    if kind == "shipped":
        return shipped(n, ENDS[1], ENDS[0])
    grid = grids.log_snr if kind == "log" else grids.karras
    return PROCESS.rho(grid(PROCESS, n))


def run(function: Any, kind: str, options: dict[str, Any], shipped: Any, bench: Bench, n: int) -> Run:
    """One run; ``model(x, sigma)`` gets one level per row."""

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return bench.data(x, sigma.flatten()[0].item())

    if "n" in inspect.signature(function).parameters:  # dpm_fast: n evaluations, not steps
        top = torch.tensor(ENDS[0], dtype=torch.float64).item()
        y = function(model, bench.start(top), ENDS[1], top, n, disable=True, **options)
        return Run(y, top, ENDS[1], remarks=("n counts evaluations",))
    sigmas = levels(kind, n, shipped)
    start, last, end = (sigmas[i].item() for i in (0, -2, -1))
    return Run(function(model, bench.start(start), sigmas, disable=True, **options), start, end, last)


def samplers() -> Iterator[Sampler]:
    """All of them; noise off."""
    module = sampling()
    for name, function in vars(module).items():
        if not name.startswith("sample_") or name == "sample_dpm_adaptive":  # its steps are not ours to choose
            continue
        parameters = inspect.signature(function).parameters
        options: dict[str, Any] = {"eta": 0.0} if "eta" in parameters else {}
        if "noise_sampler" in parameters:
            options["noise_sampler"] = lambda *levels: torch.zeros((), dtype=torch.float64)
        short = name.removeprefix("sample_")
        variants = [{}, {"solver_type": "heun"}] if "solver_type" in parameters else [{}]
        for more in variants:
            label = ", ".join([*(["eta=0"] if "eta" in parameters else []), *more.values()])
            for kind in ("log",) if "n" in parameters else ("log", "karras", "shipped"):
                words = {"log": "own float64 log-SNR grid", "karras": "own float64 Karras grid",
                         "shipped": "shipped get_sigmas_karras"}  # fmt: skip
                steps = (10, 20, 40, 80, 160, 320) if kind == "shipped" or short == "lms" else None
                call = partial(run, function, kind, options | more, module.get_sigmas_karras)
                variant = "; ".join(filter(None, (label, words[kind])))
                made = Sampler(name, variant, CLAIMS.get(short), call)
                yield made if steps is None else Sampler(name, variant, CLAIMS.get(short), call, steps)
