"""Solvers: generator functions ``solver(problem, u, times, **options)``; ``registry`` maps names to them."""

from diffnum.runner import registry
from diffnum.solvers.baselines import dpmpp_2m, edm_heun
from diffnum.solvers.classical import ab2, ab4, euler, fon, heun, rk4
from diffnum.solvers.ddim import ddim, transfer
from diffnum.solvers.gddim import gddim, gddim_sde
from diffnum.solvers.pndm import f_pndm, plms, pndm_variable, prk, s_pndm

__all__ = [
    "ab2", "ab4", "ddim", "dpmpp_2m", "edm_heun", "euler", "f_pndm", "fon", "gddim", "gddim_sde", "heun", "plms",
    "pndm_variable", "prk", "registry", "rk4", "s_pndm", "transfer",
]  # fmt: skip
