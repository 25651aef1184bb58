"""Assignment 9, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 9: adaptive steps from an embedded pair
#
# **Level** project. **After** the chapter on work and precision. **Time** two days.
#
# **You learn** to estimate an error while you go, to choose steps by it, and to judge
# a method that has no fixed cost.
#
# **You are given** the probability-flow ODE and the grid. The states at the times of
# the grid are yielded, and those alone: between them the method takes steps of its
# own, as many as it needs.
#
# **You write** the control. With $k_1 = v(u, t)$ and $k_2 = v(u + h k_1, t + h)$,
# Euler's and Heun's steps differ by $\tfrac{h}{2}(k_2 - k_1)$: an estimate of the
# error of Euler's step, which goes like $h^2$. Accept Heun's step if the largest
# entry of the difference is at most `tol`, and choose the next $h$ so that it would
# be about 0.8 of it; between a fifth and twice the last one. Never step over the next
# time of the grid. The method claims no order and no number of evaluations
# (`nfe=None`): these are counted.
#
# One step size serves a whole batch, so rows are coupled, by less than the error that
# is allowed.
#
# {rubric}

# %%
from itertools import pairwise

import diffnum as dn
from diffnum.classroom import points_for


# %% name=adaptive
@dn.method(order=None, nfe=None, paper="assignment 9", reaches_zero=lambda n: False)
def adaptive(problem, u, times, tol=1e-4):
    h = (times[1] - times[0]) / 4  # a first guess; steps are negative
    for t, s in pairwise(times):
        now = t
        while now > s:
            h = max(h, s - now)
            ### BEGIN SOLUTION
            k1 = problem.velocity(u, now)
            k2 = problem.velocity(u + h * k1, now + h)
            gap = (h / 2 * (k2 - k1)).abs().max().item()
            if gap <= tol:
                u = u + h / 2 * (k1 + k2)
                now = s if now + h <= s else now + h
            h = h * min(2.0, max(0.2, (0.8 * tol / (gap + 1e-300)) ** 0.5))
            ### END SOLUTION
        yield u


# %% name=behaves points=5
# It runs, yields a state at each time of the grid, and leaves other states alone.
points_for(adaptive, "runs states own unchanged repeatable", most=5)

# %% name=tolerance points=6
# Its error follows its tolerance, and its states stand at their times.
points_for(adaptive, "end limit", most=6)

# %% name=hidden points=5
# Hidden: any number of steps, every grid and process, precision, rows and shapes.
### BEGIN HIDDEN TESTS
points_for(adaptive, "steps rows grids processes precision error", most=5)
### END HIDDEN TESTS

# %% [markdown] name=report points=4
# Plot error over evaluations for ten tolerances, beside Heun's method on a log-SNR
# grid. Who wins, and why?
#
# On a log-SNR grid from the prior the fixed grid is already near the best one, so the
# control pays twice for rejected steps; on a grid uniform in t it wins. (By eye: the
# plot, both grids, and a reason.)
