"""Long runs beside other work: last in the queue for the processor, gone within a second when asked, one to a folder.

A process that computes cannot be asked politely: a backward pass is one call of a second or more, and on a busy machine
the least important process gets its next turn late. So a thread of ordinary priority waits for the request (SIGTERM,
SIGINT, or a stop file), writes down the state of the last finished step, says one line, and ends the process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from diffnum.errors import DiffnumError
from diffnum.images.processes import ALONE, Team, quiet

PATIENCE = 3.0  # seconds that one of several processes leaves to the others
ASKING = (signal.SIGTERM, signal.SIGINT)
WAIT = 0.5  # seconds that a request waits for a step, or a file, that is just being finished


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder: a second run in it is refused, and a lock never outlives its process.

    Raises:
        DiffnumError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DiffnumError(f"another run is training in {folder}; choose another out folder, or end that one") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def told() -> Iterator[None]:
    """SIGINT and SIGTERM say one line on stderr and end the block with the status of the signal, 130 or 143."""

    heard: list[int] = []

    def stop(number: int, _: object) -> None:
        heard.append(number)
        raise SystemExit(128 + number)

    signals = ASKING
    main = threading.current_thread() is threading.main_thread()
    before = [signal.signal(s, stop) for s in signals] if main else []
    try:
        yield
    except SystemExit:
        if heard and not quiet():
            text = f"stopped by {signal.Signals(heard[0]).name}: a run goes on from its last checkpoint with --resume"
            print(text, file=sys.stderr, flush=True)
        raise
    finally:
        for s, handler in zip(signals, before, strict=False):
            signal.signal(s, handler)


class Stopping:
    """What happens on a request to stop: ``save`` is called under ``lock``, then the process ends.

    The run holds ``lock`` while it changes its state, and only then.
    """

    def __init__(self, file: Path, team: Team = ALONE) -> None:
        self.file, self.team, self.lock = file, team, threading.RLock()
        self.save: Callable[[], str] = lambda: "nothing was lost"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen for SIGTERM, SIGINT and the stop file, and give way to every other process meanwhile.

        Only the main thread of a process can do so. A stop file from before is removed.
        """
        if self.team.first:
            self.file.unlink(missing_ok=True)
        ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        # what Python calls in the main thread may come late; the number in the pipe comes at once
        wakeup, signals = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False), ASKING
        before = [signal.signal(s, lambda *_: None) for s in signals]
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ear, ended), daemon=True)
        watcher.start()
        # nor may the pipe wait for a turn of this thread: the system shall hand the signal to the watcher
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if hasattr(signal, "pthread_sigmask") else None
        yield_to_all(except_for=watcher.native_id)
        try:
            yield
        finally:
            ended.set()
            if masked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            signal.set_wakeup_fd(wakeup)
            for s, handler in zip(signals, before, strict=True):
                signal.signal(s, handler)
            mouth.send(b"\0")
            watcher.join()
            ear.close()
            mouth.close()

    def _watch(self, ear: socket.socket, ended: threading.Event) -> None:
        names = {int(s): s.name for s in ASKING}
        while not ended.is_set():
            heard = ear.recv(64) if select.select([ear], [], [], 0.2)[0] else b""
            number = next((n for n in heard if n in names), 0)
            if ended.is_set() or not (number or (self.team.first and self.file.exists())):
                continue
            if not self.team.first:  # the first has the state
                self.team.ending(PATIENCE)
                self.team.leave()
                os._exit(128 + number)
            group_priority(0)  # the last steps need not wait
            text, cause = "a step was just being finished; the last checkpoint stands", names.get(number)
            try:
                if self.lock.acquire(timeout=WAIT):
                    text = self.save()
            except Exception as error:  # a full disk, or whatever it is
                text = f"the state could not be written ({error}); the last checkpoint stands"
            try:
                self.file.unlink(missing_ok=True)
                print(f"stopped by {cause or f'the file {self.file}'}: {text}", file=sys.stderr, flush=True)
                sys.stdout.flush()
                if self.team.size > 1 and self.team.end(128 + number if number else 0):
                    self.team.leave()
            finally:  # also when nobody reads what is said
                os._exit(128 + number if number else 0)


def yield_to_all(except_for: int | None = None) -> None:
    """Lowest priority for every thread of this process but one; and, on Linux, idle scheduling.

    Threads that are started later inherit it. Where every session has its own share of the processor (``autogroup`` of
    Linux) all this counts inside the session only. If this process leads its session (``setsid``), the share is lowered
    to a tenth of another's; if it were lower, a request to stop would wait for seconds on a busy machine.
    """
    if not hasattr(os, "nice"):  # not on Windows
        return
    try:
        threads = [int(t) for t in os.listdir("/proc/self/task")]
    except OSError:
        os.nice(19)
        return
    for thread in threads:
        if thread != except_for:
            try:
                os.setpriority(os.PRIO_PROCESS, thread, 19)
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            except OSError:
                pass  # a container may forbid either
    group_priority(10)


def group_priority(nice: int) -> None:
    """Set the niceness of this session's share of the processor, where there is such a thing and it is ours."""
    try:
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(nice))
    except OSError:
        pass
