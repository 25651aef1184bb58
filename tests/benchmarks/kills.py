"""Runs of several processes, killed at random moments: ``make kills``.

Each trial starts `sample`, `quality` or `train` with one number of processes, kills one of them or all at a moment
drawn evenly over the life of an undisturbed run, from its first instruction to its last file, and starts the same
command again with another number, perhaps killed once more. In the end the folder must hold what one undisturbed
process leaves, and no other file; one process speaks, and says at most one line of a run that was killed.

The processes are forked from this one, which has loaded the library: the moments then fall where files are written, and
not where Python reads its own. The network is a formula that takes its time. Every draw follows from ``--seed``.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a fork takes no threads along
os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"  # read when torch is loaded; later it is too late

import matplotlib.figure  # noqa: F401 - what a command would load itself, each process anew
import torch
import torch.distributed

import diffnum.cli  # noqa: F401
from diffnum import named
from diffnum.__main__ import main as command_line
from diffnum.denoisers.network import Config, load
from diffnum.errors import DiffnumError
from diffnum.images import checkpoint, features, processes, quality, train  # noqa: F401
from tests.test_processes import Cheap, same
from tests.test_train import small_data

SIZES = (1, 2, 3, 4)  # of a team
PAUSE = 0.03  # seconds of an evaluation
WITHIN = 120.0  # seconds in which a run has to end, on however busy a machine
TINY = Config((16, 32), (False, True), 1, 1, 32, 8)
BUDGET = 64  # images of a training


@dataclass
class Team:
    """Forked processes, and the files into which they speak."""

    pids: list[int]
    said: Path
    statuses: dict[int, int] = field(default_factory=dict)

    def alive(self) -> list[int]:
        """Those that have not ended; their statuses are taken down."""
        for pid in set(self.pids) - set(self.statuses):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.statuses[pid] = os.waitstatus_to_exitcode(status)
        return [pid for pid in self.pids if pid not in self.statuses]

    def send(self, number: int, pids: list[int]) -> None:
        """A signal to those that still run."""
        for pid in set(pids) & set(self.alive()):
            os.kill(pid, number)

    def ended(self, within: float) -> bool:
        """Whether all end within so many seconds."""
        until = time.monotonic() + within
        while self.alive() and time.monotonic() < until:
            time.sleep(0.005)
        return not self.alive()

    def lines(self, stream: str) -> list[tuple[int, str]]:
        """What the processes said, but for the logs of torch: (rank, line)."""
        files = [(rank, self.said / f"{rank}.{stream}") for rank in range(len(self.pids))]
        found = [(rank, line) for rank, file in files if file.is_file() for line in file.read_text().splitlines()]
        return [(rank, line) for rank, line in found if not line.startswith("[")]


def forked(work: Callable[[], Any], size: int, said: Path) -> Team:
    """So many processes that do this work, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        about = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    said.mkdir()
    pids = []
    for rank in range(size):
        if pid := os.fork():
            pids.append(pid)
            continue
        status = 1
        try:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(said / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o644), number)
            os.environ.update(about, RANK=str(rank))
            work()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)
    return Team(pids, said)


class Command:
    """A command of the command line that draws images into a folder."""

    def __init__(self, name: str, *words: str) -> None:
        self.name, self.words = name, words

    def work(self, folder: Path) -> Callable[[], Any]:
        """What a process does."""

        def run() -> None:
            os.chdir(folder)
            sys.argv = ["diffnum", *self.words]
            command_line()

        return run

    def compare(self, folder: Path, right: Path) -> None:
        """Fail unless both hold the same."""
        same(folder / "drawn", right / "drawn")
        results = [sorted(file.name for file in place.iterdir()) for place in (folder, right)]
        assert results[0] == results[1], results
        for file in right.glob("*.json"):
            one, other = (json.loads((place / file.name).read_text()) for place in (right, folder))
            assert one | {"version": ""} == other | {"version": ""}, file.name  # the checkout may change meanwhile


