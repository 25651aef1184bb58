"""The process between the grader and a student's solver: it starts it, limits it, watches it, and clears up after it.

``python -m diffnum.classroom.supervise FD`` imports the library once and then makes a copy of itself (fork) for every
job that comes down the socket FD. It is a *child subreaper* where the system has that (Linux): whatever the job leaves
behind, also in sessions of its own, becomes a child of this process and is ended here. When the grader goes, this goes.

**This is not a security boundary.** It keeps honest mistakes and crude tricks from doing harm: an audit hook refuses
files outside the job's own folder, other processes, signals and the network, and the system limits memory, file size
and time. Whoever wants to get past a Python audit hook can. Grade strangers' work in a virtual machine.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import site
import socket
import struct
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

LINUX = sys.platform.startswith("linux")
MARK = "DIFFNUM_SANDBOX"  # in the environment of every process of one grader
LANDLOCK = 444  # the number of its first system call, the same on every processor
PAUSE = 0.02  # seconds between two looks at the job

PROCESSES = {
    "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system", "subprocess.Popen", "pty.spawn",
}  # fmt: skip
SIGNALS = {"os.kill", "os.killpg", "signal.pthread_kill"}
NETWORK = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"}
CHANGES = {
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
}  # fmt: skip
SYSTEM_CALLS = {"fork", "vfork", "clone", "kill", "killpg", "tgkill", "system", "syscall", "ptrace", "prctl", "unlink"}


def unlimited() -> list[str]:
    """What this system cannot limit, in words; empty on a Linux of today."""
    missing = []
    if not (LINUX and ctypes.CDLL(None).syscall(LANDLOCK, None, 0, 1) > 0):
        missing.append("compiled code may write files outside of the folder of the run")
    if not LINUX:
        missing.append("processes that a solver starts in a session of their own are not found")
        missing.append("time is that of the clock, and a busy machine counts")
        if sys.platform == "darwin":
            missing.append("memory has no limit (macOS does not enforce one)")
    return missing


# ------------------------------------------------------------------------------------------------- in the new process


def confine(folder: Path, limits: dict[str, int]) -> list[str]:
    """Limits and the audit hook for this process and for good; returns the list to which refusals are added."""
    import resource

    os.chdir(folder / "work")
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        os.environ[name] = str(folder / "home")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "home" / ".cache")  # torch's own file, not the solver's
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if LINUX else 0
    memory = pages * resource.getpagesize() + limits["memory"]  # on top of what the library's own code maps
    for kind, value in (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, limits["file"]), (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256), (resource.RLIMIT_CPU, limits["seconds"] + 30),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))
    write_only_below(folder)
    refused: list[str] = []
    home = os.path.realpath(folder)
    library = os.path.realpath(Path(__file__).parents[1])
    readable = {home, library, sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), site.getusersitepackages()}
    readable |= {path for path in sys.path if path.endswith(("-packages", ".zip"))}
    readable |= {"/usr", "/lib", "/lib64", "/etc", "/sys", "/dev", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"}
    readable = {os.path.realpath(path) if path != "/proc/self" else path for path in readable}

    def within(path: Any, roots: set[str]) -> bool:
        path = os.path.abspath(os.fsdecode(path))
        real = path if path.startswith("/proc/self/") and ".." not in path else os.path.realpath(path)
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots)

    def refuse(what: str, why: str) -> None:
        if len(refused) < 20 and what not in refused:
            refused.append(what)
        raise PermissionError(f"{what} is refused here: {why}")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, int) or path is None:
                return
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) if isinstance(flags, int) else 0
            if writes and not within(path, {home, "/dev/null"}):
                refuse(f"writing {os.fsdecode(path)}", "a solver writes nothing")
            if not writes and not within(path, readable):
                refuse(f"reading {os.fsdecode(path)}", "a solver reads nothing")
        elif event in CHANGES:
            for path in args:
                if isinstance(path, str | bytes | os.PathLike) and not within(path, {home}):
                    refuse(f"{event} of {os.fsdecode(path)}", "a solver changes no files")
        elif event in PROCESSES:
            refuse(event, "a solver starts no process")
        elif event in SIGNALS:
            refuse(event, "a solver sends no signal")
        elif event in NETWORK:
            refuse(event, "a solver needs no network")
        elif event == "ctypes.dlsym" and args[1] in SYSTEM_CALLS:
            refuse(f"{args[1]} of the C library", "a solver makes no system calls")

    sys.addaudithook(hook)
    return refused


def write_only_below(folder: Path) -> None:
    """Ask the system itself to refuse changes outside a folder (Landlock, Linux 5.13), also those of compiled code."""
    if not LINUX:
        return
    libc, changes = ctypes.CDLL(None), 0b1_1111_1111_0010  # write, remove, make; reading stays free
    rules = libc.syscall(LANDLOCK, struct.pack("Q", changes), 8, 0)
    if rules < 0:
        return
    for path, allowed in ((folder, changes), (os.devnull, 0b10)):
        place = os.open(path, os.O_PATH)
        libc.syscall(LANDLOCK + 1, rules, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.syscall(LANDLOCK + 2, rules, 0)
    os.close(rules)


def job(sock: socket.socket, output: int, folder: Path, limits: dict[str, int]) -> None:
    """The new process from its start to its end."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nowhere, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    from diffnum.classroom.messages import Broken, receive, send
    from diffnum.classroom.session import Session

    def ask(head: dict[str, Any], *tensors: Any) -> Any:
        try:
            send(sock, head, *tensors)
            return receive(sock)
        except Broken:
            os._exit(1)  # past whatever the student's code would catch

    session = Session(ask)
    refused = confine(folder, limits)
    with contextlib.suppress(Broken):
        while True:
            head, tensors = receive(sock)
            reply, results = session.answer(head, tensors)
            send(sock, {**reply, "refused": refused}, *results)
            with contextlib.suppress(Exception):
                sys.stdout.flush()


