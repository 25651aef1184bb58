r"""Derivations in SymPy: the symbolic twins of the numeric library.

Every module proves what a numeric module uses, with exact numbers and named symbols, and imports SymPy and the standard
library only. Functions return SymPy objects and print nothing: a notebook shows them, a test asserts them.

===================  =====================================================================================
`linear_sde`         Fokker-Planck, moment equations and their solutions, VP is VE, the ODE of VP and VE
`reversing`          Tweedie's formula, forms of one prediction, reverse SDEs of equal marginals, Gaussian flow
`classical`          Adams-Bashforth weights, Runge-Kutta conditions and tableaus, local and global errors, stability
`ddim`               one prediction frozen, the rest solved: DDIM, its other names, and what it is exact for
`pndm`               the transfer map, local errors of pseudo methods, global error constants, the last step
`gddim`              phase space in closed form, the root R, exponential Adams methods, the stochastic step
`exponential_adams`  UniPC's system and its short cuts, the third order that is second, an analytic first step
`exponential_rk`     order conditions of the singlestep DPM-Solvers: where the second stage has to stand
`er_sde`             noise scales, the exact solution, Taylor coefficients, local errors, noise and the order
`guidance`           Bayes and Tweedie at weight 1, the defect of other weights, rates, what overshoots
`psld`               splitting on phase space and its local errors, conjugate integrators, exponentials, stability
===================  =====================================================================================

Import the module you need: ``from diffnum.derive import pndm``.
"""

__all__ = [
    "classical",
    "ddim",
    "er_sde",
    "exponential_adams",
    "exponential_rk",
    "gddim",
    "guidance",
    "linear_sde",
    "pndm",
    "psld",
    "reversing",
]
