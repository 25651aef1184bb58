"""Several processes as one run: ``torchrun --nproc-per-node 4 -m diffnum sample ...``, on one machine or on several.

Every process is the whole command; RANK and WORLD_SIZE in its environment, which torchrun sets, tell it which one it
is. What image i looks like depends on the seed and on i alone, so it does not matter who draws it: whoever is free
takes the next batch. The processes speak through the key-value store of torch.distributed and, where they hand over
more than a number, through gloo; gradients of a training on GPUs go through NCCL.

A process that ends before its time ends the run. Each beats once a second, and its neighbour listens: a failure is
known to all within seconds, whoever waits for whom, and the first that fails or finds out says one line. A command
without a launcher is a team of one, for which all of this is nothing.

Torch is imported inside the functions, so that ``diffnum --help`` does not wait for it.
"""

from __future__ import annotations

import _thread
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import wraps
from typing import Any, TypeVar

from diffnum.errors import DiffnumError

T = TypeVar("T")
BEAT, SILENCE, GRACE = 1.0, 15.0, 3.0  # seconds: between signs of life, until none is death, to end in an orderly way
MEETING = 600.0  # seconds until all have come
POLL = 0.02  # seconds between looks at the store while waiting
PARTS = 2**20  # progress is counted in whole numbers, so many to a unit
LONG = timedelta(days=7)  # death is noticed by the beat, so that no call need have a limit of its own
AGAIN = (
    "start the same command again, a training with --resume: it goes on from what is kept, with any number of processes"
)
BROKEN = ("gloo", "NCCL", "Connection")  # in the words of a failure that another process is the cause of


def place() -> tuple[int, int, int]:
    """(rank, number of processes, rank on this machine), as the launcher says; (0, 1, 0) without one."""

    def number(name: str, otherwise: int) -> int:
        text = os.environ.get(name, "")
        return int(text) if text.isdecimal() else otherwise

    size = number("WORLD_SIZE", 1)
    rank = number("RANK", 0)
    return (rank, size, number("LOCAL_RANK", rank)) if size > 1 else (0, 1, 0)


def signature() -> str:
    """What a process that is not the first begins its line with."""
    rank, size, _ = place()
    return f"process {rank} of {size}: " if rank else ""


def quiet() -> bool:
    """Whether somebody else has said why the run ends, or is to say so."""
    return _told.is_set() or (place()[0] > 0 and not _speaks.is_set())


_told, _speaks = threading.Event(), threading.Event()  # another has said why; this one, not the first, is to say so


