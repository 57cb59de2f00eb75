"""Samplers: from noise to a clean variable, as generators that yield after each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bidiffsr.diffusion.prediction import Array
from bidiffsr.diffusion.process import Denoiser
from bidiffsr.diffusion.schedule import Schedule
from bidiffsr.errors import ConfigError


@dataclass(frozen=True)
class SamplingStep:
    """What one step leaves."""

    index: int
    """From 0."""
    count: int
    """How many there are."""
    timestep: int
    """Where the step began."""
    latent: Array
    """The variable after the step, at the next timestep's noise level."""
    clean: Array
    """The clean variable as predicted in this step."""


class Sampler(Protocol):
    """Runs a chain from ``x`` at the first of ``timesteps``."""

    def __call__(
        self,
        denoise: Denoiser,
        x: Array,
        schedule: Schedule,
        timesteps: Sequence[int],
        *,
        eta: float,
        fresh_noise: Callable[[int], Array],
    ) -> Iterator[SamplingStep]:
        """See ``ddim``."""
        ...


def ddim(
    denoise: Denoiser,
    x: Array,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    fresh_noise: Callable[[int], Array] | None = None,
) -> Iterator[SamplingStep]:
    """DDIM (Song et al. 2021, eq. 12 and 16).

    Args:
        denoise: from ``Diffusion.denoiser``.
        x: standard normal noise at the level of the first timestep; numpy or torch.
        schedule: the levels.
        timesteps: descending; the last step goes to the clean end.
        eta: 0 deterministic, 1 as noisy as the original chain.
        fresh_noise: step index → standard normal noise like ``x``; needed where eta > 0.

    Yields:
        One ``SamplingStep`` a timestep.

    Raises:
        ConfigError: eta > 0 without ``fresh_noise``.
    """
    for index, timestep in enumerate(timesteps):
        following = timesteps[index + 1] if index + 1 < len(timesteps) else -1
        signal, noise_level = schedule.levels(timestep)
        next_signal, next_noise = schedule.levels(following)
        clean, noise = denoise(x, timestep)
        # eq. 16: the share of the next level's noise that is drawn afresh
        ratio = next_noise / noise_level if noise_level else 0.0
        fresh = eta * ratio * math.sqrt(max(0.0, 1 - (signal / next_signal) ** 2))
        kept = math.sqrt(max(0.0, next_noise**2 - fresh**2))
        x = next_signal * clean + kept * noise  # eq. 12
        if fresh > 0:
            if fresh_noise is None:
                raise ConfigError(f"eta: {eta} needs fresh_noise; pass it, or make eta 0")
            x = x + fresh * fresh_noise(index)
        yield SamplingStep(index, len(timesteps), timestep, x, clean)


def dpm_solver_pp(
    denoise: Denoiser,
    x: Array,
    schedule: Schedule,
    timesteps: Sequence[int],
    *,
    eta: float = 0.0,
    fresh_noise: Callable[[int], Array] | None = None,
) -> Iterator[SamplingStep]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), deterministic.

    Arguments and results as ``ddim``; ``eta`` and ``fresh_noise`` have no effect. Steps from
    a level without signal and the last one to the clean end are of first order.
    """
    previous: tuple[Array, float] | None = None  # predicted clean variable and its lambda
    for index, timestep in enumerate(timesteps):
        following = timesteps[index + 1] if index + 1 < len(timesteps) else -1
        signal, noise_level = schedule.levels(timestep)
        next_signal, next_noise = schedule.levels(following)
        clean, _ = denoise(x, timestep)
        log_snr = _lambda(signal, noise_level)
        next_log_snr = _lambda(next_signal, next_noise)
        step = next_log_snr - log_snr
        estimate = clean
        if previous is not None and math.isfinite(previous[1]) and math.isfinite(next_log_snr):
            ratio = (log_snr - previous[1]) / step
            estimate = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * previous[0]
        previous = (clean, log_snr)
        # e^-step, which is 0 where either end is infinite
        decay = (next_noise * signal) / (noise_level * next_signal) if noise_level else 0.0
        x = next_noise / noise_level * x + next_signal * (1 - decay) * estimate
        yield SamplingStep(index, len(timesteps), timestep, x, clean)


def _lambda(signal: float, noise_level: float) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    if signal == 0:
        return -math.inf
    return math.inf if noise_level == 0 else math.log(signal / noise_level)


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpm-solver++": dpm_solver_pp}
