r"""The problem on which every sampler is measured, and how its errors are judged.

Data: two Gaussians in R^4 nearly all inside [-1, 1], so that options that clip do nothing; the prediction is exact. 64
start states. A sampler is wrong by the distance of its end from a solution of the same ODE *between the noise levels
that it really used*, told in VP coordinates: root mean square over components, median over states. What is compared is
y = x/alpha at the level :math:`\rho = \sigma/\alpha`, which all parametrisations share.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, isinf, log2
from typing import Any

import torch
from torch import Tensor

from diffnum.denoisers import GaussianMixture
from diffnum.measure.reference import reference
from diffnum.noise import Seeded
from diffnum.problem import Problem
from diffnum.processes import VE

STATES = (64, 4)
STEPS = (10, 20, 40, 80, 160, 320, 640, 1280)
FAR = 1e7  # stands for an infinite level: the start of a sampler at alpha = 0
FLAT = 0.35  # a last slope below this is a floor
SLOW = 60.0  # seconds that the runs of one sampler may take; then its finer runs are left out


@dataclass(frozen=True)
class Run:
    """One run of a foreign sampler.

    Attributes:
        y: where it ended, x/alpha, ``(64, 4)``.
        start, end: the noise levels sigma/alpha at which it really began and ended; start may be infinite.
        last: the level before the last step.
        remarks: what the adapter saw.
    """

    y: Tensor
    start: float
    end: float
    last: float | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """A sampler as an adapter lists it: what it is, the order in its name or documentation, and how to run it."""

    name: str
    variant: str
    claim: int | None
    run: Callable[["Bench", int], Run]
    steps: tuple[int, ...] = STEPS


class Bench:
    """The problem; it counts evaluations of the network, and the time spent inside it."""

    def __init__(self) -> None:
        weights, means = (0.46, 0.54), ((0.36, -0.48, 0.2, 0.01), (-0.16, 0.29, -0.47, 0.45))
        self.exact = GaussianMixture(weights, means, stds=((0.29, 0.17, 0.1, 0.13), (0.23, 0.22, 0.26, 0.24)))
        self.mean = torch.tensor(weights, dtype=torch.float64) @ torch.tensor(means, dtype=torch.float64)
        self.z = Seeded(1).normal(STATES)
        self.evaluations, self.inside = 0, 0.0
        self._truth: dict[tuple[float, float], Tensor] = {}

    def start(self, rho: float) -> Tensor:
        """The start states as y = x/alpha: in VP coordinates they are standard normal draws at every level."""
        return FAR * self.z + self.mean if isinf(rho) else (1 + rho**2) ** 0.5 * self.z

    def data(self, y: Tensor, rho: float) -> Tensor:
        """The network: exact clean prediction at y = x/alpha, computed in float64, returned as y came."""
        return self._asked(self.exact, y, rho)

    def noise(self, y: Tensor, rho: float) -> Tensor:
        """The network: exact noise prediction."""
        return self._asked(self.exact.eps, y, rho)

    def _asked(self, function: Callable[..., Tensor], y: Tensor, rho: float) -> Tensor:
        begun = time.perf_counter()
        out = function(y.double(), float(rho)).to(y.dtype)
        self.evaluations, self.inside = self.evaluations + 1, self.inside + time.perf_counter() - begun
        return out

    def truth(self, start: float, end: float) -> Tensor:
        """The exact end of the ODE between two levels, y."""
        if (start, end) not in self._truth:
            top = FAR if isinf(start) else start
            process = VE(max(top, 0.01))
            self._truth[start, end] = reference(Problem(process, self.exact), self.start(start), [top, end], rtol=1e-13)
        return self._truth[start, end]

    def error(self, run: Run) -> float:
        """Distance of the median start from the exact end, in VP coordinates.

        A start that decides late between the modes has a much larger error, and steps are not short for it yet: in a
        mean over starts it alone decides, and the order changes with the draw.
        """
        wrong = (run.y.double() - self.truth(run.start, run.end)) / (1 + run.end**2) ** 0.5
        return wrong.square().mean(1).sqrt().median().item()


@dataclass
class Row:
    """What was measured of one sampler.

    Attributes:
        library, version, sampler, variant, claim: what it is.
        steps, errors, nfe: of each run; an error is None where there is none.
        start, end: levels of the finest run.
        microseconds: time per evaluation outside the network, of the run with 80 steps or the finest below.
        remarks: in words, what the numbers say.
    """

    library: str
    version: str
    sampler: str
    variant: str
    claim: int | None
    steps: list[int] = field(default_factory=list)
    errors: list[float | None] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    start: float | None = None
    end: float | None = None
    microseconds: float | None = None
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def judged(self) -> dict[str, float | None]:
        """``order`` (least squares over the last four errors before a floor), ``last_pair``, ``floor``."""
        return judge(self.steps, self.errors)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        fields = {k: v for k, v in vars(self).items() if k != "judged"}
        return {**fields, **self.judged, "start": _told(self.start), "end": self.end}


def _told(level: float | None) -> float | str | None:
    return "infinite" if level is not None and isinf(level) else level


def judge(steps: Sequence[int], errors: Sequence[float | None]) -> dict[str, float | None]:
    """Order, slope of the last pair, and floor of errors over steps; None where there is none."""
    points = [(n, e) for n, e in zip(steps, errors, strict=True) if e is not None and isfinite(e) and e > 0]
    nothing: dict[str, float | None] = {"order": None, "last_pair": None, "floor": None}
    if len(points) < 2 or (errors[-1] is None and len(points) < 4):
        return nothing
    (m, a), (n, b) = points[-2:]
    last = log2(a / b) / log2(n / m)
    floor, used = None, points
    if last < FLAT:
        lowest = min(range(len(points)), key=lambda i: points[i][1])
        floor, used = points[lowest][1], points[:lowest]
    tail = [(log2(n), log2(e)) for n, e in used[-4:]]
    if len(tail) < 2:
        return {"order": None, "last_pair": last, "floor": floor}
    x0, y0 = (sum(values) / len(tail) for values in zip(*tail, strict=True))
    slope = sum((x - x0) * (y - y0) for x, y in tail) / sum((x - x0) ** 2 for x, _ in tail)
    return {"order": -slope, "last_pair": last, "floor": floor}


def measure(bench: Bench, library: str, version: str, sampler: Sampler, steps: Sequence[int] | None = None) -> Row:
    """Run a sampler with more and more steps; whatever it raises is a remark."""
    row = Row(library, version, sampler.name, sampler.variant, sampler.claim)
    seen: list[Run] = []
    failed: dict[str, list[int]] = {}
    begun = time.perf_counter()
    for n in sampler.steps if steps is None else [n for n in sampler.steps if n in steps]:
        if time.perf_counter() - begun > SLOW:
            row.remarks.append(f"slow: left out from n = {n}")
            break
        bench.evaluations, bench.inside, started = 0, 0.0, time.perf_counter()
        try:
            with torch.no_grad():
                run = sampler.run(bench, n)
            spent = time.perf_counter() - started
            _accept(run.y)
            error: float | None = bench.error(run)
            if not isfinite(error):  # type: ignore[arg-type]
                error = None
                failed.setdefault("NaN or infinity", []).append(n)
            seen.append(run)
            if row.microseconds is None or n <= 80:
                row.microseconds = (spent - bench.inside) / max(bench.evaluations, 1) * 1e6
        except (Exception, SystemExit) as problem:
            error = None
            text = "" if problem.args == (None,) else str(problem).partition("\n")[0][:90]  # of quit()
            said = f"{type(problem).__name__}{': ' + text if text else ''}"
            failed.setdefault(said, []).append(n)
        row.steps.append(n)
        row.errors.append(error)
        row.nfe.append(bench.evaluations)
    if seen:
        row.start, row.end = seen[-1].start, seen[-1].end
    row.remarks += remarks(row, seen, failed)
    return row


def _accept(y: Any) -> None:
    """Refuse what is no end state, before it is taken for one: a broadcast or a cast would make a number of it.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(y, Tensor):
        raise TypeError(f"it returned {'None' if y is None else f'a {type(y).__name__}'}, and not a tensor")
    if tuple(y.shape) != STATES or not y.is_floating_point():
        kind = str(y.dtype).removeprefix("torch.")
        raise TypeError(f"it returned a {kind} tensor of shape {tuple(y.shape)}, and the states have {STATES}")