class Team:
    """The processes of a run, seen by one of them.

    Attributes:
        rank: number of this one, from 0; the one that speaks.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self.store = rank, size, store
        self.tick: Callable[[], object] = lambda: None  # called once a second
        self._calls, self._done, self._over, self._once = 0, 0.0, threading.Event(), threading.Lock()
        self._status: int | None = None  # with which this process is leaving a run that another has ended

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, and holds what :meth:`gather` brings together."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Iterator[T]:
        """The items for this process: each goes to one of the team, in order, to whoever asks first."""
        if self.size == 1:
            yield from items
            return
        key = self._key("share")
        while (taken := self.store.add(key, 1)) <= len(items):
            yield items[taken - 1]

    def part(self, n: int) -> range:
        """The rows of this process where n are split evenly; may be none."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def wait(self) -> None:
        """Until all of the team are here. Signals are heard meanwhile."""
        if self.size == 1:
            return
        key = self._key("wait")
        self.store.add(key, 1)
        while self.store.add(key, 0) < self.size:
            time.sleep(POLL)

    def gather(self, value: T) -> list[T] | None:
        """The values of all, by rank, for the first; None for the others."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        self.wait()
        values: list[Any] = [None] * self.size
        dist.gather_object(value, values if self.first else None)
        return values if self.first else None

    def told(self, value: T) -> T:
        """The value of the first, for all."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        self.wait()
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def progress(self, amount: float) -> float:
        """Add to what the team has done; the sum over all."""
        self._done += amount
        return self._done if self.size == 1 else self.store.add("progress", round(amount * PARTS)) / PARTS

    def end(self, status: int) -> bool:
        """End the others with a status, unless they are ending already; whether this was the first to say so."""
        return self.size == 1 or self._claim(self.store, status)

    def leave(self, everybody: bool = False) -> None:
        """Say that this process goes. The first, which keeps the store, goes last, or others would miss it.

        It waits 15 seconds at most, and for nobody who gives no sign of life; for ``everybody`` as long as it takes.
        """
        begun, others = time.monotonic(), [rank for rank in range(self.size) if rank != self.rank]
        heard = dict.fromkeys(others, (-1, begun))
        with suppress(RuntimeError):  # the store may have gone
            self.store.set(f"left/{self.rank}", "")
            while self.first and others and not self.store.check([f"left/{rank}" for rank in others]):
                time.sleep(POLL)
                if everybody:
                    continue
                now = time.monotonic()
                for rank in others:
                    beat = self.store.add(f"beat/{rank}", 0)
                    heard[rank] = heard[rank] if beat == heard[rank][0] else (beat, now)
                others = [rank for rank in others if now - heard[rank][1] <= BEAT + GRACE and now - begun < SILENCE]

    def stop(self, end: SystemExit | KeyboardInterrupt) -> None:
        """Leave, for a signal asks for it or the run has ended; whoever hears a signal first tells the others."""
        code = end.code if isinstance(end, SystemExit) else 128 + signal.SIGINT
        if isinstance(code, int) and code > 128 and self.ending() is None and self.end(code):
            _speaks.set()
            self.leave()
        elif self.ending() is not None:
            _told.set()
            self.leave()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """A failure ends the others and is let through, unless another has ended the run: then this one is silent."""
        import torch.distributed as dist

        try:
            yield
        except Exception as error:
            if type(error).__name__ == "Exit":  # of the command line, and no failure
                raise
            gone = isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN)
            if (gone or isinstance(error, dist.DistError)) and self.ending(GRACE) is None:
                error = DiffnumError(f"another process of the run has gone, or the connection to it; {AGAIN}")
            mine = self.end(1)
            self.leave()
            if not mine:
                status = self.ending()
                raise SystemExit(1 if status is None else status) from None
            raise error from None

    def _part(self) -> None:
        """Leave at the end of the run. The others listen no more, since the first may go."""
        if not self.first:
            self._over.set()
        self.leave(everybody=True)

    def _key(self, what: str) -> str:
        """A new key, the same in all processes, which make the same calls in the same order."""
        self._calls += 1
        return f"{what}/{self._calls}"

    def ending(self, patience: float = 0.0) -> int | None:
        """The status with which another has ended the run, if one has, or does so within some seconds."""
        if self._status is not None:
            return self._status
        until = time.monotonic() + patience
        with suppress(RuntimeError):  # the store may have gone
            while not self.store.check(["ended"]):
                if time.monotonic() >= until:
                    return None
                time.sleep(POLL)
            return int(self.store.get("ended").decode().split()[1])
        return None

    def _claim(self, store: Any, status: int) -> bool:
        mine = f"{self.rank} {status}"
        try:
            return store.compare_set("ended", "", mine).decode() == mine
        except RuntimeError:  # the store has gone, and the first process with it if that kept it: the second speaks
            return self.rank <= 1 and self._once.acquire(blocking=False)

    def _watch(self, store: Any) -> None:
        """Beat, and listen to the neighbour, until the run is over."""
        neighbour = (self.rank - 1) % self.size
        heard, since = -1, time.monotonic()
        while not self._over.wait(BEAT):
            status, reason = 1, ""
            try:
                self.tick()
                store.add(f"beat/{self.rank}", 1)
                if store.check(["ended"]):
                    by, status = map(int, store.get("ended").decode().split())
                    if by == self.rank:  # whoever ends the run sees to its own end
                        continue
                elif (beat := store.add(f"beat/{neighbour}", 0)) != heard:
                    heard, since = beat, time.monotonic()
                    continue
                elif time.monotonic() - since < (SILENCE if beat else MEETING) or store.check([f"left/{neighbour}"]):
                    continue
                elif self._claim(store, status):
                    what = "has gone without a word" if beat else "never came"
                    reason = f"process {neighbour} of {self.size} {what} (killed, or out of memory)"
            except RuntimeError:  # torch.distributed has no closer type for a store that cannot be reached
                gone = "the launcher, or the first process of the run, has gone (killed, or out of memory)"
                reason = gone if self._claim(store, status) else ""
            if self._over.is_set():
                return
            if reason:
                print(f"diffnum: {reason}; {AGAIN}", file=sys.stderr, flush=True)
            self._leave(status)

    def _leave(self, status: int) -> None:
        """End this process: in an orderly way if it listens, or else hard."""
        _told.set()
        self._status = status
        if status:
            _thread.interrupt_main(signal.SIGTERM)
            self._over.wait(GRACE)
        self.leave()
        sys.stdout.flush()
        os._exit(status)


ALONE = Team()


@contextmanager
def team() -> Iterator[Team]:
    """The team of this process, a team of one without a launcher.

    If it is left by an error, the first that fails lets the error through and ends the others; these end in silence.

    Raises:
        DiffnumError: the launcher has not said where to meet.
    """
    rank, size, _ = place()
    if size == 1:
        yield Team()
        return
    import torch
    import torch.distributed as dist

    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise DiffnumError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start several with torchrun")
    meeting: Future[Any] = Future()
    try:
        _answer(meeting, lambda: _store(rank))
        store = meeting.result()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiffnumError(f"the {size} processes do not find each other ({reason}); see what the others say") from None
    except (SystemExit, KeyboardInterrupt) as end:
        with suppress(Exception):  # it may be there by now, and another may have ended the run
            Team(rank, size, meeting.result(GRACE / 6)).stop(end)
        raise
    found = Team(rank, size, store)
    try:
        with found._failing():
            # before the call that would wait without end for a process that has gone
            threading.Thread(target=found._watch, args=(store.clone(),), daemon=True).start()
            kinds = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            # a connection of its own: one that waits for others lets nobody else ask
            about: dict[str, Any] = {"store": store.clone(), "rank": rank, "world_size": size, "timeout": LONG}
            _answer(joining := Future[Any](), lambda: dist.init_process_group(kinds, **about))
            joining.result()
            yield found
            found._part()
            dist.destroy_process_group()
    except (SystemExit, KeyboardInterrupt) as end:  # also while a failure is being dealt with
        found.stop(end)
        raise
    finally:
        found._over.set()


def _store(rank: int) -> Any:
    """The key-value store of the run. The first keeps it, unless the launcher does, and waits for nobody here."""
    import torch.distributed as dist

    within = timedelta(seconds=MEETING)
    if rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return next(iter(dist.rendezvous("env://", timeout=within)))[0]
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(*where, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=within)


def _answer(answer: Future[T], call: Callable[[], T]) -> None:
    """Have a call made in a thread: torch waits for others in C++, where no signal is heard."""

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()


def in_team(function: Callable[..., T]) -> Callable[..., T]:
    """The function in the :func:`team` of its process, which is passed to it as ``team``."""
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: Any, **options: Any) -> T:
        with team() as found:
            return function(*args, team=found, **options)

    kept = [parameter for name, parameter in signature.parameters.items() if name != "team"]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return run
