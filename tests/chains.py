"""Runs the one sampling loop on whole arrays, with a function in place of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bidiffsr.diffusion.chain import Buffers, Watch, run_chain
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.samplers import SAMPLERS


@dataclass(frozen=True)
class Step:
    """What one step leaves."""

    index: int
    timestep: int
    """Where the step began."""
    latent: Any
    """A copy of the variable after the step."""


def chain_of(
    diffusion: Diffusion,
    network: Callable[[Any, int], Any],
    start: Any,
    timesteps: Sequence[int],
    *,
    sampler: str = "ddim",
    eta: float = 0.0,
    fresh_noise: Callable[[int], Any] | None = None,
    parts: Sequence[Any] = (...,),
    mean_weight: float | None = None,
    watch: Watch | None = None,
) -> Iterator[Step]:
    """The steps of a chain; ``network`` maps (input, timestep) to its prediction."""
    buffers = Buffers(
        variable=copy.deepcopy(start),
        prediction=0 * start,
        previous=0 * start if SAMPLERS[sampler].multistep else None,
        parts=parts,
        first=None if mean_weight is None else 0 * start,
    )

    def predict(seen: Callable[[Any], Any], timestep: int, prediction: Any) -> tuple[()]:
        assert not prediction.any()
        prediction[...] = network(seen(...), timestep)
        return ()

    def noise(stream: int, part: Any) -> Any:
        if stream == 0:
            return start[part]
        assert fresh_noise is not None
        return fresh_noise(stream - 1)[part]

    loop = run_chain(
        diffusion,
        SAMPLERS[sampler],
        timesteps,
        buffers,
        predict,
        noise,
        eta=eta,
        mean_weight=mean_weight or 0.0,
        watch=watch,
    )
    for finished, _ in loop:
        index = finished - 1
        yield Step(index, timesteps[index], copy.deepcopy(buffers.variable))
