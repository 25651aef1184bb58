"""The student's side: a file that is run, and a solver in it that is called. It judges nothing.

The problem that the solver gets has no data in it: each network evaluation is a question to the grader, who answers
and counts, whatever path the question takes. What is asked for, yielded and raised is reported as it is.
"""

import ast
import inspect
import json
import linecache
import os
import random
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum.classroom.find import is_generator, near_misses, solvers_in
from diffnum.classroom.messages import Message
from diffnum.classroom.oracle import Oracle
from diffnum.measure.convergence import claimed_order
from diffnum.measure.work import evaluations
from diffnum.problem import Problem
from diffnum.processes import CLD, PSLD, VE, VP, Blurring
from diffnum.runner import draws_noise

MODULE = "student"  # the name under which the file runs
MAKERS: dict[str, Callable[..., Any]] = {
    "vp": VP,
    "cosine": VP.cosine,
    "table": lambda **ends: VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "ve": VE,
    "cld": CLD,
    "psld": PSLD,
    "blurring": lambda shape: Blurring(tuple(shape)),
}
TOLERANCES = ("tol", "rtol", "tolerance", "atol")
Ask = Callable[..., Message]


def make_process(spec: dict[str, Any]) -> Any:
    """The process of a description ``{"name": ..., parameters}``; both sides make their own, each once."""
    return _made(json.dumps(spec))


@lru_cache(maxsize=64)
def _made(described: str) -> Any:
    spec = json.loads(described)
    return MAKERS[spec["name"]](**{k: v for k, v in spec.items() if k != "name"})


class Session:
    """One student's file and the solver of it that is under test."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._cells: list[dict[str, str]] = []
        self._library: dict[str, Any] = {}
        self.given: dict[str, Any] = {}  # names that stand in the module before the file is run
        self.namespace: dict[str, Any] = {}
        self.solver: Callable[..., Any] | None = None

    def answer(self, head: dict[str, Any], tensors: list[Tensor]) -> Message:
        """Do what a message of the grader asks for; whatever the student's code raises becomes part of the answer."""
        do: dict[str, Callable[..., Any]] = {
            "load": self.load, "choose": self.choose, "claims": self.claims, "run": self.run, "execute": self.execute,
            "changed": self.changed,
        }  # fmt: skip
        reply = do[head.pop("do")](*tensors, **head)
        return reply if isinstance(reply, tuple) else (reply, [])

    def load(self, cells: list[dict[str, str]] | None = None) -> dict[str, Any]:
        """Run a file, cell by cell, in a module of its own; without cells the same file anew.

        A cell that fails is reported and the next one runs, as in a notebook.
        """
        self._cells = self._cells if cells is None else cells
        self._library = self._library or library()
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        self.namespace = vars(module)
        self.namespace |= {"display": lambda *things, **options: None, **self.given}
        errors = [fault for cell in self._cells if (fault := self._execute(cell["text"], cell["label"]))]
        return {
            "found": list(solvers_in(self.namespace, MODULE)),
            "near": near_misses(self.namespace, MODULE),
            "errors": errors,
        }

    def _labels(self) -> list[str]:
        """What the student's own code is called in a traceback."""
        given = (inspect.unwrap(function) for function in self.given.values())
        return [cell["label"] for cell in self._cells] + [
            f.__code__.co_filename for f in given if inspect.isfunction(f)
        ]

    def execute(self, text: str, label: str) -> dict[str, Any]:
        """Run a test cell in the student's names; its value is that of its last line, where that is a number."""
        error = self._execute(text, label)
        value = self.namespace.get("_value")
        return {"error": error, "value": value if isinstance(value, int | float) else None}

    def _execute(self, text: str, label: str) -> dict[str, str] | None:
        known = linecache.cache.get(label, (0, None, [], label))[2]  # type: ignore[misc]
        lines_of = zip_longest(text.splitlines(keepends=True), known, fillvalue="\n")
        shown = [new if new.strip() else old for new, old in lines_of]  # blocks of one file keep their places in it
        linecache.cache[label] = (len(text), None, shown, label)  # for what reads its own source, as torch.jit does
        try:
            lines, last = ast.parse(text, label), None
            if lines.body and isinstance(lines.body[-1], ast.Expr):
                last = ast.Expression(lines.body.pop().value)  # type: ignore[attr-defined]
            exec(compile(lines, label, "exec", dont_inherit=True), self.namespace)
            self.namespace["_value"] = last and eval(compile(last, label, "eval", dont_inherit=True), self.namespace)
        except BaseException as error:
            return fault(error, [*self._labels(), label])
        return None

    def choose(self, name: str) -> dict[str, Any]:
        """Take a solver by name, and say what it is and claims."""
        self.solver = self.namespace.get(name)
        if not callable(self.solver):
            return {"missing": True}
        solver: Any = self.solver
        parameters = list(inspect.signature(solver).parameters)
        return {
            "declared": hasattr(solver, "reaches_zero"),
            "generator": is_generator(solver),
            "noise": draws_noise(solver),
            "kind": getattr(solver, "kind", "sde" if draws_noise(solver) else "ode"),
            "families": list(getattr(solver, "families", ())),
            "exact_for": str(getattr(solver, "exact_for", "")),
            "counted": hasattr(solver, "nfe") and solver.nfe is None,
            "tolerance": next((name for name in TOLERANCES if name in parameters), None),
            "options": parameters[3:],
        }

    def claims(
        self, process: dict[str, Any], times: list[float], options: dict[str, Any], rough: bool = False
    ) -> dict[str, Any]:
        """What the solver claims on a grid; a claim that cannot be read is an error of its own."""
        solver: Any = self.solver
        made, grid = make_process(process), torch.tensor(times, dtype=torch.float64)
        try:
            zero = getattr(solver, "reaches_zero", None)
            claims = {
                "order": order_claim(solver, made, grid, rough, **options),
                "nfe": evaluations(made, solver, len(times) - 1, times[-1], **options)
                if getattr(solver, "nfe", None) is not None
                else None,
                "zero": None if zero is None else bool(zero(len(times) - 1, **options)),
            }
            return {"claims": {k: v if v is None else type(v)(v) for k, v in claims.items()}}
        except BaseException as error:
            return {"error": fault(error, self._labels())}

    def run(
        self,
        u: Tensor,
        process: dict[str, Any],
        event: list[int],
        times: list[float],
        options: dict[str, Any],
        seed: int = 0,
        keep: bool = False,
        watch: bool = False,
    ) -> Message:
        """Call the solver and follow it to the end.

        Args:
            u: start state.
            process: description of the process.
            event: shape of one data point.
            times: the grid.
            options: of the solver.
            seed: of every global generator, which a solver should not use.
            keep: report every state, as yielded and as it is at the end, and the start state as it is at the end.
            watch: report which parts of the library asked for evaluations.

        Returns:
            what happened, and the last state or what ``keep`` asks for.
        """
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        seen, before = Counter[str](), ambient()
        problem = Problem(make_process(process), Oracle(self._ask, tuple(event), seen if watch else None))
        if "noise" not in options and draws_noise(self.solver):  # type: ignore[arg-type]
            options = {**options, "noise": self._noise}
        start, states, copies = u.clone(), [], []
        report: dict[str, Any] = {"error": None, "bad": None, "count": 0}
        try:
            with torch.no_grad():
                steps = self.solver(problem, start, list(times), **options)  # type: ignore[misc]
                if not isinstance(steps, Iterator):
                    report["bad"] = f"it returned {kind_of(steps)} and yielded nothing"
                    steps = iter(())
                for state in steps:
                    report["count"] += 1
                    if not isinstance(state, Tensor) or (state.shape, state.dtype) != (u.shape, u.dtype):
                        report["bad"] = f"state {report['count']} is {kind_of(state)} where the start is {kind_of(u)}"
                    if report["bad"] or report["count"] == len(times):
                        break
                    if keep or not states:
                        states.append(state)
                        copies.append(state.clone())
                    else:
                        states[-1], copies[-1] = state, state.clone()
        except BaseException as error:
            report["error"] = fault(error, self._labels())
        touched = [name for name, value in ambient().items() if not same(value, before[name])]
        report |= {"nfe": problem.nfe, "library": dict(seen), "touched": touched}
        if not copies:
            return report, []
        return report, [torch.stack(copies), torch.stack(states), start] if keep else [copies[-1]]

    def _noise(self, u: Tensor) -> Tensor:
        """A standard normal like u, from the grader."""
        head, (z,) = self._ask({"ask": "noise", "sigma": None}, u)
        if "error" in head:
            raise ValueError(head["error"])
        return z.to(u.device, u.dtype)

    def changed(self) -> dict[str, Any]:
        """Names of the library's functions that are no longer what they were before the file was run."""
        now = library(home="")
        return {"changed": sorted(name for name, value in self._library.items() if now.get(name) is not value)}


