"""Sampling a picture of any size: the network tile by tile, all else in strips of rows.

Beside the tile at hand there are three arrays of the picture's size: the condition, the variable,
and what the network says of it; a fourth where the sampler remembers the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import SamplingConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.diffusion.samplers import SAMPLERS, transitions
from bidiffsr.errors import NumericalError
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.system.buffers import new_canvas, release, strips
from bidiffsr.upscaling.tiling import TiledNetwork

Floats = NDArray[np.float32]
Predict = Callable[[Floats, Floats, NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Progress:
    """What is known after one run of the network."""

    step: int
    """Finished steps."""
    steps: int
    tile: int
    """Finished tiles of the step under way; 0 when a step has just been finished."""
    tiles: int


def picture_bytes(sampling: SamplingConfig) -> int:
    """Bytes for each pixel that sampling keeps while it runs."""
    return 4 * 3 * (4 if SAMPLERS[sampling.sampler].remembers else 3)


def upscaled_condition(
    colour: Floats, factor: int, multiple: int, folder: Path | None = None
) -> Floats:
    """What the network is conditioned on.

    Args:
        colour: (H, W, 3), float32 in [0, 1].
        factor: the network's.
        multiple: the condition's sides are, by reflection at the bottom and on the right.
        folder: see ``new_canvas``.

    Returns:
        (3, H', W'), at least ``factor`` times as large as ``colour``.
    """
    height, width = (side * factor for side in colour.shape[:2])
    rows, columns = (
        np.pad(np.arange(side), (0, -side % multiple), mode="reflect") for side in (height, width)
    )
    cond = new_canvas((3, len(rows), len(columns)), np.float32, folder)
    for strip in strips(height, len(columns)):
        part = cubic_upscale(colour, factor, rows=strip)
        cond[:, strip] = part[:, columns].transpose(2, 0, 1)
        release(cond)
    cond[:, height:] = cond[:, rows[height:]]
    return cond


def back_project(picture: Floats, source: Floats, factor: int) -> None:
    """Correct an upscaled picture, in place, so that made small it is nearer to its source.

    What the shrunk picture lacks of the source is enlarged and added; the limit of repetition is a
    picture that shrinks to its source.

    Args:
        picture: (factor H, factor W, 3) float32 in [0, 1], and so afterwards.
        source: (H, W, 3) float32 in [0, 1].
        factor: between the two.

    Source: Irani & Peleg, "Improving resolution by image registration", 1991, with MATLAB's
    imresize for the way down and OpenCV's cubic for the way up.
    """
    lacking = np.empty_like(source)
    for rows in strips(*source.shape[:2]):
        lacking[rows] = source[rows] - imresize(picture, 1 / factor, rows=rows)
        release(picture)
    for rows in strips(*picture.shape[:2]):
        corrected = picture[rows] + cubic_upscale(lacking, factor, rows=rows)
        picture[rows] = corrected.clip(0, 1)
        release(picture)


class PictureSampler:
    """One chain from noise to a picture.

    Args:
        diffusion: the model's.
        predict: the backend's.
        cond: (3, H, W) float32, see ``upscaled_condition``.
        sampling: settings.
        network: how the picture is cut; shared by the chains of one picture.
        folder: where the picture-sized arrays live; see ``new_canvas``.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        predict: Predict,
        cond: Floats,
        sampling: SamplingConfig,
        network: TiledNetwork,
        folder: Path | None = None,
    ) -> None:
        self._diffusion = diffusion
        self._predict = predict
        self._cond = cond
        self._sampling = sampling
        self._network = network
        self._folder = folder
        _, height, width = cond.shape
        self._strips = list(strips(height, width))
        self.variable = new_canvas(cond.shape, np.float32, folder)
        """(3, H, W), at the noise level that the chain has reached."""

    def run(self, seed: int, sample: int) -> Iterator[Progress]:
        """Run the chain; afterwards ``variable`` is clean.

        Raises:
            ConfigError: ``seed`` is out of range.
            MemoryEstimateError: the memory ran out even in the smallest tiles.
        """
        sampling, schedule = self._sampling, self._diffusion.schedule
        sampler = SAMPLERS[sampling.sampler]
        x, shape = self.variable, self._cond.shape
        said = new_canvas(shape, np.float32, self._folder)
        previous = new_canvas(shape, np.float32, self._folder) if sampler.remembers else None

        def noise(stream: int, rows: slice) -> Floats:
            height, width = rows.stop - rows.start, shape[2]
            drawn = normal_noise(seed, sample, 3, height, width, top=rows.start, stream=stream)
            return drawn * np.float32(sampling.noise_scale)

        for rows in self._strips:
            x[:, rows] = noise(0, rows)
            release(x)
        timesteps = schedule.timesteps(sampling.steps, sampling.spacing)
        for step in transitions(schedule, timesteps):
            yield from self._predict_all(step.index, step.timestep, said)
            for rows in self._strips:
                here = x[:, rows]
                clean, predicted = self._diffusion.interpret(said[:, rows], here, step.timestep)
                x[:, rows] = sampler.update(
                    here,
                    clean,
                    predicted,
                    step,
                    previous=None if previous is None or step.index == 0 else previous[:, rows],
                    eta=sampling.eta,
                    fresh_noise=lambda index, rows=rows: noise(index + 1, rows),
                )
                if previous is not None:
                    previous[:, rows] = clean
                    release(previous)
                said[:, rows] = 0
                release(x, said)
            yield Progress(step.index + 1, len(timesteps), 0, len(self._network.tiling))

    def _predict_all(self, index: int, timestep: int, said: Floats) -> Iterator[Progress]:
        """Fill ``said``; yields between tiles."""
        diffusion, cond, x = self._diffusion, self._cond, self.variable
        signal, _ = diffusion.schedule.levels(timestep)
        time = np.array([timestep], dtype=np.int64)

        def network(rows: slice, columns: slice) -> Floats:
            seen = diffusion.network_input(x[:, rows, columns], signal)
            noisy = np.ascontiguousarray(seen)[None]
            condition = np.ascontiguousarray(cond[:, rows, columns])[None]
            release(x, cond)
            return self._predict(noisy, condition, time)[0]

        for done in self._network.run(network, said):
            release(said)
            tiles = len(self._network.tiling)
            if done < tiles:
                yield Progress(index, self._sampling.steps, done, tiles)

    def picture(self) -> Floats:
        """(H, W, 3) float32 in [0, 1], a view of ``variable``, which it replaces.

        Raises:
            NumericalError: it holds NaN or infinity.
        """
        x, cond = self.variable, self._cond
        for rows in self._strips:
            part = self._diffusion.to_picture(x[:, rows], cond[:, rows])
            if not np.isfinite(part).all():
                raise NumericalError(
                    "the network's result holds NaN or infinity; the model is unsound"
                )
            np.clip(part, 0, 1, out=x[:, rows])
            release(x, cond)
        return x.transpose(1, 2, 0)
