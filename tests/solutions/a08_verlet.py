"""Assignment 8, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 8: a Verlet method of order 2 on PSLD
#
# **Level** graduate. **After** the chapter on splitting integrators. **Time** four
# hours.
#
# **You learn** why velocity Verlet loses its second order where friction and time
# dependence enter, and how to restore it.
#
# **You are given** the probability-flow ODE on phase space. A state `u` is `(batch,
# 2, *event)`: position, then momentum. `problem.velocity(u, t)` has both parts.
# Position moves with the momentum by the factor `F[0, 1]` of `problem.process.F(t)`.
# The starter is velocity Verlet with one evaluation a step: half a kick, a drift with
# the new momentum, half a kick. Its order is 1.
#
# **You write** a step of order 2 with one evaluation more: use half kick and drift as
# a prediction $(x_p, m_p)$ of the state at $s$, with $m_p = 2 m_{1/2} - m$. Ask for
# the velocity there, and correct both parts with the mean of the velocities at both
# ends.
#
# {rubric}

# %%
from itertools import pairwise

import torch

import diffnum as dn
from diffnum.classroom import points_for


# %% name=verlet
@dn.method(
    order=2,
    nfe=lambda n: 2 * n,
    paper="assignment 8",
    families=("phase_space",),
    reaches_zero=lambda n: False,
)
def verlet(problem, u, times):
    for t, s in pairwise(times):
        h, coupling = s - t, problem.process.F(t)[0, 1].item()
        x, m = u.unbind(1)
        vx, vm = problem.velocity(u, t).unbind(1)
        half = m + h / 2 * vm  # half a kick
        drift = x + h * (
            vx + coupling * (half - m)
        )  # the position moves with the new momentum
        ### BEGIN SOLUTION
        predicted = torch.stack((drift, 2 * half - m), 1)
        wx, wm = problem.velocity(predicted, s).unbind(1)
        u = torch.stack((x + h / 2 * (vx + wx), m + h / 2 * (vm + wm)), 1)
        ### END SOLUTION
        yield u


# %% name=behaves points=4
# It runs, yields its states, and leaves other states alone.
points_for(verlet, "runs states own unchanged repeatable rows", most=4)

# %% name=evaluations points=3
# Two evaluations a step, and every number of steps works.
points_for(verlet, "evaluations steps", most=3)

# %% name=order points=6
# The right limit, and order 2 on smooth grids.
points_for(verlet, "end limit order", most=6)

# %% name=hidden points=4
# Hidden: rough grids, CLD as well as PSLD, float64 all the way, the error for its cost.
### BEGIN HIDDEN TESTS
points_for(verlet, "rough grids processes precision error", most=4)
### END HIDDEN TESTS

# %% [markdown] name=explain points=3
# Why is the starter only of order 1, although it is symmetric for a mechanical
# system?
#
# The momentum's rate depends on the momentum itself and on time; the second half kick
# uses values at the start of the step in place of its end. (By eye.)
