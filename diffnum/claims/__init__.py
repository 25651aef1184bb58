"""Claims: every sentence of the four papers that can be tried, with the function that tries it.

One module a paper, and ``folklore`` for what libraries and codes imply; importing the package fills ``registry``.
``diffnum claims`` lists, measures and explains them.
"""

from diffnum.claims.verdicts import PAPERS, Claim, Verdict, claim, find, registry

from diffnum.claims import pndm, gddim, er_sde, integrators, folklore  # isort: skip - the order of the table
from diffnum.claims.store import rows, run, store, stored

__all__ = [
    "PAPERS", "Claim", "Verdict", "claim", "find", "folklore", "gddim", "er_sde", "integrators", "pndm", "registry",
    "rows", "run", "store", "stored",
]  # fmt: skip
