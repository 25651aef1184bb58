"""Checks of how a solver behaves: each returns what it measured, in a sentence, or raises a :class:`Fault` with it."""

from typing import Any

import torch
from torch import Tensor

from diffnum.classroom.bench import Bad, Bench, Fault, Raised, Unclaimed, apart, largest, plural
from diffnum.classroom.problems import IMAGE, LADDER
from diffnum.noise import Seeded

ROUNDING = 1e-10  # what rounding may change between two ways to compute one state, on the scale of the state
TINY = 1e-6  # a shift that a smooth map answers to with a bend of its square
MANY = 40  # rows: more than anybody would write down as the size of a batch
COUNTS = (1, 2, 3, 4, 5, 7, 8, 13)


def times_of(b: Bench, n: int, process: str = "", grid: str = "log_snr") -> Tensor:
    """The standard grid of n steps in the asymptotic range."""
    return b.problems.ladder(b.problem(process).process, grid)(n)


def runs(b: Bench) -> str:
    """It is a generator and comes to an end without an exception."""
    if not b.info["generator"] and not b.info["declared"]:
        stub = "it has no yield, so Python takes it for an ordinary function"
        try:
            _probe(b)
        except Raised as error:
            if error.kind == "NotImplementedError":
                raise Fault(
                    f"it is still a stub: {stub}, and calling it raises NotImplementedError; "
                    "put your steps in place of the raise, with `yield u` after each"
                ) from None
            raise
        except Bad as error:
            raise Fault(f"{stub}: {error}; write `yield u` after each step in place of a return") from None
    try:
        _probe(b)
    except Bad:
        pass  # it ran; what it yielded is the next check
    except Raised as error:
        if error.kind == "NotImplementedError":
            raise Fault(
                f"it is still a stub: {error}; put your steps in place of `raise NotImplementedError()`"
            ) from None
        if b.info["families"] or b.model is not None or b.families == ["phase_space"]:
            raise _fixed(b, error, 4, 6) from None
        b.families = ["phase_space"]  # nothing says what it is for: perhaps that
        try:
            _probe(b)
        except Fault:
            b.families = ["isotropic"]
            raise _fixed(b, error, 4, 6) from None
    claims = b.claims(b.problem(), times_of(b, 6))
    said = [f"order {claims['order']}"] * (claims["order"] is not None)
    said += [f"{claims['nfe']} evaluations"] * (claims["nfe"] is not None)
    return f"it ran 6 steps; {'claimed for them: ' + ', '.join(said) if said else 'it claims nothing'}"


def _probe(b: Bench) -> None:
    """A short run in which everything is watched; later checks read what it left."""
    problem = b.problem()
    b.run(problem, b.starts(problem, 4), times_of(b, 6), keep=True, watch=True)


def _fixed(b: Bench, error: Fault, batch: int, n: int) -> Fault:
    """The fault of a run, with what other runs tell: whether another batch or another number of steps works."""
    problem = b.problem()

    def works(batch: int, n: int) -> bool:
        try:
            b.run(problem, b.starts(problem, batch), times_of(b, n))
        except Fault:
            return False
        return True

    if batch != 4 and works(4, n):
        return Fault(f"{error}; a batch of 4 runs and one of {batch} does not: take the batch from u.shape")
    good = [m for m in (1, 2, 3, 4, 5, 8, 10, 12, 16, 20, 32, 50, 64, 100) if works(4, m)]
    if not good or good == [1]:
        return error
    runs = ", ".join(map(str, good[:5]))
    return Fault(f"{error}; {runs} steps run and {n} do not: take the number of steps from times, whatever it is")


def states(b: Bench) -> str:
    """A state a step, of the start's shape, dtype and device."""
    problem = b.problem()
    for batch, n in ((4, 6), (1, 1), (3, 5), (MANY, 2)):
        try:
            end = b.run(problem, b.starts(problem, batch), times_of(b, n), keep=True, watch=n == 6)
        except (Raised, Bad) as error:
            raise _fixed(b, error, batch, n) from None
        if not torch.isfinite(end).all():
            raise Fault(f"its last state after {plural(n, 'step')} contains NaN or infinity")
    return "6, 1, 5 and 2 states for as many steps, of the start's shape and dtype"


