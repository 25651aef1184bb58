"""What a step costs apart from the network: every solver against the same passes over memory written by hand.

Batch 16 x 3 x 32 x 32 in float32, one thread. The denoiser returns a stored tensor, so what remains is the solver. One
run is `solve` over 50 steps, checks and all, on a process that has seen the grid; the cost of a grid seen for the
first time is measured beside it. All runs are interleaved in random order, each row in an operating-system process of
its own; the floor, one `torch.lerp` pass with a reused buffer, is timed right before each, and CPU time is taken,
since other jobs may share the cores.

The hand-written forms are loops over `torch.mul(..., out=)` and `add_` with reused buffers and ready coefficients,
made from the algorithms: scale the state for the denoiser, average the history (one pass per entry), move. They obey
the one rule of the library that costs memory: the state before a step survives it, so the state has two buffers.
On phase space the coefficients are 2x2 matrices, and `torch.bmm(..., out=)` and `baddbmm_` take the place of `mul` and
`add_`; where only the position or the momentum moves, or the matrix is diagonal, passes over the halves are cheaper.

Stochastic solvers are given one stored tensor as their noise; a draw of the default noise is timed by itself.

To add a solver, add a line to :data:`ROWS`; a process with a larger state brings its shape along.
"""

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

import diffnum as dn

STEPS, ROUNDS, MILLISECONDS = 50, 24, 8
SHAPE, PHASE_SPACE = (16, 3, 32, 32), (16, 2, 3, 32, 32)
DRAWS = (20_000, 2), (64, 3, 32, 32)  # many small rows, few large ones
ORDERS = (1, 2, 3, 4)  # of gDDIM, on VP and on CLD
WEIGHTS = (0.99, 0.03, -0.01, 0.002, -0.001, 0.001)  # of the state, slopes and draw in a sum: some numbers


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
    """Noise predictions, moved along by the transfer map: one pass to scale the state, two to move.

    Args:
        denoiser: what to call.
        u: a state; buffers are made like it.
        z: a draw for stochastic forms.
    """

    def __init__(self, denoiser: Any, u: Tensor, z: Tensor) -> None:
        self.eps, self.x, self.z = denoiser.eps, torch.empty_like(u), z

    @staticmethod
    def arranged(u: Tensor) -> Tensor:
        """A state in the shape in which the form wants it."""
        return u

    def slope(self, u: Tensor, slot: int) -> Tensor:
        torch.mul(u, 1.01, out=self.x)
        return self.eps(self.x, 0.5)

    def sum(self, out: Tensor, states: list[Tensor]) -> Tensor:
        return mix(out, WEIGHTS[: len(states)], states)

    def move(self, out: Tensor, u: Tensor, k: Tensor) -> Tensor:
        torch.mul(u, 0.99, out=out)
        return out.add_(k, alpha=-0.02)


class InTime(InRho):
    """Velocities, moved along a straight line: one pass to scale, two for F x + C e, one to move."""

    def __init__(self, denoiser: Any, u: Tensor, z: Tensor) -> None:
        super().__init__(denoiser, u, z)
        self.k = [torch.empty_like(u) for _ in range(7)]

    def slope(self, u: Tensor, slot: int) -> Tensor:
        return mix(self.k[slot], (-0.5, 0.4), [u, super().slope(u, slot)])

    def move(self, out: Tensor, u: Tensor, k: Tensor) -> Tensor:
        return torch.add(u, k, alpha=-0.02, out=out)


