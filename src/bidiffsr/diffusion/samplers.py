"""Samplers: from noise to a clean variable, one update after another.

A sampler is its update formula, which looks at each value alone: a variable too large to be worked
on at once is updated part by part (``chain.run_chain``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bidiffsr.diffusion.prediction import Array
from bidiffsr.diffusion.schedule import Schedule
from bidiffsr.errors import ConfigError


@dataclass(frozen=True)
class Transition:
    """Where one step of a chain leads from and to; levels are (signal, noise)."""

    index: int
    """From 0."""
    timestep: int
    here: tuple[float, float]
    there: tuple[float, float]
    """The next timestep's levels; (1, 0), the clean end, after the last."""
    before: tuple[float, float] | None
    """The previous timestep's levels; None in the first step."""

    @property
    def is_last(self) -> bool:
        """Whether it leads to the clean end: the result is then its clean variable."""
        return self.there[1] == 0


def transitions(schedule: Schedule, timesteps: Sequence[int]) -> list[Transition]:
    """The steps of a chain over ``timesteps``, which descend; the last leads to the clean end."""
    chain = []
    for index, timestep in enumerate(timesteps):
        following = timesteps[index + 1] if index + 1 < len(timesteps) else -1
        here, there = schedule.levels(timestep), schedule.levels(following)
        before = schedule.levels(timesteps[index - 1]) if index else None
        chain.append(Transition(index, timestep, here, there, before))
    return chain


class Sampler(ABC):
    """One way from noise to a clean variable."""

    multistep: bool = False
    """Whether ``update`` looks at ``previous``."""

    @abstractmethod
    def update(
        self,
        x: Array,
        clean: Array,
        noise: Callable[[], Array],
        step: Transition,
        *,
        previous: Array | None = None,
        eta: float = 0.0,
        fresh_noise: Callable[[int], Array] | None = None,
    ) -> Array:
        """The variable at the next timestep; plain arithmetic on each value alone.

        Args:
            x: the variable at this timestep; it is not written to.
            clean: as predicted from ``x``.
            noise: gives that as predicted from ``x``; not called where it does not count.
            step: the levels.
            previous: ``clean`` of the step before; None in the first step.
            eta: 0 deterministic, 1 as noisy as the original chain.
            fresh_noise: step index → standard normal noise like ``x``; needed where eta > 0.

        Raises:
            ConfigError: fresh noise is due and ``fresh_noise`` is None.
        """


class DDIM(Sampler):
    """DDIM (Song et al. 2021, eq. 12 and 16)."""

    def update(
        self,
        x: Array,
        clean: Array,
        noise: Callable[[], Array],
        step: Transition,
        *,
        previous: Array | None = None,
        eta: float = 0.0,
        fresh_noise: Callable[[int], Array] | None = None,
    ) -> Array:
        """See ``Sampler.update``."""
        (signal, noise_level), (next_signal, next_noise) = step.here, step.there
        # eq. 16: the share of the next level's noise that is drawn afresh
        ratio = next_noise / noise_level if noise_level else 0.0
        fresh = eta * ratio * math.sqrt(max(0.0, 1 - (signal / next_signal) ** 2))
        kept = math.sqrt(max(0.0, next_noise**2 - fresh**2))
        x = next_signal * clean  # eq. 12
        if kept > 0:
            x = x + kept * noise()
        if fresh > 0:
            if fresh_noise is None:
                raise ConfigError(f"eta: {eta} needs fresh_noise; pass it, or make eta 0")
            x = x + fresh * fresh_noise(step.index)
        return x


class DPMSolverPlusPlus(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), deterministic.

    ``eta`` and ``fresh_noise`` have no effect. Steps from a level without signal and the last one
    to the clean end are of first order.
    """

    multistep = True

    def update(
        self,
        x: Array,
        clean: Array,
        noise: Callable[[], Array],
        step: Transition,
        *,
        previous: Array | None = None,
        eta: float = 0.0,
        fresh_noise: Callable[[int], Array] | None = None,
    ) -> Array:
        """See ``Sampler.update``."""
        (signal, noise_level), (next_signal, next_noise) = step.here, step.there
        log_snr = _lambda(signal, noise_level)
        next_log_snr = _lambda(next_signal, next_noise)
        previous_log_snr = -math.inf if step.before is None else _lambda(*step.before)
        estimate = clean
        finite = math.isfinite(previous_log_snr) and math.isfinite(next_log_snr)
        if previous is not None and finite:
            ratio = (log_snr - previous_log_snr) / (next_log_snr - log_snr)
            estimate = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * previous
        # e^-step, which is 0 where either end is infinite
        decay = (next_noise * signal) / (noise_level * next_signal) if noise_level else 0.0
        return next_noise / noise_level * x + next_signal * (1 - decay) * estimate


def _lambda(signal: float, noise_level: float) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    if signal == 0:
        return -math.inf
    return math.inf if noise_level == 0 else math.log(signal / noise_level)


SAMPLERS: dict[str, Sampler] = {"ddim": DDIM(), "dpm-solver++": DPMSolverPlusPlus()}