def order_claim(solver: Any, process: Any, times: Tensor, rough: bool, **options: Any) -> int | None:
    """The order that a solver claims on a grid; ``rough`` says that its steps stay uneven however fine it is."""
    claim = getattr(solver, "order", None)
    if claim is None or not rough:
        return claimed_order(solver, process, times, **options)
    if "start" in inspect.signature(claim).parameters:
        options["start"] = times[0].item()
    return claim(grid="rough", process=process, **options)


def ambient() -> dict[str, Any]:
    """What surrounds a solver and is none of its business, by what a message calls it."""
    return {
        "torch's global random numbers": torch.get_rng_state(),
        "numpy's global random numbers": np.random.get_state(legacy=True)[1:3],  # type: ignore[index]  # noqa: NPY002
        "Python's global random numbers": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": str(torch.get_default_device()),
        "whether torch records gradients": torch.is_grad_enabled(),
        "the working folder": os.getcwd(),
        "the number of running threads": threading.active_count(),
        "standard output": [stream.closed for stream in (sys.stdout, sys.stderr)],
        "Python's limit of recursion": sys.getrecursionlimit(),
    }


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, arrays in every number."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, tuple) else a == b


def library(home: str = "diffnum") -> dict[str, Any]:
    """What stands in the library's modules by its full name: functions and classes of ours, or everything."""
    found = {}
    for place, module in list(sys.modules.items()):
        if place.split(".")[0] == "diffnum" and module is not None:
            for name, value in list(vars(module).items()):
                if not home or (callable(value) and str(getattr(value, "__module__", "")).startswith(home)):
                    found[f"{place}.{name}"] = value
                    if isinstance(value, type):
                        found |= {f"{place}.{name}.{k}": v for k, v in vars(value).items() if inspect.isfunction(v)}
    return found


def fault(error: BaseException, labels: list[str]) -> dict[str, str]:
    """An exception as a type, one line of text, and the line of the student's file where it came up."""
    where, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in labels:
            place = trace.tb_frame.f_code.co_filename
            where = f"line {trace.tb_lineno} of {'the cell' if 'ipykernel' in place else place}"
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        where = f"line {error.lineno} of {error.filename}"
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    text = "" if error.args == (None,) else text  # of quit()
    return {"type": type(error).__name__, "text": " ".join(text.split())[:500], "where": where}


def kind_of(value: Any) -> str:
    """What a value is, in words: a tensor by dtype and shape."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return {"NoneType": "None", "generator": "a generator"}.get(type(value).__name__, f"a {type(value).__name__}")


__all__ = ["Session", "make_process", "order_claim"]
