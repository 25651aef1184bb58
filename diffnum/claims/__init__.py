"""Claims: every sentence of the four papers that can be tried, with the function that tries it.

One module a paper, ``foundations`` for the chapters before them, and ``folklore`` for what libraries and codes imply;
importing the package fills ``registry``. ``diffnum claims`` lists, measures and explains them.
"""

from diffnum.claims.verdicts import PAPERS, Claim, Verdict, claim, find, registry

from diffnum.claims import foundations, pndm, gddim, er_sde, integrators, folklore  # isort: skip - the order of the table
from diffnum.claims.store import rows, run, store, stored

__all__ = [
    "PAPERS", "Claim", "Verdict", "claim", "find", "folklore", "foundations", "gddim", "er_sde", "integrators", "pndm",
    "registry", "rows", "run", "store", "stored",
]  # fmt: skip
