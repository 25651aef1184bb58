r"""Efficient integrators on paper: splitting on phase space, conjugate integrators, and their local errors.

Phase space is that of `gddim.phase_space`, per unit of the clock :math:`b = \int\beta`: :math:`du = F u\,db +
\sqrt Q\,dw`. Splitting methods run down the clock, so h > 0 is a change of b. Conjugate integrators run down in t.

===================================================  ===============================================================
Pandey, Rudolph and Mandt 2023, arXiv:2310.07894     ours
===================================================  ===============================================================
A, B, O                                              `parts`: the drifts of position, momentum, Ornstein-Uhlenbeck
:math:`A_t, B_t, \Phi_t, \hat z = A_t z`             the same letters, `A`, `B`, `Phi`, and :math:`\hat u`
:math:`\tfrac12 G G^\top C_{\mathrm{out}}`           the gain g, with the sign that goes with :math:`+g\,\epsilon`
:math:`\lambda` (lambda-DDIM)                        `lam`
===================================================  ===============================================================

The full text of the paper was not at hand; what is left open there (order of substeps, times of scores) is our
definition, that of `diffnum.solvers.splitting`.
"""

from diffnum.derive.gddim import Gamma, M, b, h, nu
from diffnum.derive.linear_sde import t
from diffnum.derive.psld.conjugate import (
    best_lambda,
    commutator_of_the_rate,
    conjugate_local_error,
    conjugate_residuals,
    ddim_residuals,
    exponential,
    exponential_residuals,
    frozen_step_residual,
    gddim_residuals,
    lambda_factors,
    lambda_substep_residuals,
    wrong_exponential_defect,
    wrong_exponential_example,
)
from diffnum.derive.psld.splitting import (
    SCHEMES,
    bias_residuals,
    commutator,
    lie_error,
    local_error,
    ornstein_step,
    ornstein_step_residuals,
    parts,
    relaxation_residual,
    reverse_residuals,
    stationary_residual,
    strang_error,
)
from diffnum.derive.psld.symbols import K_0, K_1, S_0, S_1, X, Y, l_max, l_min, lam, m, s_m, s_x, x

__all__ = [
    "best_lambda", "bias_residuals", "commutator", "commutator_of_the_rate", "conjugate_local_error",
    "conjugate_residuals", "ddim_residuals", "exponential", "exponential_residuals", "frozen_step_residual",
    "gddim_residuals", "lambda_factors", "lambda_substep_residuals", "lie_error", "local_error", "ornstein_step",
    "ornstein_step_residuals", "parts", "relaxation_residual", "reverse_residuals", "stationary_residual",
    "strang_error", "wrong_exponential_defect", "wrong_exponential_example",
]  # fmt: skip
