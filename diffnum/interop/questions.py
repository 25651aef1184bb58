"""A run that somebody else's loop drives: it stops wherever it needs the network, and goes on with the answer.

A solver asks its problem for noise in the middle of a step. Whoever owns the loop, such as a pipeline of diffusers,
hands over one prediction at a time and wants the next state to predict for. Both are at rest while the other works, so
the run lives in a thread of its own and the two meet at a queue. The network is called by the owner of the loop, in its
own thread.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from torch import Tensor


class Stopped(BaseException):
    """The owner of the loop has gone; the run ends."""


class Questions:
    """A function of a model ``model(u, t)``, asked question by question.

    Args:
        run: called with the model; what it returns is the result.

    After each :meth:`answer`, and after the start, either ``question`` is the pair (u, t) for which it waits, or
    ``done`` is True and ``result`` there. What the run raises is raised where the answer was given.
    """

    def __init__(self, run: Callable[[Callable[[Tensor, Any], Any]], Any]) -> None:
        self._out, self._in = SimpleQueue[tuple[str, Any]](), SimpleQueue[Any]()
        self.question: Any = None
        self.done, self.result = False, None
        Thread(target=_work, args=(run, self._out, self._in), daemon=True).start()
        self._listen()

    def answer(self, prediction: Any) -> None:
        """What the model says about ``question``."""
        if self.done:
            raise RuntimeError("the run is done")
        self._in.put(prediction)
        self._listen()

    def stop(self) -> None:
        """End a run that is not done."""
        if not self.done:
            self._in.put(Stopped)
            self.done = True

    def __del__(self) -> None:
        self.stop()

    def _listen(self) -> None:
        kind, value = self._out.get()
        if kind == "question":
            self.question = value
            return
        self.done, self.question = True, None
        if kind == "error":
            raise value
        self.result = value


def _work(run: Callable[..., Any], out: SimpleQueue, answers: SimpleQueue) -> None:
    """The thread; it holds the queues and not the object, whose end is what stops it."""

    def model(u: Tensor, t: Any) -> Any:
        out.put(("question", (u, t)))
        answer = answers.get()
        if answer is Stopped:
            raise Stopped
        return answer

    try:
        out.put(("result", run(model)))
    except Stopped:
        pass
    except BaseException as error:
        out.put(("error", error))
