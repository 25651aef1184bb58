"""``python -m diffnum.cli``: the command line."""

from diffnum.cli import main

main()
