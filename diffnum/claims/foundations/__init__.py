"""What the chapters on foundations try: sentences of textbooks, of other papers, and of everyday practice."""

from diffnum.claims.foundations import processes, order, ddim, stochastic, guidance, network, training  # isort: skip - the order of chapters
