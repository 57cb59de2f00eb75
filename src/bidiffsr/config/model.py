"""All that a model file says of itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bidiffsr.config.base import Config
from bidiffsr.config.diffusion import DiffusionConfig, SamplingConfig
from bidiffsr.config.network import BiDiffSRConfig, NetworkConfig

Quality = Literal["fast", "balanced", "best"]


class ModelConfig(Config):
    """All a model file says of itself beside its weights."""

    network: NetworkConfig = BiDiffSRConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    """How it asks to be sampled where the user says nothing."""
    qualities: dict[Quality, SamplingConfig] = Field(default={}, exclude_if=lambda named: not named)
    """How it asks to be sampled where the user names a quality (see ``Upscaler.__call__``); files
    that name none do not have the key."""
    scale: Annotated[int, Field(ge=1, le=16)] = 4
    """The upscaling factor the weights were trained for."""
    provenance: dict[str, str] = Field(default={})
    """Free text by topic: data, licence, training cost, commit."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        timesteps = self.diffusion.schedule.timesteps
        samplings = {f"qualities.{name}": each for name, each in self.qualities.items()}
        for key, sampling in ({"sampling": self.sampling} | samplings).items():
            if sampling.steps > timesteps:
                raise ValueError(f"{key}.steps: {sampling.steps} of {timesteps} timesteps")
        if isinstance(self.network, BiDiffSRConfig) and self.network.timesteps != timesteps:
            raise ValueError(
                f"network.timesteps: {self.network.timesteps} differs from the schedule's "
                f"{timesteps}"
            )
        return self
