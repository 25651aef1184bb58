"""Noising processes: linear SDEs :math:`du = F(t) u \\, dt + G(t) \\, dw` with everything about them in closed form."""

from diffnum.processes.blurring import Blurring
from diffnum.processes.isotropic import VE, VP, RectifiedFlow
from diffnum.processes.phase_space import CLD, PSLD

__all__ = ["CLD", "PSLD", "VE", "VP", "Blurring", "RectifiedFlow"]
