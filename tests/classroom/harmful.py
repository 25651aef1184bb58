"""Files that harm, or are no solver at all: each with words that the stated reason must contain.

They are texts, since several do their harm while they are imported.
"""

HEAD = """
import os, sys, time, signal, threading, subprocess
import torch
import diffnum as dn
from diffnum.solvers import transfer


def step(problem, u, t, s):
    return transfer(problem, u, problem.eps(u, t), t, s)


def solver(problem, u, times):
    for t, s in zip(times, times[1:]):
        {}
        u = step(problem, u, t, s)
        yield u
"""


def inside(statement: str) -> str:
    """A right solver with one statement more in each step."""
    return HEAD.replace("{}", statement)


def before(statement: str) -> str:
    """A statement, and a solver below it: without one nothing would be run."""
    return f"{statement}\n{inside('pass')}"


HARMFUL = {
    "loops for ever": (inside("while True: pass"), "did not finish"),
    "sleeps for ever": (inside("time.sleep(1000)"), "did not finish"),
    "yields for ever": (inside("while True: yield u"), "states|more than"),
    "asks for ever": (inside("while True: problem.eps(u, t)"), "did not (finish|come to an end)"),
    "allocates": (inside("u = u + 0 * torch.ones(1 << 31).sum()"), "memory"),
    "grows": (inside("keep = [bytearray(1 << 26) for _ in range(200)]"), "memory"),
    "prints for ever": (inside("while True: print('x' * 10000)"), "prints more than"),
    "prints before it ends": (inside("[print('y' * 5000) for _ in range(100000)]"), "prints more than"),
    "writes a large file": (inside("open('big', 'wb').write(b'0' * (1 << 25))"), "more than is allowed"),
    "writes many files": (
        inside("[open(f'f{i}', 'wb').write(b'0' * (1 << 23)) for i in range(20)]"),
        "into files|more than is allowed",
    ),
    "leaves a file": (inside("open('note.txt', 'a').write('hello')"), "behind"),
    "writes outside": (inside("open('/tmp/diffnum-was-here', 'w').write('x')"), "/tmp/diffnum-was-here"),
    "reads outside": (inside("open('/root/.bashrc').read()"), "refused"),
    "forks": (inside("os.fork()"), "os.fork|process"),
    "starts a program": (inside("subprocess.run(['ls'])"), "process|Popen"),
    "starts a shell": (inside("os.system('sleep 100 &')"), "process|system"),
    "kills itself": (inside("os.kill(os.getpid(), signal.SIGKILL)"), "signal|kill"),
    "kills its parent": (inside("os.kill(os.getppid(), signal.SIGKILL)"), "signal|kill"),
    "aborts": (inside("os.abort()"), "SIGABRT"),
    "exits at once": (inside("os._exit(0)"), "ended itself"),
    "leaves Python": (inside("sys.exit(0)"), "sys.exit"),
    "interrupts": (inside("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "closes stdout": (inside("sys.stdout.close(); print('x')"), "closed file|ValueError"),
    "closes every channel": (
        inside("[os.close(i) for i in range(3, 256) if os.path.exists(f'/proc/self/fd/{i}')]"),
        "closed|ended itself|Errno",
    ),
    "overflows the stack": (inside("(f := lambda x: f(x))(1)"), "Recursion"),
    "leaves a thread": (inside("threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"), "thread"),
    "threads without end": (
        inside("[threading.Thread(target=time.sleep, args=(100,), daemon=True).start() for _ in range(5000)]"),
        "thread",
    ),
    "swallows everything": (
        inside("\n        while True:\n            try: time.sleep(1)\n            except BaseException: pass"),
        "did not finish",
    ),
    "asks the network": (inside("__import__('socket').create_connection(('127.0.0.1', 9))"), "refused|network"),
    "replaces the counter": (inside("dn.Problem.count = lambda self: None"), "replaces"),
    "replaces the judge": (
        inside("import diffnum.measure.checks as c; c.assert_order = lambda *a, **k: 2.0"),
        "replaces",
    ),
    "imports nonsense": ("import no_such_library\n" + inside("pass"), "no_such_library"),
    "syntax": ("def solver(problem, u, times)\n    yield u\n", "SyntaxError"),
    "indentation": ("def solver(problem, u, times):\nyield u\n", "IndentationError"),
    "is empty": ("", "no solver was found"),
    "has none": ("x = 1\n", "no solver was found"),
    "raises when run": (before("1 / 0"), "ZeroDivisionError"),
    "exits when run": (before("import os\nos._exit(0)"), "ended itself"),
    "loops when run": (before("while True: pass"), "did not finish"),
    "leaves Python when run": (before("import sys\nsys.exit()"), r"ends Python .*SystemExit$"),
    "quits when run": (before("quit()"), r"ends Python .*SystemExit$"),
    "forks when run": (before("import os\nwhile True: os.fork()"), "os.fork|process"),
    "prints when run": (before("while True: print('z' * 10000)"), "File too large|prints"),
    "allocates when run": (before("x = bytearray(1 << 40)"), "MemoryError|memory"),
    "holds what raises when it is looked at": (
        "class Odd:\n    def __call__(self): pass\n    def __getattr__(self, name): raise SystemExit\nodd = Odd()\n"
        "def solver(problem, u, times):\n    pass\n",
        "yield",
    ),
    "yields nonsense": (inside("yield 'state'"), "str"),
    "yields numpy": (inside("yield u.numpy()"), "ndarray"),
    "needs an argument more": ("def solver(problem, u, times, gamma):\n    yield u\n", "no solver was found|gamma"),
    "takes too few": ("def solver(problem, u):\n    yield u\n", "no solver was found|takes 2 parameters"),
    "returns nothing": ("def solver(problem, u, times):\n    pass\n", "yield"),
    "is a stub": ("def solver(problem, u, times):\n    raise NotImplementedError\n", "stub"),
    "is no text": ("\0\1\2", "null bytes|SyntaxError|ValueError"),
}
