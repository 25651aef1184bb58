"""Checks of what a solver computes: limits, orders, exactness. Each returns a sentence, or raises one as a Fault."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffnum import grids
from diffnum.classroom.bench import Bench, Fault, Raised, Unclaimed
from diffnum.classroom.problems import GRIDS, OTHERS
from diffnum.measure.analysis import (
    Convergence,
    convergence,
    exact_law,
    law,
    local_slopes,
    reference,
    rms,
    weak_convergence,
)
from diffnum.problem import Problem
from diffnum.solvers import registry

LADDER = (80, 160, 320)  # the tail that is judged; it goes on to FINEST where slopes have not settled
FINEST = 1280
FALLS = 0.75  # four times as many steps must bring the error below this part; order 1 brings a quarter
ROUGH = {"s_pndm": 1, "f_pndm": 1, "plms": 1, "fon": 1}  # orders of equal-step weights on steps that alternate


def error_of(b: Bench, problem: Problem, times: Tensor, **options: Any) -> float:
    """Error of a run: of the end, or of mean and covariance for a stochastic solver."""
    if not by_law(b, problem):
        return b.error(problem, times, **options)
    mean, cov = law(problem, b.solver, times)
    m, C = exact_law(problem, times[-1].item())
    return max((mean - m).abs().max().item(), (cov - C).abs().max().item())


def subject(b: Bench, process: str = "") -> Problem:
    """The problem on which errors are told: the mixture, or Gaussian data for a stochastic solver or for blurring."""
    name = process or b.home
    return b.problem(name, "gaussian" if b.stochastic or name == "blurring" else "mixture")


def by_law(b: Bench, problem: Problem) -> bool:
    """Whether mean and covariance are judged: of a stochastic solver, and on blurring, where they tell everything."""
    return b.stochastic or problem.process.family == "blurring"


def falls(b: Bench, problem: Problem, grid: str, where: str, **ends: float) -> None:
    """The error at 96 steps is clearly smaller than at 24.

    Raises:
        Fault: it is not.
    """
    few, many = (b.problems.ladder(problem.process, grid, **ends)(n) for n in (24, 96))
    coarse, fine = (error_of(b, problem, times) for times in (few, many))
    if fine <= FALLS * coarse or fine < 1e-9:
        return
    if problem.process.family == "isotropic" and not b.stochastic:
        part = 1.0 if b.counted else 0.05  # high orders stop falling at the kinks of a table of betas, far below DDIM
        if fine <= part * b.error(problem, many, "ddim"):
            return
    raise Fault(f"{where} its error is {coarse:.2g} with 24 steps and {fine:.2g} with 96: it does not tend to 0 there")


def end(b: Bench) -> str:
    """The states that it yields are those at the times of the grid, the last one at the last time."""
    problem = subject(b)
    times = b.problems.ladder(problem.process)(160)
    if b.stochastic:
        mean, _ = law(problem, b.solver, times)
        ends = (times[-1].item(), times[-2].item(), times[-3].item(), problem.process.t_end)
        away = [(mean - exact_law(problem, t)[0]).abs().max().item() for t in ends]
        if min(away) * 4 < away[0]:
            raise Fault("the law of its last state is not that at times[-1]: step to the last time, and no further")
        return "the law of its last state is nearest to that at the last time"
    u = b.starts(problem)
    b.run(problem, u, times, keep=True)
    states, exact = b.solver.states[0], reference(problem, u, times, 1e-9, trajectory=True)
    for i in (160, 120, 80, 40, 1):
        gaps = (exact - states[i - 1]).flatten(1).square().mean(1).sqrt()
        at = int(gaps.argmin())
        if at != i and 4 * gaps[at] < gaps[i]:
            said = "the last state" if i == 160 else f"state {i}"
            near = "the start" if at == 0 else f"times[{at}]={times[at]:.4g}"
            raise Fault(
                f"{said} of 160 is the solution at {near}, not at times[{i}]={times[i]:.4g}: "
                "step from each time of the grid to the next, and yield what you reach"
            )
    return "each state is the solution at its own time, the last one at times[-1]"


def limit(b: Bench) -> str:
    """The error against the exact solution tends to 0, from within the range and from the prior."""
    problem = subject(b)
    if b.counted:
        return _tolerance(b, problem)
    result = measured(b, b.home, "log_snr")
    first, last = result.errors[0], result.errors[-1]
    if not isfinite(last) or last > max(0.5 * first, 1e-10):
        gaps = [rms(a - c) for a, c in pairwise(b.solver.ends[-len(result.steps) :])]
        slope = local_slopes(result.steps[1:], gaps)[-1] if min(gaps) > 0 and not b.stochastic else float("nan")
        settled = f", while its own results settle with order {slope:.1f}" if slope > 0.5 else ""
        raise Fault(
            f"its error is {first:.2g} with {result.steps[0]} steps and {last:.2g} with {result.steps[-1]}{settled}, "
            f"so it converges to something else: {astray(b)}"
        )
    if problem.process.family == "isotropic":
        falls(b, problem, "log_snr", "from the prior", t_start=problem.process.t_max, t_end=problem.process.t_end)
    return f"error {first:.1e} with {result.steps[0]} steps, {last:.1e} with {result.steps[-1]}; falls from the prior"


def astray(b: Bench) -> str:
    """Why the limit is wrong, from runs on which it may be right: from the prior, on smaller data, and step by step."""
    problem = subject(b)
    process = problem.process
    if b.stochastic:
        return "compare the factors and the noise of a step with those of the reverse SDE"
    if process.family == "isotropic":
        ways: list[tuple[Problem, dict[str, float], str]] = [
            (problem, {"t_start": process.t_max, "t_end": process.t_end},
             "from the prior it is right, so it begins at the end of the process where it should begin at times[0]"),
            (b.problem(b.home, "small"), b.problems.ends(process),
             "on data a fifth as large it is right, so it clips or bounds values that may be of any size"),
        ]  # fmt: skip
        for other, ends, told_so in ways:
            try:
                falls(b, other, "log_snr", "", **ends)
                return told_so
            except Fault:
                pass
    return locate(b, b.home, 1)


def _tolerance(b: Bench, problem: Problem) -> str:
    """An adaptive method: its error follows its tolerance, or else is no larger than DDIM's at equal evaluations."""
    times, name = b.problems.ladder(problem.process)(6), b.info["tolerance"]
    error = error_of(b, problem, times)
    asked = b.solver.last["asked"]
    if name is None:
        other = b.error(problem, b.problems.ladder(problem.process)(asked), "ddim")
        if error > other:
            raise Fault(f"its error is {error:.2g} for {asked} evaluations, where DDIM's is {other:.2g}")
        return f"error {error:.1e} for {asked} evaluations, DDIM's is {other:.1e}"
    loose, tight = (error_of(b, problem, times, **{name: value}) for value in (1e-3, 1e-6))
    if tight > 0.1 * loose and tight > 1e-9:
        raise Fault(
            f"with {name}=1e-3 its error is {loose:.2g} and with {name}=1e-6 {tight:.2g}: it does not follow {name}"
        )
    return f"error {loose:.1e} with {name}=1e-3, {tight:.1e} with {name}=1e-6"