class OnPhaseSpace(InRho):
    """Scores or noise predictions A u + b eps: one row product for the denoiser, two passes for the sum.

    States have the shape ``(batch, 2, numbers)``, which batched products of matrices take.
    """

    def __init__(self, denoiser: Any, u: Tensor, z: Tensor) -> None:
        super().__init__(denoiser, u, z)
        batch, _, numbers = u.shape
        self.x = torch.empty(SHAPE)
        self.y = self.x.view(batch, 1, numbers)
        self.k = [torch.empty_like(u) for _ in range(4)]
        self.row, self.b = (torch.tensor(m).expand(batch, -1, -1) for m in ([[0.9, 0.1]], [[0.3], [0.2]]))
        self.A = torch.tensor([[0.9, 0.1], [-0.1, 0.8]]).expand(batch, -1, -1)
        self.matrices = [(torch.tensor([[w, 0.3 * w], [-0.2 * w, w]])).expand(batch, -1, -1) for w in WEIGHTS]

    @staticmethod
    def arranged(u: Tensor) -> Tensor:
        return u.flatten(2)

    def slope(self, u: Tensor, slot: int) -> Tensor:
        torch.bmm(self.row, u, out=self.y)
        k = torch.bmm(self.A, u, out=self.k[slot])
        return k.baddbmm_(self.b, self.eps(self.x, 0.5).view(self.y.shape))

    def sum(self, out: Tensor, states: list[Tensor]) -> Tensor:
        torch.bmm(self.matrices[0], states[0], out=out)
        for matrix, state in zip(self.matrices[1:], states[1:], strict=False):
            out.baddbmm_(matrix, state)
        return out


Form = Callable[[Any, Tensor, int], None]


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


def adams(order: int, ramp: str = "") -> Form:
    """Adams-Bashforth, started with Runge-Kutta; or with a ramp of growing order, from a step of Heun or Euler on."""
    weights = {1: (1.0,), 2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}

    def run(part: InRho, u: Tensor, steps: int) -> None:
        new, stage, past = torch.empty_like(u), torch.empty_like(u), []
        for i in range(steps):
            k = part.slope(u, i % order)
            past = [k, *past[: order - 1]]
            if ramp == "heun" and i == 0:
                bar = heun(part, u, stage, k, order)
            elif not ramp and i < order - 1:
                bar = runge_kutta(part, u, stage, k, (4, 5, 6))
            else:
                bar = mix(stage, weights[len(past)], past)
            u, new = part.move(new, u, bar), u

    return run


def exponential(order: int, draws: bool = False) -> Form:
    """The state, the last answers of the network and perhaps a draw in one weighted sum: one pass each."""

    def run(part: InRho, u: Tensor, steps: int) -> None:
        new, past, draw = torch.empty_like(u), [], [part.z] * draws
        for i in range(steps):
            past = [part.slope(u, i % order), *past[: order - 1]]
            u, new = part.sum(new, [u, *past, *draw]), u

    return run


def corrected(order: int) -> Form:
    """The same with a sum before it that corrects the step before, from the state where that began."""

    def run(part: InRho, u: Tensor, steps: int) -> None:
        kept, new, past, before = [torch.empty_like(u), torch.empty_like(u)], torch.empty_like(u), [], u
        for i in range(steps):
            k = part.slope(u, i % (order + 1))
            if i:
                before = part.sum(kept[i % 2], [before, k, *past])
            past = [k, *past[: order - 1]]
            u = part.sum(new, [before, *past])

    return run


def two_sums(part: InRho, u: Tensor, steps: int) -> None:
    """Two sums of the state and a new answer of the network each."""
    new, stage = torch.empty_like(u), torch.empty_like(u)
    for _ in range(steps):
        part.sum(stage, [u, part.slope(u, 0)])
        u, new = part.sum(new, [stage, part.slope(stage, 1)]), u


class Halves:
    """A state with views of its position and momentum; substeps write into one half."""

    def __init__(self, u: Tensor) -> None:
        self.u, self.parts = u, u.unbind(1)

    def mixed(self, half: int, *states: Tensor) -> Tensor:
        """A weighted sum into one half; the first state may be that half itself."""
        return mix(self.parts[half], WEIGHTS[: len(states)], list(states))


def splitting(sequence: str) -> Form:
    """Substeps in the order of their letters: s takes a score; A moves the position, B the momentum, O draws for both,
    and C moves both with one score, by matrices.

    The first move of a step goes from the old state into another buffer, and so does C from any state. The other moves
    act where they stand. Where A or B is the first, the half that it leaves alone is copied.
    """
    moves = {"s": (), "C": (), "A": (0,), "B": (1,), "O": (0, 1)}

    def run(part: OnPhaseSpace, u: Tensor, steps: int) -> None:
        old, new, spare = (Halves(buffer) for buffer in (u, torch.empty_like(u), torch.empty_like(u)))
        draw, scores, plan = part.z.unbind(1), part.k[0].unbind(1), [(letter, moves[letter]) for letter in sequence]
        for _ in range(steps):
            at = old
            for letter, halves in plan:
                to = new if at is old else spare if letter == "C" else at
                for half in halves:
                    own, other = at.parts[half], at.parts[1 - half]
                    to.mixed(half, own, *((draw[half],) if letter == "O" else (other, scores[half])))
                    if at is old and letter != "O":
                        to.parts[1 - half].copy_(other)
                if letter == "s":
                    part.slope(at.u, 0)
                else:
                    if letter == "C":
                        part.sum(to.u, [at.u, part.k[0]])
                    at = to
            old, new, spare = (new, old, spare) if at is new else (spare, old, new)

    return run


