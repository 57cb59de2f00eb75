"""Noise schedules: how much signal and noise a diffused variable holds at each timestep.

x_t = signal_t · x_0 + noise_t · epsilon, with signal² + noise² = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import AngularSchedule, LinearSchedule
from bidiffsr.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Signal and noise levels (T,), float64; index t - 1 is less noisy than t."""

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.signal)

    def levels(self, timestep: int) -> tuple[float, float]:
        """(signal, noise) at ``timestep``; -1 is the clean end, (1, 0)."""
        if timestep < 0:
            return 1.0, 0.0
        return float(self.signal[timestep]), float(self.noise[timestep])

    def timesteps(self, steps: int, spacing: Literal["leading", "trailing"]) -> list[int]:
        """The ``steps`` timesteps a sampler visits, noisiest first.

        Args:
            steps: 1 to T.
            spacing: "leading": multiples of floor(T / steps), down to 0, as published;
                "trailing": from T - 1 down in equal strides, never skipping the noisiest.

        Raises:
            ConfigError: ``steps`` is out of range.
        """
        total = len(self)
        if not 1 <= steps <= total:
            raise ConfigError(f"steps: got {steps}, expected 1 to {total}")
        if spacing == "leading":
            return [index * (total // steps) for index in reversed(range(steps))]
        return [round(total - index * total / steps) - 1 for index in range(steps)]


def make_schedule(config: LinearSchedule | AngularSchedule) -> Schedule:
    """The levels of a configured schedule."""
    if isinstance(config, AngularSchedule):
        angle = np.arange(1, config.timesteps + 1) * (np.pi / 2 / config.timesteps)
        signal, noise = np.cos(angle), np.sin(angle)
        signal[-1], noise[-1] = 0.0, 1.0
        return Schedule(signal, noise)
    products = np.cumprod(1 - _linear_betas(config), dtype=np.float64)
    alphas_cumprod = products.astype(np.float32).astype(np.float64)
    return Schedule(np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod))


def _linear_betas(config: LinearSchedule) -> NDArray[np.float32]:
    """Betas rounded as in the published sampler's table: a float32 step, from the nearer end.

    Its every bit counts: a binarized network turns the last one into flipped signs.
    """
    start, end = np.float32(config.beta_start), np.float32(config.beta_end)
    if config.timesteps == 1:
        return np.array([start])
    step = np.float64((end - start) / np.float32(config.timesteps - 1))
    index = np.arange(config.timesteps)
    rising, falling = start + step * index, end - step * index[::-1]
    return np.where(index < config.timesteps // 2, rising, falling).astype(np.float32)
