"""Assignment 3, with its solution; see diffnum.classroom.assignments for the marks."""
# %% [markdown]
# # Assignment 3: Adams-Bashforth for the steps that you take
#
# **Level** undergraduate. **After** the chapter on PNDM (its section on weights for
# non-uniform steps). **Time** two to three hours.
#
# **You learn** to derive the weights of a multistep method for steps of any length,
# and to find out on which grids a claim has to be tried.
#
# **You are given** the probability-flow ODE in the variables in which it is simplest:
# with $y = x/\alpha$ and $\rho = \sigma/\alpha$ it reads $\mathrm{d}y/\mathrm{d}\rho
# = \epsilon$. `problem.process.rho(t)` is $\rho$, and `transfer(problem, u, e, t, s)`
# is the step $y' = y + (\rho_s - \rho_t)\, e$ in these variables.
#
# **You write** the weights. Let the step before have gone from $\rho_0$ to $\rho_t$
# and this one from $\rho_t$ to $\rho_s$. Put a straight line through the two noise
# predictions and take its mean over this step: $\bar e = w_0 e + w_1 e_0$ with
# weights that depend on $r = (\rho_s - \rho_t)/(\rho_t - \rho_0)$, and are $3/2$ and
# $-1/2$ where $r = 1$.
#
# {rubric}

# %%
from itertools import pairwise

import diffnum as dn
from diffnum.classroom import points_for
from diffnum.solvers import transfer


# %% name=adams
@dn.method(order=2, nfe=lambda n: n, paper="assignment 3", exact_for="a point mass")
def adams(problem, u, times):
    rho, old, h_old = problem.process.rho, None, None
    for t, s in pairwise(times):
        e, h = problem.eps(u, t), rho(s) - rho(t)
        if old is None:
            bar = e
        else:
            ### BEGIN SOLUTION
            r = h / h_old
            bar = (1 + r / 2) * e - r / 2 * old
            ### END SOLUTION
        u, old, h_old = transfer(problem, u, bar, t, s), e, h
        yield u


# %% name=behaves points=4
# It runs, yields its states, and costs what it claims.
points_for(adams, "runs states own unchanged repeatable rows evaluations", most=4)

# %% name=order points=5
# The right limit, and order 2 on smooth grids. (Equal-step weights pass here, too.)
points_for(adams, "end limit order", most=5)

# %% name=rough points=5
# Order 2 on steps that alternate 1 : 3. Equal-step weights do not pass.
points_for(adams, "rough", most=5)

# %% name=hidden points=4
# Hidden: a point mass, every kind of grid and process, t = 0, float64 all the way.
### BEGIN HIDDEN TESTS
points_for(adams, "point grids processes zero precision steps error", most=4)
### END HIDDEN TESTS

# %% [markdown] name=explain points=2
# Why does the order check on the smooth grids not see weights of equal steps?
#
# There $r = 1 + O(h)$, so the wrong weights change $\bar e$ by $O(h) (e - e_0) =
# O(h^2)$, which is the size of the local error over $h$. (By eye: the order of both
# terms.)
