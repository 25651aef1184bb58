"""The grader's end: a student's file runs in a process of its own, in an empty temporary folder, with limits.

See :mod:`diffnum.classroom.supervise` for what is limited and how, and for why this is not a security boundary.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import Tensor

import diffnum
from diffnum.arguments import whole
from diffnum.classroom.messages import Broken, Message, receive, send
from diffnum.classroom.session import Session
from diffnum.classroom.supervise import LINUX, MARK, marked
from diffnum.errors import DiffnumError

DAY, LARGE = 86_400, 2**50  # the largest limits: seconds and bytes
LOOK = 0.1  # seconds between two looks at a silent process
ANSWER = 0.005  # seconds that every answered question adds to the limit of a run: what asking may cost

Serve = Callable[[dict[str, Any], list[Tensor]], Message]


@dataclass(frozen=True)
class Limits:
    """What a solver may take.

    Attributes:
        seconds: of computing and sleeping, for all runs of one solver.
        run: the same for one run, and for the file itself.
        memory: bytes, on top of what the library itself takes.
        file: bytes in one file, the printed text included.
        folder: bytes in all files together.
        processes: that it may start.
    """

    seconds: int = 60
    run: int = 10
    memory: int = 1 << 30
    file: int = 1 << 24
    folder: int = 1 << 26
    processes: int = 0

    def __post_init__(self) -> None:
        """Refuse what the system takes for no limit: the student would be blamed for it.

        Raises:
            ValueError: no whole number, or one that is not positive or too large.
        """
        for name, most in (("seconds", DAY), ("run", DAY), ("memory", LARGE), ("file", LARGE), ("folder", LARGE)):
            whole(name, getattr(self, name), 1, most)
        whole("processes", self.processes, 0)


class Ended(Exception):
    """The student's process has ended before its work was done; the message is a sentence about why."""


class Direct:
    """A student's work in this process, without limits: for one's own functions, in a notebook."""

    def __init__(self, serve: Serve | None = None) -> None:
        self._serve = serve
        self._session = Session(self._answer)
        self.output = ""

    def _answer(self, head: dict[str, Any], *tensors: Tensor) -> Message:
        assert self._serve is not None
        return self._serve(head, list(tensors))

    def ask(self, head: dict[str, Any], *tensors: Tensor, serve: Serve | None = None) -> Message:
        """One order; its questions go to ``serve``."""
        self._serve = serve
        reply, results = self._session.answer(dict(head), list(tensors))
        return {"refused": [], **reply}, results

    def give(self, **functions: Callable[..., Any]) -> None:
        """Put functions into the names of the session, in place of a file."""
        self._session.given = functions
        self._session.load([])

    def leftovers(self) -> list[str]:
        """Nothing: there is no folder."""
        return []

    def close(self) -> None:
        """Nothing to do."""


class Sandbox:
    """Starts students' processes, one at a time; to be used with ``with``.

    Raises:
        DiffnumError: a system without ``fork``, such as Windows.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        if not hasattr(os, "fork"):
            raise DiffnumError("a solver is run in a copy of a process, which needs Linux, macOS or WSL")
        self.limits = limits
        self._mark = uuid4().hex
        self._supervisor: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> socket.socket:
        """The connection to a supervisor, a new one if there is none."""
        if self.control is None:
            ours, theirs = socket.socketpair()
            paths = [str(Path(diffnum.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            environment = {
                **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HOME")},
                **{"PYTHONPATH": os.pathsep.join(filter(None, paths)), MARK: self._mark, "MPLBACKEND": "agg"},
                **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
                **{"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"},
            }
            command = [sys.executable, "-m", "diffnum.classroom.supervise", str(theirs.fileno())]
            self._supervisor = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()], env=environment, start_new_session=True,
            )  # fmt: skip
            theirs.close()
            self.control = ours
            ours.settimeout(300)  # a cold start on a busy machine
            if "ready" not in self.hear():
                text = self._supervisor.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
                self.stop()
                raise DiffnumError(f"the process for students' solvers does not start: {text[-500:]}")
        return self.control

    def hear(self) -> dict[str, Any]:
        """One line from the supervisor; empty if it is gone."""
        line = b""
        with contextlib.suppress(OSError):
            while not line.endswith(b"\n"):
                byte = self.control.recv(1) if self.control else b""
                if not byte:
                    return {}
                line += byte
        return json.loads(line or b"{}")

    def stop(self) -> None:
        """End the supervisor and whatever is left below it."""
        if self.control is not None:
            self.control.close()
        if self._supervisor is not None:
            try:
                self._supervisor.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
            self._supervisor.stderr.close()  # type: ignore[union-attr]
            for _ in range(100):
                left = marked(self._mark)
                for pid in left:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                if not left:
                    break
                time.sleep(0.05)
        self.control = self._supervisor = None

    def open(self) -> "Process":
        """A new student's process."""
        return Process(self)


