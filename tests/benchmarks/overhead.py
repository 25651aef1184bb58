"""What a step costs apart from the network: every solver against the same passes over memory written by hand.

Batch 16 x 3 x 32 x 32 in float32, one thread. The denoiser returns a stored tensor, so what remains is the solver. One
run is `solve` over 50 steps, checks and all, on a process that has seen the grid; the cost of a grid seen for the
first time is measured beside it. All runs are interleaved in random order, the floor, one `torch.lerp` pass with a
reused buffer, is timed right before each, and CPU time is taken, since other jobs may share the cores.

The hand-written forms are loops over `torch.mul(..., out=)` and `add_` with reused buffers and ready coefficients,
made from the algorithms: scale the state for the denoiser, average the history (one pass per entry), move. They obey
the one rule of the library that costs memory: the state before a step survives it, so the state has two buffers.

To add a solver, add a line to :data:`ROWS`; a process with a larger state brings its shape along.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import diffnum as dn

STEPS, ROUNDS, MILLISECONDS = 50, 40, 8
SHAPE = (16, 3, 32, 32)


class Stored:
    """A denoiser that does nothing: both of its answers are tensors made beforehand."""

    shape = SHAPE[1:]

    def __init__(self) -> None:
        self.answer = dn.noise.Seeded(1)(torch.empty(SHAPE))

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.answer

    def eps(self, x: Tensor, sigma: float) -> Tensor:
        return self.answer


# ------------------------------------------------------------------------------------------ hand-written forms


def mix(out: Tensor, weights: tuple[float, ...], states: list[Tensor]) -> Tensor:
    """A weighted sum into a buffer: one pass per state."""
    torch.mul(states[0], weights[0], out=out)
    for weight, state in zip(weights[1:], states[1:], strict=True):
        out.add_(state, alpha=weight)
    return out


class InRho:
    """Noise predictions, moved along by the transfer map: one pass to scale the state, two to move."""

    def __init__(self, denoiser: Any, u: Tensor) -> None:
        self.eps, self.x = denoiser.eps, torch.empty_like(u)

    def slope(self, u: Tensor, slot: int) -> Tensor:
        torch.mul(u, 1.01, out=self.x)
        return self.eps(self.x, 0.5)

    def move(self, out: Tensor, u: Tensor, k: Tensor) -> Tensor:
        torch.mul(u, 0.99, out=out)
        return out.add_(k, alpha=-0.02)


class InTime(InRho):
    """Velocities, moved along a straight line: one pass to scale, two for F x + C e, one to move."""

    def __init__(self, denoiser: Any, u: Tensor) -> None:
        super().__init__(denoiser, u)
        self.k = [torch.empty_like(u) for _ in range(7)]

    def slope(self, u: Tensor, slot: int) -> Tensor:
        return mix(self.k[slot], (-0.5, 0.4), [u, super().slope(u, slot)])

    def move(self, out: Tensor, u: Tensor, k: Tensor) -> Tensor:
        return torch.add(u, k, alpha=-0.02, out=out)


Form = Callable[[InRho, Tensor, int], None]


def single(part: InRho, u: Tensor, steps: int) -> None:
    new = torch.empty_like(u)
    for _ in range(steps):
        u, new = part.move(new, u, part.slope(u, 0)), u


def two_stages(part: InRho, u: Tensor, steps: int) -> None:
    new, stage = torch.empty_like(u), torch.empty_like(u)
    for _ in range(steps):
        u, new = part.move(new, u, heun(part, u, stage, part.slope(u, 0), 1)), u


def heun(part: InRho, u: Tensor, stage: Tensor, k: Tensor, slot: int) -> Tensor:
    other = part.slope(part.move(stage, u, k), slot)
    return mix(stage, (0.5, 0.5), [k, other])


def four_stages(part: InRho, u: Tensor, steps: int) -> None:
    new, stage = torch.empty_like(u), torch.empty_like(u)
    for _ in range(steps):
        u, new = part.move(new, u, runge_kutta(part, u, stage, part.slope(u, 0), (1, 2, 3))), u


def runge_kutta(part: InRho, u: Tensor, stage: Tensor, k: Tensor, slots: tuple[int, ...]) -> Tensor:
    slopes = [k]
    for slot in slots:
        slopes.append(part.slope(part.move(stage, u, slopes[-1]), slot))
    return mix(stage, (1 / 6, 1 / 3, 1 / 3, 1 / 6), slopes)


def adams(order: int, ramp: bool = False) -> Form:
    """Adams-Bashforth, started with Runge-Kutta; or with a ramp, one Heun step and then growing order."""
    weights = {2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}

    def run(part: InRho, u: Tensor, steps: int) -> None:
        new, stage, past = torch.empty_like(u), torch.empty_like(u), []
        for i in range(steps):
            k = part.slope(u, i % order)
            past = [k, *past[: order - 1]]
            if ramp and i == 0:
                bar = heun(part, u, stage, k, order)
            elif not ramp and i < order - 1:
                bar = runge_kutta(part, u, stage, k, (4, 5, 6))
            else:
                bar = mix(stage, weights[len(past)], past)
            u, new = part.move(new, u, bar), u

    return run


def exponential(order: int) -> Form:
    """The state and the last answers of the network in one weighted sum: one pass each."""

    def run(part: InRho, u: Tensor, steps: int) -> None:
        new, past = torch.empty_like(u), []
        for _ in range(steps):
            past = [part.slope(u, 0), *past[: order - 1]]
            u, new = mix(new, (0.99, 0.03, -0.01, 0.002, -0.001)[: len(past) + 1], [u, *past]), u

    return run


# ------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Row:
    """One solver to measure.

    Attributes:
        solver, options: what `solve` is given.
        variable, form: its hand-written form.
        passes: passes over memory per evaluation of that form, the start left out.
        history: the most slopes that one of its formulas averages together with those that later steps still need:
            what any implementation has to keep. A Runge-Kutta start of Adams-Bashforth 4 has 4 and 2 older ones.
        process: makes its process.
        shape: of the state.
        lerps: limit in units of one `torch.lerp` pass, where there is one.
    """

    solver: str
    variable: type[InRho]
    form: Form
    passes: float
    history: int
    options: dict[str, Any] = field(default_factory=dict)
    process: Callable[[], Any] = dn.VP
    shape: tuple[int, ...] = SHAPE
    lerps: float | None = None


ROWS = [
    Row("ddim", InRho, single, 3, 1, lerps=6),
    Row("dpmpp_2m", InRho, exponential(2), 4, 2, lerps=8),
    Row("edm_heun", InRho, two_stages, 4, 2),
    Row("s_pndm", InRho, adams(2, ramp=True), 5, 2),
    Row("plms", InRho, adams(4, ramp=True), 7, 4, lerps=11),
    Row("f_pndm", InRho, adams(4), 7, 6),
    Row("pndm_variable", InRho, adams(4), 7, 6),
    Row("prk", InRho, four_stages, 4, 4),
    Row("euler", InTime, single, 4, 1),
    Row("heun", InTime, two_stages, 5, 2),
    Row("rk4", InTime, four_stages, 5, 4),
    Row("ab2", InTime, adams(2), 6, 4),
    Row("ab4", InTime, adams(4), 8, 6),
    Row("fon", InTime, adams(4), 8, 6),
]


@dataclass
class Case:
    """A row made ready: what to time, and the times taken."""

    row: Row
    library: Callable[[], Any]
    hand: Callable[[], Any]
    nfe: int
    seconds: dict[str, list[float]]


def prepare(row: Row) -> Case:
    denoiser = Stored()
    problem = dn.Problem(row.process(), denoiser)
    u = problem.prior(row.shape)
    times = dn.grids.log_snr(problem.process, STEPS)
    part, own = row.variable(denoiser, u), u.clone()

    def library() -> Any:
        return dn.solve(problem, row.solver, u, times, **row.options)

    def hand() -> Any:
        return row.form(part, own.copy_(u), STEPS)

    return Case(row, library, hand, library().nfe, {"library": [], "hand": [], "floor": []})


def timed(run: Callable[[], Any], count: int) -> float:
    """CPU seconds of one run, from `count` of them."""
    begun = time.process_time()
    for _ in range(count):
        run()
    return (time.process_time() - begun) / count


def enough(run: Callable[[], Any]) -> int:
    """Repetitions that take a few milliseconds."""
    run()
    return max(1, round(MILLISECONDS / 1000 / max(min(timed(run, 3) for _ in range(3)), 1e-7)))


def first_grid(row: Row, rounds: int = 5) -> float:
    """CPU seconds per step that the coefficients of a grid cost when they are computed for the first time."""
    extra = []
    for _ in range(rounds):
        problem = dn.Problem(row.process(), Stored())
        u, times = problem.prior(row.shape), dn.grids.log_snr(problem.process, STEPS)
        run = partial(dn.solve, problem, row.solver, u, times, **row.options)
        cold, warm = (timed(run, 1) for _ in range(2))
        extra.append(cold - warm)
    return statistics.median(extra) / STEPS


def measure(
    rows: list[Row] = ROWS, rounds: int = ROUNDS, watch: Callable[[int], Any] = lambda i: None
) -> dict[str, Any]:
    """Time all rows; returns the floor in microseconds and a table of ratios."""
    torch.set_num_threads(1)
    # What the first call of a network does to glibc's allocator: it stops handing freed memory back to the system, as
    # it would otherwise do, and undo by page faults, whenever some states at the end of its heap are free.
    torch.empty(2**22)
    cases = [prepare(row) for row in rows]
    a, b = dn.noise.Seeded(2)(torch.empty(SHAPE)), Stored().answer
    out = torch.empty_like(a)

    def floor() -> Any:
        return torch.lerp(a, b, 0.3, out=out)

    runs = [(case, kind, enough(getattr(case, kind))) for case in cases for kind in ("library", "hand")]
    floors, shuffle = enough(floor), random.Random(0).shuffle
    for i in range(rounds):
        watch(i)
        shuffle(runs)
        for case, kind, count in runs:
            case.seconds["floor"].append(timed(floor, floors))
            case.seconds[kind].append(timed(getattr(case, kind), count))
    everything = [seconds for case in cases for seconds in case.seconds["floor"]]
    lerp = statistics.median(everything)
    return {
        "lerp_us": 1e6 * lerp,
        "lerp_quartiles_us": [1e6 * q for q in statistics.quantiles(everything, n=4)[::2]],
        "rounds": rounds,
        "solvers": {case.row.solver: figures(case) for case in cases},
    }


def figures(case: Case) -> dict[str, Any]:
    """What the times of one case say; the ratio to the hand-written form is also taken over halves of the rounds."""
    library, hand, floor = (case.seconds[kind] for kind in ("library", "hand", "floor"))
    state = torch.Size(case.row.shape).numel() / torch.Size(SHAPE).numel()  # in units of the floor's tensor
    median = statistics.median
    halves = [median(library[part]) / median(hand[part]) for part in (slice(0, None, 2), slice(1, None, 2))]
    return {
        "nfe": case.nfe,
        "passes": case.row.passes,
        "us": 1e6 * median(library) / case.nfe,
        "hand_us": 1e6 * median(hand) / case.nfe,
        "lerps": median(library) / case.nfe / median(floor) / state,
        "lerps_min": min(library) / case.nfe / min(floor) / state,
        "hand_lerps": median(hand) / case.nfe / median(floor) / state,
        "ratio": median(library) / median(hand),
        "ratio_min": min(library) / min(hand),
        "ratio_halves": halves,
        "first_grid_us": 1e6 * first_grid(case.row),
        "states": peak_memory(case.row),
        "history": case.row.history,
    }


# ---------------------------------------------------------------------------------------------------------- memory


class Fresh(Stored):
    """A denoiser that makes a new tensor for each answer, as a network does; its own work needs no memory."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return torch.zeros_like(x)

    eps = __call__


