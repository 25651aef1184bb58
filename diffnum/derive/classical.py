r"""Classical methods, exactly: Adams-Bashforth weights and Runge-Kutta tableaus from what they must integrate.

A linear multistep method is an integrated Lagrange polynomial; a Runge-Kutta method solves the order conditions of the
rooted trees. Both are derived here with rational numbers; the numeric twins live in `diffnum.coefficients`. What a
method gets wrong in one step, how these errors add up, and how large a step may be are derived here too.
Hairer, Nørsett and Wanner 1993 (Solving ODEs I) is cited as HNW.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from typing import NamedTuple

import sympy as sp

__all__ = [
    "Tableau",
    "adams_bashforth",
    "adams_bashforth_error_constant",
    "adams_bashforth_variable",
    "classical_rk4",
    "euler",
    "explicit_tableau",
    "global_error_constant",
    "improved_euler",
    "lagrange_basis",
    "local_error",
    "real_stability_limit",
    "richardson_weights",
    "rooted_trees",
    "runge_kutta_4_family",
    "runge_kutta_conditions",
    "stability_function",
]

HALF = sp.Rational(1, 2)
# f(t, y) and its partial derivatives at the start of a step, for local errors
f, f_t, f_y, f_tt, f_ty, f_yy = partial_derivatives = sp.symbols("f f_t f_y f_tt f_ty f_yy")
Tree = tuple["Tree", ...]


class Tableau(NamedTuple):
    """A Runge-Kutta method: stage matrix `A`, weights `b`, nodes `c`: exact SymPy matrices, `b` and `c` columns."""

    A: sp.ImmutableMatrix
    b: sp.ImmutableMatrix
    c: sp.ImmutableMatrix


def lagrange_basis(nodes: Sequence[sp.Expr], at: sp.Expr) -> tuple[sp.Expr, ...]:
    r"""The Lagrange polynomials of `nodes`, evaluated at the point `at`.

    .. math:: l_j(r) = \prod_{k \ne j} \frac{r - r_k}{r_j - r_k}, \qquad l_j(r_k) = \delta_{jk}

    Assumes pairwise different nodes. HNW, section III.1.
    """
    return tuple(
        sp.Mul(*((at - other) / (node - other) for k, other in enumerate(nodes) if k != j))
        for j, node in enumerate(nodes)
    )


def adams_bashforth_variable(nodes: Sequence[sp.Expr], end: sp.Expr) -> tuple[sp.Expr, ...]:
    r"""Adams-Bashforth weights on any nodes, newest first: the step from ``nodes[0]`` to `end`.

    .. math:: y(r_{end}) - y(r_0) \approx \sum_j w_j\, y'(r_j), \qquad w_j = \int_{r_0}^{r_{end}} l_j(r)\,dr

    Exact when y' is a polynomial of degree < ``len(nodes)``, so the local error is O(h^(k+1)) with k nodes. HNW,
    section III.5. Assumes y' smooth in the variable r and bounded step ratios. With r = sigma and y' = eps these
    are the weights that give PNDM its order 4 back.
    """
    nodes = tuple(map(sp.sympify, nodes))
    r = sp.Dummy("r")
    basis = (sp.expand(polynomial) for polynomial in lagrange_basis(nodes, r))
    return tuple(sp.factor(sp.integrate(polynomial, (r, nodes[0], sp.sympify(end)))) for polynomial in basis)


@cache
def adams_bashforth(order: int) -> tuple[sp.Rational, ...]:
    r"""Adams-Bashforth weights for uniform steps, newest first, in units of the step.

    .. math:: y_{i+1} = y_i + h \sum_{j=0}^{k-1} b_j\, y'_{i-j}, \qquad b_j = \int_0^1 l_j(r)\,dr,
        \quad r_j = -j

    Order 4 is (55, -59, 37, -9)/24. Liu et al. 2022, arXiv:2202.09778, equation (12); HNW, table III.1.1. Assumes
    uniform steps in the variable of integration and a derivative that is smooth in it: both fail for PNDM read in
    sigma.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, not {order}")
    return adams_bashforth_variable([-j for j in range(order)], 1)


