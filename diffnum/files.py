"""Files: paths as people write them, reads that do not hang, writes that are whole or nothing, the book's results."""

import errno
import io
import json
import os
import platform
import re
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from diffnum.errors import DiffnumError

DAY = 86_400.0  # seconds; a temporary file as old as this belongs to no write that still goes on

REMEDIES = {
    errno.ENOSPC: "free some space there, or name a place on another disk",
    errno.EDQUOT: "free some of your quota, or name a place on another disk",
    errno.EFBIG: "name a place on another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "create it first (mkdir -p)",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "make it writable (chmod u+w), or name another place",
}


def place(path: str | os.PathLike[str]) -> Path:
    """A path from outside: ``~`` is the home folder, also where no shell has replaced it (``--out=~/x.png``)."""
    return Path(os.path.expanduser(path))


def read(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file. A pipe is refused: reading it may wait for ever.

    Raises:
        OSError: no such file, or no regular one.
    """
    path = place(path)
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device; copy what it gives into a file"
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, what, str(path))
    return path.read_bytes()


def write(path: str | os.PathLike[str], content: Callable[[BinaryIO], Any]) -> Path:
    """Let ``content(file)`` write into a temporary neighbour, then give it its name: no partial file, ever.

    A symbolic link is followed, permissions of a file that is replaced are kept, and a pipe or a device is written to.
    What an earlier write left that was killed is removed.

    Raises:
        OSError: the folder does not exist or cannot be written to, the disk is full, the name is too long, or the file
            is read-only. The error names the file and says what to do.
    """
    path = place(path)
    with _explained(path):
        if (stream := _stream(path)) is not None:
            whole = io.BytesIO()  # a pipe cannot seek
            content(whole)
            with open(stream, "wb", closefd=stream == path) as file:
                file.write(whole.getbuffer())
        else:
            _replace(path, content)
    return path


def write_together(contents: dict[Path, bytes]) -> None:
    """Write files that belong together: all of them are whole before the first one gets its name.

    Raises:
        OSError: as :func:`write`.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, blob in contents.items():
            with _explained(path):
                parts[path] = _neighbour(path, lambda file: file.write(blob))  # noqa: B023 - written at once
        for path, part in parts.items():
            os.replace(part, os.path.realpath(path))
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def probe(path: str | os.PathLike[str], size: int = 0) -> None:
    """Refuse what :func:`write` would refuse for a file of so many bytes, before the work is done.

    Raises:
        OSError: as :func:`write`.
    """
    path = place(path)
    with _explained(path):
        if _stream(path) is not None:
            return
        _replace(path, lambda file: file.write(bytes(2**16)), keep=False)
        if shutil.disk_usage(os.path.realpath(path.parent)).free < size:
            raise OSError(errno.ENOSPC, f"less than {size / 1e6:.0f} MB are free")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the system about this file, with its name and a remedy."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        if name != str(path) and not name.endswith(".part"):
            raise  # of another file, which the content is made from
        code, reason = error.errno or errno.EIO, error.strerror or str(error)
        if code == errno.ENOENT:
            reason = f"the folder {(path.resolve() if path.is_symlink() else path).parent} does not exist"
        raise OSError(code, f"{reason}; {REMEDIES.get(code, 'name another place')}", str(path)) from None


def _replace(path: Path, content: Callable[[BinaryIO], Any], keep: bool = True) -> None:
    """Write a temporary neighbour of a file, and let it take the file's place if it is to be kept."""
    temporary = _neighbour(path, content)
    try:
        if keep:
            os.replace(temporary, os.path.realpath(path))
    finally:
        temporary.unlink(missing_ok=True)


def _neighbour(path: Path, content: Callable[[BinaryIO], Any]) -> Path:
    """A temporary file beside the one that it is to replace, written, with its owner and permissions."""
    target = Path(os.path.realpath(path))
    try:
        state = target.stat()
    except FileNotFoundError:
        state = None
    if state is not None and stat.S_ISDIR(state.st_mode):
        raise OSError(errno.EISDIR, "it is a folder", str(path))
    if state is not None and not state.st_mode & 0o222:  # even where a superuser might
        raise OSError(errno.EACCES, "it is read-only", str(path))
    key = target.name if len(os.fsencode(target.name)) < 200 else f"{zlib.crc32(os.fsencode(target.name)):08x}"
    sweep(target.parent, key)
    temporary = target.with_name(f".{key}.{_host()}-{os.getpid()}.{uuid4().hex[:8]}.part")
    try:
        with open(temporary, "xb") as file:
            content(file)
        if state is not None:
            with suppress(OSError, AttributeError):  # another owner's file stays theirs, where we may give files away
                os.chown(temporary, state.st_uid, state.st_gid)
            os.chmod(temporary, stat.S_IMODE(state.st_mode))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _stream(path: Path) -> Path | int | None:
    """What to open where a file is not to be replaced: the stream it is open as, or the pipe or device itself."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    for number in (1, 2):
        with suppress(OSError):  # a closed stream
            if os.path.samestat(state, os.fstat(number)):
                return number
    return None if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode) else path


def sweep(folder: Path, key: str | None = None) -> None:
    """Remove temporary files, by default those of every name, that no living process writes."""
    name = ".+" if key is None else re.escape(key)
    pattern = re.compile(rf"\.{name}\.(?:([0-9a-f]{{8}})-(\d{{1,9}})\.)?[0-9a-f]{{8}}\.part")
    with suppress(OSError):  # a folder that cannot be listed, or another process was faster
        for found in filter(None, map(pattern.fullmatch, os.listdir(folder))):
            left = folder / found[0]
            dead = found[1] == _host() and not _runs(int(found[2]))
            if dead or time.time() - left.stat().st_mtime > DAY:
                left.unlink()


def _host() -> str:
    """This machine, in eight characters: process numbers mean nothing on another one."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _runs(process: int) -> bool:
    """Whether a process of this number lives; True where that cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def stored(name: str) -> Any:
    """A result of the book, ``book/results/NAME.json``, wherever a notebook runs.

    It is looked for in the checkout around the current folder, then in the one that the package was imported from.

    Raises:
        DiffnumError: neither holds it, or it is no JSON.
    """
    here = Path.cwd()
    for root in (here, *here.parents, Path(__file__).resolve().parents[1]):
        file = root / "book" / "results" / f"{name}.json"
        if file.is_file():
            try:
                return json.loads(read(file))
            except (ValueError, RecursionError):
                raise DiffnumError(f"{file} is no readable JSON; restore it from the repository") from None
    raise DiffnumError(
        f"the book's result {name}.json is not at hand; start in a checkout of the repository, or install one with "
        "pip install -e ."
    )
