"""Measures the samplers of one library in a process of its own: ``python -m diffnum.interop.audit.worker LIBRARY``.

Each line of its output is a JSON object: ``{"of": n}`` first, ``{"begin": name}`` before a sampler, then its row;
``{"ended": true}`` at last, or ``{"error": sentence}`` where samplers cannot be listed.
"""

import argparse
import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffnum.errors import DiffnumError
from diffnum.interop.audit.bench import Bench, measure


def tell(what: dict[str, Any]) -> None:
    """One line."""
    sys.__stdout__.write(json.dumps(what) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def main() -> None:
    """The process."""
    sys.stdout = sys.stderr  # whatever a library prints is not a row
    try:
        work()
        tell({"ended": True})
    except DiffnumError as error:
        tell({"error": str(error)})


def work() -> None:
    """Lists the samplers and measures them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--solver", default="")
    parser.add_argument("--steps", default="")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    steps = [int(n) for n in given.steps.split(",")] if given.steps else None
    if given.library.endswith(".py"):
        from diffnum.interop.audit import of_file

        name, version, found = given.library, "", list(of_file.samplers(Path(given.library)))
    else:
        adapter = import_module(f"diffnum.interop.audit.of_{given.library.replace('-', '_')}")
        name, version, found = given.library, adapter.version(), list(adapter.samplers())
    wanted = [s for s in found if given.solver.lower() in s.name.lower()]
    tell({"of": len(wanted), "there": sorted({s.name for s in found})})
    bench = Bench()
    for sampler in wanted:
        tell({"begin": f"{sampler.name} {sampler.variant}".strip()})
        tell(measure(bench, name, version, sampler, steps).plain())


if __name__ == "__main__":
    main()