def peak_memory(row: Row) -> float:
    """Largest amount of memory allocated at once during `solve`, in states; the caller's start state is not counted.

    Every allocation and release of torch's CPU allocator is read from the profiler.
    """
    problem = dn.Problem(row.process(), Fresh())
    u, times = problem.prior(row.shape), dn.grids.log_snr(problem.process, 12)
    dn.solve(problem, row.solver, u, times, **row.options)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        dn.solve(problem, row.solver, u, times, **row.options)
    return max(live(profile)) / (u.numel() * u.element_size())


def live(profile: Any) -> Iterator[int]:
    """Bytes allocated since the start of the profile after every allocation."""
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        yield total


# ------------------------------------------------------------------------------------------------------ throughput


def throughput(batch: int = 64, steps: int = 30, solver: str = "plms") -> dict[str, Any]:
    """Images per second of a run with the shipped network, as a fraction of the bare network's on the same batch.

    Single steps of the run and single calls of the U-Net alternate, so that both see the same machine: each step is
    compared with the mean of the calls before and after it, and the median of these quotients is the fraction.
    """
    network = dn.load("cifar10")
    problem = dn.Problem(dn.VP(), network)
    u = problem.prior((batch, *network.shape), seed=0)
    times = dn.grids.log_snr(problem.process, steps)
    net: Any = network._net(u.device, u.dtype)
    label = torch.zeros(1)
    calls: list[float] = []
    taken: list[float] = []
    with torch.no_grad():
        net(u, label)
        run = dn.solvers.registry[solver](problem, u, times)
        next(run)
        calls.append(timed(lambda: net(u, label), 1))
        for _ in range(steps - 1):
            before, begun = problem.nfe, time.process_time()
            next(run)
            taken.append((time.process_time() - begun) / (problem.nfe - before))
            calls.append(timed(lambda: net(u, label), 1))
    fractions = sorted((a + b) / 2 / step for (a, b), step in zip(pairwise(calls), taken, strict=True))
    return {
        "solver": solver,
        "batch": batch,
        "network_ms": 1e3 * statistics.median(calls),
        "step_ms": 1e3 * statistics.median(taken),
        "fraction": statistics.median(fractions),
        "fraction_min": min(calls) / min(taken),
        "fraction_quartiles": statistics.quantiles(fractions, n=4)[::2],
        "network_jitter": statistics.median(abs(b / a - 1) for a, b in pairwise(calls)),
    }
