"""A student's solver as the library's instruments see it: a generator function whose steps are computed elsewhere.

Its questions are answered and counted here, so :func:`diffnum.measure.analysis.convergence` and its like measure it as
they measure a solver of the library, in the grader's process and from the states that it yielded.
"""

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffnum.classroom.find import cells
from diffnum.classroom.problems import FAMILIES, Problems
from diffnum.classroom.sandbox import Direct, Ended, Process
from diffnum.classroom.session import order_claim
from diffnum.errors import DiffnumError
from diffnum.measure.analysis import evaluations, rms
from diffnum.noise import Seeded
from diffnum.problem import Problem
from diffnum.solvers import find, registry, solve

Place = Direct | Process
EXCESSES = {
    "MemoryError": "needs more memory than is allowed, MemoryError",
    "allocate memory": "needs more memory than is allowed",
    "File too large": "writes or prints more than is allowed",
    "SystemExit": "ends Python (sys.exit, quit), SystemExit",
}


class Fault(Exception):
    """A check failed; the message is a sentence that a student can act on."""


class Unclaimed(Exception):
    """A check does not apply, because nothing of the kind is claimed; the message says so."""


class Raised(Fault):
    """The solver raised an exception; ``kind`` is its type."""

    kind = ""


class Bad(Fault):
    """What the solver yielded are not its states, one a step."""


