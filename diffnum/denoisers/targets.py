"""Exact problems: denoisers in closed form on which orders are measured, defined once for library, tests and book.

=============  ====================================================  ===============================================
name           data                                                  why
=============  ====================================================  ===============================================
``smooth``     two Gaussians in R^4, no thin direction               eps is smooth down to t = 0: orders are clean
``thin``       the same, standard deviation 0 in two directions      data on planes, as images are: eps is stiff near 0
``gaussian``   one Gaussian in R^4                                   eps is linear: errors are known in closed form
=============  ====================================================  ===============================================
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffnum import arguments
from diffnum.denoisers import Gaussian, GaussianMixture

WEIGHTS = (0.35, 0.65)
MEANS = ((1.5, -0.5, 0.8, -1.2), (-0.9, 1.1, -0.4, 0.6))
STDS = ((0.3, 0.4, 0.2, 0.5), (0.4, 0.25, 0.5, 0.3))
THIN_STDS = ((0.3, 0.0, 0.2, 0.0), (0.4, 0.0, 0.5, 0.0))


def smooth() -> GaussianMixture:
    """Two Gaussians in R^4 with all standard deviations between 0.2 and 0.5: data with full support."""
    return GaussianMixture(WEIGHTS, MEANS, stds=STDS)


def thin() -> GaussianMixture:
    """The same mixture with standard deviation 0 in coordinates 1 and 3: each component lies on a plane."""
    return GaussianMixture(WEIGHTS, MEANS, stds=THIN_STDS)


def gaussian() -> Gaussian:
    """One Gaussian in R^4: the first component of the mixture."""
    return Gaussian(MEANS[0], [s**2 for s in STDS[0]])


#: The exact problems by name.
targets: dict[str, Callable[[], Any]] = {"smooth": smooth, "thin": thin, "gaussian": gaussian}


def target(name: str) -> Any:
    """The exact denoiser of that name.

    Raises:
        KeyError: no target of that name.
    """
    return targets[arguments.choose("exact target", name, targets, KeyError)]()


def starts(process: Any, batch: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Start states ``(batch, 4)`` for the exact problems: prior draws that depend on the seed and the row alone."""
    return arguments.process(process).prior((batch, 4), dtype=dtype, seed=seed)