def zero(b: Bench) -> str:
    """A grid may end at t = 0 where that is claimed, which it is unless ``reaches_zero`` says otherwise."""
    problem = subject(b)
    process = problem.process
    if not process.singular(0.0):
        raise Unclaimed("this process has noise at t = 0")
    start, tried = b.problems.ends(process)["t_start"], []
    for n in (1, 2, 5, 10, 40):
        times = b.problems.ladder(process, "quadratic", t_start=start, t_end=0.0)(n)
        claimed = b.claims(problem, times)["zero"]
        if claimed is False:
            continue
        try:
            error = error_of(b, problem, times)
        except Raised as raised:
            if claimed is None:
                continue  # nothing is claimed, and a refusal is clear
            raise Fault(
                f"it claims that {n} step{'s' * (n > 1)} may end at t = 0 (reaches_zero, by default), and {raised}; "
                "say reaches_zero=lambda n: False, or take DDIM's step, which needs no noise at the end"
            ) from None
        if not isfinite(error):
            raise Fault(
                f"with {n} steps to t = 0 the last state contains NaN or infinity: the noise is undefined there"
            )
        tried.append(n)
        if not b.stochastic and process.family == "isotropic" and n >= 10:
            ratio = error / b.error(problem, times, "ddim")
            if ratio > (3 if n < 40 else 1.5):
                raise Fault(f"with {n} steps to t = 0 its error is {ratio:.1f} times DDIM's: look at the last step")
    if not tried:
        raise Unclaimed(
            "not claimed: it says that its grids end above 0" if claimed is False else "not claimed: it refuses"
        )
    return f"{', '.join(map(str, tried))} steps end well at t = 0"


