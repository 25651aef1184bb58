"""What gDDIM says: Zhang, Tao and Chen 2023, arXiv:2206.05564."""

from diffnum.claims.gddim import propositions, practice  # isort: skip - the order of the table
