"""Checks of what a solver computes: limits, orders, exactness. Each returns a sentence, or raises one as a Fault."""

from itertools import pairwise
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from diffnum import grids
from diffnum.classroom.bench import Bench, Fault, Raised, Unclaimed, apart, plural
from diffnum.classroom.orders import by_law, locate, measured, subject, told
from diffnum.classroom.problems import GRIDS, OTHERS
from diffnum.measure.analysis import exact_law, law, local_slopes, reference, rms
from diffnum.noise import Seeded
from diffnum.problem import Problem

LOUD = 10.0  # how much larger a state may be than those that the prior gives
FALLS = 0.75  # four times as many steps must bring the error below this part; order 1 brings a quarter


def error_of(b: Bench, problem: Problem, times: Tensor, **options: Any) -> float:
    """Error of a run: of the end, or of mean and covariance for a stochastic solver."""
    if not by_law(b, problem):
        return b.error(problem, times, **options)
    mean, cov = law(problem, b.solver, times)
    m, C = exact_law(problem, times[-1].item())
    return max((mean - m).abs().max().item(), (cov - C).abs().max().item())


def falls(b: Bench, problem: Problem, grid: str, where: str, scale: float = 1.0, **ends: float) -> None:
    """The error at 96 steps is clearly smaller than at 24, or that at 384 than both; ``scale`` is of the start states.

    Raises:
        Fault: it is not.
    """
    few, many, most = (b.problems.ladder(problem.process, grid, **ends)(n) for n in (24, 96, 384))
    more = {"scale": scale} if scale != 1 else {}
    coarse, fine = (error_of(b, problem, times, **more) for times in (few, many))
    if fine <= FALLS * coarse or fine < 1e-9:
        return
    if problem.process.family == "isotropic" and not b.stochastic:
        part = 1.0 if b.counted else 0.05  # high orders stop falling at the kinks of a table of betas, far below DDIM
        if fine <= part * b.error(problem, many, "ddim", scale):
            return
    finest = error_of(b, problem, most, **more)  # errors of two kinds may cancel for few steps
    if finest <= FALLS * min(coarse, fine):
        return
    raise Fault(
        f"{where} its error is {coarse:.2g} with 24 steps, {fine:.2g} with 96 and {finest:.2g} with 384: it does not "
        "tend to 0 there"
    )


def end(b: Bench) -> str:
    """The states that it yields are those at the times of the grid, the last one at the last time."""
    problem = subject(b)
    _follows(b, problem)
    if b.stochastic:
        return _end_of_law(b, problem, b.problems.ladder(problem.process)(160))
    # Uneven steps: an error in time, which a method of order 1 may have, is no whole number of them everywhere.
    times, u = b.problems.ladder(problem.process, "uneven")(160), b.starts(problem)
    b.run(problem, u, times, keep=True)
    states, exact = b.solver.states[0], reference(problem, u, times, 1e-9, trajectory=True)
    strays = []
    for i in (1, 41, 80, 120, 160):
        gaps = (exact - states[i - 1]).flatten(1).square().mean(1).sqrt()
        at = int(gaps.argmin())
        if at != i and 10 * gaps[at] < gaps[i]:
            near = "the start" if at == 0 else f"times[{at}]={times[at]:.4g}"
            strays.append(f"state {i} of 160 is the solution at {near}, not at times[{i}]={times[i]:.4g}")
    if len(strays) > 2 or any("the start" in stray for stray in strays):
        raise Fault(f"{strays[0]}: step from each time of the grid to the next, and yield what you reach")
    return "each state is the solution at its own time, the last one at times[-1]"


def _follows(b: Bench, problem: Problem) -> None:
    """The last state answers to every time of the grid.

    Raises:
        Fault: it is the same whether a time is moved or not.
    """
    times, u = b.problems.ladder(problem.process)(8), b.starts(problem)
    end = b.run(problem, u, times)
    for i in (8, 0, *(() if b.counted else (1, 4, 7))):
        moved, other = times.clone(), times[i + 1 if i < 8 else i - 1]
        moved[i] += 0.3 * (other - times[i])
        if apart(b.run(problem, u, moved), end) < 1e-12:
            part = {0: "start at", 8: "end at"}.get(i, "stop at")
            raise Fault(
                f"its last state stays as it is when times[{i}] is moved from {times[i]:.4g} to {moved[i]:.4g}, so it "
                f"does not {part} times[{i}]: step from each time of the grid to the next, and not along other times"
            )


