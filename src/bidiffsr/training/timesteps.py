"""Which timesteps are trained: draws from torch's CPU generator, so that a seed fixes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bidiffsr.config import TrainingConfig


class TimestepSampler(Protocol):
    """One distribution of timesteps."""

    def __call__(self, count: int) -> Tensor:
        """Draw ``count`` timesteps, int64 (count,), on the CPU."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Every timestep from 0 to ``timesteps`` - 1 alike."""

    timesteps: int

    def __call__(self, count: int) -> Tensor:
        """See ``TimestepSampler.__call__``."""
        return torch.randint(self.timesteps, (count,))


@dataclass(frozen=True)
class MostlyNoisiest:
    """The last timestep, where sampling starts, with a probability; else any other alike."""

    timesteps: int
    """2 at least."""
    probability: float

    def __call__(self, count: int) -> Tensor:
        """See ``TimestepSampler.__call__``."""
        noisiest = torch.rand(count) < self.probability
        others = torch.randint(self.timesteps - 1, (count,))
        return torch.where(noisiest, self.timesteps - 1, others)


@dataclass(frozen=True)
class Weighted:
    """Each timestep in proportion to its weight."""

    weights: tuple[float, ...]

    def __call__(self, count: int) -> Tensor:
        """See ``TimestepSampler.__call__``."""
        return torch.multinomial(torch.tensor(self.weights), count, replacement=True)


@dataclass(frozen=True)
class OnePerBatch:
    """One timestep for all samples of a batch."""

    sampler: TimestepSampler

    def __call__(self, count: int) -> Tensor:
        """See ``TimestepSampler.__call__``."""
        return self.sampler(1).expand(count)


def timestep_sampler(config: TrainingConfig) -> TimestepSampler:
    """The sampler that a run asks for."""
    total = config.model.diffusion.schedule.timesteps
    probability = config.noisiest_probability
    sampler: TimestepSampler = Uniform(total)
    if probability is not None and total > 1:
        sampler = MostlyNoisiest(total, probability)
    if config.timestep_weights is not None:
        sampler = Weighted(config.timestep_weights)
    return OnePerBatch(sampler) if config.timestep_per_batch else sampler
