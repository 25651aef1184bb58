r"""gDDIM on paper: phase space in closed form, the root R, exponential Adams methods, and the stochastic step.

A linear process :math:`du = F u\,dt + G\,dw` with :math:`Q = G G^\top` has the transition :math:`\Psi(t, s)` and the
covariance :math:`\Sigma`; K is any root, :math:`K K^\top = \Sigma`, and :math:`\epsilon_K = -K^\top\nabla\log p`.
Functions with an argument `k` prove their claim for arbitrary (k, k) matrices that depend on time.

==============================================================  ====================================================
Zhang, Tao and Chen 2023, arXiv:2206.05564                      ours
==============================================================  ====================================================
:math:`\Psi(t, s), \Sigma_t, L_t, R_t`                          the same
v, the second half of the state                                 m, the momentum (index 2 of a matrix)
:math:`\hat\Psi, P_{st}`                                        the same, from time t down to s
:math:`\gamma` (initial momentum)                               inside ``q``, the initial variance of the momentum
polynomial degree                                               ``order`` - 1
==============================================================  ====================================================

Phase space is written in the clock :math:`b = \int\beta` of PSLD (Pandey and Mandt 2023, arXiv:2303.01748); CLD
(Dockhorn, Vahdat and Kreis 2022, arXiv:2112.07068) is its case Gamma = 0.
"""

from diffnum.derive.gddim.adams import (
    adams_weights,
    data_local_errors,
    ddim_residuals,
    dpmpp_2m_defect,
    dpmpp_2m_weights,
    local_error,
    moment_defect,
    start_defect,
    time_weights,
)
from diffnum.derive.gddim.closed_forms import (
    cld_residuals,
    covariance,
    determinant_residuals,
    incomplete_gamma,
    moment_residuals,
    noise_covariance,
    phase_space,
    precision_residual,
    split_score_residual,
    statistic,
    statistic_residual,
    transition,
    transition_residuals,
)
from diffnum.derive.gddim.roots import (
    angle_rate,
    one_step_residual,
    point_mass_residuals,
    root_identity_residual,
    rotation_residuals,
)
from diffnum.derive.gddim.stochastic import (
    eta_residuals,
    marginal_residuals,
    missing_transpose,
    missing_transpose_variance,
    posterior_gain_residual,
    posterior_residuals,
    scalar_step,
    scalar_step_residuals,
    stochastic_residuals,
)
from diffnum.derive.gddim.symbols import (
    D1,
    D2,
    W0,
    W1,
    Gamma,
    M,
    alpha_s,
    alpha_t,
    b,
    beta,
    e,
    h,
    nu,
    q,
    r,
    sigma_s,
    sigma_t,
)
from diffnum.derive.linear_sde import t
from diffnum.derive.reversing import lam

__all__ = [
    "adams_weights", "angle_rate", "cld_residuals", "covariance", "data_local_errors", "ddim_residuals",
    "determinant_residuals", "dpmpp_2m_defect", "dpmpp_2m_weights", "eta_residuals", "incomplete_gamma",
    "local_error", "marginal_residuals", "missing_transpose", "missing_transpose_variance", "moment_defect",
    "moment_residuals", "noise_covariance", "one_step_residual", "phase_space", "point_mass_residuals",
    "posterior_gain_residual", "posterior_residuals", "precision_residual", "root_identity_residual",
    "rotation_residuals", "scalar_step", "scalar_step_residuals", "split_score_residual", "start_defect",
    "statistic", "statistic_residual", "stochastic_residuals", "time_weights", "transition", "transition_residuals",
]  # fmt: skip
