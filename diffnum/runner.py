"""How a solver is declared, and how it is run.

A solver is a generator function ``solver(problem, u, times, **options)`` that yields the state after each step. The
decorator :func:`method` records its claims, which tests measure, and refuses bad input before the first evaluation;
:func:`solve` runs it and owns everything that is not the method: recording, progress, gradients.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.errors import DiffnumError, WrongKind
from diffnum.grids import check_times
from diffnum.noise import Noise, Replay, Seeded, seed_from, stream_of
from diffnum.problem import Problem, given_problem
from diffnum.stability import look

Solver = Callable[..., Iterator[Tensor]]

#: Every solver declared with ``method(..., register=True)``, by name.
registry: dict[str, Solver] = {}


class Checked(list[float]):
    """Times that :func:`solve` has checked already."""


EVERY = ("isotropic", "phase_space", "blurring")  # families of processes


def from_prior(process: Any, first: float | None) -> bool:
    """Whether a claim of order is about runs from the prior: the first time is the process's own, or none is named."""
    return first is None or process is None or first > 0.999 * process.t_max


def still_start(grid: str, process: Any, first: float | None) -> bool:
    """Whether noise predictions stand still in the first steps, so that a short history there costs no order.

    They do from the prior, but where rho rises like a tangent (``calm_start``), on grids uniform in log-SNR alone.
    """
    return from_prior(process, first) and (grid == "log_snr" or getattr(process, "calm_start", True))


def method(
    *,
    order: int | Callable[..., int] | None = None,
    weak_order: int | Callable[..., int] | None = None,
    strong_order: int | Callable[..., int] | None = None,
    nfe: Callable[..., int] | None,
    paper: str,
    kind: str = "ode",
    families: tuple[str, ...] = ("isotropic",),
    exact_for: str | None = "",
    reaches_zero: Callable[..., bool] = lambda n, **options: True,
    values: dict[str, tuple[Any, ...] | Callable[[str, Any], Any]] | None = None,
    clock: Callable[..., Callable[[float], float]] | None = None,
    register: bool = False,
) -> Callable[[Solver], Solver]:
    """Declare a solver's claims; tests read them from the solver and measure every one.

    The decorated function keeps its signature. Before it runs it checks the options, the process, the grid (which
    reaches the method as Python floats) and the state. It gains the attributes

    - ``order(grid="log_snr", process=None, **options)``: global order of convergence on a grid of that name, and
      ``weak_order``, ``strong_order`` of stochastic solvers, functions of the same arguments (None: nothing claimed;
      ``order`` is then the weak order),
    - ``nfe(n, **options)``: evaluations that n steps cost (None: an adaptive method, counted and not claimed),
    - ``kind`` ("ode" or "sde"), ``families`` of processes, ``exact_for``, ``paper``,
    - ``reaches_zero(n, **options)``: whether n steps may end at t = 0,
    - ``values``: what each option may be, where that is a short list.

    Args:
        order: a number, or a function of ``grid``, ``process`` and the options where the order depends on them (and
            of ``first``, the first time, where it depends on that). None for a stochastic solver.
        weak_order: order in which mean and covariance converge, for a stochastic solver.
        strong_order: order in which paths converge, driven by the same Brownian motion.
        nfe: number of evaluations as a function of the number of steps and of the options. None for an adaptive
            method, whose evaluations are counted and not claimed; it yields at the times of the grid alone.
        paper: author, year, arXiv id, and equation or algorithm.
        kind: "ode" or "sde".
        families: families of processes that the method integrates.
        exact_for: what it integrates without error, in words; None for nothing that is known. A registered solver says
            one of the two; words with "point mass" in them are tested.
        reaches_zero: as a function of the number of steps and of the options.
        values: what each option may be, checked before anything else: a tuple of values, or a function of the
            option's name and value that returns the value to use, or refuses it.
        clock: for a stochastic solver on VP and VE, ``clock(process, **options)`` is the variance, as a function of
            time, of the martingale whose increments drive it; it couples runs with different steps.
        register: enter it in the registry (for the library's own solvers).
    """

    def decorate(function: Solver) -> Solver:
        name = function.__name__
        if register and exact_for == "":
            raise TypeError(f"{name} does not say what it is exact for: exact_for='a point mass', or None for nothing")
        options = list(inspect.signature(function).parameters)[3:]
        allowed, draws = values or {}, "noise" in options
        # one evaluation a step and order 1: nothing is extrapolated. What is tried beforehand has to be ours.
        extrapolates = register and kind == "ode" and not (order == 1 and nfe is not None and nfe(7) == 7)

        @wraps(function)
        def checked(problem: Problem, u: Tensor, times: Any, **given: Any) -> Iterator[Tensor]:
            given_problem(problem)
            for option, value in given.items():
                if option not in options:
                    raise TypeError(f"{name} has no option {option!r}; {_options(options)}")
                if option in allowed:
                    given[option] = arguments.option(option, value, allowed[option])
            if draws:
                given["noise"] = _like_the_state(given.get("noise"), name)
            if problem.process.family not in families:
                raise DiffnumError(
                    f"{name} integrates {' and '.join(families)} processes; "
                    f"{type(problem.process).__name__} is {problem.process.family} (gddim integrates all of them)"
                )
            grid = times if type(times) is Checked else check_times(times, problem.process, kind == "ode").tolist()
            n = len(grid) - 1
            chosen = {option: value for option, value in given.items() if option != "noise"}
            if problem.process.singular(grid[-1]) and not reaches_zero(n, **chosen):
                raise DiffnumError(
                    f"{name} evaluates the noise prediction at the last time, and with {n} steps it cannot end at "
                    f"t={grid[-1]:g}, where there is no noise; end the grid above 0 or use ddim for the last step"
                )
            if grid[0] < grid[-1] and problem.process.singular(grid[0]):
                raise DiffnumError(f"times start at {grid[0]:g}, where there is no noise to predict; start above 0")
            problem.check(u)
            if extrapolates:
                look(problem.process, name, function, grid, given)
            if grid is not times:
                problem = problem.run(u).on(u, grid)
            return function(problem, u, grid, **given)

        claims = {
            "order": _claim(weak_order if order is None else order),
            "weak_order": _claim(weak_order),
            "strong_order": _claim(strong_order),
            "nfe": nfe,
            "kind": kind,
            "families": families,
            "exact_for": exact_for or "",
            "paper": paper,
            "reaches_zero": reaches_zero,
            "clock": clock,
            "draws": draws,
            "both_ways": kind == "ode",
            "values": {option: known for option, known in allowed.items() if not callable(known)},
        }
        vars(checked).update(claims)
        if register:
            registry[name] = checked
        return checked

    return decorate


