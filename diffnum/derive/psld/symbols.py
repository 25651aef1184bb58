r"""The symbols of `derive.psld`, and series in generators that do not commute."""

import sympy as sp

x, m, s_x, s_m = sp.symbols("x m s_x s_m", real=True)
lam = sp.Symbol("lambda", real=True)
l_min, l_max = sp.symbols("l_min l_max", real=True)
# generators that do not commute: of two flows (X, Y), and of a matrix K_0 + t K_1
X, Y, K_0, K_1 = sp.symbols("X Y K_0 K_1", commutative=False)
# score(u, tau) = S(tau) u with a symmetric S = S_0 + tau S_1, tau >= 0 the clock run down since the start of the step
S_0, S_1 = (sp.Matrix(2, 2, lambda i, j, k=k: sp.Symbol(f"S{k}_{'xm'[min(i, j)]}{'xm'[max(i, j)]}")) for k in (0, 1))


def truncated(expression: sp.Expr, at: sp.Symbol, highest: int) -> sp.Expr:
    """The powers of `at` up to the highest, of a polynomial with factors that do not commute."""
    expression = sp.expand(expression)
    return sp.Add(*(expression.coeff(at, power) * at**power for power in range(highest + 1)))


def exp_series(generator: sp.Expr, at: sp.Symbol, highest: int) -> sp.Expr:
    """The exponential series of a generator that is O(at), through at^highest."""
    term = total = sp.Integer(1)
    for k in range(1, highest + 1):
        term = truncated(term * generator / k, at, highest)
        total += term
    return total
