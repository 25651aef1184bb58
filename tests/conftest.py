"""Shared set-up of the tests: one thread (small tensors are faster so), the golden arrays, the standard problem."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum.targets import smooth

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """Arrays computed by the published PNDM code in float64 on an exact problem."""
    with np.load(GOLDEN / "pndm.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="session")
def vp(golden) -> SimpleNamespace:
    """The smooth mixture on the linear VP process, with the golden start states."""
    process = dn.VP()
    return SimpleNamespace(process=process, problem=dn.Problem(process, smooth()), u=golden["x_T"])
