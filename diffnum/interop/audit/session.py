"""Runs the workers, one library after another, and collects their rows; a library that fails does not stop the rest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from diffnum.classroom.find import cells, hopeless
from diffnum.errors import DiffnumError
from diffnum.interop.audit.environment import ready

LIBRARIES = ("diffusers", "k-diffusion", "azula", "diffnum")
NONE = "has no sampler: a function (problem, u, times) that yields states, or (model, x, sigmas)"
ROOT = Path(__file__).resolve().parents[3]


def rows(
    library: str,
    solver: str = "",
    steps: Sequence[int] = (),
    into: Path | None = None,
    told: Callable[[int, int, str], None] = lambda i, n, name: None,
) -> Iterator[dict[str, Any]]:
    """Measured rows of one library, as they come.

    Args:
        library: one of :data:`LIBRARIES`, or a Python file.
        solver: only samplers with this in their name.
        steps: only these step counts.
        into: where libraries are installed.
        told: called with how many are done, how many there are, and the name of the next.

    Raises:
        DiffnumError: the library cannot be had, or its samplers cannot be listed, or none has that name.
    """
    if library.endswith(".py") and (wrong := hopeless(cells(Path(library)))) is not None:
        raise DiffnumError("; ".join([f"{library} {NONE}", *wrong[:-1]]))
    path = [str(folder) for folder in (ready(library, into) if library in LIBRARIES[:3] else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "diffnum.interop.audit.worker", library, "--solver", solver]
    command += ["--steps", ",".join(map(str, steps))] if steps else []
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    total, done, ended = 0, 0, False
    with subprocess.Popen(command, env=environment, text=True, **streams) as process:
        try:
            errors: list[str] = []
            reader = Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
            reader.start()
            for line in process.stdout or ():
                message = json.loads(line)
                if "error" in message:
                    raise DiffnumError(message["error"])
                if "ended" in message:
                    ended = True
                elif "of" in message:
                    total = message["of"]
                    if not total:
                        there = ", ".join(message["there"])
                        raise DiffnumError(f"no sampler of {library} has {solver!r} in its name; there are {there}")
                elif "begin" in message:
                    told(done, total, message["begin"])
                else:
                    done += 1
                    yield message
            if process.wait() or not ended:
                reader.join(5)
                said = [line.strip() for line in errors if line.strip()]
                where = f" after {done} of {total} samplers" if total else ""
                why = said[-1] if said else f"its process ended itself with status {process.returncode}"
                raise DiffnumError(f"the audit of {library} stopped{where}: {why}")
        finally:
            if process.poll() is None:
                process.terminate()
