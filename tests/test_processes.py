"""Several processes as one run: the same images as of one, whatever is killed, with whatever number it goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import diffnum as dn
from diffnum import cli, named
from diffnum.images import features, processes, quality, shards
from diffnum.images.processes import Team

PAUSE = 0.1  # seconds of an evaluation, so that a kill finds the others at work
# A cheap network; signs of life are given and missed sooner than in earnest.
WORKER = f"""
import sys, time
from diffnum import named
from diffnum.images import processes
processes.BEAT, processes.SILENCE, processes.GRACE = 0.2, 12.0, 1.0
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_processes
named.network = lambda *_: test_processes.Cheap({PAUSE})
from diffnum.__main__ import main
main()
"""


class Cheap:
    """A denoiser of Gaussian data, which takes its time, and may fail in one of several processes."""

    shape, sha256, kind = (3, 32, 32), "0" * 64, "edm"

    def __init__(self, pause=0.0):
        self.pause = pause

    def __call__(self, x, sigma):
        return x - sigma * self.eps(x, sigma)

    def eps(self, x, sigma):
        time.sleep(self.pause)
        if os.environ.get("FAILS") == os.environ.get("RANK", "none"):
            raise MemoryError("cannot allocate memory")
        return x * (sigma / (sigma**2 + 0.25))


def launched(words, size, ranks=None, port=None, **more):
    """So many processes, as a launcher other than torchrun would start them; stderr of each is a pipe."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    about = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **more}
    about |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL"}
    return [
        subprocess.Popen([sys.executable, "-c", WORKER, *map(str, words)], env={**about, "RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in ranks or range(size)
    ]  # fmt: skip


def ended(runs, within=600.0):  # a busy machine may take its time
    """(statuses, everything said on stderr but by torch itself, on stdout) once all have ended."""
    until = time.monotonic() + within
    try:
        said = [run.communicate(timeout=max(until - time.monotonic(), 0.1)) for run in runs]
    finally:
        for run in runs:
            run.kill()
    lines = [line for _, err in said for line in err.splitlines() if not line.startswith("[")]
    return [run.returncode for run in runs], lines, "".join(out for out, _ in said)


def files_of(folder):
    return sorted(file.name for file in folder.glob("*/*") if file.is_file())


PLAN = ("sample", "-n", "40", "--batch", "2", "--steps", "2", "--solver", "ancestral")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder that one process fills."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named, "network", lambda *_: Cheap())
        out = tmp_path_factory.mktemp("alone")
        result = CliRunner().invoke(cli.app, [*PLAN, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert files_of(out) == [*(f"{first:06d}.npz" for first in range(0, 40, 2)), "manifest.json"]
    return out


def same(out, alone):
    """The same images and the same manifest, and no other file."""
    assert files_of(out) == files_of(alone)
    for file in alone.glob("*/*.npz"):
        with np.load(file) as one, np.load(out / file.parent.name / file.name) as other:
            assert np.array_equal(one["images"], other["images"]), file.name
    (one,), (other,) = (list(folder.glob("*/manifest.json")) for folder in (alone, out))
    assert one.read_bytes() == other.read_bytes()


def some_images(runs, out, count):
    """Wait until the folder has at least so many files of images."""
    until = time.monotonic() + 600
    while len(list(out.glob("*/*.npz"))) < count:
        assert all(run.poll() is None for run in runs) and time.monotonic() < until, ended(runs)
        time.sleep(0.02)


def test_killed_and_resized_runs_end_in_the_same_images(tmp_path, alone):
    """All of three are killed. Two go on, one is killed: the other notices, and says so. Two end what was begun."""
    out, chance = tmp_path / "out", np.random.default_rng(int(time.time()))
    runs = launched([*PLAN, "--out", out], 3)
    some_images(runs, out, 3)
    time.sleep(chance.uniform(0, 0.2))
    for run in runs:
        run.send_signal(signal.SIGKILL)
    ended(runs)
    there = len(list(out.glob("*/*.npz")))
    assert 3 <= there < 18, "it was killed before its end"

    runs = launched([*PLAN, "--out", out], 2)
    some_images(runs, out, there + 1)
    victim = int(chance.integers(2))
    runs[victim].send_signal(signal.SIGKILL)
    statuses, lines, _ = ended(runs)
    assert all(statuses), (victim, statuses)
    assert len(lines) == 1 and "start the same command again" in lines[0], (victim, lines)
    (folder,) = out.iterdir()
    (folder / f".000038.npz.{'0' * 8}-1.{'0' * 8}.part").write_bytes(b"of another machine, which may go on")
    (folder / f".000036.npz.{'0' * 8}.part").write_bytes(b"old")
    os.utime(folder / f".000036.npz.{'0' * 8}.part", (0, 0))

    statuses, lines, said = ended(launched([*PLAN, "--out", out], 2))
    assert statuses == [0, 0] and not lines and said.count("\n") == 1 and said.startswith("40 images, 2 network"), lines
    left = folder / f".000038.npz.{'0' * 8}-1.{'0' * 8}.part"
    left.unlink()
    same(out, alone)


def test_one_that_fails_says_why_and_ends_the_others(tmp_path):
    statuses, lines, _ = ended(launched([*PLAN, "--out", tmp_path / "out"], 2, FAILS="1"))
    assert all(statuses) and len(lines) == 1, lines
    assert lines[0].startswith("diffnum: process 1 of 2: out of memory; use a smaller --batch or "), lines
    statuses, lines, _ = ended(launched(["sample", "--steps", "0"], 2))
    assert statuses == [1, 1] and len(lines) == 1 and "--steps=0 must be" in lines[0], lines


def test_who_waits_for_the_others_to_come_hears_a_request_to_stop(tmp_path):
    """Torch waits for them in C++, for minutes; the first of two answers the second's call here, and says no more."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        first.settimeout(600)
        runs = launched([*PLAN, "--out", tmp_path / "out"], 2, ranks=[1], port=first.getsockname()[1])
        with first.accept()[0]:
            runs[0].terminate()
            statuses, lines, _ = ended(runs, within=120)
    assert statuses == [143] and not lines, lines


@pytest.fixture(params=["0", "2"])
def one_of_three(request, monkeypatch):
    """The store of a run of three, seen by one of them in this process; an alarm asks it to stop."""
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(seconds=1))  # of a key that nobody has set
    for other in {"0", "1", "2"} - {request.param}:
        store.set(f"left/{other}", "")

    def stop(*_):
        raise SystemExit(143)

    for name, value in {"WORLD_SIZE": "3", "RANK": request.param, "MASTER_ADDR": "here", "MASTER_PORT": "1",
                        "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_, **__: iter([(store, request.param, 3)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(processes, "_told", threading.Event())
    monkeypatch.setattr(processes, "_speaks", threading.Event())
    before = signal.signal(signal.SIGALRM, stop)
    yield store
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("ended", [False, True])
def test_who_is_stopped_on_the_way_in_asks_whether_another_speaks(one_of_three, ended, monkeypatch):
    """Another may have met the store of the launcher before, and ended the run: then it stays silent, the first too."""
    if ended:
        one_of_three.set("ended", "1 143")

    def rendezvous(*_, **__):
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.2)
        yield one_of_three, 0, 3

    monkeypatch.setattr(torch.distributed, "rendezvous", rendezvous)
    with pytest.raises(SystemExit), processes.team():
        pass
    assert processes.quiet() == ended
    assert one_of_three.get("ended") == (b"1 143" if ended else f"{os.environ['RANK']} 143".encode())


def test_who_is_stopped_while_it_deals_with_a_failure_tells_the_others(one_of_three):
    """Another was killed, a call of gloo fails, and before somebody says why there comes a signal."""
    with pytest.raises(SystemExit), processes.team():
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise RuntimeError("[gloo] Connection closed by peer")
    assert not processes.quiet()
    assert one_of_three.get("ended") == f"{os.environ['RANK']} 143".encode()


@pytest.mark.weights
def test_torchrun_scores_what_one_process_scores(tmp_path, monkeypatch):
    """The result of `quality` by three processes is, number for number, that of one; so is a sheet's array."""
    monkeypatch.chdir(tmp_path)
    words = ["quality", "--solver", "ddim", "--steps", "1", "-n", "10", "--batch", "2"]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "diffnum"]
    run = subprocess.run([*several, *words, "--folder", "b", "--out", "b.json"], capture_output=True, text=True,
                         timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0 and run.stdout.count("-> b.json") == 1, run.stderr
    result = CliRunner().invoke(cli.app, [*words, "--folder", "a", "--out", "a.json"])
    assert result.exit_code == 0, result.output
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert one == other and run.stdout.splitlines()[:-1] == result.stdout.splitlines()[:-1]
    same(tmp_path / "b", tmp_path / "a")


def test_comparing_by_two_processes_is_that_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "--solver", "ddim", "--solver", "plms", "--nfe", "6", "-n", "3"]
    statuses, lines, said = ended(launched(words, 2))
    result = CliRunner().invoke(cli.app, words)
    assert statuses == [0, 0] and not lines and said == result.stdout


# ------------------------------------------------------------------------------------------------- the folder


def test_the_manifest_lists_what_is_there_and_finds_what_was_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(named, "network", lambda *_: Cheap())
    plan = quality.recipe("ddim", 2, batch=2)
    images, nfe, lost = quality.images(plan, 6, tmp_path)
    kept = shards.home(plan, tmp_path)
    found = json.loads((kept / "manifest.json").read_text())
    assert found["recipe"] == plan and found["images"] == 6
    assert [(s["file"], s["first"], s["images"], s["nfe"], s["lost"]) for s in found["shards"]] == [
        (f"{first:06d}.npz", first, 2, 2, 0) for first in (0, 2, 4)
    ]
    assert shards.enter(plan, 5, tmp_path) == (nfe, lost, shards.hashlib.sha256(images[:5].tobytes()).hexdigest())
    # a file of the right recipe and place with other images
    one = next(iter(shards.read(plan, 2, tmp_path)))
    shards.write(plan, tmp_path, shards.Shard(0, 255 - one.images, one.finite, one.nfe))
    with pytest.raises(dn.DiffnumError, match="not those that the manifest lists"):
        quality.images(plan, 6, tmp_path)
    # what was deleted is forgotten, and drawn again by another rounding it would be listed anew
    (kept / "000000.npz").unlink()
    assert shards.prepare(plan, 6, tmp_path) == [0] and list(shards.manifest(plan, tmp_path)) == [
        "000002.npz", "000004.npz",
    ]  # fmt: skip
    shards.write(plan, tmp_path, shards.Shard(0, 255 - one.images, one.finite, one.nfe))
    assert np.array_equal(quality.images(plan, 6, tmp_path)[0][:2], 255 - images[:2])
    line = found["shards"][0]
    odd = [{k: v for k, v in line.items() if k != "first"}, {**line, "images": "2"}, {**line, "lost": None}, [line], 3]
    for text in (
        "{",
        *(json.dumps({**found, "shards": [entry]}) for entry in odd),
    ):  # damaged, or parseable and no list
        (kept / "manifest.json").write_text(text)
        assert quality.images(plan, 6, tmp_path)[0].shape == (6, 32, 32, 3)
        assert len(shards.manifest(plan, tmp_path)) == 3


def test_features_of_shards_are_those_of_all_images(tmp_path, monkeypatch):
    monkeypatch.setattr(named, "network", lambda *_: Cheap())
    plan = quality.recipe("ddim", 2, batch=2)
    images, _, _ = quality.images(plan, 5, tmp_path)
    whole, parts = features.load()(images), quality.kept_features(plan, 5, tmp_path)
    assert parts.shape == (5, 256) and torch.allclose(parts, whole, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------- the team


def test_rows_are_split_evenly_and_none_is_lost():
    for n, size in ((0, 3), (2, 4), (10, 3), (7, 1)):
        parts = [Team(rank, size).part(n) for rank in range(size)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name, value in (("WORLD_SIZE", "1"), ("RANK", "3"), ("WORLD_SIZE", "many")):
        monkeypatch.setenv(name, value)
        assert processes.place() == (0, 1, 0) and processes.signature() == ""
    with processes.team() as team:
        assert team.first and list(team.share([3, 1])) == [3, 1] and team.gather("a") == ["a"] and team.told(1) == 1
        assert team.progress(1.5) == 1.5 and team.progress(1.0) == 2.5
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(dn.DiffnumError, match="MASTER_ADDR, MASTER_PORT is not set"), processes.team():
        pytest.fail("it has begun")
    assert not processes.quiet() or processes.place()[0] == 3
