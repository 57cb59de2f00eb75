"""Training runs that tests start, stop and look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from bidiffsr.config import DiffusionConfig, TrainingConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.training.checkpoint import STATE_NAME
from bidiffsr.training.losses import Batch
from bidiffsr.training.state import loads
from bidiffsr.training.trainer import TrainingProgress, train
from helpers import tiny_network_config


def run(config: TrainingConfig, stop_after: int | None = None) -> list[TrainingProgress]:
    """Train, closing the generator once that many iterations are finished."""
    progress = []
    steps = train(config)
    for step in steps:
        progress.append(step)
        if step.iteration == stop_after:
            steps.close()
    return progress


def state_of(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run's folder."""
    return loads((folder / STATE_NAME).read_bytes())


def short_chain(prediction: str) -> Diffusion:
    """Four timesteps of the residual, as the shipped models have."""
    values = {
        "schedule": {"kind": "angular", "timesteps": 4},
        "prediction": prediction,
        "variable": "residual",
        "residual_scale": 0.1,
    }
    return Diffusion(DiffusionConfig.model_validate(values))


def noised(
    diffusion: Diffusion, pictures: Tensor, conditions: Tensor, noise: Tensor, timesteps: list[int]
) -> Batch:
    """A batch at these timesteps."""
    levels = [diffusion.schedule.levels(timestep) for timestep in timesteps]
    signal, noise_level = (
        torch.tensor(each)[:, None, None, None] for each in zip(*levels, strict=True)
    )
    clean = diffusion.to_variable(pictures, conditions)
    target = diffusion.prediction.target(clean, noise, signal, noise_level)
    noisy = signal * clean + noise_level * noise
    return Batch(pictures, conditions, noisy, signal, noise_level, target)


def short_run(
    output: Path, folder: Path, diffusion: Diffusion, changes: dict[str, Any]
) -> TrainingConfig:
    """Two iterations of a small network in a chain of four timesteps, but for the changes."""
    network = tiny_network_config(channels=8, norm_groups=4, timesteps=4, dropout=0.0)
    values: dict[str, Any] = {
        "output": output,
        "model": {
            "network": network.model_dump(),
            "diffusion": diffusion.config.model_dump(),
            "sampling": {"steps": 2, "spacing": "trailing"},
        },
        "data": {"folders": [folder], "crop": 32},
        "batch": 4,
        "iterations": 2,
        "accelerator": "cpu",
    }
    return TrainingConfig.model_validate(values | changes)


def save_noise(folder: Path) -> Path:
    """A picture of noise in a folder, which is returned."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "noise.png")
    return folder
