r"""Golden values for those who port a solver: what goes in, what each step multiplies by, what comes out.

On a fixed grid every state of a solver on VP and VE is linear in the start, the predictions and the draws,

.. math:: x_i = a_i x_0 + \sum_k c_{ik} \, p_k + \sum_m d_{im} \, z_m,

whatever the network says (an adaptive solver chooses its steps by it, and has no such coefficients). They are found by
running the solver on basis vectors: the start is one, each prediction the next, each draw the next. A port can be
compared with them without a network; and, evaluation by evaluation, on a problem with exact predictions.

The file is JSON (:data:`SCHEMA` tells its entries); every number is a float64 as Python writes it, which reads back to
the same bits.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from subprocess import PIPE
from typing import Any

import torch
from torch import Tensor

from diffnum import __version__, arguments, files, named, noise
from diffnum.denoisers import targets
from diffnum.errors import DiffnumError, WrongKind
from diffnum.problem import Problem
from diffnum.runner import draws_noise
from diffnum.solvers import find, solve

SCHEMA = {
    "schema": "1; this entry",
    "diffnum": "version that wrote the file",
    "solver, options": "what was run",
    "paper": "where it is from",
    "process, grid, target": "names of this library: --process, --grid, and the exact data of `diffnum order`",
    "times": "n + 1 decreasing times",
    "alpha, sigma": "signal and noise level at each time: x = alpha x0 + sigma n",
    "start": "state at times[0], (batch, d)",
    "noise": "draws in their order, (m, batch, d); empty for a deterministic solver",
    "evaluations": "in their order: kind (noise or data), level sigma/alpha, x (the scaled state x/alpha), prediction",
    "states": "state after every step, (n, batch, d)",
    "coefficients": "of every state: start (a number), predictions, noise; null if adaptive",
}

GIVEN = ("solver", "options", "times", "alpha", "sigma", "start", "noise")  # what a port is told first


class Recorded:
    """A denoiser that writes down what it is asked and what it answers."""

    shape = None

    def __init__(self, answer: Any) -> None:
        self.answer, self.seen = answer, []

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        """Clean prediction."""
        return self._told("data", x, sigma)

    def eps(self, x: Tensor, sigma: Any) -> Tensor:
        """Noise prediction."""
        return self._told("noise", x, sigma)

    def _told(self, kind: str, x: Tensor, sigma: Any) -> Tensor:
        out = self.answer(kind, x, float(sigma))
        self.seen.append({"kind": kind, "level": float(sigma), "x": x.tolist(), "prediction": out.tolist()})
        return out


def values(
    solver: str,
    options: dict[str, Any],
    process: str = "vp",
    grid: str = "log_snr",
    target: str = "smooth",
    steps: int = 6,
    batch: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of a golden file.

    Raises:
        DiffnumError: a process that is not VP or VE.
    """
    run, noising, exact = find(solver), named.process(process), targets.target(target)
    if noising.family != "isotropic":
        raise DiffnumError(f"golden values are written on VP and VE; {process} is {noising.family}")
    times = named.grid(grid)(noising, steps)
    start = targets.starts(noising, batch, seed)
    drawn: list[Tensor] = []
    source = noise.Seeded(seed)

    def draw(u: Tensor) -> Tensor:
        drawn.append(source(u))
        return drawn[-1]

    net = Recorded(lambda kind, x, sigma: exact.eps(x, sigma) if kind == "noise" else exact(x, sigma))
    source_or_none = draw if draws_noise(run) else None
    solution = solve(Problem(noising, net), run, start, times, trajectory=True, noise=source_or_none, **options)
    states = solution.trajectory
    adaptive = getattr(run, "nfe", 0) is None
    return {
        "schema": SCHEMA, "diffnum": __version__, "solver": solver, "options": options,
        "paper": getattr(run, "paper", ""), "process": process, "grid": grid, "target": target,
        "times": times.tolist(), "alpha": [noising.levels(t)[0] for t in times.tolist()],
        "sigma": [noising.levels(t)[1] for t in times.tolist()], "start": start.tolist(),
        "noise": [z.tolist() for z in drawn], "evaluations": net.seen,
        "states": states[1:].tolist(),  # type: ignore[index]
        "coefficients": None if adaptive else coefficients(run, noising, times, len(net.seen), len(drawn), options),
    }  # fmt: skip


