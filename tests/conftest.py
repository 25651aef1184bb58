"""Shared set-up of the tests: one thread (small tensors are faster so), the golden arrays, the standard problem."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import diffnum as dn
from diffnum.denoisers.targets import smooth

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


def arrays(name: str) -> dict[str, torch.Tensor]:
    """The golden arrays of a paper."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    """Arrays computed by the published PNDM code in float64 on an exact problem."""
    return arrays("pndm")


@pytest.fixture(scope="session")
def golden_gddim() -> dict[str, torch.Tensor]:
    """Arrays of an independent float64 implementation of gDDIM; states there end with the axis (position, momentum)."""
    return arrays("gddim")


@pytest.fixture(scope="session")
def golden_ersde() -> dict[str, torch.Tensor]:
    """Arrays computed by the published ER-SDE code in float64 on an exact problem, and accurate variants of them."""
    return arrays("ersde")


@pytest.fixture(scope="session")
def golden_psld() -> dict[str, torch.Tensor]:
    """Arrays of the PSLD reference classes (``ref_``) and of an independent implementation of integrators (``own_``).

    States there are flat, ``(*, 6)``: three positions, then three momenta.
    """
    return arrays("psld")


@pytest.fixture(scope="session")
def cld(golden_gddim) -> SimpleNamespace:
    """The mixture of the golden arrays on CLD, and their start states, ``(8, 2, 3)``."""
    process, g = dn.CLD(), golden_gddim
    problem = dn.Problem(process, dn.GaussianMixture(g["mix_w"], g["mix_mu"], stds=g["mix_c"]))
    return SimpleNamespace(process=process, problem=problem, u=g["uT"].mT.contiguous())


@pytest.fixture(scope="session")
def vp(golden) -> SimpleNamespace:
    """The smooth mixture on the linear VP process, with the golden start states."""
    process = dn.VP()
    return SimpleNamespace(process=process, problem=dn.Problem(process, smooth()), u=golden["x_T"])
