"""A denoiser without data, for the student's process: every evaluation is a question to the grader, who counts it.

Derivatives are asked for, too, so a solver may use ``torch.func.jvp`` or autograd. They are not counted, as
:attr:`diffnum.problem.Problem.nfe` does not count them.
"""

import inspect
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import diffnum.measure
import diffnum.solvers
from diffnum.classroom.messages import Message

Level = Tensor | float
MEASURE, SOLVERS = (module.__path__[0] + os.sep for module in (diffnum.measure, diffnum.solvers))


class Oracle:
    """The denoiser of a student's problem.

    Args:
        ask: sends a question to the grader and waits for the answer.
        shape: of one data point.
        watch: counts which parts of the library ask.
    """

    def __init__(self, ask: Callable[..., Message], shape: tuple[int, ...], watch: Counter[str] | None = None) -> None:
        self.shape = shape
        self._ask, self._watch = ask, watch

    def question(self, what: str, x: Tensor, sigma: Level, how: str = "", along: Tensor | None = None) -> Tensor:
        """One question: a prediction, or with ``how`` its derivative ``along`` a direction ("jvp", "vjp")."""
        if self._watch is not None and not how:
            self._watch[library_part()] += 1
        tensors = [x, *([] if along is None else [along]), *([sigma] if isinstance(sigma, Tensor) else [])]
        level = None if isinstance(sigma, Tensor) else float(sigma)
        head, (y,) = self._ask({"ask": what, "sigma": level, "how": how}, *tensors)
        if "error" in head:
            raise {"TypeError": TypeError, "ValueError": ValueError}.get(head["type"], RuntimeError)(head["error"])
        return y.to(x.device, x.dtype)

    def __call__(self, x: Tensor, sigma: Level) -> Tensor:
        """The clean prediction."""
        return _Question.apply(x, sigma, self, "clean")

    def eps(self, x: Tensor, sigma: Level) -> Tensor:
        """The noise prediction."""
        return _Question.apply(x, sigma, self, "eps")

    def posterior(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The clean prediction from noise of another level at every frequency."""
        return _Question.apply(y, sigma, self, "posterior")

    def posterior_eps(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The noise prediction from such noise."""
        return _Question.apply(y, sigma, self, "posterior_eps")


class _Question(torch.autograd.Function):
    """A question as autograd and ``torch.func`` see it."""

    @staticmethod
    def forward(x: Tensor, sigma: Level, oracle: Oracle, what: str) -> Tensor:
        return oracle.question(what, x, sigma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.sigma, ctx.oracle, ctx.what = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def jvp(ctx: Any, along: Tensor, *others: Any) -> Tensor:
        return ctx.oracle.question(ctx.what, *ctx.saved_tensors, ctx.sigma, "jvp", along)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.oracle.question(ctx.what, *ctx.saved_tensors, ctx.sigma, "vjp", along), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, sigma: Level, oracle: Oracle, what: str) -> Any:
        if isinstance(sigma, Tensor) and (sigma.ndim or in_dims[1] is not None):
            raise RuntimeError("vmap over evaluations with a level for each row is not supported here")
        rows = x.movedim(in_dims[0], 0)
        return _Question.apply(rows.flatten(0, 1), sigma, oracle, what).unflatten(0, rows.shape[:2]), 0


def library_part() -> str:
    """Which of the library's own solvers or instruments is asking, if one is: the outermost one on the stack."""
    frame, found = sys._getframe(1), ""
    while frame is not None and frame.f_globals.get("__name__") != "diffnum.classroom.session":
        home = frame.f_code.co_filename  # and not the name of its module, which a copy of a function can change
        generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if home.startswith(MEASURE) or (home.startswith(SOLVERS) and generator):
            found = frame.f_code.co_name.lstrip("_")
        frame = frame.f_back  # type: ignore[assignment]
    return found
