"""Solvers: generator functions ``solver(problem, u, times, **options)``; ``registry`` maps names to them.

A method of the library registers when its module is imported below, so whoever imports ``find`` or ``solve`` from here
(as ``diffnum`` itself does) finds all of them by name.
"""

from diffnum.runner import find, registry, solve, steps
from diffnum.solvers.baselines import edm_churn, edm_heun
from diffnum.solvers.classical import ab2, ab4, euler, fon, heun, rk4
from diffnum.solvers.conjugate import conjugate, conjugate_symplectic_euler, conjugate_velocity_verlet
from diffnum.solvers.ddim import ddim, transfer
from diffnum.solvers.er_sde import er_sde, noise_scales
from diffnum.solvers.exponential_adams import deis, dpmpp_2m, dpmpp_3m, exponential_adams, lms, unipc
from diffnum.solvers.exponential_rk import dpm_adaptive, exponential_rk
from diffnum.solvers.gddim import gddim, gddim_sde
from diffnum.solvers.pndm import f_pndm, ipndm, plms, pndm_variable, prk, s_pndm
from diffnum.solvers.reverse_sde import ancestral, ddim_eta, euler_maruyama
from diffnum.solvers.sa_solver import dpmpp_2m_sde, sa_solver
from diffnum.solvers.splitting import (
    bao,
    oba,
    obab,
    reduced_bao,
    reduced_oba,
    reduced_obab,
    reduced_symplectic_euler,
    reduced_velocity_verlet,
    sscs,
    symplectic_euler,
    velocity_verlet,
    verlet2,
)

__all__ = [
    "ab2", "ab4", "ancestral", "bao", "conjugate", "conjugate_symplectic_euler", "conjugate_velocity_verlet", "ddim",
    "ddim_eta", "deis", "dpm_adaptive", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "edm_churn", "edm_heun", "er_sde",
    "euler", "euler_maruyama", "exponential_adams", "exponential_rk", "f_pndm", "find", "fon", "gddim", "gddim_sde",
    "heun", "ipndm", "lms", "noise_scales", "oba", "obab", "plms", "pndm_variable", "prk", "reduced_bao",
    "reduced_oba", "reduced_obab", "reduced_symplectic_euler", "reduced_velocity_verlet", "registry", "rk4", "s_pndm",
    "sa_solver", "solve", "sscs", "steps", "symplectic_euler", "transfer", "unipc", "velocity_verlet", "verlet2",
]  # fmt: skip
