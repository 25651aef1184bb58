"""The orthonormal DCT-II of images as two small matrix products, and what a Gaussian blur does to its coefficients."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from diffnum.ambient import unrounded

__all__ = ["dct2", "dct_matrix", "decay", "frequencies", "idct2"]


def dct_matrix(n: int) -> Tensor:
    r"""The orthonormal DCT-II as a matrix A (n, n), float64 on the CPU: y = A x, x = A^T y.

    .. math:: A_{kj} = \sqrt{(2 - \delta_{k0})/n}\; \cos(\pi k (j + 1/2)/n)

    Source: Ahmed, Natarajan & Rao 1974; same scaling as ``scipy.fft.dct(..., type=2, norm="ortho")``.
    """
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    matrix = (2 / n) ** 0.5 * torch.cos(torch.pi / n * k[:, None] * (k + 0.5))
    matrix[0] /= 2**0.5
    return matrix


@lru_cache(maxsize=64)
def _copy(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a cached inference tensor would break autograd later
        return dct_matrix(n).to(device, dtype)


@unrounded
def dct2(x: Tensor) -> Tensor:
    """DCT-II over the last two axes, x: (..., H, W), in x's dtype and on x's device. Source: see `dct_matrix`."""
    rows, columns = (_copy(n, x.dtype, x.device) for n in x.shape[-2:])
    return rows @ x @ columns.mT


@unrounded
def idct2(y: Tensor) -> Tensor:
    """The inverse of `dct2`, y: (..., H, W)."""
    rows, columns = (_copy(n, y.dtype, y.device) for n in y.shape[-2:])
    return rows.mT @ y @ columns


def frequencies(shape: Sequence[int]) -> Tensor:
    r"""Squared frequencies :math:`\Lambda_{ij} = (\pi i/H)^2 + (\pi j/W)^2` of the DCT, float64 ``(H, W)``."""
    rows, columns = (torch.pi / n * torch.arange(n, dtype=torch.float64, device="cpu") for n in shape)
    return rows[:, None] ** 2 + columns**2


def decay(width: Tensor, shape: Sequence[int]) -> Tensor:
    r"""What a Gaussian blur leaves of every frequency: :math:`e^{-\Lambda s^2/2}`.

    Args:
        width: standard deviation s of the blur in pixels, float64 ``(*)``.
        shape: ``(H, W)``.

    Returns:
        float64 ``(*, H, W)``.
    """
    return torch.exp(-frequencies(shape).to(width.device) * (width**2 / 2)[..., None, None])