def every_grid(b: Bench) -> str:
    """The error falls on grids of every kind, and from the prior all of them end in finite states."""
    problem = subject(b)
    process = problem.process
    kinds = [
        kind
        for kind in (*GRIDS, *OTHERS)
        if process.family == "isotropic" or kind not in ("sigma", "karras", "from_table")
    ]
    for kind in kinds:
        ends = b.problems.ends(process)
        falls(b, problem, kind, f"on the {kind} grid", **ends)
        if kind != "irregular":
            finite(b, problem, getattr(grids, kind)(process, 13), f"on the {kind} grid from the prior")
    return f"the error falls on {', '.join(kinds)} grids"


def finite(b: Bench, problem: Problem, times: Tensor, where: str) -> None:
    """A run ends in finite states.

    Raises:
        Fault: it does not.
    """
    if not torch.isfinite(b.run(problem, b.starts(problem), times)).all():
        raise Fault(f"{where} the last state contains NaN or infinity")


def processes(b: Bench) -> str:
    """It works on every process that it is for."""
    for name in b.processes[1:]:
        problem = subject(b, name)
        try:
            grid = "log_snr" if problem.process.family == "isotropic" else "quadratic"
            falls(b, problem, grid, f"on {told(name)}", **b.problems.ends(problem.process))
            if problem.process.family == "isotropic":
                finite(b, problem, grids.quadratic(problem.process, 7), f"on {told(name)} from the prior")
        except Raised as error:
            raise Fault(f"on {told(name)} it fails: {error}") from None
    return f"the error falls on {', '.join(told(name) for name in b.processes)}"


def told(name: str) -> str:
    """What a message calls a process."""
    names = {"cosine": "the cosine VP", "table": "VP with a table of betas", "blurring": "blurring"}
    return names.get(name, name.upper())


def point(b: Bench) -> str:
    """A point mass is transported exactly, where that is claimed."""
    claims: Any = b.model if b.model is not None else None
    if "point mass" not in (claims.exact_for if claims else b.info["exact_for"]):
        raise Unclaimed("not claimed")
    worst = 0.0
    for name in b.processes:
        problem = b.problem(name)
        if problem.process.family != "isotropic":
            continue
        if b.stochastic:
            still = b.problem(name, "still")
            times = b.problems.ladder(problem.process)(6)
            gap = error_of(b, still, times)
            if gap > 1e-9:
                raise Fault(f"mean or covariance of a point mass on {told(name)} is missed by {gap:.1g}")
            continue
        point = b.problem(name, "point")
        times = b.problems.ladder(problem.process)(6)
        x, first, last = point.denoiser.means[0], times[0].item(), times[-1].item()
        noise = b.starts(point, 3)
        levels = [(problem.process.alpha(t), problem.process.sigma(t)) for t in (first, last)]
        u, exact = (alpha * x + sigma * noise for alpha, sigma in levels)
        gap = (b.run(point, u, times) - exact).abs().max().item()
        worst = max(worst, gap)
        if gap > 1e-11:
            cause = "about the rounding of float32: some coefficient is not float64" if gap < 3e-6 else (
                "the noise prediction is constant there, so weights must sum to one and the move must be exact"
            )  # fmt: skip
            raise Fault(f"a point mass on {told(name)} is missed by {gap:.1g}: {cause}")
    return f"a point mass is met to {max(worst, 1e-16):.0e}"


# ------------------------------------------------------------------------------------------------------------ orders


