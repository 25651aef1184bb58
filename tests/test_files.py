"""Writing files: whole or not at all, where and as what was there before, and with errors that say what to do."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import diffnum as dn
from diffnum import files
from diffnum.errors import DiffnumError

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes of POSIX")


def put(path, text="new"):
    return files.write(path, lambda file: file.write(text.encode()))


def test_home_is_meant_by_a_tilde_everywhere(tmp_path, monkeypatch):
    from diffnum.classroom import problems
    from diffnum.images import data, metrics, quality, shards

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert put("~/a.txt") == tmp_path / "a.txt" and files.read("~/a.txt") == b"new"
    monkeypatch.setenv("DIFFNUM_CACHE", "~/cache")
    assert data.cache() == tmp_path / "cache"
    recipe = {"solver": "ddim", "batch": 2}
    (shards.home(recipe, tmp_path)).mkdir()
    (shards.home(recipe, tmp_path) / "000000.npz").write_bytes(b"")
    assert shards.drawn(recipe, "~") == 2
    for read, message in (
        (lambda: data.cifar10("~"), str(tmp_path)),
        (lambda: metrics.Reference.load("~/a.txt"), "not a reference"),
        (lambda: quality.result("~/a.txt"), "no result of diffnum"),
        (lambda: dn.load("~/a.safetensors"), str(tmp_path)),
        (lambda: problems.read("~/a.txt"), "holds no problems"),
    ):
        with pytest.raises(DiffnumError, match=message):
            read()


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    files.write_together({one: b"1", two: b"2"})
    two.chmod(0o444)
    with pytest.raises(OSError, match="read-only"):
        files.write_together({one: b"3", two: b"4"})
    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2") and len(list(tmp_path.iterdir())) == 2


@posix
def test_a_link_is_followed_and_modes_are_kept(tmp_path):
    (tmp_path / "far").mkdir()
    target, link, dead = tmp_path / "far" / "a", tmp_path / "link", tmp_path / "dead"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    dead.symlink_to(tmp_path / "far" / "b")
    for path, real in ((link, target), (dead, tmp_path / "far" / "b")):
        put(path)
        assert path.is_symlink() and not real.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "far" / "b").stat().st_mode) == 0o666 & ~files_umask()


def files_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@posix
def test_what_is_no_place_for_a_file_is_refused_before_the_work_and_names_a_remedy(tmp_path):
    locked = tmp_path / "locked"
    locked.write_text("old")
    locked.chmod(0o444)
    for path, says in (
        (locked, "read-only; make it writable"), (tmp_path, "a folder; name a file in it"),
        (tmp_path / "x" / "y", "x does not exist; create it first"), (tmp_path / ("n" * 300), "choose a shorter name"),
        (locked / "y", "name another place"),
    ):  # fmt: skip
        for attempt in (put, files.probe):
            with pytest.raises(OSError, match=says) as caught:
                attempt(path)
            assert caught.value.filename == str(path)
    assert locked.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == ["locked"]
    put(tmp_path / ("é" * 120))  # 240 bytes: the temporary name is short enough
    free = tmp_path / "free"
    files.probe(free)
    assert not free.exists()
    with pytest.raises(OSError, match=r"MB are free; free some space") as caught:
        files.probe(free, 2**62)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path, code):
    def fail(file):
        file.write(b"half")
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match=r"; (free|name)") as caught:
        files.write(tmp_path / "a", fail)
    assert caught.value.filename == str(tmp_path / "a") and caught.value.errno == code
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_an_error_about_another_file_stays_its_own(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        files.write(tmp_path / "a", lambda file: file.write(Path("nowhere").read_bytes()))
    assert caught.value.filename == "nowhere" and not list(tmp_path.iterdir())


@posix
def test_a_pipe_or_a_device_is_written_to_and_never_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files.probe(pipe)  # and does not wait for a reader
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    files.write(pipe, lambda file: (file.write(b"a"), file.seek(0), file.write(b"new")))
    reader.join(60)
    assert got == [b"new"] and stat.S_ISFIFO(pipe.stat().st_mode)
    put("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    for path in (pipe, "/dev/null", tmp_path):
        with pytest.raises(OSError, match="it is a"):
            files.read(path)


@posix
@pytest.mark.parametrize("piped", [True, False])
def test_standard_output_by_its_path(tmp_path, piped):
    code = "import sys; from diffnum import files; print('before', flush=True)\n"
    code += "files.write('/dev/stdout', lambda file: file.write(b'new')); print('after')"
    with open(tmp_path / "out", "wb") as out:
        run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE if piped else out, timeout=120)
    assert run.returncode == 0
    assert (run.stdout if piped else (tmp_path / "out").read_bytes()) == b"before\nnewafter\n"


@posix
def test_what_a_killed_write_left_goes_at_the_next_one(tmp_path):
    code = "import os, signal; from diffnum import files\n"
    code += "files.write('a', lambda file: os.kill(os.getpid(), signal.SIGKILL))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".part"
    alive = left.with_name(left.name.replace(left.name.split("-")[1].split(".")[0], str(os.getpid())))
    other = [tmp_path / ".b.0123abcd.part", tmp_path / ".a.part", tmp_path / "a.0123abcd.part", alive]
    old, young = tmp_path / ".a.0123abcd.part", tmp_path / ".a.0123abce.part"  # as version 0.1 named them
    for path in (*other, old, young):
        path.write_text("")
    os.utime(old, (time.time() - 2 * files.DAY,) * 2)
    put(tmp_path / "a")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", young, *other])


def test_stored_results_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = files.stored("psld_100")
    assert here == json.loads((Path(files.__file__).parents[1] / "book/results/psld_100.json").read_text())
    results = tmp_path / "copy" / "book" / "results"
    (tmp_path / "copy" / "notebooks" / "deep").mkdir(parents=True)
    results.mkdir(parents=True)
    (results / "psld_100.json").write_text('{"of": "the copy"}')
    monkeypatch.chdir(tmp_path / "copy" / "notebooks" / "deep")
    assert files.stored("psld_100") == {"of": "the copy"}
    (results / "psld_100.json").write_text("[" * 100_000)
    with pytest.raises(DiffnumError, match="no readable JSON"):
        files.stored("psld_100")
    with pytest.raises(DiffnumError, match="not at hand"):
        files.stored("nonsense")
