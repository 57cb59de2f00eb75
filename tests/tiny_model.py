"""A model small enough for tests, whose results are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.config import (
    AngularSchedule,
    BiDiffSRConfig,
    DiffusionConfig,
    ModelConfig,
    SamplingConfig,
)
from bidiffsr.models.trained import save_model
from bidiffsr.nn import build_network
from bidiffsr.upscaling.upscaler import Upscaler

NETWORK = BiDiffSRConfig(
    channels=8,
    norm_groups=4,
    multipliers=(1, 2),
    blocks_per_level=1,
    time_groups=2,
    timesteps=2,
    dropout=0,
)


def tiny_config(scale: int = 4, *, sees_noise: bool = False) -> ModelConfig:
    """Two steps on the residual; the start noise matters only if the network sees it.

    It names a fast and a best quality, with other start noise than by default.
    """
    sampling = SamplingConfig(steps=2, spacing="trailing")
    return ModelConfig(
        network=NETWORK,
        diffusion=DiffusionConfig(
            schedule=AngularSchedule(timesteps=2),
            prediction="sample",
            variable="residual",
            clip=None,
            input_scaling="none" if sees_noise else "signal",
        ),
        sampling=sampling,
        qualities={
            "fast": sampling.model_copy(update={"steps": 1, "noise_scale": 0.5}),
            "best": sampling.model_copy(update={"noise_scale": 0.8}),
        },
        scale=scale,
        provenance={"data": "none"},
    )


def resampled(upscaler: Upscaler, **changes: Any) -> Upscaler:
    """The same model, other keys of its sampling."""
    sampling = upscaler.config.sampling.model_copy(update=changes)
    return Upscaler(upscaler.backend, upscaler.config.model_copy(update={"sampling": sampling}))


def tiny_network(*, tail: float = 0.0) -> nn.Module:
    """With a zero ``tail`` the result is the bicubic picture; other values make it wilder."""
    torch.manual_seed(0)
    network = build_network(NETWORK)
    with torch.no_grad():
        network.get_parameter("tail.weight").mul_(tail)
        network.get_parameter("tail.bias").zero_()
    return network


def tiny_upscaler(scale: int = 4, *, tail: float = 0.0, sees_noise: bool = False) -> Upscaler:
    """The model in memory."""
    return Upscaler(
        TorchBackend(tiny_network(tail=tail)), tiny_config(scale, sees_noise=sees_noise)
    )


def save_tiny_model(path: Path, scale: int = 4, *, tail: float = 0.0) -> Path:
    """The model in a file."""
    save_model(path, tiny_network(tail=tail), tiny_config(scale))
    return path