def remarks(row: Row, seen: Sequence[Run], failed: dict[str, list[int]]) -> list[str]:
    """What the numbers say, in words; nothing is looked up."""
    found, judged = [], row.judged
    order, floor = judged["order"], judged["floor"]
    for said, counts in failed.items():
        found.append(f"{said} (n = {', '.join(map(str, counts))})")
    if order is not None and row.claim is not None and order < row.claim - 0.3:
        found.append(f"claims order {row.claim}, shows {order:.1f}")
    if floor is not None:
        last = next(e for e in reversed(row.errors) if e is not None)
        found.append(f"stops at {floor:.0e}" + (", then grows" if last > 1.5 * floor else ""))
    if seen:
        run = seen[-1]
        if run.end == 0 and run.last:
            found.append(f"last step from a level of {run.last:.2g} to 0")
        if isinf(run.start):
            found.append("starts where no data are left (alpha = 0)")
        if len({(r.start, r.end) for r in seen}) > 1:
            found.append("end points depend on n")
        if run.y.dtype == torch.float32:
            found.append("returns float32 for a float64 state")
        found += [text for text in dict.fromkeys(text for r in seen for text in r.remarks)]
    whole = [nfe / n for n, nfe in zip(row.steps, row.nfe, strict=True) if nfe]
    if whole and whole[-1] > 1.1:
        found.append(f"{whole[-1]:.2g} evaluations a step")
    return found
