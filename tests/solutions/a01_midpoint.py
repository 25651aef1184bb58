"""Assignment 1, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 1: the midpoint method
#
# **Level** undergraduate. **After** the chapter *Measuring order honestly*. **Time**
# one to two hours.
#
# **You learn** what a solver is in this library, how a second evaluation buys an
# order, and what an order claim means.
#
# **You are given** the probability-flow ODE $\mathrm{d}u/\mathrm{d}t = v(u, t)$ as
# `problem.velocity(u, t)`, and a starter that yields the states but does not move.
#
# **You write** the explicit midpoint method. A step from $t$ to $s$ goes half way
# with the slope at its start, and then all the way with the slope found there:
#
# $$
# m = \tfrac12 (t + s), \qquad
# u_m = u + (m - t)\, v(u, t), \qquad
# u' = u + (s - t)\, v(u_m, m).
# $$
#
# Times fall: $s < t$, so both factors are negative. A solver is a generator function:
# it yields the state after each step. It never writes into a state that it was given
# or has yielded, so make new tensors (`u = u + ...`).
#
# {rubric}

# %%
from itertools import pairwise

import diffnum as dn
from diffnum.classroom import points_for


# %% name=midpoint
@dn.method(order=2, nfe=lambda n: 2 * n, paper="assignment 1")
def midpoint(problem, u, times):
    for t, s in pairwise(times):
        ### BEGIN SOLUTION
        m = (t + s) / 2
        u_m = u + (m - t) * problem.velocity(u, t)
        u = u + (s - t) * problem.velocity(u_m, m)
        ### END SOLUTION
        yield u


# %% [markdown]
# The checks below tell what they measured. Run them as often as you like.

# %% name=behaves points=5
# It runs, yields its states, and leaves other states alone.
points_for(midpoint, "runs states own unchanged repeatable rows", most=5)

# %% name=evaluations points=3
# It costs what it claims, and every number of steps works.
points_for(midpoint, "evaluations steps", most=3)

# %% name=order points=6
# It converges to the right states with order 2.
points_for(midpoint, "end limit order", most=6)

# %% name=hidden points=4
# Hidden: other problems, other grids, a step to t = 0, float64 all the way.
### BEGIN HIDDEN TESTS
points_for(midpoint, "rough grids processes zero precision error", most=4)
### END HIDDEN TESTS

# %% [markdown] name=explain points=2
# One evaluation a step more than Euler's method: at how many evaluations does the
# midpoint method begin to win on the mixture of the chapter, and why not earlier?
#
# At few evaluations its steps are twice as long, and the term in $h^3$ of the
# expansion is no longer small beside that in $h^2$; the crossing is where both error
# curves over evaluations meet. (By eye: a measured number and a reason.)
