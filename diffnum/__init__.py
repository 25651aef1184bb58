"""diffnum: diffusion-model samplers as numerical methods.

One linear diffusion process, one denoiser, solvers that are generator functions, and instruments that measure the
order each of them claims. Names are imported when first used, so that ``diffnum --help`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffnum import analysis, checks, data, derive, grids, noise, plots, solvers, targets
    from diffnum.denoisers import Empirical, Gaussian, GaussianMixture, Network, PointMass, from_prediction, load
    from diffnum.errors import DiffnumError
    from diffnum.problem import Problem
    from diffnum.processes import CLD, PSLD, VE, VP, Blurring
    from diffnum.runner import Solution, method, solve

__version__ = "0.1.0"

_MODULES = ("analysis", "checks", "data", "derive", "grids", "noise", "plots", "solvers", "targets")
_NAMES = {
    "denoisers": ("Empirical", "Gaussian", "GaussianMixture", "Network", "PointMass", "from_prediction", "load"),
    "errors": ("DiffnumError",),
    "problem": ("Problem",),
    "processes": ("CLD", "PSLD", "VE", "VP", "Blurring"),
    "runner": ("Solution", "method", "solve"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "CLD", "PSLD", "VE", "VP", "Blurring", "DiffnumError", "Empirical", "Gaussian", "GaussianMixture", "Network",
    "PointMass", "Problem", "Solution", "analysis", "checks", "data", "derive", "from_prediction", "grids", "load",
    "method", "noise", "plots", "solve", "solvers",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"diffnum.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'diffnum' has no attribute {name!r}")
    value = getattr(import_module(f"diffnum.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
