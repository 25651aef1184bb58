"""``python -m diffnum``: the command line."""

from diffnum.cli import main

main()
