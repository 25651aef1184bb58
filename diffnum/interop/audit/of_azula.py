"""azula: every sampler class of its module `sample`, of every order, in the ODE limit."""

import inspect
from collections.abc import Iterator
from functools import partial
from importlib import import_module, metadata
from typing import Any

import torch

from diffnum.interop.audit.bench import Bench, Run, Sampler
from diffnum.processes import VP

PROCESS = VP()
STOCHASTIC = ("Sampler", "DDPMSampler", "PCSampler")  # the base class, and those without an ODE limit
CLAIMS = {"DDIMSampler": 1, "EulerSampler": 1, "HeunSampler": 2, "ItoSampler": 1}


def version() -> str:
    """Of the package."""
    return metadata.version("azula")


class Linear:
    """VP with the linear schedule, as azula's schedules are called."""

    def __call__(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma."""
        return PROCESS.alpha(t), PROCESS.sigma(t)

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The signal level."""
        return PROCESS.alpha(t)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """The noise level."""
        return PROCESS.sigma(t)


def denoiser_of(bench: Bench, schedule: Any) -> Any:
    """The exact denoiser as a module of azula."""
    azula: Any = import_module("azula.denoise")

    class Exact(azula.Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
            alpha, sigma = (value.double() for value in schedule(t))
            y = x_t.double() / alpha
            return azula.DiracPosterior(mean=bench.data(y, (sigma / alpha).item()).to(x_t.dtype))

    return Exact()


def run(kind: Any, options: dict[str, Any], where: str, bench: Bench, n: int) -> Run:
    """One run, from the first to the last time of the sampler itself."""
    schedule = Linear() if where == "linear" else import_module("azula.noise").VPSchedule()
    dtype = None if where == "float32" else torch.float64
    ends = {"start": 1.0, "stop": 1e-3} if where == "linear" else {"start": 1.0, "stop": 0.0}
    sampler = kind(denoiser_of(bench, schedule), **options, **ends, steps=n, silent=True, dtype=dtype)
    (a0, s0), (a1, s1) = ([v.double().item() for v in schedule(sampler.timesteps[i])] for i in (0, -1))
    x = sampler(a0 * bench.start(s0 / a0))
    return Run(x.double() / a1, s0 / a0, s1 / a1)


def samplers() -> Iterator[Sampler]:
    """All of them; noise off."""
    module = import_module("azula.sample")
    words = {"linear": "float64 linear VP, t = 1 to 1e-3", "shipped": "float64 shipped VPSchedule",
             "float32": "default float32 VPSchedule"}  # fmt: skip
    for name in module.__all__:
        if name in STOCHASTIC:
            continue
        kind = getattr(module, name)
        parameters = inspect.signature(kind.__init__).parameters
        fixed = {"eta": 0.0} if "eta" in parameters else {}
        for order in (1, 2, 3, 4) if "order" in parameters else (None,):
            options = fixed | ({} if order is None else {"order": order})
            label = ", ".join(f"{key}={value:g}" for key, value in options.items())
            for where, text in words.items():
                if where == "float32" and order not in (None, 3):
                    continue
                claim = order or CLAIMS.get(name)
                yield Sampler(name, "; ".join(filter(None, (label, text))), claim, partial(run, kind, options, where))
