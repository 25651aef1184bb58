"""Conditions of order for nodes of one's own, against known methods and against errors that are measured."""

from itertools import pairwise

import pytest
import sympy as sp

import diffnum as dn
from diffnum.derive import classical, design
from diffnum.measure.analysis import convergence, standard_problem
from diffnum.solvers import transfer

R = sp.Rational


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_weights_and_their_constants_are_a_special_case(order):
    nodes = [-k for k in range(order)]
    assert design.multistep_weights(nodes) == classical.adams_bashforth(order)
    assert design.multistep_error(nodes) == (order, classical.adams_bashforth_error_constant(order))


@pytest.mark.parametrize("kernel", design.KERNELS.values(), ids=list(design.KERNELS))
@pytest.mark.parametrize("nodes", [(0, -1), (0, -2), (0, R(-1, 2), -3)])
def test_the_weights_solve_their_conditions(nodes, kernel):
    values = dict(zip(design.weight_symbols(len(nodes)), design.multistep_weights(nodes, kernel), strict=True))
    residuals = [c.subs(values) for c in design.multistep_conditions(nodes, len(nodes), kernel)]
    assert [sp.simplify(r) for r in residuals] == [0] * len(nodes)
    beyond = design.multistep_conditions(nodes, len(nodes) + 1, kernel)[-1].subs(values)
    assert sp.limit(sp.simplify(beyond), design.h, 0) != 0, "the order is higher than the number of nodes"


def test_weights_of_the_log_snr_kernel_are_those_of_the_assignment():
    k = sp.Symbol("k", positive=True)  # the step before, in units of this one
    _, old = design.multistep_weights((0, -k), design.KERNELS["log_snr"])
    h = design.h
    assert sp.simplify(old * h + (h - 1 + sp.exp(-h)) / (k * h)) == 0


def test_two_stages_have_order_two():
    c = sp.Symbol("c", positive=True)
    a21, b1, b2 = design.two_stages(c)
    tableau = classical.Tableau(sp.ImmutableMatrix([[0, 0], [a21, 0]]), sp.ImmutableMatrix([b1, b2]),
                                sp.ImmutableMatrix([0, c]))  # fmt: skip
    assert not any(sp.simplify(r) for r in classical.runge_kutta_conditions(2, tableau))
    a21, b1, b2 = design.two_stages(c, design.KERNELS["log_snr"])
    h = design.h
    assert sp.simplify(a21 - (1 - sp.exp(-c * h)) / h) == 0
    assert sp.limit(b2, h, 0) == 1 / (2 * c)


@pytest.mark.parametrize(("c2", "c3"), [(R(1, 2), 1), (R(1, 3), R(2, 3)), (R(1, 2), R(3, 4))])
def test_three_stages_have_order_three(c2, c3):
    tableau = design.three_stages(c2, c3)
    assert not any(sp.simplify(r) for r in classical.runge_kutta_conditions(3, tableau))


@pytest.mark.parametrize(
    "call",
    [
        lambda: design.multistep_conditions((0, 0), 2),
        lambda: design.multistep_conditions((0, -1), 0),
        lambda: design.two_stages(0),
        lambda: design.three_stages(R(2, 3), R(2, 3)),
    ],
)
def test_nodes_that_cannot_be_are_refused(call):
    with pytest.raises(ValueError, match=r"nodes|order|c2"):
        call()


def multistep(nodes):
    """A solver of those nodes, whole steps back, on equal steps in rho; DDIM until its history is full."""
    back, weights = [int(-c) for c in nodes], [float(w) for w in design.multistep_weights(nodes)]

    def solver(problem, u, times):
        past = []
        for t, s in pairwise(times):
            past = [problem.eps(u, t), *past[: max(back)]]
            full = len(past) > max(back)
            bar = sum(w * past[k] for w, k in zip(weights, back, strict=True)) if full else past[0]
            u = transfer(problem, u, bar, t, s)
            yield u

    return solver


def test_global_errors_are_in_the_ratio_of_the_constants():
    process = dn.VE()
    problem, u, grid, _ = standard_problem("sigma", process)
    errors = {}
    for nodes in ((0, -1), (0, -2)):
        errors[nodes] = convergence(problem, multistep(nodes), u, grid, (640, 1280)).errors[-1]
    constants = [design.multistep_error(nodes)[1] for nodes in errors]
    predicted = float(constants[1] / constants[0])
    measured = errors[0, -2] / errors[0, -1]
    assert abs(measured / predicted - 1) < 0.1, f"predicted {predicted:.3f}, measured {measured:.3f}"