def second_order_verlet(part: OnPhaseSpace, u: Tensor, steps: int) -> None:
    """The end predicted with one score, and corrected with the score there."""
    new, end = torch.empty_like(u), torch.empty_like(u)
    for _ in range(steps):
        k = part.slope(u, 0)
        part.sum(end, [u, k])
        u, new = part.sum(new, [u, k, part.slope(end, 1)]), u


def symmetric(part: OnPhaseSpace, u: Tensor, steps: int) -> None:
    """Half a step of the linear part with a draw, then the score and half a step again, at once."""
    new, middle = torch.empty_like(u), torch.empty_like(u)
    for _ in range(steps):
        part.sum(middle, [u, part.z])
        u, new = part.sum(new, [middle, part.slope(middle, 0), part.z]), u


# ------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Row:
    """One solver to measure.

    Attributes:
        solver, options: what `solve` is given.
        label: what the row is called, where the solver has several; by default the solver's name.
        variable, form: its hand-written form.
        passes: passes over memory per evaluation of that form, the start left out.
        history: the most slopes and draws that one of its formulas adds up, together with those that later steps
            still need: what any implementation has to keep. A Runge-Kutta start of Adams-Bashforth 4 has 4 and 2
            older ones. Where substeps follow one another inside a step, the state between them counts too.
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
    label: str = ""

    @property
    def name(self) -> str:
        """What the results call it."""
        return self.label or self.solver

    def given(self, noise: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What `solve` is given by name; the noise goes to stochastic solvers only."""
        return {**self.options, "noise": noise} if dn.solvers.registry[self.solver].kind == "sde" else self.options


def gddim(process: str, order: int) -> str:
    """The label of a row of gDDIM."""
    return f"gddim ({process}, order {order})"


def on_psld(
    solver: str, form: Form, passes: float, history: int = 1, variable: type[InRho] = OnPhaseSpace, label: str = ""
) -> Row:
    """A row on PSLD."""
    return Row(solver, variable, form, passes, history, process=dn.PSLD, shape=PHASE_SPACE, label=label)


def split(solver: str, sequence: str) -> Row:
    """A row of a splitting method: the passes follow from its letters; the copy at the start of a step is none.

    It keeps a score or a draw, and the state between two substeps.
    """
    passes = sum({"s": 3, "A": 1.5, "B": 1.5, "O": 2, "C": 2}[letter] for letter in sequence)
    return on_psld(solver, splitting(sequence), passes / sequence.count("s"), 2)


