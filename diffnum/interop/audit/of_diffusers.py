"""diffusers: its deterministic schedulers, as shipped and with one thing changed at a time.

A scheduler works on a table of 1000 noise levels, and the network is asked at an index of it: at that level the exact
noise is given, as a network trained on the table would. Variants:

- *N = 1000*: the shipped table, between the levels that it really uses;
- *dense*: a table of 102401 levels between t = 0.05 and 1, given as ``trained_betas``, in which neither rounded indices
  nor the end at t = 0 interfere, and no lower order at the end: the formula alone, in the shipped arithmetic;
- *dense, float64*: the same with the tables replaced by float64 ones, no code changed;
- *noise at the scheduler's own level*: the network answers at the level and not at the rounded index.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from importlib import import_module, metadata
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum.interop.audit.bench import STEPS, Bench, Run, Sampler
from diffnum.processes import VP

SHIPPED, DENSE = 1000, 102401
COARSE = (10, 20, 40, 80, 160, 320)
TABLE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
KARRAS: dict[str, Any] = {"use_karras_sigmas": True}
TO_MIN: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
KARRAS_TO_MIN = KARRAS | TO_MIN

#: class -> (words, configuration, claim) of its variants on the shipped table.
VARIANTS: dict[str, list[tuple[str, dict[str, Any], int]]] = {
    "DDIMScheduler": [
        *((s, {"timestep_spacing": s, "clip_sample": False, "set_alpha_to_one": False}, 1)
          for s in ("leading", "trailing", "linspace")),
        ("leading, defaults", {}, 1),
    ],
    "PNDMScheduler": [
        *((f"{s}, skip_prk_steps={skip}", {"timestep_spacing": s, "skip_prk_steps": skip}, 4)
          for s in ("leading", "trailing", "linspace") for skip in (False, True)),
        ("leading, set_alpha_to_one", {"set_alpha_to_one": True}, 4),
    ],
    "IPNDMScheduler": [("as shipped", {}, 4)],
    "DPMSolverMultistepScheduler": [
        *((f"order {q}, defaults", {"solver_order": q}, q) for q in (1, 2, 3)),
        *((f"order {q}, to sigma_min", {"solver_order": q} | TO_MIN, q) for q in (1, 2, 3)),
        *((f"noise, order {q}, to sigma_min", {"solver_order": q, "algorithm_type": "dpmsolver"} | TO_MIN, q)
          for q in (2, 3)),
        ("order 2, heun, to sigma_min", {"solver_type": "heun"} | TO_MIN, 2),
        *((f"order {q}, Karras", {"solver_order": q} | KARRAS, q) for q in (2, 3)),
        *((f"order {q}, Karras, to sigma_min", {"solver_order": q} | KARRAS_TO_MIN, q) for q in (2, 3)),
        ("order 3, lu_lambdas, to sigma_min", {"solver_order": 3, "use_lu_lambdas": True} | TO_MIN, 3),
    ],
    "DPMSolverSinglestepScheduler": [
        *((f"order {q}, defaults", {"solver_order": q}, q) for q in (1, 2, 3)),
        *((f"order {q}, to sigma_min", {"solver_order": q} | TO_MIN, q) for q in (2, 3)),
        *((f"noise, order {q}, to sigma_min", {"solver_order": q, "algorithm_type": "dpmsolver"} | TO_MIN, q)
          for q in (2, 3)),
    ],
    "UniPCMultistepScheduler": [
        *((f"bh2, order {q}, defaults", {"solver_order": q}, q + 1) for q in (1, 2, 3)),
        *((f"bh2, order {q}, to sigma_min", {"solver_order": q} | TO_MIN, q + 1) for q in (1, 2, 3)),
        ("bh1, order 3, to sigma_min", {"solver_order": 3, "solver_type": "bh1"} | TO_MIN, 4),
    ],
    "DEISMultistepScheduler": [(f"logrho, order {q}", {"solver_order": q}, q) for q in (1, 2, 3)],
    "SASolverScheduler": [
        (f"tau 0, predictor and corrector {q}", {"predictor_order": q, "corrector_order": q}, q + 1) for q in (2, 3)
    ],
    "EulerDiscreteScheduler": [("linspace", {}, 1), ("Karras", KARRAS, 1)],
    "HeunDiscreteScheduler": [("linspace", {}, 2), ("Karras", KARRAS, 2)],
    "LMSDiscreteScheduler": [("order 4, linspace", {}, 4), ("order 4, Karras", KARRAS, 4)],
    "KDPM2DiscreteScheduler": [("linspace", {}, 2), ("Karras", KARRAS, 2)],
    "EDMEulerScheduler": [("as shipped", {}, 1)],
    "EDMDPMSolverMultistepScheduler": [
        *((f"order {q}", {"solver_order": q}, q) for q in (1, 2, 3)),
        *((f"order {q}, to sigma_min", {"solver_order": q} | TO_MIN, q) for q in (2, 3)),
    ],
}  # fmt: skip

#: The same, measured on the dense table too: by the formula alone.
FULL = {"lower_order_final": False, "timestep_spacing": "linspace"}
ON_DENSE: dict[str, list[tuple[str, dict[str, Any], int]]] = {
    "DDIMScheduler": [("", {"clip_sample": False, "set_alpha_to_one": False}, 1)],
    "PNDMScheduler": [(f"skip_prk_steps={skip}", {"skip_prk_steps": skip}, 4)
                      for skip in (False, True)],
    "DPMSolverMultistepScheduler": [
        *((f"order {q}", {"solver_order": q} | TO_MIN | FULL, q) for q in (1, 2, 3)),
        *((f"noise, order {q}", {"solver_order": q, "algorithm_type": "dpmsolver"} | TO_MIN | FULL, q) for q in (2, 3)),
        ("order 2, final step to zero as shipped", {"solver_order": 2}, 2),
    ],
    "DPMSolverSinglestepScheduler": [
        (f"order {q}", {"solver_order": q, "lower_order_final": False} | TO_MIN, q) for q in (2, 3)],
    "UniPCMultistepScheduler": [
        *((f"bh2, order {q}", {"solver_order": q} | TO_MIN | FULL, q + 1) for q in (1, 2, 3)),
        ("bh1, order 3", {"solver_order": 3, "solver_type": "bh1"} | TO_MIN | FULL, 4)],
    "DEISMultistepScheduler": [(f"logrho, order {q}", {"solver_order": q} | FULL, q) for q in (1, 2, 3)],
    "SASolverScheduler": [
        (f"tau 0, predictor and corrector {q}", {"predictor_order": q, "corrector_order": q} | FULL, q + 1)
        for q in (2, 3)],
    "EulerDiscreteScheduler": [("last step to 0 dropped", {}, 1)],
    "HeunDiscreteScheduler": [("last step to 0 dropped", {}, 2)],
    "LMSDiscreteScheduler": [("order 4, last step to 0 dropped", {}, 4)],
}  # fmt: skip
NEIGHBOURS = ("DDIMScheduler", "PNDMScheduler")  # these compute the next index from the stride
IN_FLOAT64 = {"PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler",
              "SASolverScheduler"}  # fmt: skip


def version() -> str:
    """Of the package."""
    return metadata.version("diffusers")


@lru_cache(maxsize=1)
def dense() -> tuple[np.ndarray, Tensor]:
    """Betas of the dense table, and its alpha^2 in float64."""
    bar = VP().alpha(torch.linspace(0.05, 1.0, DENSE, dtype=torch.float64)) ** 2
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    return (1 - bar / before).numpy(), bar


def make(name: str, config: dict[str, Any], table: str) -> Any:
    """A scheduler."""
    kind = getattr(import_module("diffusers"), name)
    known = kind.__init__.__wrapped__.__code__.co_varnames if hasattr(kind.__init__, "__wrapped__") else ()
    given: dict[str, Any] = dict(config)
    if table != "shipped":
        given |= {"num_train_timesteps": DENSE, "trained_betas": dense()[0]}
    elif "beta_start" in known or not known:
        given |= TABLE
    if name == "SASolverScheduler":
        given["tau_func"] = lambda t: 0.0
    made = kind(**{key: value for key, value in given.items() if not known or key in known})
    if table == "float64":
        made.alphas_cumprod = dense()[1].clone()
        if hasattr(made, "final_alpha_cumprod"):
            made.final_alpha_cumprod = made.alphas_cumprod[0]
    return made


def run(name: str, config: dict[str, Any], table: str, oracle: bool, drop: bool, bench: Bench, n: int) -> Run:
    """One run of a scheduler's own loop."""
    if table != "shipped" and name in NEIGHBOURS:  # a table that n divides: every index minus the stride is the next
        config = config | {"steps_offset": DENSE // n}
    s = make(name, config, table)
    s.set_timesteps(n)
    if name == "IPNDMScheduler":
        return _ipndm(s, bench)
    if name.startswith("EDM"):
        return _edm(s, bench)
    bar = s.alphas_cumprod.double()
    rho = ((1 - bar) / bar).sqrt()
    sigmas = getattr(s, "sigmas", None)
    scaled = name.split("Discrete")[0] in ("Euler", "Heun", "LMS", "KDPM2")  # these work on y = x/alpha
    if table == "float64" and sigmas is not None:
        s.sigmas = torch.cat([rho[s.timesteps.long()], rho[:1] * (sigmas[-1] > 0)])
        sigmas = s.sigmas
    timesteps = s.timesteps[:-1] if drop else s.timesteps
    start = sigmas[0].item() if sigmas is not None else rho[int(s.timesteps[0])].item()
    y0 = bench.start(start)
    x = y0 if scaled else y0 / (1 + start**2) ** 0.5
    for t in timesteps:
        seen = s.scale_model_input(x, t)
        if scaled:
            second = getattr(s, "state_in_first_order", True) is False and hasattr(s, "sigmas_interpol")
            level = (s.sigmas_interpol if second else s.sigmas)[s.step_index].item()
        elif oracle:
            level = s.sigmas[0 if s.step_index is None else s.step_index].item()
        else:
            level = rho[int(t)].item()
        e = bench.noise(seen * (1 + level**2) ** 0.5, level)
        x = s.step(e, t, x, **({"generator": None} if name.startswith("SA") else {})).prev_sample
    if sigmas is not None:
        end, last_level = (sigmas[-2] if drop else sigmas[-1]).item(), sigmas[-2].item()
    else:
        final = s.final_alpha_cumprod.double()
        end, last_level = ((1 - final) / final).clamp_min(0).sqrt().item(), rho[int(s.timesteps[-1])].item()
    said = []
    if name in NEIGHBOURS:
        kept = torch.as_tensor(np.array(getattr(s, "plms_timesteps", s.timesteps)))  # not the halves of a Runge-Kutta
        stride, indices = s.config.num_train_timesteps // n, kept.unique().flip(0).tolist()
        wrong = next(((a, b) for a, b in pairwise(indices) if a - stride != b), None)
        if wrong:
            said.append(f"with n = {n} it steps from {wrong[0]} to {wrong[0] - stride}, the next index is {wrong[1]}")
    y = x if scaled else x * (1 + end**2) ** 0.5
    return Run(y, start, end, last_level, tuple(said[:1]) if n in (40, 80) else ())


def _edm(s: Any, bench: Bench) -> Run:
    sigmas, half = s.sigmas, s.config.sigma_data
    x = bench.start(sigmas[0].item())
    for t in s.timesteps:
        seen = s.scale_model_input(x, t)
        level = s.sigmas[s.step_index].double()
        both = (level**2 + half**2).sqrt()
        y = seen.double() * both
        F = (bench.data(y, level.item()) - y * half**2 / both**2) / (level * half / both)
        x = s.step(F, t, x).prev_sample
    return Run(x, sigmas[0].item(), sigmas[-1].item(), sigmas[-2].item())


def _ipndm(s: Any, bench: Bench) -> Run:
    """It works on x with alpha^2 + sigma^2 = 1 and begins at alpha = 0; the network predicts v there."""
    alphas, sigmas, x = s.alphas.double(), s.betas.double(), bench.z
    for i, t in enumerate(s.timesteps):
        alpha, sigma = alphas[i].item(), sigmas[i].item()
        if alpha < 1e-6:
            eps, data = x, bench.mean.expand_as(x)  # what the network tends to
            bench.evaluations += 1
        else:
            eps, data = bench.noise(x / alpha, sigma / alpha), bench.exact(x.double() / alpha, sigma / alpha)
        x = s.step(alpha * eps - sigma * data, t, x).prev_sample
    return Run(x, float("inf"), 0.0, (sigmas[-2] / alphas[-2]).item())


def samplers() -> Iterator[Sampler]:
    """All variants, shipped table first."""
    module = import_module("diffusers")
    for name, variants in VARIANTS.items():
        if not hasattr(module, name):
            continue
        short = name.removesuffix("Scheduler")
        for words, config, claim in variants:
            steps = STEPS if name.startswith(("EDM", "IPNDM")) else COARSE
            label = words if steps is STEPS else f"{words}; N = 1000"
            yield Sampler(short, label, claim, partial(run, name, config, "shipped", False, False), steps)
            if name == "DPMSolverMultistepScheduler" and words.startswith("order 2, Karras"):
                call = partial(run, name, config, "shipped", True, False)
                yield Sampler(short, f"{words}; noise at the scheduler's own level", claim, call, (*COARSE, 640))
        for words, config, claim in ON_DENSE.get(name, ()):
            for table in ("dense", "float64") if name in IN_FLOAT64 else ("dense",):
                label = "; ".join(filter(None, (words, "dense table" + (", float64" if table == "float64" else ""))))
                yield Sampler(short, label, claim, partial(run, name, config, table, False, "dropped" in words))
