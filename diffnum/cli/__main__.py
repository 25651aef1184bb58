"""``python -m diffnum.cli``: the command line."""

from diffnum.__main__ import main

main()
