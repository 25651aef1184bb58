"""Assignment 2, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 2: the start of S-PNDM
#
# **Level** undergraduate. **After** the chapter on PNDM. **Time** two hours.
#
# **You learn** why a multistep method needs a start of its own, and how good that
# start has to be.
#
# **You are given** S-PNDM without its start: from the second step on it combines the
# noise predictions of this step and the last one with the weights $3/2$ and $-1/2$.
# `transfer(problem, u, e, t, s)` moves a state from $t$ to $s$ along the noise $e$;
# it costs no evaluation. In the first step there is no old noise, and the starter
# uses $e_t$ alone: DDIM.
#
# **You write** the pseudo improved Euler start: go to $s$ along $e_t = \epsilon(u,
# t)$, ask for the noise there, and take the mean of both:
#
# $$
# \bar e = \tfrac12 \bigl(e_t + \epsilon(\phi(u, e_t, t, s), s)\bigr), \qquad
# u' = \phi(u, \bar e, t, s).
# $$
#
# The weights $3/2$ and $-1/2$ are those of equal steps. On smooth grids neighbouring
# steps become equal, and the order is 2; where steps alternate between short and long
# it is 1. The claim in the starter says so.
#
# {rubric}

# %%
from itertools import pairwise

import diffnum as dn
from diffnum.classroom import points_for
from diffnum.solvers import transfer


# %% name=start
@dn.method(
    order=lambda grid="log_snr", process=None: 1 if grid == "rough" else 2,
    nfe=lambda n: n + 1,
    paper="assignment 2",
    exact_for="a point mass",
    reaches_zero=lambda n: (
        n > 1
    ),  # with one step the start asks for the noise at the end
)
def started(problem, u, times):
    old = None
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        if old is None:
            ### BEGIN SOLUTION
            bar = (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2
            ### END SOLUTION
        else:
            bar = 3 / 2 * e - 1 / 2 * old
        u, old = transfer(problem, u, bar, t, s), e
        yield u


# %% name=behaves points=4
# It runs, yields its states, and leaves other states alone.
points_for(started, "runs states own unchanged repeatable rows", most=4)

# %% name=evaluations points=4
# n + 1 evaluations, and every number of steps works.
points_for(started, "evaluations steps", most=4)

# %% name=order points=4
# The right limit, and order 2 on smooth grids.
points_for(started, "end limit order", most=4)

# %% name=hidden points=5
# Hidden: a point mass, rough grids, other processes, t = 0, the error for its cost.
### BEGIN HIDDEN TESTS
points_for(started, "point rough grids processes zero precision error", most=5)
### END HIDDEN TESTS

# %% [markdown] name=explain points=3
# With the DDIM start the *order* is 2 as well. Say why, and measure what the better
# start gains.
#
# One step of local error $O(h^2)$ adds $O(h^2)$ to the global error, as the other
# steps do together; so the order stays and the constant falls. (By eye: the argument
# in one or two sentences, and a measured ratio of errors.)
