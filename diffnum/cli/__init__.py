"""The command line: ``diffnum sample | solvers | order | compare | check | course | audit | golden | quality | ...``.

Torch is imported inside the commands, so ``diffnum --help`` answers at once. Every refusal is one line on stderr that
begins with ``diffnum:`` and says what to do; the exit status is 0 for success, 1 for a refusal (or an order that is not
confirmed, or images that are none), 2 for a mistake in the command itself, 130 after Ctrl-C and 143 after SIGTERM.
Results are written before anything is printed about them. Several processes, started by torchrun, share the work of
``sample``, ``compare``, ``quality`` and ``train``; the first of them speaks.
"""

import os
import sys
from typing import Any

import typer

from diffnum.cli import audit, check, claims, compare, course, golden, order, problems, quality, sample, solvers, train
from diffnum.cli.common import Stream, app, complain, sentence
from diffnum.images.processes import place


def main() -> None:
    """Run the command; usage mistakes, too, are one line, and none is a traceback.

    Raises:
        KeyboardInterrupt, SystemExit: :func:`diffnum.__main__.main` tells of the first, and of SIGTERM.
    """
    streams: Any = sys
    if place()[0]:  # of several processes one speaks
        streams.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    streams.stdout, streams.stderr = (Stream(s) if s is not None else s for s in (sys.stdout, sys.stderr))
    try:
        status = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what is short reaches a full disk only now
    except OSError as error:  # of standard output
        complain(sentence(error))
        status = 1
    except Exception as error:
        # Typer's usage errors know how to word themselves; its own copy of click has no public name to catch.
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
        else:
            complain(f"{' '.join(error.format_message().split())} (diffnum --help shows what there is)")
        status = error.exit_code
    if status == 130:
        raise KeyboardInterrupt
    sys.exit(status if isinstance(status, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        from diffnum import __version__

        print(f"diffnum {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Diffusion samplers as numerical methods: draw images, list the solvers, measure their orders.

    [bold]diffnum sample[/bold] draws 64 images; [bold]diffnum order --solver f_pndm[/bold] measures an order.
    """
    # Idle threads sleep instead of spinning: no slower on a free machine, and many times faster on a busy one. It is
    # read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