def coefficients(
    run: Any, process: Any, times: Tensor, predictions: int, draws: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """What every state is made of, from a run on basis vectors."""
    basis = torch.eye(1 + predictions + draws, dtype=torch.float64, device="cpu")
    asked, drawn = iter(range(1, 1 + predictions)), iter(range(1 + predictions, len(basis)))
    net = Recorded(lambda kind, x, sigma: basis[next(asked)][None])
    noise = (lambda u: basis[next(drawn)][None]) if draws else None
    states: Any = solve(
        Problem(process, net), run, basis[:1], times, trajectory=True, noise=noise, **options
    ).trajectory
    return [
        {"start": row[0], "predictions": row[1 : 1 + predictions], "noise": row[1 + predictions :]}
        for row in states[1:, 0].tolist()
    ]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a golden file.

    Raises:
        OSError: no such file. ValueError: it is none of :func:`values`.
    """
    try:
        return _whole(json.loads(files.read(path)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a golden file ({error}); write one with --solver and --out") from None


def _whole(golden: Any) -> dict[str, Any]:
    """The content, if it has all that a port is given and compared with."""
    if not isinstance(golden, dict):
        raise WrongKind("it is no object")
    if missing := [key for key in (*GIVEN, "evaluations", "states") if key not in golden]:
        raise ValueError(f"it has no {missing[0]!r}")
    times, states = (arguments.array(key, golden[key]) for key in ("times", "states"))
    if states.ndim != 3 or len(states) != len(times) - 1:
        raise ValueError(f"states has shape {tuple(states.shape)} for {len(times)} times")
    if not isinstance(golden["evaluations"], list):
        raise WrongKind("evaluations is no list")
    for i, entry in enumerate(golden["evaluations"], 1):
        if not isinstance(entry, dict) or entry.get("kind") not in ("noise", "data"):
            raise ValueError(f"evaluation {i} has no kind, noise or data")
        arguments.number("level", entry.get("level"), 0.0)
        for key in ("x", "prediction"):
            if (shape := arguments.array(key, entry.get(key)).shape) != states.shape[1:]:
                raise ValueError(f"{key} of evaluation {i} has shape {tuple(shape)}")
    return golden


def check(golden: dict[str, Any], command: str | Sequence[str], tolerance: float = 1e-10) -> list[str]:
    """Run a port and compare it, evaluation by evaluation; the differences in words, none if it agrees.

    The port reads one JSON object a line on its standard input and writes one a line on its standard output. First it
    is given ``solver, options, times, alpha, sigma, start, noise``. It asks with ``{"ask": "noise" | "data", "level":
    sigma/alpha, "x": scaled state}`` and reads ``{"prediction": ...}``; at last it writes ``{"states": ...}`` with the
    state after every step. What it asks is compared with the golden evaluations before it is answered, and it is
    answered with the golden prediction, so that one difference does not hide the next.

    Args:
        golden: the content of a golden file.
        command: the port: a command line.
        tolerance: largest difference, relative to the largest number compared.

    Raises:
        ValueError: the content is not that of a golden file, the command has an open quote, or the tolerance is none.
        DiffnumError: the port does not run, stops early, or does not speak as above.
    """
    _whole(golden)
    tolerance = arguments.number("tolerance", tolerance, above=0.0, high=1.0, usual=1e-10)
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        raise ValueError(f"command={command!r} is no command line: {error}") from None
    if not words:
        raise ValueError(f"command={command!r} is no command line: it has no word")
    found: list[str] = []
    expected = iter(golden["evaluations"])
    given = {key: golden[key] for key in GIVEN}
    try:
        port = subprocess.Popen(words, stdin=PIPE, stdout=PIPE, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DiffnumError(f"the port {words[0]!r} does not start: {error.strerror}") from None
    assert port.stdin and port.stdout
    with port:
        try:
            _say(port, given)
            for count, line in enumerate(port.stdout):
                try:
                    said = json.loads(line)
                    if not isinstance(said, dict):
                        raise ValueError
                except ValueError:
                    raise DiffnumError(f"the port wrote {line.strip()[:60]!r}, which is no JSON object") from None
                if "states" in said:
                    if not isinstance(said["states"], list):
                        raise DiffnumError(f"the port's states are {said['states']!r:.60}, which is no list")
                    for i, (ours, theirs) in enumerate(zip(golden["states"], said["states"], strict=False), 1):
                        found += _compared(f"state after step {i}", ours, theirs, tolerance)
                    if len(said["states"]) != len(golden["states"]):
                        found.append(f"{len(said['states'])} states for {len(golden['states'])} steps")
                    left = len(list(expected))
                    return found + ([f"{left} evaluations fewer than {left + count}"] if left else [])
                ours = next(expected, None)
                if ours is None:
                    raise DiffnumError(f"the port asks more often than {count} times" + _also(found))
                if said.get("ask") not in (ours["kind"], None):
                    raise DiffnumError(f"evaluation {count + 1}: the port asks for {said['ask']}, not {ours['kind']}")
                found += _compared(f"evaluation {count + 1}, level", [ours["level"]], [said.get("level")], tolerance)
                found += _compared(f"evaluation {count + 1}, x", ours["x"], said.get("x"), tolerance)
                _say(port, {"prediction": ours["prediction"]})
            raise DiffnumError("the port ended before it wrote its states" + _also(found))
        finally:
            port.kill()
            with suppress(OSError):  # what it was still to be told
                port.stdin.close()


def _also(found: list[str]) -> str:
    return f" (before: {found[0]})" if found else ""


def _say(port: Any, what: dict[str, Any]) -> None:
    try:
        port.stdin.write(json.dumps(what) + "\n")
        port.stdin.flush()
    except OSError:
        raise DiffnumError("the port ended before it wrote its states") from None


def _compared(what: str, ours: Any, theirs: Any, tolerance: float) -> list[str]:
    try:
        a, b = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (ours, theirs))
    except (TypeError, ValueError):
        return [f"{what}: no numbers"]
    if a.shape != b.shape:
        return [f"{what}: shape {tuple(b.shape)} in place of {tuple(a.shape)}"]
    difference = (a - b).abs().max().item() / max(a.abs().max().item(), 1e-300)
    return [] if difference <= tolerance else [f"{what}: differs by {difference:.1e}, relative"]