class Solver:
    """A solver of a student's file, to be called like one of the library.

    Attributes:
        info: what the student's process says about it.
        last: what it reported about its last run, with ``asked`` (evaluations counted here) and ``levels``.
        ends: the last states of all runs so far.
        refused: what the sandbox refused so far.
        touched: what surrounds it and did not stay as it was, in words.
    """

    def __init__(self, place: Place, name: str, problems: Problems, options: dict[str, Any]) -> None:
        self.__name__ = name
        self.place, self.problems, self.options = place, problems, options
        self.info, _ = place.ask({"do": "choose", "name": name})
        if "missing" in self.info:
            raise DiffnumError(f"there is no function {name!r} in this file")
        self.draws, self.kind = bool(self.info["noise"]), str(self.info["kind"])
        self.reaches_zero: Callable[..., bool] = lambda n, **options: True  # what is asked of it is asked elsewhere
        self.seed, self.keep, self.watch = 0, False, False
        self.last: dict[str, Any] = {}
        self.states: list[Tensor] = []
        self.ends: list[Tensor] = []
        self.refused: list[str] = []
        self.touched: list[str] = []

    def __call__(
        self, problem: Problem, u: Tensor, times: list[float], noise: Any = None, **options: Any
    ) -> Iterator[Tensor]:
        """Run it from ``times[0]`` to ``times[-1]``; with ``keep`` all its states are yielded, else the last alone."""
        n, asked, levels, known = len(times) - 1, 0, [], set[int]()

        def serve(head: dict[str, Any], tensors: list[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
            nonlocal asked
            x, *rest = tensors
            if head["ask"] == "noise":
                return {}, [noise(x)]
            how = head["how"]
            at = hash((x.numpy().tobytes(), rest[-1].numpy().tobytes() if len(rest) > bool(how) else head["sigma"]))
            if not how:
                problem.count()
                levels.append(head["sigma"])
            asked += not how or at not in known  # the derivative of a value that was asked for costs nothing
            known.add(at)
            if asked > 5000 + 500 * n:
                raise Ended(f"it asked for {asked} evaluations in {plural(n, 'step')} and did not come to an end")
            denoiser: Any = problem.denoiser
            what = {"clean": denoiser, "eps": denoiser.eps, "posterior": getattr(denoiser, "posterior", None)}
            call = what.get(head["ask"]) or denoiser.posterior_eps
            along = rest.pop(0) if how else x
            sigma = rest[0] if rest else head["sigma"]
            try:
                if how == "jvp":
                    return {}, [torch.func.jvp(lambda x: call(x, sigma), (x,), (along,))[1]]
                if how == "vjp":
                    return {}, [torch.func.vjp(lambda x: call(x, sigma), x)[1](along)[0]]
                return {}, [call(x, sigma)]
            except Exception as error:
                return {"error": str(error), "type": type(error).__name__}, [x]

        order = {
            "do": "run", "process": self.problems.spec_of(problem.process), "event": list(problem.denoiser.shape),
            "times": list(times), "options": {**self.options, **options}, "seed": self.seed, "keep": self.keep,
            "watch": self.watch,
        }  # fmt: skip
        self.last, self.states = self.place.ask(order, u, serve=serve)
        self.last |= {"asked": asked, "levels": levels, "steps": n}
        self.touched += [what for what in self.last["touched"] if what not in self.touched]
        self.refused += [what for what in self.last["refused"] if what not in self.refused]
        error, count = self.last["error"], self.last["count"]
        if error:
            where = f"from t={times[0]:.3g} to {times[-1]:.3g} on {name_of_process(problem.process)}"
            line = f" ({error['where']})" if error["where"] else ""
            raised = Raised(f"with {plural(n, 'step')} {where} it {happened(error, 'raised ')}{line}")
            raised.kind = error["type"]
            raise raised
        if self.last["bad"]:
            raise Bad(f"with {plural(n, 'step')} {self.last['bad']}; keep shape, dtype and device")
        if count != n:
            more = "more states than that" if count > n else plural(count, "state")
            raise Bad(f"{plural(n, 'step')} to make, and it yielded {more}: yield the state once after each step")
        last = self.states[0][-1] if self.keep else self.states[0]
        self.ends.append(last)
        yield from self.states[0] if self.keep else [last] * n


def happened(error: dict[str, str], did: str = "") -> str:
    """What the exception of a student's code says: its excess in words, or what it ``did`` and its type; its text."""
    whole = f"{error['type']}: {error['text']}"
    excess = next((told for part, told in EXCESSES.items() if part in whole), "")
    return f"{excess or did + error['type']}{': ' + error['text'] if error['text'] else ''}"


def plural(n: int, thing: str) -> str:
    """A number of things in words."""
    return f"{n} {thing}{'s' * (n != 1)}"


def name_of_process(process: Any) -> str:
    """What a message calls a process."""
    return type(process).__name__.upper() if process.family == "isotropic" else type(process).__name__


class Bench:
    """One solver under test, with the problems, and what is asked of it.

    Attributes:
        solver: the student's.
        families: of processes it is for.
        model: the solution of the assignment, if there is one: a solver whose claims are asked for.
    """

    def __init__(self, solver: Solver, problems: Problems) -> None:
        self.solver, self.problems, self.info = solver, problems, solver.info
        self.model = solution(problems)
        asked = getattr(self.model, "families", None) or self.info["families"]
        self.families = [family for family in FAMILIES if family in asked] or ["isotropic"]
        self.results: list[Any] = []  # convergence results, for plots
        self.before = solver.place.leftovers()  # files that the file itself wrote when it was run
        self._twin: str | None = None

    @property
    def home(self) -> str:
        """The process on which most is measured."""
        return FAMILIES[self.families[0]][0]

    @property
    def processes(self) -> list[str]:
        """All processes that the solver is for."""
        return [name for family in self.families for name in FAMILIES[family]]

    @property
    def stochastic(self) -> bool:
        """Whether the law of the solver is judged, not its paths."""
        return self.solver.kind == "sde"

    @property
    def counted(self) -> bool:
        """Whether evaluations are counted but not claimed: an adaptive method."""
        return bool(self.info["counted"])

    def problem(self, process: str = "", target: str = "mixture") -> Problem:
        """The problem of that name, by default at home."""
        return self.problems.problem(process or self.home, target)

    def starts(self, problem: Problem, batch: int = 8, seed: int = 0) -> Tensor:
        """Start states; see :meth:`Problems.starts`."""
        return self.problems.starts(problem, batch, seed)

    def run(self, problem: Problem, u: Tensor, times: Tensor, **given: Any) -> Tensor:
        """One run of the student's solver; its last state.

        Args:
            problem, u, times: as for :func:`~diffnum.solvers.solve`.
            **given: attributes of the solver for this run (``keep``, ``watch``, ``seed``), its noise, or options.
        """
        solver, noise = self.solver, given.pop("noise", None)
        marks: dict[str, Any] = {k: given.pop(k) for k in ("keep", "watch", "seed") if k in given}
        before: dict[str, Any] = {k: getattr(solver, k) for k in marks}
        vars(solver).update(marks)
        try:
            noise = {"noise": noise or Seeded(0)} if solver.draws else {}
            return solve(problem, solver, u, times, **noise, **given).u
        finally:
            vars(solver).update(before)

    def error(self, problem: Problem, times: Tensor, solver: Any = None, scale: float = 1.0, **options: Any) -> float:
        """Root mean square error at the end from the standard start states, right to ten digits."""
        u = scale * self.starts(problem)
        end = self.run(problem, u, times, **options) if solver is None else solve(problem, solver, u, times).u
        return rms(end - self.problems.truth(problem, u, times, 1e-10))

    def claims(self, problem: Problem, times: Tensor, rough: bool = False) -> dict[str, Any]:
        """What is asked of the solver on a grid, None for nothing: by the assignment, or by its own claims.

        Raises:
            Fault: a claim that cannot be read, or is lower than what the assignment asks for.
        """
        own: dict[str, Any] = {"order": None, "nfe": None, "zero": None}
        if self.info["declared"] or self.model is None:
            spec = self.problems.spec_of(problem.process)
            head = {"do": "claims", "process": spec, "times": times.tolist(), "options": self.solver.options}
            answer, _ = self.solver.place.ask(head | {"rough": rough})
            if "error" in answer:
                error = answer["error"]
                raise Fault(f"its claims cannot be read: {happened(error)} {error['where']}".rstrip())
            own = answer["claims"]
            for name, value in own.items():
                if name != "zero" and not (value is None or (isinstance(value, int) and 0 <= value < 10**6)):
                    raise Fault(f"it claims {name}={value!r}, which is no whole number; see dn.method")
        if self.model is None:
            return own
        model: Any = self.model
        asked = order_claim(model, problem.process, times, rough)
        if own["order"] is not None and asked is not None and own["order"] < asked:
            raise Fault(f"it claims order {own['order']}, and the assignment asks for order {asked}")
        nfe = evaluations(problem.process, model, len(times) - 1, times[-1].item()) if model.nfe else None
        order = max((p for p in (own["order"], asked) if p is not None), default=None)  # who claims more is held to it
        return {"order": order, "nfe": nfe, "zero": model.reaches_zero(len(times) - 1)}

    def twin(self) -> str:
        """The solver of the library whose states these are, to rounding; empty if there is none."""
        if self._twin is None:
            problem = self.problem()
            u, times = self.starts(problem), self.problems.ladder(problem.process)(12)
            end, same = self.run(problem, u, times), []
            for name, known in registry.items():
                claims: Any = known
                if claims.kind == "ode" and problem.process.family in claims.families:
                    other = solve(problem, known, u, times).u
                    same += [name] * bool((end - other).abs().max() < 1e-10)
            self._twin = same[0] if same and not self.stochastic else ""
        return self._twin


def solution(problems: Problems) -> Any:
    """The solution of the assignment: a solver of the library by name, or ``file.py:name`` beside the TOML file.

    Raises:
        DiffnumError: there is none of that name.
    """
    text = problems.values["assignment"].get("solution")
    if text is None:
        return None
    if not isinstance(text, str):
        raise DiffnumError(f"the assignment's solution {text!r} must be text, a name or file.py:name")
    file, _, name = text.rpartition(":")
    try:
        if not file:
            return find(name)
        module = types.ModuleType("solution")
        for cell in cells(problems.folder / Path(file)):
            if not cell.test:
                exec(compile(cell.text, cell.label, "exec", dont_inherit=True), vars(module))
        return vars(module)[name]
    except Exception as error:  # whatever that file raises, besides
        why = f"{type(error).__name__}: {error}"
        raise DiffnumError(f"the assignment's solution {text!r} is not there: {why}") from error


def largest(x: Tensor) -> float:
    """Largest absolute value, at least 1: the scale on which differences of states are told."""
    return max(1.0, x.double().abs().max().item())


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference of two states on their scale; infinite where one is not finite."""
    difference = (a.double() - b.double()).abs().max().item() / largest(b)
    return difference if torch.isfinite(a).all() and torch.isfinite(b).all() else float("inf")
