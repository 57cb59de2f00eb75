"""What is diffused, and how it is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, Tag, model_validator

from bidiffsr.config.base import Config, Fraction, PositiveInt, Timesteps, equals, tagged

# In float32, 1 - beta is then neither 1 nor 0.
Beta = Annotated[float, Field(ge=1e-7, le=1 - 1e-6)]
# Just above that of float32's smallest normal number.
_LEAST_LOG_PRODUCT = -87.0


class LinearSchedule(Config):
    """The published noise schedule: betas linear in t."""

    kind: Literal["linear"] = "linear"
    timesteps: Timesteps = 2000
    beta_start: Beta = 1e-6
    beta_end: Beta = 1e-2

    @model_validator(mode="after")
    def _check(self) -> LinearSchedule:
        betas = np.linspace(self.beta_start, self.beta_end, self.timesteps)
        if np.log1p(-betas).sum() < _LEAST_LOG_PRODUCT:
            raise ValueError(
                f"timesteps: {self.timesteps} from beta {self.beta_start:g} to {self.beta_end:g} "
                "leave no signal in float32; choose fewer, or smaller betas"
            )
        return self


class AngularSchedule(Config):
    """A short schedule at equal angles: signal cos(phi), noise sin(phi), phi = (t + 1) pi / 2T.

    The last timestep holds no signal at all, so one step from it predicts the mean.
    """

    kind: Literal["angular"] = "angular"
    timesteps: Annotated[int, Field(gt=0, le=1000)] = 8


ScheduleConfig = Annotated[
    Annotated[LinearSchedule, Tag("linear")] | Annotated[AngularSchedule, Tag("angular")],
    tagged("kind", "linear", "angular"),
]


class DiffusionConfig(Config):
    """What is diffused, how, and what the network predicts; defaults are the published chain."""

    schedule: ScheduleConfig = LinearSchedule()
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    variable: Literal["image", "residual"] = "image"
    """Diffuse the picture itself, or its difference from the upscaled low-resolution picture."""
    residual_scale: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.1
    """A residual is divided by this before it is diffused; [0,1] picture units."""
    clip: Annotated[float, Field(ge=1e-6, le=1e6)] | None = 1.0
    """The predicted clean variable is clipped to [-clip, clip] at each step; null: not at all."""
    input_scaling: Literal["none", "signal"] = "none"
    """"signal": the network sees the noisy variable times its signal level, so nothing but the
    upscaled picture where the level is zero."""

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if self.prediction == "epsilon" and isinstance(self.schedule, AngularSchedule):
            raise ValueError(
                "prediction: epsilon says nothing of the clean variable where an angular schedule "
                "has no signal; choose v or sample"
            )
        return self


class SamplingConfig(Config):
    """How a model is sampled."""

    sampler: Literal["ddim", "dpm-solver++"] = "ddim"
    steps: PositiveInt = 50
    spacing: Literal["leading", "trailing"] = "leading"
    eta: Fraction = 0.0
    noise_scale: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Standard deviation of the start noise; below 1 trades detail for fidelity."""
    mean_weight: Annotated[Fraction, Field(exclude_if=equals(0.0))] = 0.0
    """How much of what the first step predicts is in the result: 0 nothing, it is a sample; 1 all,
    the picture of one step, which is the mean where the schedule starts without signal."""
    back_projections: Annotated[int, Field(ge=0, le=16, exclude_if=equals(0))] = 0
    """How often the clean picture is corrected by what it lacks, made small, of its source."""

    @model_validator(mode="after")
    def _check(self) -> SamplingConfig:
        if self.sampler != "ddim" and self.eta > 0:
            raise ValueError(f"eta: {self.eta}, but {self.sampler} is deterministic; make it 0")
        return self
