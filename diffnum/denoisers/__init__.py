"""Denoisers: callables ``D(x, sigma) = E[x0 | x0 + sigma n = x]`` with ``.eps(x, sigma) = (x - D)/sigma``."""

from diffnum.denoisers.empirical import Empirical
from diffnum.denoisers.exact import Gaussian, GaussianMixture, PointMass
from diffnum.denoisers.guided import Guided, load
from diffnum.denoisers.network import Network
from diffnum.denoisers.prediction import from_prediction

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "Guided", "Network", "PointMass", "from_prediction", "load"]
