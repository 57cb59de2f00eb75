"""The chain from noise to a clean variable: the one loop that all sampling runs through.

Arrays may be too large to be worked on at once: the network fills its prediction in as it likes,
and everything else is done part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.prediction import Array
from bidiffsr.diffusion.samplers import Sampler, Transition, transitions
from bidiffsr.system.buffers import release
from bidiffsr.system.threads import for_each

Index = Any
"""What stands in the brackets of ``array[index]``; ``...`` is the whole array."""

Predict = Callable[[Callable[[Index], Array], int, Array], Iterable[int]]
"""(index → the network's input there, timestep, zeros to be filled with the network's prediction)
→ what is passed on as progress while it runs."""

Noise = Callable[[int, Index], Array]
"""(stream, part) → noise of that part: stream 0 is what the chain starts from, 1 + i is what the
step of index i draws."""

Watch = Callable[[Index, Array], object]
"""Told, at every step, of each part and the clean variable that is predicted there."""


@dataclass(frozen=True)
class Buffers:
    """The arrays that a chain works in, numpy or torch, all of one shape."""

    variable: Array
    """At the noise level that the chain has reached; clean when it has ended."""
    prediction: Array
    """Zeros."""
    previous: Array | None
    """The clean variable as predicted in the step before; None unless the sampler is multistep."""
    parts: Sequence[Index] = (...,)
    """They cover the arrays, and are worked on by themselves."""
    first: Array | None = None
    """The clean variable as predicted in the first step; None where the result holds none of it."""


def run_chain(
    diffusion: Diffusion,
    sampler: Sampler,
    timesteps: Sequence[int],
    buffers: Buffers,
    predict: Predict,
    noise: Noise,
    *,
    eta: float = 0.0,
    mean_weight: float = 0.0,
    watch: Watch | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, int]]:
    """Run a chain in place.

    Args:
        diffusion: the model's.
        sampler: one of ``SAMPLERS``.
        timesteps: descending; the last step goes to the clean end.
        buffers: the arrays.
        predict: runs the network.
        noise: drawn only where it reaches the result.
        eta: see ``Sampler.update``.
        mean_weight: see ``SamplingConfig``; counts where ``buffers`` have a ``first``.
        watch: for those who want to see what the result will be; called by one thread.
        threads: how many work on parts at once, see ``for_each``.

    Yields:
        (finished steps, what ``predict`` yields in the step under way), and (finished steps, 0)
        after each step.
    """
    x = buffers.variable
    steps = transitions(diffusion.schedule, timesteps)
    if _start_noise_counts(diffusion, steps[0]):

        def start(part: Index) -> None:
            x[part] = noise(0, part)
            release(x)

        for_each(buffers.parts, start, threads)
    for step in steps:
        signal, _ = step.here

        def seen(index: Index, signal: float = signal) -> Array:
            return diffusion.network_input(x[index], signal)

        for progress in predict(seen, step.timestep, buffers.prediction):
            yield step.index, progress
        update = partial(_update, diffusion, sampler, step, buffers, noise, eta, mean_weight, watch)
        for_each(buffers.parts, update, threads if watch is None else 1)
        yield step.index + 1, 0


def _update(
    diffusion: Diffusion,
    sampler: Sampler,
    step: Transition,
    buffers: Buffers,
    noise: Noise,
    eta: float,
    mean_weight: float,
    watch: Watch | None,
    part: Index,
) -> None:
    """Take one part to the next level; leaves its prediction zero."""
    x, prediction, previous = buffers.variable, buffers.prediction, buffers.previous
    here = x[part]
    clean = diffusion.clean(prediction[part], here, step.timestep)
    if buffers.first is not None:
        if step.index == 0:
            buffers.first[part] = clean
        elif step.is_last:
            clean = clean + mean_weight * (buffers.first[part] - clean)
        release(buffers.first)
    if watch is not None:
        watch(part, clean)
    x[part] = sampler.update(
        here,
        clean,
        lambda: diffusion.noise(prediction[part], here, step.timestep),
        step,
        previous=None if previous is None or step.index == 0 else previous[part],
        eta=eta,
        fresh_noise=lambda index: noise(1 + index, part),
    )
    if previous is not None:
        previous[part] = clean
        release(previous)
    prediction[part] = 0
    release(x, prediction)


def _start_noise_counts(diffusion: Diffusion, first: Transition) -> bool:
    """Whether the variable at the first level reaches the result.

    It enters the network and the clean variable times the signal level there, and the next level
    times the noise level of that one.
    """
    (signal, _), (_, next_noise) = first.here, first.there
    unseen = signal == 0 and diffusion.config.input_scaling == "signal"
    return not (unseen and next_noise == 0)
