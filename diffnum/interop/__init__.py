"""Doors to other libraries: their networks under our solvers, our solvers in their pipelines, and an audit of theirs.

Nothing here is imported by the rest of the library, and no other library is imported before it is needed: what needs
one that is missing says in one line what to install.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffnum.interop.networks import ClassifierFree, from_diffusers, from_edm
    from diffnum.interop.samplers import sampler
    from diffnum.interop.scheduler import DiffnumScheduler

_HOME = {
    "ClassifierFree": "networks",
    "from_diffusers": "networks",
    "from_edm": "networks",
    "sampler": "samplers",
    "DiffnumScheduler": "scheduler",
}

__all__ = ["ClassifierFree", "DiffnumScheduler", "from_diffusers", "from_edm", "sampler"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'diffnum.interop' has no attribute {name!r}")
    return getattr(import_module(f"diffnum.interop.{_HOME[name]}"), name)
