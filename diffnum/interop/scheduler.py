"""Any of our solvers as a scheduler of diffusers. This module needs diffusers; `diffnum.interop` names it lazily."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffnum import named
from diffnum.denoisers import from_prediction
from diffnum.errors import DiffnumError
from diffnum.interop.needed import needed
from diffnum.interop.networks import KINDS, betas_of
from diffnum.interop.questions import Questions
from diffnum.noise import Seeded, seed_from
from diffnum.problem import Problem
from diffnum.processes import VP
from diffnum.runner import draws_noise
from diffnum.solvers import find, solve

needed("diffusers", "DiffnumScheduler")

from diffusers.configuration_utils import ConfigMixin, register_to_config  # noqa: E402
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput  # noqa: E402


class DiffnumScheduler(SchedulerMixin, ConfigMixin):
    """A solver of this library where a pipeline expects a scheduler.

    .. code-block:: python

        pipe = DDPMPipeline.from_pretrained(path)
        pipe.scheduler = DiffnumScheduler.from_config(pipe.scheduler.config, solver="unipc")
        images = pipe(num_inference_steps=20).images

    ``timesteps`` has an entry for every *evaluation* of the network, fractional indices of the table among them, so a
    pipeline's loop is right for methods with several evaluations a step too. The table is recomputed in float64. The
    last state stands at ``t_end``, by default index 0, the lowest level that the network was trained on: its noise, a
    hundredth of a pixel's range, is left in the image.

    Args:
        solver: name of a registered solver.
        options: its options.
        grid: where the steps stand, a grid of `diffnum.grids`.
        t_end: last time; by default 1/N.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type: the table and the
            prediction that the network was trained with, as other schedulers store them.

    Raises:
        KeyError: an unknown solver or grid. TypeError: an unknown option.
        DiffnumError: a method that does not begin with an evaluation of its start state (an analytic start).
    """

    order = 1  # entries of timesteps that a pipeline counts as one step

    @register_to_config
    def __init__(
        self,
        solver: str = "ddim",
        options: dict[str, Any] | None = None,
        grid: str = "log_snr",
        t_end: float | None = None,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        prediction_type: str = "epsilon",
    ) -> None:
        find(solver)
        named.grid(grid)
        if prediction_type not in KINDS:
            raise DiffnumError(f"prediction_type={prediction_type!r} must be one of {', '.join(KINDS)}")
        self.process = VP.from_betas(betas_of(self.config))
        self.init_noise_sigma = 1.0
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1, device="cpu")
        self.num_inference_steps: int | None = None
        self._run: Questions | None = None

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state as it is: these networks take it unscaled."""
        return sample

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Lay the grid, and find out where the solver will ask: ``timesteps`` has one entry for every evaluation."""
        c = self.config
        end = 1 / c.num_train_timesteps if c.t_end is None else c.t_end
        self.times = named.grid(c.grid)(self.process, num_inference_steps, t_end=end)
        asked: list[float] = []

        def model(u: Tensor, t: Any) -> Tensor:
            asked.append(float(t))
            return torch.zeros_like(u)

        self._solve(model, torch.zeros(1, 1, 1, 1, dtype=torch.float64, device="cpu"), Seeded(0))
        if not asked or abs(asked[0] - float(self.times[0])) > 1e-9:
            raise DiffnumError(f"{c.solver} does not begin with an evaluation of its start; a pipeline always does")
        self.timesteps = torch.tensor([self._index(t) for t in asked], dtype=torch.float32, device=device or "cpu")
        self.num_inference_steps, self._run, self._asked = num_inference_steps, None, 0

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **unused: Any,
    ) -> Any:
        """From a prediction for ``sample`` to the next state that the network is asked about; at last the final state.

        Args:
            model_output: the network's prediction, of the configured type.
            timestep: an entry of ``timesteps``; they must come in order.
            sample: what the network saw; of the first step the start state.
            generator: seeds the noise of a stochastic solver, read once, at the first step.
            return_dict: return an object with ``prev_sample``, else a tuple.
        """
        if self.num_inference_steps is None:
            raise DiffnumError("no grid yet: call set_timesteps(num_inference_steps) first")
        if self._run is None:
            noise, start = Seeded(seed_from(generator)), sample.detach()
            self._run = Questions(lambda model: self._solve(model, start, noise))
            self._asked = 0
        expected = float(self.timesteps[self._asked])
        if abs(float(timestep) - expected) > 1e-3:
            raise DiffnumError(f"timestep {float(timestep):g} comes out of turn; the solver waits for {expected:g}")
        self._asked += 1
        run = self._run
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]  # the other half is a learned variance
        try:
            run.answer(model_output.detach())
        except BaseException:
            self._run = None
            raise
        if run.done:
            self._run, following = None, run.result
        else:
            following = run.question[0]
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha x0 + sigma noise at indices of the table, one per row."""
        t = (timesteps.double().cpu() + 1) / self.config.num_train_timesteps
        alpha, sigma = (
            f(t).to(original_samples.device, original_samples.dtype).reshape(-1, *(1,) * (original_samples.ndim - 1))
            for f in (self.process.alpha, self.process.sigma)
        )
        return alpha * original_samples + sigma * noise

    def _solve(self, model: Any, u: Tensor, noise: Any) -> Tensor:
        c, run = self.config, find(self.config.solver)
        problem = Problem(self.process, from_prediction(model, self.process, KINDS[c.prediction_type]))
        given = {"noise": noise} if draws_noise(run) else {}
        return solve(problem, run, u, self.times, **given, **(c.options or {})).u

    def _index(self, t: float) -> float:
        k = t * self.config.num_train_timesteps - 1
        return round(k) if abs(k - round(k)) < 1e-3 else k


__all__ = ["DiffnumScheduler"]