# ------------------------------------------------------------------------------------------------- in the supervisor


def supervise(control: socket.socket) -> None:
    """Serve jobs until the grader closes its end."""
    if LINUX:
        libc = ctypes.CDLL(None)
        libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    import torch

    import diffnum.classroom.session
    import diffnum.measure.checks  # noqa: F401

    torch.set_num_threads(1)
    torch.zeros(2, dtype=torch.float64).exp()
    control.sendall(b'{"ready": true}\n')
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not message:
            return
        message = message.lstrip(b"!")  # a request to end a job that had ended already
        if not message:
            continue
        order = json.loads(message)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                control.close()
                job(socket.socket(fileno=fds[0]), fds[1], Path(order["folder"]), order["limits"])
                status = 0
            finally:
                os._exit(status)
        for fd in fds:
            os.close(fd)
        control.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        why = watch(pid, control, Path(order["folder"]), order["limits"])
        status = sweep(pid)
        try:
            control.sendall(json.dumps({"ended": status, "why": why}).encode() + b"\n")
        except OSError:  # the grader was killed, and nobody else removes the folder
            shutil.rmtree(order["folder"], ignore_errors=True)
            return


def watch(pid: int, control: socket.socket, folder: Path, limits: dict[str, int]) -> str:
    """Wait for the end of a job: its own, one that the grader asks for, or one for a limit, whose name is returned."""
    looks = 0
    while not ended(pid):
        if select.select([control], [], [], PAUSE)[0]:
            control.recv(1)
            time.sleep(3 * PAUSE)  # one that goes by itself is gone by then
            return "" if ended(pid) else "stopped"
        looks += 1
        if len(known(os.getpid())) > 1 + limits["processes"]:
            return "processes"
        if looks % 10 == 0 and size_of(folder) > limits["folder"]:
            return "folder"
    return ""


def ended(pid: int) -> bool:
    """Whether a child has ended; it is not yet reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def sweep(pid: int) -> int:
    """End and reap everything below this process; returns the status of the one child (negative: its signal)."""
    status, patience = 0, time.monotonic() + 10
    while time.monotonic() < patience:
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        found = descendants(os.getpid())
        for sign in (signal.SIGSTOP, signal.SIGKILL):  # a stopped process starts no other
            for other in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, sign)
        try:
            done, code = os.waitpid(-1, 0)
            if done == pid:
                status = os.waitstatus_to_exitcode(code)
        except ChildProcessError:
            break
    return status


def descendants(root: int) -> list[int]:
    """Processes below a process, zombies left out; only children of the group where there is no ``/proc``."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if LINUX else ():
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    parents.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def known(root: int) -> list[int]:
    """The same as :func:`descendants` at the price of a few small files; one that starts meanwhile may be missed."""
    found, todo = [], [root]
    try:
        while todo:
            parent = todo.pop()
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
                todo += map(int, children)
            found += [parent] * (Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX")
    except OSError:  # one has just ended, or this system keeps no such lists
        return descendants(root)
    return found[1:]


def marked(mark: str) -> list[int]:
    """Processes whose environment carries a grader's mark: all that it has started, below a supervisor or not."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for entry in os.listdir("/proc") if LINUX else ():
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
    return found


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


if __name__ == "__main__":
    supervise(socket.socket(fileno=int(sys.argv[1])))