def own(b: Bench) -> str:
    """The evaluations are made by the student's code, not by a solver of the library; its start may be one."""
    problem = b.problem()
    for n in (6, 40):
        b.run(problem, b.starts(problem, 4), times_of(b, n), watch=True)
        asked = {name: count for name, count in b.solver.last["library"].items() if name}
        total, lent = b.solver.last["asked"], sum(asked.values())
        if not total:
            raise Fault("it makes no evaluation at all: a solver asks problem.eps, x0, score or velocity at every step")
        part = f"all its {total}" if lent == total else f"{lent} of its {total}"
        if lent == total or (n == 40 and lent > total / 2):
            raise Fault(
                f"{part} evaluations in {n} steps are made inside the library's {' and '.join(asked)}: "
                "write the steps yourself"
            )
    return f"{total} evaluations in 40 steps" + (f", {lent} inside the library" if lent else ", all by its own code")


def unchanged(b: Bench) -> str:
    """Neither the start state nor a yielded state is written to."""
    problem = b.problem()
    u = b.starts(problem, 4)
    b.run(problem, u, times_of(b, 6), keep=True)
    yielded, now, start = b.solver.states
    if not torch.equal(start, u):
        raise Fault("it writes into its start state; make a new tensor instead (u = u + ..., not u += ...)")
    changed = [i for i, (a, c) in enumerate(zip(yielded, now, strict=True), 1) if not torch.equal(a, c)]
    if changed:
        raise Fault(
            f"state {changed[0]} changes after it was yielded: write each state into a new tensor (no u += ...)"
        )
    return "the start and all 6 yielded states are as they were"


def repeatable(b: Bench) -> str:
    """The same run gives the same states: no hidden randomness, and nothing is left over from another run."""
    problem, other = b.problem(), b.problem(b.processes[-1])
    u, v = b.starts(problem), b.starts(other, 5, seed=1)
    first, second = times_of(b, 7), times_of(b, 11, b.processes[-1], "quadratic")
    a = b.run(problem, u, first, seed=1)
    drawn = [what for what in b.solver.touched if "random" in what]
    if drawn:
        fix = "draw with the argument noise alone" if b.solver.draws else "a deterministic solver draws nothing"
        raise Fault(f"a run uses {drawn[0]} (their state has changed): {fix}, and seeds nothing")
    if (gap := apart(b.run(problem, u, first, seed=2), a)) > ROUNDING:
        raise Fault(
            f"two runs from one start differ by {gap:.1g}, and no global random number is drawn: state is left over "
            "from the first run (a global, a default argument, a cache), or it reads a clock or a generator of its own"
        )
    source = Seeded(0)
    turned = b.run(problem, u.flip(0), first, seed=1, noise=lambda x: source(x).flip(0))
    if (gap := apart(turned.flip(0), a)) > ROUNDING:
        if b.solver.draws and apart(b.run(problem, u, first, seed=1, noise=Seeded(1)), a) <= ROUNDING:
            raise Fault(
                f"the same rows in reverse order end differently by {gap:.1g}, and with other noise as before: "
                "it draws from a generator of its own; draw with the argument noise alone"
            )
        raise Fault(
            f"the same rows in reverse order end differently by {gap:.1g}: something is kept from an earlier run from "
            "another start (a cache), or a row's place in the batch matters, as with random numbers of its own; use "
            "locals, and each row alone"
        )
    after = b.run(other, v, second)
    if (gap := apart(b.run(problem, u, first, seed=1), a)) > ROUNDING:
        raise Fault(
            f"a run repeated after another one differs by {gap:.1g}: state is left over between runs; use locals"
        )
    close = (problem, u + TINY, torch.cat([first[:1], first[1:-1] * (1 - TINY), first[-1:]]))
    near = b.run(*close)
    b.solver.place.ask({"do": "load"})
    b.solver.place.ask({"do": "choose", "name": b.solver.__name__})
    if (gap := apart(after, b.run(other, v, second))) > ROUNDING:
        raise Fault(
            f"a run after one on another grid differs by {gap:.1g} from the same run in a fresh module: state is left "
            "over between runs (a global, a default argument, a cache); keep everything in local variables"
        )
    if (gap := apart(near, b.run(*close))) > ROUNDING:
        raise Fault(
            f"a run after one from nearly the same start differs by {gap:.1g} from the same run in a fresh module: "
            "values of that run were taken for its own (a cache with rounded keys); keep everything in local variables"
        )
    return "the same states again, with other global seeds, after other runs, and in a fresh module"


