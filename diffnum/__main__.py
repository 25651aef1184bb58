"""``python -m diffnum`` and the command ``diffnum``."""

import sys


def main() -> None:
    """The command line; an interruption while it is still being imported is one line, too."""
    try:
        from diffnum.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("diffnum: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
