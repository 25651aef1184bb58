"""Measuring: reference solutions, errors over halved steps, local slopes, observed orders, error against cost."""

from diffnum.measure.convergence import (
    FLOOR,
    Convergence,
    claimed_order,
    convergence,
    kind_of,
    ladder,
    local_slopes,
    name_of,
    richardson,
)
from diffnum.measure.pilot import Pilot, equidistributed
from diffnum.measure.reference import reference, rms
from diffnum.measure.standard import standard_problem
from diffnum.measure.stochastic import exact_law, law, strong_convergence, weak_convergence
from diffnum.measure.work import WorkPrecision, evaluations, growth, steps_within, work_precision

__all__ = [
    "FLOOR", "Convergence", "Pilot", "WorkPrecision", "claimed_order", "convergence", "equidistributed", "evaluations",
    "exact_law", "growth",
    "kind_of", "ladder", "law", "local_slopes", "name_of", "reference", "richardson", "rms", "standard_problem",
    "steps_within", "strong_convergence", "weak_convergence", "work_precision",
]  # fmt: skip
