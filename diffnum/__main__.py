"""``python -m diffnum`` and the command ``diffnum``."""

import os
import signal
import sys

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def say(what: str) -> None:
    """One line about the end; of several processes one says it, and unless another has given the reason."""
    try:
        from diffnum.images.processes import AGAIN, place, quiet
    except BaseException:  # another signal, while the package is imported
        print(f"diffnum: {what}", file=sys.stderr)
    else:
        if not quiet():
            print(f"diffnum: {what}{f'; {AGAIN}' if place()[1] > 1 else ''}", file=sys.stderr)


def main() -> None:
    """The command line. An end from outside is one line, while it is being imported, too, and leaves nothing half done.

    Exits with the status of the command, 130 after Ctrl-C, 143 after SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # of processes that go, one of ours says why, in one line
    try:
        from diffnum.cli import main as run

        run()
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == TERMINATED:
            say("terminated")
        raise


if __name__ == "__main__":
    main()