class Training(Command):
    """A training; which images it sees depends on how many processes there are, what must be there does not."""

    def __init__(self, data: Path) -> None:
        super().__init__("train")
        self.data = data

    def work(self, folder: Path) -> Callable[[], Any]:
        out = folder / "net"

        def run() -> None:
            try:
                with train.told():
                    path = train.train(
                        data=self.data, out=out, size=TINY, batch=12, warmup=2, images=BUDGET - BUDGET % 12, amp=False,
                        device="cpu", validation_images=8, save_every=0.0, resume=True, average=100,
                    )  # fmt: skip
            except DiffnumError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)  # as the command says it
                sys.exit(1)
            if not processes.quiet():
                print(path)

        return run

    def compare(self, folder: Path, right: Path) -> None:
        card, log = (json.loads((folder / "net" / f"net.{kind}").read_text()) for kind in ("json", "log.json"))
        kept = checkpoint.read(folder / "net" / "net.checkpoint.safetensors").numbers
        assert sorted(f.name for f in (folder / "net").iterdir()) == sorted(f.name for f in (right / "net").iterdir())
        assert card["sha256"] == load(folder / "net" / "net.safetensors").sha256
        assert card["images_this_run"] == kept["images"] == log[-1]["images"] == BUDGET - BUDGET % 12
        assert [row["images"] for row in log] == sorted({row["images"] for row in log})


def trial(command: Command, chance: random.Random, life: float, place: Path, right: Path) -> int:
    """One run that is killed, once or twice, and goes on to its end; how many kills hit."""
    folder, kills, before = place / "here", 0, 0
    folder.mkdir(parents=True)
    for turn in range(chance.choice((1, 1, 2))):
        size = chance.choice([n for n in SIZES if n != before])
        team = forked(command.work(folder), size, place / f"said {turn}")
        time.sleep(chance.uniform(0, life))
        hit = team.alive()
        victims = hit if chance.random() < 1 / 3 else [team.pids[chance.randrange(size)]]
        alone = chance.random() < 1 / 8  # nobody tells the others, as torchrun would
        team.send(signal.SIGKILL, victims)
        kills += bool(set(victims) & set(hit))
        if not team.ended(processes.SILENCE + 2 if alone else 0.1):
            team.send(signal.SIGTERM, team.pids)
        assert team.ended(WITHIN), "a survivor goes on for ever"
        spoken = team.lines("err")
        assert len(spoken) <= 1, spoken
        before = size
    size = chance.choice([n for n in SIZES if n != before])
    team = forked(command.work(folder), size, place / "said at last")
    assert team.ended(WITHIN) and not any(team.statuses.values()), (team.statuses, team.lines("err"))
    assert not team.lines("err") and {rank for rank, _ in team.lines("out")} == {0}, team.lines("out")
    command.compare(folder, right)
    return kills


def main() -> int:
    """All trials; 0 if the folders of all are right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=20, help="of every command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="sample, quality or train")
    given = parser.parse_args()
    torch.set_num_threads(1)
    named.network = lambda *_: Cheap(PAUSE)
    processes.BEAT, processes.GRACE = 0.2, 1.0  # silence is as long as ever: the machine may be busy
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "data").mkdir()
        plan = ["--solver", "ancestral", "--steps", "2", "-n", "40", "--batch", "2"]
        commands = [
            Command("sample", "sample", *plan, "--out", "drawn"),
            Command("quality", "quality", *plan, "--folder", "drawn", "--out", "result.json"),
            Training(small_data(root / "data")),
        ]
        for command in [c for c in commands if given.only in ("", c.name)]:
            right, lives, kills, begun = root / command.name / "right", [], 0, time.monotonic()
            for size in (1, 4):  # four draw what one draws; and how long does it take?
                folder = right if size == 1 else root / command.name / "four"
                folder.mkdir(parents=True)
                started = time.monotonic()
                team = forked(command.work(folder), size, root / command.name / f"said by {size}")
                assert team.ended(WITHIN) and not any(team.statuses.values()), (team.statuses, team.lines("err"))
                lives.append(time.monotonic() - started)
            command.compare(folder, right)
            for i in range(given.trials):
                chance = random.Random(f"{given.seed} {command.name} {i}")
                try:
                    kills += trial(command, chance, max(lives), root / command.name / str(i), right)
                except AssertionError as error:
                    wrong += 1
                    print(f"{command.name}, trial {i} of seed {given.seed}: {error}", file=sys.stderr, flush=True)
            seconds = time.monotonic() - begun
            print(f"{command.name}: {given.trials} trials, {kills} kills hit, {seconds:.0f} s", flush=True)
    print("every set is that of one undisturbed process" if not wrong else f"{wrong} trials are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
