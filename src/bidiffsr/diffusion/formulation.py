"""The diffusion a model was trained in: variable, schedule, prediction and clipping, in one."""

from __future__ import annotations

from bidiffsr.config import DiffusionConfig
from bidiffsr.diffusion.prediction import PREDICTIONS, Array
from bidiffsr.diffusion.schedule import Schedule, make_schedule


class Diffusion:
    """Ties a network to what is diffused.

    The variable is the picture itself (the published chain), or its residual over the upscaled
    low-resolution picture: then the chain starts at that picture with a little noise on it.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.schedule: Schedule = make_schedule(config.schedule)
        self.prediction = PREDICTIONS[config.prediction]
        residual = config.variable == "residual"
        self._origin_weight = 1.0 if residual else 0.0
        self._unit = config.residual_scale if residual else 1.0

    def to_variable(self, picture: Array, cond: Array) -> Array:
        """Picture and condition in [0, 1] → the clean variable."""
        return (picture - self._origin_weight * cond) / self._unit

    def to_picture(self, variable: Array, cond: Array) -> Array:
        """The clean variable and the condition → the picture, [0, 1] but for overshoot."""
        return self._origin_weight * cond + self._unit * variable

    def network_input(self, x: Array, signal: Array) -> Array:
        """The noisy variable as the network sees it."""
        return x * signal if self.config.input_scaling == "signal" else x

    def clean(self, prediction: Array, x: Array, timestep: int) -> Array:
        """The clean variable, clipped, from the network's prediction of ``x``; each value alone."""
        clean = self.prediction.clean(prediction, x, *self.schedule.levels(timestep))
        return (
            clean if self.config.clip is None else clean.clip(-self.config.clip, self.config.clip)
        )

    def noise(self, prediction: Array, x: Array, timestep: int) -> Array:
        """The noise, likewise."""
        return self.prediction.noise(prediction, x, *self.schedule.levels(timestep))