def measured(b: Bench, process: str, grid: str, steps: Sequence[int] = LADDER) -> Convergence:
    """Errors on a ladder of step counts, remembered for the report; finer where the slopes have not settled."""
    problem = subject(b, process)
    key = f"{grid} grid ({told(process)})"
    known = [result for title, result in b.results if title == key]
    if known and steps == LADDER:
        return known[0]
    rung = b.problems.ladder(problem.process, grid)
    claim = b.claims(problem, rung(steps[-1]))["order"]
    result = _measure(b, problem, rung, steps)
    while claim and not holds(result, claim) and not settled(result) and result.steps[-1] < FINEST:
        finer = _measure(b, problem, rung, (2 * result.steps[-1],))
        result = replace(
            result, steps=(*result.steps, *finer.steps), nfe=(*result.nfe, *finer.nfe),
            errors=(*result.errors, *finer.errors), by_start=torch.cat([result.by_start, finer.by_start]),
        )  # fmt: skip
    if len(result.tail) < 2 and steps == LADDER:  # rounding is reached too early: judge coarser steps
        return measured(b, process, grid, tuple(n // 4 for n in LADDER))
    result = replace(result, claim=claim)
    b.results.append((key, result))
    return result


def _measure(b: Bench, problem: Problem, rung: Any, steps: Sequence[int]) -> Convergence:
    solver: Any = b.solver
    if by_law(b, problem):
        return weak_convergence(problem, solver, rung, steps)
    u = b.starts(problem)
    return convergence(problem, solver, u, rung, steps, truth=b.problems.truth(problem, u, rung(steps[0])))


def holds(result: Convergence, p: int) -> bool:
    """Whether the last two slopes show order p at least, or one that comes up to it slowly."""
    low, tail = p - (0.15 if p <= 2 else 0.3), result.tail[-2:]
    if len(tail) == 2 and tail[-1] >= low and (tail[0] >= low or result.steps[-1] >= FINEST):
        return True
    return len(tail) == 2 and result.steps[-1] >= FINEST and p - 0.4 < tail[-1] > tail[0]


def settled(result: Convergence) -> bool:
    """Whether the last two slopes agree."""
    return len(result.tail) > 1 and abs(result.tail[-1] - result.tail[-2]) < 0.05


def cases(b: Bench) -> list[tuple[str, str]]:
    """Processes and grids on which the order is judged: smooth grids at home, and one on each other kind of process."""
    if b.home == "blurring":
        return [("blurring", "quadratic")]
    found = [(b.home, grid) for grid in (GRIDS if b.home == "vp" and not b.stochastic else ("log_snr", "uniform"))]
    found += [("ve", "log_snr")] * (b.home == "vp")
    found += [("psld", "uniform")] * ("phase_space" in b.families and b.home != "psld")
    return found + [("blurring", "quadratic")] * ("blurring" in b.families)


def order(b: Bench) -> str:
    """The observed order on every smooth grid is the claimed one."""
    if b.counted:
        raise Unclaimed("an adaptive method is judged by its tolerance")
    shown, low, claimed = [], [], None
    for process, grid in cases(b):
        result = measured(b, process, grid)
        claimed = result.claim
        shown.append(f"{result.order:.2f} ({told(process)}, {grid})")
        if claimed is not None and not holds(result, claimed):
            raise Fault(
                f"order {claimed} is claimed and {result.order:.2f} observed ({told(process)}, {grid} grid, "
                f"{result.steps[-2]} to {result.steps[-1]} steps): {locate(b, process, claimed)}"
            )
        low.append(claimed is not None and all(slope > claimed + 0.5 for slope in result.tail[-2:]))
    if claimed is None:
        return f"observed {', '.join(shown)}; nothing is claimed"
    if all(low) and not b.stochastic:
        raise Fault(f"order {claimed} is claimed and more observed: {', '.join(shown)}; claim what it has")
    weak = "weak " * b.stochastic
    return f"{weak}order {claimed} is claimed, observed {', '.join(shown)}"


def locate(b: Bench, process: str, p: int) -> str:
    """Where the error comes from: in the first steps, in every step, or in the last; from the states it yielded.

    The error of one step is the distance of a state from the exact solution through the state before. In a method of
    order p it falls like h^(p + 1), and like h^p is enough in a few steps.
    """
    if b.stochastic or process == "blurring":
        return "compare the step with its formula"
    problem = subject(b, process)
    u, wrong = b.starts(problem), {}
    for n in (80, 160):
        times = b.problems.ladder(problem.process)(n)
        b.run(problem, u, times, keep=True)
        states = torch.cat([u[None], b.solver.states[0]])
        for where, i in (("first", 0), ("second", 1), ("third", 2), ("middle", n // 2), ("last", n - 1)):
            exact = reference(problem, states[i], times[i : i + 2], rtol=1e-12)
            wrong[where, n] = rms(states[i + 1] - exact)
    slopes = {
        w: local_slopes((80, 160), (wrong[w, 80], wrong[w, 160]))[0]
        for w in ("first", "second", "third", "middle", "last")
    }
    if slopes["middle"] < p + 0.6:
        return (
            f"a step in the middle errs like h^{slopes['middle']:.1f}, where order {p} needs h^{p + 1}: "
            "look at the weights, the history and the times of the formula, or claim less"
        )
    for where in ("first", "second", "third", "last"):
        if slopes[where] < p - 0.4:
            part = "end" if where == "last" else "start"
            return (
                f"a step in the middle is right (h^{slopes['middle']:.1f}), the {where} step errs like "
                f"h^{slopes[where]:.1f}, where order {p} needs h^{p}: look at the {part}"
            )
    return "no single step explains it; compare the error with more steps"


def rough(b: Bench) -> str:
    """The claimed order holds on a grid whose steps alternate 1 : 3 however fine it is."""
    if b.counted or b.home == "blurring":
        raise Unclaimed("judged on smooth grids only")
    result = measured(b, b.home, "rough")
    smooth = measured(b, b.home, "log_snr")
    p, twin = result.claim, b.twin()
    if p is None:
        return f"observed {result.order:.2f}, on smooth grids {smooth.order:.2f}; nothing is claimed"
    same = f"; its states are those of the library's {twin}" if twin else ""
    if twin in ROUGH and p == smooth.claim and (b.model is None or b.model is registry[twin]):
        p = min(p, ROUGH[twin])  # a plain number claims what the method claims that it is
    if not holds(result, p):
        raise Fault(
            f"on steps that alternate 1:3 order {p} is claimed and {result.order:.2f} observed, on smooth grids "
            f"{smooth.order:.2f}: the weights must come from the actual times, not from equal steps (or claim smooth "
            "grids only: order=lambda grid='log_snr', process=None: 1 if grid == 'rough' else 2)"
        )
    return f"order {p} holds on steps that alternate 1:3, observed {result.order:.2f}{same}"


def error(b: Bench) -> str:
    """At equal evaluations the error is no larger than DDIM's, and about that of the assignment's solution."""
    problem = subject(b)
    process = problem.process
    if b.stochastic:
        raise Unclaimed("the law of a stochastic solver is judged by its order")
    rung, budget = b.problems.ladder(process), 40
    counts: dict[int, int] = {}
    for n in (40, 20, 13, 10, 8, 6, 5, 4, 3, 2, 1):
        found = b.error(problem, rung(n))
        counts[n] = b.solver.last["asked"]
        if counts[n] <= budget:
            break
    else:
        raise Unclaimed(f"one step costs {counts[1]} evaluations, more than the {budget} of this comparison")
    asked, claimed = counts[n], b.claims(problem, rung(n))["order"]
    rival = "ddim" if process.family == "isotropic" else "euler"
    other = b.error(problem, rung(asked), rival)
    told_ = f"{found:.1e} for {asked} evaluations, {rival}'s is {other:.1e}"
    if claimed is not None and claimed > 1 and found > other:
        raise Fault(f"its error is {told_}: a method of order {claimed} should do better; look at its first steps")
    if b.model is not None:
        best = b.error(problem, rung(n), b.model)
        told_ += f", the solution's {best:.1e} in as many steps"
        if found > 2 * best + 1e-12:
            raise Fault(f"its error is {told_}: twice that would pass")
    return f"error {told_}"
