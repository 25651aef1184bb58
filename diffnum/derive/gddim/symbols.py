r"""The symbols of `derive.gddim`, and matrices of functions of time."""

from collections.abc import Sequence

import sympy as sp

from diffnum.derive.linear_sde import t

# phase space: dampings, the clock, initial variances of position and momentum; CLD's mass and rate
Gamma, e, q = sp.symbols("Gamma e q", nonnegative=True)
nu, b, M, beta = sp.symbols("nu b M beta", positive=True)
# one step of a scalar process, from t down to s
alpha_t, sigma_t, alpha_s, sigma_s = sp.symbols("alpha_t sigma_t alpha_s sigma_s", positive=True)
# a step of length h in lambda = log(alpha/sigma), after one of length r h; derivatives of the data prediction in lambda
h, r = sp.symbols("h r", positive=True)
D1, D2 = sp.symbols("D1 D2", real=True)
# the weight function of a coefficient, Psi Q K^-T / 2, and its derivative at the start of a step
W0, W1 = sp.symbols("W0 W1", real=True)


def matrix(name: str, k: int, symmetric: bool = False) -> sp.Matrix:
    """A (k, k) matrix of functions of t."""
    if symmetric:
        return sp.Matrix(k, k, lambda i, j: sp.Function(f"{name}{min(i, j)}{max(i, j)}", real=True)(t))
    return sp.Matrix(k, k, lambda i, j: sp.Function(f"{name}{i}{j}", real=True)(t))


def known_rates(pairs: Sequence[tuple[sp.Matrix, sp.Matrix]]) -> dict[sp.Expr, sp.Expr]:
    """Each derivative of an entry and what it is equal to."""
    return {sp.diff(a, t): rate for M, rates in pairs for a, rate in zip(M, rates, strict=True)}


def zero(matrix: sp.Matrix) -> sp.Matrix:
    """What is zero if every entry cancels."""
    return matrix.applyfunc(sp.cancel)