def rows(b: Bench) -> str:
    """Each row is computed as if it were alone, whatever the batch; and events may have any shape."""
    problem, process = b.problem(), b.problem().process
    u, times = b.starts(problem, MANY), times_of(b, 8)
    whole = b.run(problem, u, times)
    allowed = ROUNDING
    if b.counted:  # one step size for a batch couples its rows, by no more than the errors that it allows
        allowed = 3 * apart(whole, b.problems.truth(problem, u, times)) + ROUNDING
    for some, which in (
        (slice(1), "first row ends"), (slice(2), "first two rows end"), (slice(-3, None), "last three rows end"),
    ):  # fmt: skip
        source = Seeded(0)  # their own part of what the whole batch got
        part = b.run(problem, u[some], times, noise=lambda x, source=source, some=some: source(u)[some])
        if (gap := apart(part, whole[some])) > allowed:
            raise Fault(
                f"the {which} elsewhere by {gap:.1g} when run alone than among {MANY}: rows must not mix (mean, norm), "
                "and a batch may have any size"
            )
    loud = torch.cat([u[:1], 10 * u[1:]])
    if (gap := apart(b.run(problem, loud, times)[:1], whole[:1])) > allowed:
        raise Fault(
            f"row 1 changes by {gap:.1g} when other rows of the batch are larger: rows must not mix (mean, norm)"
        )
    if b.solver.draws:
        ends, still = (b.run(problem, u[[0, 0]], times, noise=noise) for noise in (Seeded(0), torch.zeros_like))
        if apart(ends, still) > ROUNDING > apart(ends[1], ends[0]):
            raise Fault("two rows that start alike end alike, so rows share their noise: draw noise(u) for all of u")
    if process.family == "blurring":
        return "rows are independent of the batch"
    image, flat = b.problem("", "image"), b.problem("", "flat")
    u = b.starts(image, 2)
    noise = [Seeded(3).normal((2, *u.shape[1:])) for _ in range(40)]
    try:
        end = b.run(image, u, times, noise=_list(noise))
    except Fault as error:
        raise Fault(f"with events of shape {IMAGE} it fails: {error}") from None
    vector = u.flatten(-len(IMAGE))
    other = b.run(flat, vector, times, noise=_list([z.reshape(vector.shape) for z in noise]))
    if (gap := apart(end.reshape(other.shape), other)) > allowed:
        raise Fault(f"an image {IMAGE} and the same numbers as a vector give results that differ by {gap:.1g}")
    return f"rows are independent of the batch, and events may be (4,), {IMAGE} or vectors"


def _list(draws: list[Tensor]) -> Any:
    rest = list(draws)
    return lambda u: rest.pop(0)


def precision(b: Bench) -> str:
    """Float64 all the way, and float32 where the state is that."""
    problem = b.problem()
    u, process = b.starts(problem), problem.process
    times, found = times_of(b, 12), "float64 throughout"
    if not b.counted and not b.stochastic:
        for grid in (times, times_of(b, 9, grid="quadratic")):
            ends = [b.run(problem, u + shift, grid) for shift in (TINY, 0.0, -TINY)]
            if (bend := bent(ends)) > 1e-9:
                raise Fault(
                    f"moving the start by a millionth either way bends the end by {bend:.1g}, and float64 by 1e-12: "
                    "a state or a noise prediction is rounded on the way, as by float32 (1e-7) or half precision (1e-3)"
                )
        ends = [
            b.run(problem, u, torch.cat([times[:1], times[1:-1] * (1 + x), times[-1:]])) for x in (TINY, 0.0, -TINY)
        ]
        if torch.equal(ends[0], ends[2]):
            raise Fault(
                "moving the times by a millionth either way changes no digit of the end: times are rounded on the way; "
                "keep them as they are"
            )
        if (bend := bent(ends)) > 1e-9:
            raise Fault(
                f"moving the times by a millionth either way bends the end by {bend:.1g}, where float64 leaves 1e-12: "
                "times or coefficients pass through float32; keep them as Python floats or float64"
            )
    double = b.run(problem, u, times)
    if process.family == "isotropic":
        nodes = torch.tensor([process.rho(t) for t in times.tolist()], dtype=torch.float64)
        asked = torch.tensor([s for s in b.solver.last["levels"] if s], dtype=torch.float64)
        gaps = ((asked[:, None] - nodes).abs() / nodes).amin(1) if len(asked) else asked
        rounded = gaps[(gaps > 1e-12) & (gaps < 1e-6)]
        if len(rounded):
            raise Fault(
                f"{len(rounded)} evaluations are at noise levels that miss those of the grid by {rounded.max():.1g} of "
                "themselves, the rounding of float32: keep times as Python floats or float64"
            )
    single = b.run(problem, u.float(), times)
    if (gap := apart(single, double)) > 1e-3:
        raise Fault(f"a float32 run differs by {gap:.1g} from the float64 run, rounding explains 1e-5")
    return f"{found}; float32 differs by {apart(single, double):.0e}"


