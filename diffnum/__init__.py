"""diffnum: diffusion-model samplers as numerical methods.

One linear diffusion process, one denoiser, solvers that are generator functions, and instruments that measure the
order each of them claims. Names are imported when first used, so that ``diffnum --help`` does not wait for torch.
"""

import os
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from diffnum import derive, grids, interop, noise, solvers
    from diffnum.denoisers import (
        Empirical,
        Gaussian,
        GaussianMixture,
        Guided,
        Network,
        PointMass,
        from_prediction,
        load,
        targets,
    )
    from diffnum.errors import DiffnumError, StabilityWarning
    from diffnum.exploring import explore
    from diffnum.images import data
    from diffnum.interop import DiffnumScheduler, from_diffusers, from_edm
    from diffnum.measure import analysis, checks, plots
    from diffnum.problem import Problem
    from diffnum.processes import CLD, PSLD, VE, VP, Blurring, RectifiedFlow
    from diffnum.runner import Solution, method
    from diffnum.solvers import solve, steps

__version__ = "0.1.0"

_MODULES = ("derive", "grids", "interop", "noise", "solvers")
# Where the modules of version 0.1 stand now. `dn.analysis` and its like are public; the old paths to import from,
# such as `diffnum.train`, work until version 0.3.
_MOVED = {
    "analysis": "measure.analysis",
    "checks": "measure.checks",
    "data": "images.data",
    "features": "images.features",
    "metrics": "images.metrics",
    "plots": "measure.plots",
    "quality": "images.quality",
    "targets": "denoisers.targets",
    "train": "images.train",
}
_NAMES = {
    "denoisers": (
        "Empirical", "Gaussian", "GaussianMixture", "Guided", "Network", "PointMass", "from_prediction", "load",
    ),
    "errors": ("DiffnumError", "StabilityWarning"),
    "exploring": ("explore",),
    "interop": ("DiffnumScheduler", "from_diffusers", "from_edm"),
    "problem": ("Problem",),
    "processes": ("CLD", "PSLD", "VE", "VP", "Blurring", "RectifiedFlow"),
    "runner": ("Solution", "method"),
    "solvers": ("solve", "steps"),  # there and not in `runner`: with it come the names of all solvers
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "CLD", "PSLD", "VE", "VP", "Blurring", "DiffnumError", "DiffnumScheduler", "Empirical", "Gaussian",
    "GaussianMixture", "Guided", "Network", "PointMass", "Problem", "RectifiedFlow", "Solution", "StabilityWarning",
    "analysis", "checks", "data", "derive", "explore", "from_diffusers", "from_edm", "from_prediction", "grids",
    "interop", "load", "method", "noise", "plots", "solve", "solvers", "steps", "targets",
]  # fmt: skip


class _Moved(MetaPathFinder, Loader):
    """The old path of a moved module: the module itself, not a copy."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> "ModuleType":
        module = import_module(_new(spec.name))
        self._own = module.__spec__
        return module

    def exec_module(self, module: "ModuleType") -> None:
        module.__spec__ = self._own  # the import system has put the old path's there

    def get_code(self, fullname: str) -> Any:
        """For ``python -m diffnum.train``."""
        spec = find_spec(_new(fullname))
        return spec.loader.get_code(spec.name)  # type: ignore[union-attr]


def _new(path: str) -> str:
    return f"{__name__}.{_MOVED[path.partition('.')[2]]}"


sys.meta_path.append(_Moved())


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _MOVED:
        return import_module(f"diffnum.{_MOVED.get(name, name)}")
    if name not in _HOME:
        raise AttributeError(f"module 'diffnum' has no attribute {name!r}")
    value = getattr(import_module(f"diffnum.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if "DIFFNUM_EXPLORE" in os.environ:
    _exploring = import_module("diffnum.exploring")
    if _exploring.asked_for():
        _exploring.explore()
