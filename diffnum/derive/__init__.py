r"""Derivations in SymPy: the symbolic twins of the numeric library.

Every module proves what a numeric module uses, with exact numbers and named symbols, and imports SymPy and the standard
library only. Functions return SymPy objects and print nothing: a notebook shows them, a test asserts them.

===============  =====================================================================================
`linear_sde`     Fokker-Planck, moment equations, the probability-flow ODE of VP and VE, :math:`dy/d\sigma=\epsilon`
`classical`      Adams-Bashforth weights (uniform and variable step), Runge-Kutta order conditions and tableaus
`pndm`           the transfer map, local errors of pseudo methods, global error constants, the last step
===============  =====================================================================================

Import the module you need: ``from diffnum.derive import pndm``.
"""

__all__ = ["classical", "linear_sde", "pndm"]
