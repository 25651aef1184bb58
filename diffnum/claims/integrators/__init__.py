"""What 'Efficient Integrators for Diffusion Generative Models' says: Pandey, Rudolph and Mandt 2023, arXiv:2310.07894.

Its full text was not at hand and its code is not public: claims are those of the abstract and of public reviews.
"""

from diffnum.claims.integrators import conjugation, splitting  # isort: skip - the order of the table