def _claim(order: int | Callable[..., int] | None) -> Callable[..., int] | None:
    return order if callable(order) or order is None else lambda grid="log_snr", process=None, **options: order


@dataclass(frozen=True, eq=False)
class Solution:
    """What a run returns.

    Attributes:
        u: final state, ``(batch, *event)`` for isotropic processes.
        x: the same in data space.
        nfe: evaluations that this run spent.
        times: the grid, CPU float64.
        trajectory: the state at every time of the grid, the start included (not the step that ``denoise`` adds),
            stacked on a new first axis; None unless asked for.
        decode: the map from states to data space, for the states of the trajectory.
    """

    u: Tensor
    x: Tensor
    nfe: int
    times: Tensor
    trajectory: Tensor | None = None
    decode: Callable[[Tensor], Tensor] = field(default=lambda u: u, repr=False, compare=False)


def find(solver: str | Solver) -> Solver:
    """The solver of that name, or the function itself.

    Raises:
        KeyError: no solver of that name; the message gives the nearest names.
        TypeError: neither a name nor a function.
    """
    if callable(solver):
        return solver
    if not isinstance(solver, str):
        raise WrongKind(f"solver={arguments.shown(solver)} is neither a name nor a generator function")
    return registry[arguments.choose("solver", solver, registry, KeyError)]


def draws_noise(solver: Solver) -> bool:
    """Whether a solver has the parameter ``noise``: what makes it stochastic."""
    draws = getattr(solver, "draws", None)  # of a method declared with :func:`method`: no signature to look at
    return "noise" in inspect.signature(solver).parameters if draws is None else draws


