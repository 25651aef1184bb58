"""What ER-SDE-Solvers says: Cui, Zhang, Lu and Liao 2023, arXiv:2309.06169.

The version of WACV 2025 is by Cui, Zhang, Bao and Liao; "arbitrarily high order" is in the abstract of arXiv.
"""

from diffnum.claims.er_sde import propositions, practice  # isort: skip - the order of the table
