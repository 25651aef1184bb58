r"""ER-SDE on paper: noise scales, the exact solution, Taylor coefficients, local errors, and what noise does to order.

Everything is written for VE, that is in :math:`y = x/\alpha` and the clock :math:`\rho = \sigma/\alpha`
(`linear_sde.rescaled_process_residuals`). A step goes from the ratio t down to the ratio s.

==============================================================  ====================================================
Cui et al. 2025, arXiv:2309.06169                               ours
==============================================================  ====================================================
:math:`\sigma` (VE), :math:`\lambda = \sigma/\alpha` (VP)       :math:`\rho`, as an argument ``x``
:math:`\phi(x)`                                                 :math:`x\,\psi(x)`
a step from s to t                                              a step from t to s
:math:`h(t)`                                                    :math:`\lambda G`, with :math:`\eta = \lambda^2`
:math:`x_\theta`                                                x_0
==============================================================  ====================================================
"""

from diffnum.derive.er_sde.errors import dpmpp_3m_local_error, local_error, rectangle_defects, rectangle_rule
from diffnum.derive.er_sde.noise import (
    denoiser_drift_residual,
    excess,
    gaussian_flow_residual,
    lag_moments,
    mean_map_residual,
    strong_constant_residual,
    strong_constants,
    variance_deficit_residual,
)
from diffnum.derive.er_sde.scales import (
    NOISE_SCALES,
    eta,
    exact_solution_residuals,
    family_residual,
    noise_variance_residuals,
    psi_from_eta,
    semi_linear_residual,
    xi,
)
from diffnum.derive.er_sde.symbols import (
    X1,
    X2,
    X3,
    X4,
    N,
    a,
    b,
    c,
    e,
    h,
    p,
    q0,
    q1,
    q2,
    q_derivatives,
    r,
    s,
    t,
    u,
    x,
    x0,
    x_derivatives,
    y,
)
from diffnum.derive.er_sde.taylor import (
    FORMS,
    cauchy_residuals,
    coefficient,
    coefficient_rate_residuals,
    coefficient_series,
    form_residuals,
    frozen_step,
    power_coefficient,
    second_order_weights,
)
from diffnum.derive.er_sde.weak import weak_defects
from diffnum.derive.gddim import alpha_s, alpha_t, sigma_s, sigma_t
from diffnum.derive.reversing import lam

__all__ = [
    "FORMS", "NOISE_SCALES", "cauchy_residuals", "coefficient", "coefficient_rate_residuals", "coefficient_series",
    "denoiser_drift_residual", "dpmpp_3m_local_error", "eta", "exact_solution_residuals", "excess",
    "family_residual", "form_residuals", "frozen_step", "gaussian_flow_residual", "lag_moments", "local_error",
    "mean_map_residual", "noise_variance_residuals", "power_coefficient", "psi_from_eta", "rectangle_defects",
    "rectangle_rule", "second_order_weights", "semi_linear_residual", "strong_constant_residual",
    "strong_constants", "variance_deficit_residual", "weak_defects", "xi",
]  # fmt: skip