def solve(
    problem: Problem,
    solver: str | Solver,
    u: Tensor,
    times: Tensor | list[float],
    *,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    denoise: bool = False,
    trajectory: bool = False,
    progress: bool = False,
    gradients: bool = False,
    **options: Any,
) -> Solution:
    """Run a solver over a time grid.

    Args:
        problem: process and denoiser.
        solver: name of a registered solver, or any generator function ``(problem, u, times, **options)``.
        u: start state at ``times[0]``; it is not written to.
        times: strictly decreasing times, from a grid of :mod:`diffnum.grids`. A deterministic solver also takes
            increasing ones, ``grid.flip(0)``, and then goes from data to noise, with u a state at ``times[0]`` > 0.
        noise: noise source of a stochastic solver. A ``Seeded`` source goes on from run to run, a ``Replay`` starts
            anew with each. By default a source is made with a seed from ``generator``, or with seed 0: the same run
            repeated has the same noise. Runs that start at different times have different noise, so a run in pieces
            has new noise in every piece.
        generator: supplies a seed for the noise, and goes on.
        denoise: add the papers' last step, from ``times[-1]`` to the predicted clean data, on phase space one Euler
            step of the drift to t = 0; one more evaluation (for blurring there is no such step).
        trajectory: keep every state.
        progress: show a progress bar.
        gradients: let autograd record the run (off by default); with respect to the start state where it requires
            gradients, and to whatever the denoiser depends on.
        **options: options of the solver.

    Returns:
        the final state, its evaluations, and the trajectory if asked for.

    Raises:
        KeyError: unknown solver. TypeError: unknown option, or a state that is not a floating tensor.
        ValueError: a bad grid, state or option value.
        DiffnumError: a solver on a process that it cannot integrate, a grid that ends where it cannot, or a denoiser
            that returns what is not like its input.
    """
    for flag, value in {"denoise": denoise, "trajectory": trajectory, "progress": progress}.items():
        arguments.option(flag, value, (False, True))
    run = _prepared(problem, solver, u, times, noise, generator, gradients, options, denoise)
    end, states = u, [u]
    with torch.set_grad_enabled(run.gradients):
        for end in _bar(iter(run), run.problem, len(run.times) - 1, len(u)) if progress else run:
            if trajectory:
                states.append(end)
        if denoise:
            end = run.problem.finish(end, run.times[-1].item(), getattr(run.solver, "kind", "ode"))
    decode = problem.process.decode
    return Solution(end, decode(end), run.problem.nfe, run.times, torch.stack(states) if trajectory else None, decode)


@dataclass(frozen=True, eq=False)
class State:
    """Where a run stands after a step.

    Attributes:
        u: state, ``(batch, *event)`` for isotropic processes.
        t: its time.
        step: how many steps were taken.
        nfe: evaluations spent so far.
        x0: the clean data that the last evaluation predicted, without another one; that was at the start of the step,
            or at the last stage of a method with several. None where the step evaluated nothing.
        decode: the map from states to data space.
    """

    u: Tensor
    t: float
    step: int
    nfe: int
    x0: Tensor | None
    decode: Callable[[Tensor], Tensor] = field(default=lambda u: u, repr=False, compare=False)

    @property
    def x(self) -> Tensor:
        """The state in data space."""
        return self.decode(self.u)


def steps(
    problem: Problem,
    solver: str | Solver,
    u: Tensor,
    times: Tensor | list[float],
    *,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    gradients: bool = False,
    **options: Any,
) -> Iterator[State]:
    """Run a solver step by step: ``for state in dn.steps(problem, "ddim", u, times): ...``.

    The same run as :func:`solve`, which has the same arguments and refuses the same, before the first step. What is
    not asked for is not computed: leave the loop, and the rest of the grid costs nothing.

    Yields:
        a :class:`State` after each step.
    """
    run = _prepared(problem, solver, u, times, noise, generator, gradients, options, keeps=True)

    def follow() -> Iterator[State]:
        before = 0
        for i, u in enumerate(run, 1):
            with torch.set_grad_enabled(run.gradients):
                x0 = run.problem.last_x0() if run.problem.nfe > before else None
            before = run.problem.nfe
            yield State(u, run.times[i].item(), i, before, x0, problem.process.decode)

    return follow()


class _Run:
    """A solver at the start of a grid: iterating takes its steps, and checks what it yields."""

    def __init__(
        self, solver: Solver, problem: Problem, u: Tensor, times: Tensor, gradients: bool, keeps: bool
    ) -> None:
        self.solver, self.problem, self.times, self.gradients = solver, problem, times, gradients
        self.name = getattr(solver, "__name__", repr(solver))
        self.steps: Iterator[Tensor] = iter(())
        ours = registry.get(self.name) is solver
        self.apart = keeps or not ours
        with torch.set_grad_enabled(gradients):
            self.u = u if ours else u.clone()

    def start(self, options: dict[str, Any]) -> None:
        """Call the solver, which refuses what it refuses."""
        with torch.set_grad_enabled(self.gradients):
            grid = Checked(self.times.tolist())
            self.problem = self.problem.on(self.u, grid)
            self.steps = self.solver(self.problem, self.u, grid, **options)
        if not isinstance(self.steps, Iterator):
            raise DiffnumError(
                f"{self.name} returned {_kind(self.steps)}; a solver is a generator: yield u after each step"
            )

    def __iter__(self) -> Iterator[Tensor]:
        u, n, count, like = self.u, len(self.times) - 1, 0, (self.u.shape, self.u.dtype, self.u.device)
        while count <= n:  # one too many is enough to know; between two steps the caller's code runs
            if self.gradients:
                _recordable(u)  # refuses
            with nullcontext() if torch.is_grad_enabled() == self.gradients else torch.set_grad_enabled(self.gradients):
                state = next(self.steps, None)
                # what the run goes on with is not handed out where a caller may write into it, or a foreign solver does
                state = state.clone() if self.apart and isinstance(state, Tensor) else state
            if state is None:
                break
            if not isinstance(state, Tensor) or (state.shape, state.dtype, state.device) != like:
                raise DiffnumError(
                    f"{self.name} yielded {_kind(state)} for a state that is {_kind(u)}; keep shape, dtype and device"
                )
            count += 1
            if count <= n:
                yield state
        if count != n:
            raise DiffnumError(f"{self.name} yielded {count} states for {n} steps; yield u once after each step")