def adams_bashforth_error_constant(order: int) -> sp.Rational:
    r"""The constant of the local error: what the weights miss of the first power they are not exact for.

    .. math:: y(h) - y_1 = C\,h^{k+1} y^{(k+1)} + O(h^{k+2}), \qquad
        C = \frac{1}{k!}\Big(\frac{1}{k+1} - \sum_j b_j (-j)^k\Big)

    C = 1/2, 5/12, 3/8, 251/720 for k = 1..4. HNW, section III.2; C is gamma_k of table III.1.1.
    """
    missed = sp.Rational(1, order + 1) - sum(b * sp.Integer(-j) ** order for j, b in enumerate(adams_bashforth(order)))
    return missed / sp.factorial(order)


def _grafted(tree: Tree) -> Iterator[Tree]:
    """All trees made from `tree` by hanging one more leaf on one of its vertices."""
    yield tuple(sorted((*tree, ())))
    for i, child in enumerate(tree):
        for larger in _grafted(child):
            yield tuple(sorted((*tree[:i], larger, *tree[i + 1 :])))


@cache
def rooted_trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` vertices (1, 1, 2, 4, 9, ...); a tree is the sorted tuple of its root's subtrees.

    They number the terms of the Taylor series of y' = f(y): HNW, section II.2 (definition 2.2).
    """
    if order == 1:
        return ((),)
    return tuple(sorted({bigger for tree in rooted_trees(order - 1) for bigger in _grafted(tree)}))


def _vertices(tree: Tree) -> int:
    return 1 + sum(map(_vertices, tree))


def _density(tree: Tree) -> int:
    """gamma(tree) = (number of vertices) * product of gamma over the subtrees."""
    return _vertices(tree) * prod(map(_density, tree))


def _stage_weights(tree: Tree, A: sp.ImmutableMatrix) -> sp.ImmutableMatrix:
    """Phi_i(tree) = product over the root's subtrees of sum_j a_ij Phi_j(subtree)."""
    weights = [sp.Integer(1)] * A.rows
    for child in tree:
        inner = A * _stage_weights(child, A)
        weights = [w * v for w, v in zip(weights, inner, strict=True)]
    return sp.ImmutableMatrix(weights)


def explicit_tableau(stages: int) -> Tableau:
    """An explicit tableau of free symbols a_ij (j < i), b_i, with c_i = sum_j a_ij."""
    A = sp.ImmutableMatrix(stages, stages, lambda i, j: sp.Symbol(f"a{i + 1}{j + 1}") if j < i else sp.Integer(0))
    return Tableau(A, sp.ImmutableMatrix(sp.symbols(f"b1:{stages + 1}")), A * sp.ones(stages, 1))


def runge_kutta_conditions(p: int, tableau: Tableau | None = None) -> tuple[sp.Expr, ...]:
    r"""The order conditions up to order p, as residuals: the method has order p if and only if all are 0.

    .. math:: \sum_i b_i\,\Phi_i(\tau) - \frac{1}{\gamma(\tau)} = 0 \quad\text{for every rooted tree } \tau
        \text{ with at most p vertices}, \qquad c_i - \sum_j a_{ij} = 0

    1, 2, 4, 8 tree conditions for p = 1..4, then one row-sum residual a stage. Without a tableau: in the symbols of
    `explicit_tableau(p)`. HNW, theorem II.2.13. Assumes y' = f(y) with f p times continuously differentiable.
    """
    A, b, c = tableau or explicit_tableau(p)
    trees = (tree for order in range(1, p + 1) for tree in rooted_trees(order))
    residuals = [(b.T * _stage_weights(tree, A))[0] - sp.Rational(1, _density(tree)) for tree in trees]
    return tuple(map(sp.expand, [*residuals, *(c - A * sp.ones(A.rows, 1))]))


@cache
def euler() -> Tableau:
    r"""Euler's method, the one explicit method of one stage that solves the condition of order 1: :math:`b_1 = 1`.

    HNW, section I.7. Assumes f continuous.
    """
    A, b, c = explicit_tableau(1)
    (solution,) = sp.solve(runge_kutta_conditions(1), list(b), dict=True)
    return Tableau(A, b.subs(solution), c)


@cache
def improved_euler() -> Tableau:
    r"""Improved Euler (Heun), solved from the conditions of order 2 with the second stage at the end of the step.

    .. math:: b_1 + b_2 = 1,\quad b_2 c_2 = \tfrac12,\quad c_2 = 1 \ \Rightarrow\ b = (\tfrac12, \tfrac12)

    HNW, section II.1. Liu et al. 2022, arXiv:2202.09778, use it as the start of S-PNDM. Assumes f twice differentiable.
    """
    A, b, _ = explicit_tableau(2)
    A = A.subs(A[1, 0], 1)  # the choice c2 = 1; c2 = 1/2 would be the midpoint rule
    conditions = runge_kutta_conditions(2, Tableau(A, b, A * sp.ones(2, 1)))
    (solution,) = sp.solve(conditions, list(b), dict=True)
    return Tableau(A, b.subs(solution), A * sp.ones(2, 1))


@cache
def runge_kutta_4_family() -> Tableau:
    r"""All explicit four-stage methods of order 4 with nodes c = (0, 1/2, 1/2, 1): one free weight, the symbol b3.

    .. math:: b = (\tfrac16, \tfrac23 - b_3, b_3, \tfrac16), \quad a_{32} = \tfrac{1}{6 b_3}, \quad
        a_{42} = 1 - 3 b_3, \quad a_{43} = 3 b_3

    Solved from the eight conditions of `runge_kutta_conditions(4)`. HNW, section II.1 (Kutta's solution of the order
    conditions, case c2 = c3 = 1/2). Assumes b3 != 0 and f four times differentiable.
    """
    c = sp.ImmutableMatrix([0, HALF, HALF, 1])
    A, b, _ = explicit_tableau(4)
    first_column = {A[i, 0]: c[i] - sum(A[i, 1:]) for i in (1, 2, 3)}  # row sums
    A = A.subs(first_column)
    unknowns = [b[0], b[1], b[3], A[2, 1], A[3, 1], A[3, 2]]
    conditions = [r for r in runge_kutta_conditions(4, Tableau(A, b, c)) if r != 0]
    (solution,) = sp.solve(conditions, unknowns, dict=True)
    return Tableau(A.subs(solution).applyfunc(sp.simplify), b.subs(solution), c)


@cache
def classical_rk4() -> Tableau:
    r"""The classical Runge-Kutta method: the member of `runge_kutta_4_family` that treats both midpoints alike.

    .. math:: b_2 = b_3 \ \Rightarrow\ b = (1, 2, 2, 1)/6, \quad a_{21} = a_{32} = \tfrac12,\ a_{43} = 1

    Kutta 1901; HNW, table II.1.2; the gradient part of Liu et al. 2022, arXiv:2202.09778, equation (13).
    """
    A, b, c = runge_kutta_4_family()
    (solution,) = sp.solve([b[1] - b[2]], [sp.Symbol("b3")], dict=True)
    return Tableau(A.subs(solution), b.subs(solution), c)


# ---- what one step gets wrong, and what becomes of it ---------------------------------------------------------------


def local_error(tableau: Tableau) -> dict[int, sp.Expr]:
    r"""Method minus exact solution after one step of y' = f(t, y): ``{1: ..., 2: ..., 3: coefficient of h^3}``.

    .. math:: h \sum_i b_i k_i - \int_t^{t+h} y'\,dr = c_1 h + c_2 h^2 + c_3 h^3 + O(h^4), \qquad
        y'' = f_t + f_y f,\quad y''' = f_{tt} + 2 f_{ty} f + f_{yy} f^2 + f_y y''

    in the symbols ``f, f_t, f_y, f_tt, f_ty, f_yy`` of this module. Euler: :math:`c_2 = -\tfrac12 y''`. Improved
    Euler: :math:`c_3 = \tfrac1{12} y''' - \tfrac14 f_y y''`. HNW, section II.1; the explicit time is ours, their
    theorem II.2.13 has f(y). Assumes an explicit tableau and f three times differentiable.
    """
    A, b, c = tableau
    h = sp.Dummy("h")

    def cut(expression: sp.Expr) -> sp.Expr:  # without the powers of h above 2
        return sum(sp.expand(expression).coeff(h, k) * h**k for k in range(3))

    stages: list[sp.Expr] = []
    for i in range(A.rows):
        dt, dy = c[i] * h, h * sum((A[i, j] * k for j, k in enumerate(stages)), sp.S.Zero)
        stages.append(cut(f + f_t * dt + f_y * dy + f_tt * dt**2 / 2 + f_ty * dt * dy + f_yy * dy**2 / 2))
    second = f_t + f_y * f
    third = f_tt + 2 * f_ty * f + f_yy * f**2 + f_y * second
    exact = f * h + second * h**2 / 2 + third * h**3 / 6
    error = sp.expand(h * sum(w * k for w, k in zip(b, stages, strict=True)) - exact)
    return {k: sp.expand(error.coeff(h, k)) for k in (1, 2, 3)}


def global_error_constant(tableau: Tableau, solution: sp.Expr, t: sp.Symbol, start: sp.Expr, end: sp.Expr) -> sp.Expr:
    r"""The leading constant C of the global error for a linear equation y' = a(t) y: error = C h^p + O(h^{p+1}).

    .. math:: C = \int_{t_0}^{t_1} P(r)\,c_{p+1}(r)\,dr, \qquad P(r) = \frac{S(t_1)}{S(r)}

    `solution` is S(t), any solution that has no zero: a = S'/S, and the propagator P carries the local error, the
    leading entry of `local_error`, to the end. Returns an unevaluated `Integral` for the solution S itself; h is the
    signed step of a uniform grid. HNW, section II.8 (the first term of the asymptotic expansion). Assumes a tableau of
    order 1 or 2 and S four times differentiable.
    """
    rate = sp.diff(solution, t) / solution
    first, second = sp.diff(rate, t), sp.diff(rate, t, 2)
    values = (rate * solution, first * solution, rate, second * solution, first, sp.S.Zero)
    leading = next((c for c in local_error(tableau).values() if c != 0), None)
    if leading is None:
        raise ValueError("the local error has no term up to h^3: this needs a method of order 1 or 2")
    carried = leading.subs(dict(zip(partial_derivatives, values, strict=True))) * solution.subs(t, end) / solution
    return sp.Integral(carried, (t, start, end))


def stability_function(tableau: Tableau) -> sp.Expr:
    r"""What one step multiplies y by on the test equation y' = lambda y, with z = h lambda; a polynomial in ``z``.

    .. math:: R(z) = 1 + z\,b^\top (I - z A)^{-1} \mathbb 1 = e^z + O(z^{p+1})

    Euler 1 + z; improved Euler adds z^2/2; the classical Runge-Kutta method is the series of e^z to z^4. Hairer and
    Wanner 1996 (Solving ODEs II), section IV.2. Assumes an explicit tableau.
    """
    A, b, _ = tableau
    z = sp.Symbol("z")
    inner, power = sp.S.One, sp.ones(A.rows, 1)
    for k in range(1, A.rows + 1):  # A is nilpotent: the Neumann series ends
        inner += z**k * (b.T * power)[0]
        power = A * power
    return sp.expand(inner)


def real_stability_limit(method: Tableau | int) -> sp.Expr:
    r"""The largest x such that steps with z = -x' do not grow for all x' in (0, x]; `method`: a tableau or an AB order.

    .. math:: |R(-x)| \le 1, \qquad\text{Adams-Bashforth: } x = \frac{2}{\sum_j |b_j|}

    2, 2 and 2.785 for Euler, improved Euler and classical Runge-Kutta (the last a root of a cubic); 2, 1, 6/11 and 3/10
    for Adams-Bashforth 1 to 4: there the root -1 of the characteristic polynomial
    :math:`\zeta^k - \zeta^{k-1} + x \sum_j b_j \zeta^{k-1-j}` is the first to reach the unit circle, and the signs of
    the weights alternate. Hairer and Wanner 1996 (Solving ODEs II), sections IV.2 and V.1.
    """
    if isinstance(method, int):
        return 2 / sum(abs(b) for b in adams_bashforth(method))
    x = sp.Symbol("x", positive=True)
    growth = stability_function(method).subs(sp.Symbol("z"), -x)
    limits = [root for side in (1, -1) for root in sp.Poly(growth - side, x).real_roots() if root > 0]
    return min(limits)


def richardson_weights(*powers: int) -> tuple[sp.Rational, ...]:
    r"""Weights of runs with steps h, h/2, h/4, ... whose combination loses the error terms h^p of the given powers.

    .. math:: \sum_k w_k = 1, \qquad \sum_k w_k\,2^{-kp} = 0 \text{ for every } p; \qquad
        \text{one power: } w = \Big(\frac{-1}{2^p - 1},\ \frac{2^p}{2^p - 1}\Big)

    Coarsest first. HNW, section II.4 and II.9. Assumes an error that has an expansion in these powers of h.
    """
    weights = sp.symbols(f"w0:{len(powers) + 1}")
    equations = [sum(weights) - 1]
    equations += [sum(w * sp.Rational(1, 2 ** (k * p)) for k, w in enumerate(weights)) for p in powers]
    (solution,) = sp.linsolve(equations, weights)
    return tuple(solution)
