"""``python -m diffnum`` and the command ``diffnum``."""

import signal
import sys

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> None:
    """The command line. An end from outside is one line, while it is being imported, too, and leaves nothing half done.

    Exits with the status of the command, 130 after Ctrl-C, 143 after SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        from diffnum.cli import main as run

        run()
    except KeyboardInterrupt:
        print("diffnum: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == TERMINATED:
            print("diffnum: terminated", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