def _prepared(
    problem: Problem, solver: str | Solver, u: Tensor, times: Any, noise: Noise | None,
    generator: torch.Generator | None, gradients: bool, options: dict[str, Any], denoise: bool = False,
    keeps: bool = False,
) -> _Run:  # fmt: skip
    """A run that has been checked and not begun; see :func:`solve` for the arguments and what is refused."""
    given_problem(problem)
    run = find(solver)
    gradients = arguments.option("gradients", gradients, (False, True))
    name = getattr(run, "__name__", repr(run))
    for what, value in {"times": times, **options}.items() if gradients else ():
        if isinstance(value, Tensor) and value.requires_grad:
            raise DiffnumError(f"{what} requires gradients, and a run has none with respect to it; use {what}.detach()")
    times = check_times(times, problem.process, getattr(run, "both_ways", False))
    if times[0] < times[-1] and denoise:
        raise ValueError("denoise=True adds a step to clean data, but times run from data to noise; leave it out")
    if denoise and times[-1] == 0:
        raise ValueError("denoise=True adds a step to clean data, but times already end there; leave one of them out")
    if draws_noise(run):
        if noise is None:
            noise = Seeded(seed_from(generator), None, stream_of(times[0].item(), problem.process), len(times) - 1)
        elif isinstance(noise, Replay):
            noise.restart()
        options["noise"] = noise
    elif noise is not None:
        raise TypeError(f"noise was given, but {name} is deterministic; leave it out")
    if not hasattr(run, "reaches_zero"):  # a method declared with :func:`method` checks state and noise itself
        problem.check(u)
        options |= {"noise": _like_the_state(options["noise"], name)} if draws_noise(run) else {}
    if gradients:
        u = _recordable(u)
    prepared = _Run(run, problem.run(arguments.state("u", u), keeps), u, times, gradients, keeps)
    prepared.start(options)
    return prepared


def _like_the_state(noise: Any, name: str) -> Noise:
    """The source, whose draws must be like the state: torch would spread a smaller one over all rows."""
    if not callable(noise):
        raise WrongKind(f"noise={arguments.shown(noise)} is not a source for {name}; use dn.noise.Seeded(seed)")

    def draw(u: Tensor) -> Tensor:
        z = noise(u)
        if not isinstance(z, Tensor) or (z.shape, z.dtype, z.device) != (u.shape, u.dtype, u.device):
            raise DiffnumError(f"noise returned {_kind(z)} for a state that is {_kind(u)}; a draw is like the state")
        return z

    return draw


def _recordable(u: Tensor) -> Tensor:
    """A state with which autograd can work."""
    if torch.is_inference_mode_enabled():
        raise DiffnumError("gradients=True records nothing inside torch.inference_mode; call solve outside of it")
    return u.clone() if isinstance(u, Tensor) and u.is_inference() else u


def _bar(steps: Iterator[Tensor], problem: Problem, total: int, batch: int) -> Iterator[Tensor]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("sampling"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total, state="")
        for i, u in enumerate(steps, 1):
            bar.update(task, completed=i, state=f"step {i}/{total}, NFE {problem.nfe}, batch {batch}")
            yield u


def _kind(state: Any) -> str:
    known = isinstance(state, Tensor)
    return f"{state.dtype} {tuple(state.shape)} on {state.device}" if known else type(state).__name__


def _options(options: list[str]) -> str:
    return f"it has {', '.join(options)}" if options else "it has none"


__all__ = ["Solution", "Solver", "State", "draws_noise", "find", "method", "registry", "solve", "steps"]