def _end_of_law(b: Bench, problem: Problem, times: Tensor) -> str:
    """A stochastic solver's law is nearest to that at the last time, on a grid whose last step is as long as 24 others.

    To leave out a step of the others changes no more than the errors of a method of order 1 do.
    """
    times = torch.cat([times[:-24], times[-1:]])
    moments = law(problem, b.solver, times)
    places = {
        "the last time": times[-1].item(), "the last time but one": times[-2].item(), "the start": times[0].item(),
    }  # fmt: skip
    away = {
        place: max((a - c).abs().max().item() for a, c in zip(moments, exact_law(problem, t), strict=True))
        for place, t in places.items()
    }
    near = min(away, key=lambda place: away[place])
    if 3 * away[near] < away["the last time"]:
        raise Fault(
            f"the law of its last state is that at {near} (to {away[near]:.2g}), and not that at times[-1] "
            f"(to {away['the last time']:.2g}): step to the last time, and no further"
        )
    return "the law of its last state is nearest to that at the last time"


def limit(b: Bench) -> str:
    """The error against the exact solution tends to 0, from within the range and from the prior."""
    problem = subject(b)
    if b.counted:
        return _tolerance(b, problem)
    if b.stochastic:
        _as_drawn(b, problem)
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
        if not b.stochastic:
            far = f"from starts {LOUD:g} times as large, where a bound on values shows,"
            falls(b, problem, "log_snr", far, LOUD, **b.problems.ends(problem.process))
    return f"error {first:.1e} with {result.steps[0]} steps, {last:.1e} with {result.steps[-1]}; falls from the prior"


def _as_drawn(b: Bench, problem: Problem) -> None:
    """On Gaussian data the end is an affine function of the draws; its law is read off as that of one.

    Raises:
        Fault: it is not.
    """
    u, times, ends = b.starts(problem, 2), b.problems.ladder(problem.process)(8), []
    for scale in (0.0, 1.0, -LOUD):
        source = Seeded(1)
        ends.append(b.run(problem, u, times, noise=lambda x, scale=scale, source=source: scale * source(x)))
    still, end, far = ends
    if (gap := apart(far - still, -LOUD * (end - still))) > 1e-9:
        raise Fault(
            f"draws z and -{LOUD:g} z must move the end in proportion and miss that by {gap:.1g}: a draw is not used "
            "as it is (its size, its sign, a bound), so its mean is not 0 or its law not normal"
        )


def astray(b: Bench) -> str:
    """Why the limit is wrong, from runs on which it may be right: from the prior, on smaller data, and step by step."""
    problem = subject(b)
    process = problem.process
    if b.stochastic:
        result = measured(b, b.home, "log_snr")
        first, last = result.by_start[0].tolist(), result.by_start[-1].tolist()
        off = [part for part, x, y in zip(("mean", "covariance"), first, last, strict=True) if y > max(0.5 * x, 1e-10)]
        parts = {"mean": "drift", "covariance": "noise"}
        look = " and the ".join(parts[part] for part in off) or "noise"
        return f"the {' and the '.join(off) or 'law'} of its states misses, so look at the {look} of a step"
    where = locate(b, b.home, 1)
    if process.family == "isotropic" and "in the middle is right" not in where:
        prior, range_ = {"t_start": process.t_max, "t_end": process.t_end}, b.problems.ends(process)
        ways: list[tuple[Problem, dict[str, float], float, str]] = [
            (problem, prior, 1.0,
             "from the prior it is right, so it begins at the end of the process where it should begin at times[0]"),
            (b.problem(b.home, "small"), range_, 0.2,
             "on states and data a fifth as large it is right, so it clips or bounds values that may be of any size"),
        ]  # fmt: skip
        for other, ends, scale, told_so in ways:
            u, errors = scale * b.starts(other), []
            for n in (160, 640):
                times = b.problems.ladder(process, "log_snr", **ends)(n)
                errors.append(rms(b.run(other, u, times) - b.problems.truth(other, u, times, 1e-10)))
            if errors[1] < 0.4 * errors[0] or errors[1] < 1e-9:  # order 1 brings a quarter
                return told_so
    return where


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
                f"it claims that {plural(n, 'step')} may end at t = 0 (reaches_zero, by default), and {raised}; "
                "say reaches_zero=lambda n: False, or take DDIM's step, which needs no noise at the end"
            ) from None
        if not isfinite(error):
            raise Fault(f"with {plural(n, 'step')} to t = 0 the last state is not finite: the noise is undefined there")
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