def bent(ends: list[Tensor]) -> float:
    """Second difference of three ends, in units of the largest change that the shift :data:`TINY` should make."""
    straight = (ends[0] - ends[2]).abs().max().item() / 2
    return (ends[0] - 2 * ends[1] + ends[2]).abs().max().item() / max(largest(ends[1]), straight / TINY)


def evaluations(b: Bench) -> str:
    """The evaluations, counted at the denoiser, are as many as claimed."""
    problem, counts = b.problem(), {}
    u = b.starts(problem, 2)
    for n in (*COUNTS, *(() if b.counted else LADDER)):  # those on which the order is measured, too
        times = times_of(b, n)
        b.run(problem, u, times)
        counts[n] = b.solver.last["asked"]
        passed = b.solver.last["nfe"]
        claimed = b.claims(problem, times)["nfe"]
        if claimed is not None and counts[n] != claimed:
            past = (
                f" ({counts[n] - passed} of them past `problem`, which counted {passed})" if passed != counts[n] else ""
            )
            raise Fault(
                f"{plural(n, 'step')} cost{'s' * (n == 1)} {plural(counts[n], 'evaluation')}{past}, "
                f"and {claimed} are claimed: change one of the two"
            )
        if passed != counts[n]:
            library_as_it_was(b)
            asked = f"{plural(counts[n], 'evaluation')} in {plural(n, 'step')}"
            raise Fault(f"{asked}, of which problem.nfe counted {passed}: go through `problem`")
    told = ", ".join(f"{count} for {n}" for n, count in list(counts.items())[:5])
    if claimed is None:
        raise Unclaimed(f"counted, not claimed: {told} steps")
    return f"as claimed: {told} steps, and so on"


def steps(b: Bench) -> str:
    """Every number of steps from 1 works, odd ones too, and is about as good as DDIM at least."""
    problem, worst = b.problem(), (0.0, 1)
    u = b.starts(problem)
    for n in COUNTS:
        times = times_of(b, n)
        end = b.run(problem, u, times)
        if not torch.isfinite(end).all():
            raise Fault(f"with {plural(n, 'step')} the last state contains NaN or infinity")
        if not b.solver.last["asked"] or apart(end, u) < ROUNDING:
            did = "makes no evaluation" if not b.solver.last["asked"] else "ends where it starts"
            raise Fault(f"with {plural(n, 'step')} it {did}: each number of steps from 1 has to lead to the end")
        if not b.stochastic and problem.process.family == "isotropic":
            worst = max(worst, (b.error(problem, times) / b.error(problem, times, "ddim"), n))
    if worst[0] > 6:
        raise Fault(
            f"with {plural(worst[1], 'step')} its error is {worst[0]:.1f} times that of DDIM with as many, though it "
            "tends to 0 with many: look at what it does before its history is full"
        )
    return f"{', '.join(map(str, COUNTS))} steps all end in finite states" + (
        f", with at most {worst[0]:.1f} times DDIM's error" if worst[0] else ""
    )


def library_as_it_was(b: Bench) -> None:
    """Nothing in the library was replaced.

    Raises:
        Fault: something was.
    """
    changed = b.solver.place.ask({"do": "changed"})[0]["changed"]
    if changed:
        raise Fault(f"it replaces {changed[0]} of the library: leave the library as it is, it is not what judges")


def clean(b: Bench) -> str:
    """It leaves no file and changes nothing in the library, and the sandbox had to refuse nothing."""
    if b.solver.refused:
        raise Fault(f"the sandbox refused {b.solver.refused[0]}: a solver only computes")
    library_as_it_was(b)
    if b.solver.touched:
        raise Fault(f"a run changes {b.solver.touched[0]}: a solver leaves everything around it as it was")
    left = [name for name in b.solver.place.leftovers() if name not in b.before]
    if left:
        raise Fault(f"it leaves {len(left)} file{'s' * (len(left) > 1)} behind ({left[0]}): a solver writes nothing")
    return "no files, no processes, and the library as it was"
