"""Assignment 7, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 7: third order that is third
#
# **Level** graduate. **After** the chapter on exponential multistep methods. **Time**
# four hours.
#
# **You learn** where an order is lost: in the weights, in the start, or on grids that
# nobody tried.
#
# **You are given** a three-step method in $\rho = \sigma/\alpha$ whose weights are
# right for every step size, `weights(nodes, start, end)`. It claims order 3. Measure
# it: it is 2.
#
# **You write** a start that makes the claim true. The first step of the starter is
# DDIM, with a local error of size $h^2$. Order 3 allows a single step a local error
# of $h^3$. One evaluation more is enough, and no more are claimed. Look at each step
# of the start before you change anything.
#
# {rubric}

# %%
from itertools import pairwise

import numpy as np

import diffnum as dn
from diffnum.classroom import points_for
from diffnum.solvers import transfer


def weights(nodes, start, end):
    """Weights of values at the nodes in the mean of their polynomial over a step."""
    h, moved = end - start, np.array(nodes) - start
    powers = np.vander(moved, increasing=True).T
    means = [h**k / (k + 1) for k in range(len(nodes))]
    return np.linalg.solve(powers, means).tolist()


# %% name=third
@dn.method(
    order=3,
    nfe=lambda n: n + 1,
    paper="assignment 7",
    exact_for="a point mass",
    reaches_zero=lambda n: n > 1,
)
def third(problem, u, times):
    rho, past, nodes = problem.process.rho, [], []
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        past, nodes = [e, *past[:2]], [rho(t), *nodes[:2]]
        bar = sum(
            w * v for w, v in zip(weights(nodes, rho(t), rho(s)), past, strict=True)
        )
        if len(past) == 1:
            ### BEGIN SOLUTION
            bar = (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2
            ### END SOLUTION
        u = transfer(problem, u, bar, t, s)
        yield u


# %% name=behaves points=4
# It runs, yields its states, and leaves other states alone.
points_for(third, "runs states own unchanged repeatable rows", most=4)

# %% name=evaluations points=3
# n + 1 evaluations, and every number of steps works.
points_for(third, "evaluations steps", most=3)

# %% name=order points=5
# The right limit, and order 3 on smooth grids.
points_for(third, "end limit order", most=5)

# %% name=hidden points=5
# Hidden: rough grids, a point mass, other processes, t = 0, the error for its cost.
### BEGIN HIDDEN TESTS
points_for(third, "rough point grids processes zero precision error", most=5)
### END HIDDEN TESTS

# %% [markdown] name=explain points=3
# The second step interpolates two noises only. Why does it not need more?
#
# Two values give a local error of h^3; it is made once, so the global error gets h^3.
# (By eye.)