ROWS = [
    Row("ddim", InRho, single, 3, 1, lerps=6),
    Row("dpmpp_2m", InRho, exponential(2), 4, 2, lerps=8),
    Row("dpmpp_3m", InRho, exponential(3), 5, 3),
    Row("exponential_adams", InRho, exponential(3), 5, 3),
    Row("deis", InRho, exponential(3), 5, 3),
    Row("lms", InRho, exponential(4), 6, 4),
    Row("unipc", InRho, corrected(2), 8, 4),
    Row("edm_heun", InRho, two_stages, 4, 2),
    Row("s_pndm", InRho, adams(2, ramp="heun"), 5, 2),
    Row("plms", InRho, adams(4, ramp="heun"), 7, 4, lerps=11),
    Row("ipndm", InRho, adams(4, ramp="euler"), 7, 4),
    Row("f_pndm", InRho, adams(4), 7, 6),
    Row("pndm_variable", InRho, adams(4), 7, 6),
    Row("prk", InRho, four_stages, 4, 4),
    Row("euler", InTime, single, 4, 1),
    Row("heun", InTime, two_stages, 5, 2),
    Row("rk4", InTime, four_stages, 5, 4),
    Row("ab2", InTime, adams(2), 6, 4),
    Row("ab4", InTime, adams(4), 8, 6),
    Row("fon", InTime, adams(4), 8, 6),
    *(Row("gddim", InRho, exponential(q), 2 + q, q, {"order": q}, label=gddim("VP", q)) for q in ORDERS),
    *(
        Row("gddim", OnPhaseSpace, exponential(q), 4 + q, q, {"order": q}, dn.CLD, PHASE_SPACE, label=gddim("CLD", q))
        for q in ORDERS
    ),
    Row("gddim_sde", InRho, exponential(1, draws=True), 4, 2),
    Row("ancestral", InRho, exponential(1, draws=True), 4, 2),
    Row("er_sde", InRho, exponential(1, draws=True), 4, 2, {"order": 1}, label="er_sde (order 1)"),
    Row("er_sde", InRho, exponential(3, draws=True), 6, 4, {"order": 3}, label="er_sde (order 3)"),
    Row("euler_maruyama", InRho, exponential(1, draws=True), 4, 2, label="euler_maruyama (VP)"),
    on_psld("euler_maruyama", exponential(1, draws=True), 6, 2, label="euler_maruyama (PSLD)"),
    on_psld("conjugate", exponential(1), 5),
    on_psld("conjugate_symplectic_euler", exponential(1), 5),
    on_psld("conjugate_velocity_verlet", two_sums, 5, 2),
    split("symplectic_euler", "sBsA"),
    on_psld("reduced_symplectic_euler", exponential(1), 5),
    split("velocity_verlet", "sBsAsB"),
    split("reduced_velocity_verlet", "sCsB"),
    on_psld("verlet2", second_order_verlet, 5.5, 3),
    split("oba", "OsBsA"),
    split("reduced_oba", "OsC"),
    split("bao", "sBsAO"),
    on_psld("reduced_bao", exponential(1, draws=True), 6, 2),
    split("obab", "OsBsAsB"),
    split("reduced_obab", "OsCsB"),
    on_psld("sscs", symmetric, 8, 3),
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
    stored = dn.noise.Seeded(3)(u)
    start, own, given = row.variable.arranged(u), row.variable.arranged(u.clone()), row.given(lambda u: stored)
    part = row.variable(denoiser, start, row.variable.arranged(stored))

    def library() -> Any:
        return dn.solve(problem, row.solver, u, times, **given)

    def hand() -> Any:
        return row.form(part, own.copy_(start), STEPS)

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
        run = partial(dn.solve, problem, row.solver, u, times, **row.given(torch.zeros_like))
        cold, warm = (timed(run, 1) for _ in range(2))
        extra.append(cold - warm)
    return statistics.median(extra) / STEPS


def noise(rounds: int = ROUNDS) -> dict[str, float]:
    """What a draw of the default noise costs, in calls of `torch.randn_like`: medians over rounds."""
    ratios = {}
    for shape, dtype in product(DRAWS, (torch.float32, torch.float64)):
        u, source = torch.empty(shape, dtype=dtype), dn.noise.Seeded(0)
        pair = [partial(source, u), partial(torch.randn_like, u)]
        counts = [enough(run) for run in pair]
        each = [[timed(run, count) for run, count in zip(pair, counts, strict=True)] for _ in range(rounds)]
        name = " x ".join(map(str, shape)) + (" in float64" if dtype == torch.float64 else "")
        ratios[name] = statistics.median(ours / theirs for ours, theirs in each)
    return ratios


def measured(row: Row, pipe: Any) -> None:
    """Time one row, a round whenever the pipe asks for one; then send its figures and the times of the floor.

    Each row has a process of its own. In one process for all of them the free blocks that the others leave behind make
    glibc hand out cold memory: DDIM's steps then went through 24 buffers instead of 2 and took twice as long.
    """
    torch.set_num_threads(1)
    # What the first call of a network does to glibc's allocator: it stops handing freed memory back to the system, as
    # it would otherwise do, and undo by page faults, whenever some states at the end of its heap are free.
    torch.empty(2**22)
    case, a, b = prepare(row), dn.noise.Seeded(2)(torch.empty(SHAPE)), Stored().answer
    out = torch.empty_like(a)

    def floor() -> Any:
        return torch.lerp(a, b, 0.3, out=out)

    runs = [(kind, enough(getattr(case, kind))) for kind in ("library", "hand")]
    floors, shuffle = max(1, enough(floor) // 4), random.Random(0).shuffle
    while pipe.recv():
        shuffle(runs)
        for kind, count in runs:
            case.seconds["floor"].append(timed(floor, floors))
            case.seconds[kind].append(timed(getattr(case, kind), count))
        pipe.send(None)
    pipe.send((figures(case), case.seconds["floor"]))


def measure(
    rows: list[Row] = ROWS, rounds: int = ROUNDS, watch: Callable[[int], Any] = lambda i: None
) -> dict[str, Any]:
    """Time all rows, one after the other in random order, every round; the floor in microseconds and a table."""
    context, workers = multiprocessing.get_context("fork"), []
    for row in rows:
        pipe, end = context.Pipe()
        workers.append((row, pipe, context.Process(target=measured, args=(row, end), daemon=True)))
        workers[-1][2].start()
        end.close()
    order, shuffle = list(workers), random.Random(0).shuffle
    for i in range(rounds):
        watch(i)
        shuffle(order)
        for _, pipe, _ in order:
            pipe.send(True)
            pipe.recv()
    solvers, everything = {}, []
    for row, pipe, process in workers:
        pipe.send(False)
        solvers[row.name], floors = pipe.recv()
        everything += floors
        process.join()
    return {
        "lerp_us": 1e6 * statistics.median(everything),
        "lerp_quartiles_us": [1e6 * q for q in statistics.quantiles(everything, n=4)[::2]],
        "rounds": rounds,
        "solvers": solvers,
        "phase_space": per_number(solvers),
    }


def per_number(solvers: dict[str, dict[str, Any]]) -> dict[str, float]:
    """For every order gDDIM's time for a number of the state on CLD, in units of that on VP: lerps are per number."""
    times = {q: (solvers.get(gddim("CLD", q)), solvers.get(gddim("VP", q))) for q in ORDERS}
    return {str(q): cld["lerps_min"] / vp["lerps_min"] for q, (cld, vp) in times.items() if cld and vp}


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
    """A denoiser that makes a new tensor for each answer, as a network does; its own work needs no memory.

    The noise of stochastic solvers is made anew as well.
    """

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return torch.zeros_like(x)

    eps = __call__


def peak_memory(row: Row) -> float:
    """Largest amount of memory allocated at once during `solve`, in states; the caller's start state is not counted.

    Every allocation and release of torch's CPU allocator is read from the profiler.
    """
    problem = dn.Problem(row.process(), Fresh())
    u, times = problem.prior(row.shape), dn.grids.log_snr(problem.process, 12)
    given = row.given(torch.zeros_like)
    dn.solve(problem, row.solver, u, times, **given)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        dn.solve(problem, row.solver, u, times, **given)
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


def guided(batch: int = 16, rounds: int = 9, sigma: float = 1.0) -> dict[str, Any]:
    """CPU time of a guided evaluation of the shipped network with open windows, in units of an unguided one.

    The two alternate, each ratio is between neighbours; realism alone, and with a label.
    """
    network, x = dn.load("cifar10"), dn.noise.Seeded(0)(torch.empty(batch, 3, 32, 32))
    denoisers = {"realism": dn.load("cifar10", guidance=1), "both": dn.load("cifar10", guidance=1, label=0)}
    seconds: dict[str, list[float]] = {"network": [], **{name: [] for name in denoisers}}
    with torch.no_grad():
        for _ in range(rounds + 1):  # the first round warms up
            for name, denoiser in {"network": network, **denoisers}.items():
                seconds[name].append(timed(partial(denoiser.eps, x, sigma), 1))
    ratios = {
        name: statistics.median(b / a for a, b in zip(seconds["network"][1:], seconds[name][1:], strict=True))
        for name in denoisers
    }
    return {"batch": batch, "ratio": ratios["both"], "ratio_realism": ratios["realism"]}