class Process:
    """One student's process, from the first order to :meth:`close`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox, self.limits = sandbox, sandbox.limits
        control = sandbox.start()
        self.folder = Path(tempfile.mkdtemp(prefix="diffnum-"))
        for name in ("work", "home"):
            (self.folder / name).mkdir()
        self._sock, theirs = socket.socketpair()
        self._sock.settimeout(LOOK)
        order = {"folder": str(self.folder), "limits": asdict(self.limits)}
        with open(self.folder / "output", "wb") as output:
            socket.send_fds(control, [json.dumps(order).encode()], [theirs.fileno(), output.fileno()])
        theirs.close()
        self._pid = sandbox.hear().get("pid", 0)
        self._spent, self._slept, self._clock, self._ended = 0.0, 0.0, time.monotonic(), False
        self.output, self._heard = "", 0

    def ask(self, head: dict[str, Any], *tensors: Tensor, serve: Serve | None = None) -> Message:
        """One order; its questions go to ``serve``.

        Raises:
            Ended: the process ended before it answered, by itself or because of a limit.
        """
        if self._ended:
            raise Ended("its process has ended")
        begun, answered = self._seconds(), 0

        def wait(idle: bool = True) -> None:
            used = self._seconds(idle)
            for limit, spent in ((self.limits.run + answered * ANSWER, used - begun), (self.limits.seconds, used)):
                if spent > limit:
                    raise Ended(f"it did not finish in {limit:.0f} s: it waits or loops without end, or is too slow")

        try:
            send(self._sock, head, *tensors)
            checked = time.monotonic()
            while True:
                reply, results = receive(self._sock, wait)
                if "ask" not in reply:
                    return reply, results
                if serve is None:
                    raise Ended("it asked for an evaluation while no run was in progress")
                answer, values = serve(reply, results)
                send(self._sock, answer, *values)
                answered += 1
                if time.monotonic() - checked > 0.25:
                    checked = time.monotonic()
                    wait(idle=False)
        except Broken:
            raise Ended(self._autopsy()) from None
        except Ended:
            self._end()
            raise

    def _seconds(self, idle: bool = False) -> float:
        """Seconds spent so far: of computing, and of sleeping while an answer was waited for.

        Time in which it wants to compute and the machine is busy with others does not count. ``idle`` says that a
        :data:`LOOK` has passed without a word from it.
        """
        if not LINUX:
            return time.monotonic() - self._clock
        with contextlib.suppress(OSError, IndexError, ValueError):
            state, *fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            self._slept += LOOK * (idle and state != "R")
            self._spent = (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")
        return self._spent + self._slept

    def _end(self) -> dict[str, Any]:
        """Let the supervisor end the process and all below it."""
        self._ended = True
        self._sock.close()
        result: dict[str, Any] = {}
        if self._sandbox.control is not None:
            with contextlib.suppress(OSError):
                self._sandbox.control.sendall(b"!")
                result = self._sandbox.hear()
        if "ended" not in result:
            self._sandbox.stop()  # the supervisor itself was ended
        return result

    def _autopsy(self) -> str:
        """Why the process is gone."""
        result = self._end()
        status, why = result.get("ended"), result.get("why")
        if status is None:
            return "it ended the process that watches over it"
        limits = self.limits
        causes = {
            "processes": f"it started other processes, and {limits.processes} are allowed",
            "folder": f"it wrote more than {limits.folder >> 20} MB into files",
            "stopped": "it closed the connection to the grader, or wrote into it",
        }
        if why in causes:
            return causes[why]
        if status < 0:
            return f"its process was ended by the signal {signal.Signals(-status).name}"
        return f"its process ended itself with status {status} in the middle of the work (os._exit)"

    def said(self) -> str:
        """What it has printed since this was asked last."""
        with contextlib.suppress(OSError), open(self.folder / "output", "rb") as file:
            file.seek(self._heard)
            text = file.read(20000)
            self._heard += len(text)
            return text.decode(errors="replace")
        return ""

    def leftovers(self) -> list[str]:
        """Files in the folder in which it runs."""
        found = sorted(p.relative_to(self.folder / "work").as_posix() for p in (self.folder / "work").rglob("*"))
        kept = [p.name for p in (self.folder / "home").iterdir() if p.name not in ("matplotlib", "torch", ".cache")]
        return [*found, *sorted(kept)]

    def close(self) -> None:
        """End the process, keep the end of what it printed in ``output``, and remove its folder."""
        if not self._ended:
            self._end()
        with contextlib.suppress(OSError), open(self.folder / "output", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 2000))
            self.output = file.read().decode(errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)
