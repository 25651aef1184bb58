"""Samplers in a Python file: our generators ``(problem, u, times)`` and k-diffusion's ``(model, x, sigmas)``."""

import inspect
import runpy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from diffnum.classroom.session import fault
from diffnum.errors import DiffnumError
from diffnum.interop.audit import of_diffnum, of_k_diffusion
from diffnum.interop.audit.bench import Sampler
from diffnum.interop.audit.session import NONE


def samplers(path: Path) -> Iterator[Sampler]:
    """The functions of the file whose first three parameters are of either kind.

    Raises:
        DiffnumError: the file cannot be run to its end, or holds no such function.
    """
    found = 0
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        said = fault(error, [str(path)])
        where = said["where"] or str(path)
        raise DiffnumError(f"{where}: {said['type']}{': ' + said['text'] if said['text'] else ''}") from error
    for name, function in names.items():
        if not inspect.isfunction(function) or name.startswith("_"):
            continue
        first = tuple(inspect.signature(function).parameters)[:3]
        claim = getattr(function, "order", None)
        claim = claim(grid="log_snr", process=of_diffnum.PROCESS) if callable(claim) else claim
        if first == ("problem", "u", "times"):
            found += 1
            yield Sampler(name, "", claim, partial(of_diffnum.run, function, {}))
        elif first == ("model", "x", "sigmas"):
            quiet = function if "disable" in inspect.signature(function).parameters else partial(_without, function)
            for kind in ("log", "karras"):
                found += 1
                call = partial(of_k_diffusion.run, quiet, kind, {}, None)
                yield Sampler(name, f"own float64 {kind} grid", claim, call)
    if not found:
        raise DiffnumError(f"{path} {NONE}")


def _without(function: Callable[..., Any], model: Any, x: Any, sigmas: Any, disable: bool = True) -> Any:
    """A sampler that has no option ``disable``."""
    return function(model, x, sigmas)
