"""Sampling a picture of any size: the network tile by tile, all else in strips of rows.

Beside the tile at hand there are three arrays of the picture's size: the condition, the variable,
and the network's prediction; a fourth where the sampler looks at the step before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import SamplingConfig
from bidiffsr.diffusion.chain import Buffers, Index, run_chain
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.diffusion.samplers import SAMPLERS
from bidiffsr.errors import NumericalError
from bidiffsr.images.image import Header
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.system.buffers import new_buffer, release, strips
from bidiffsr.upscaling.tiling import TiledNetwork

Floats = NDArray[np.float32]
Predict = Callable[[Floats, Floats, NDArray[np.int64]], Floats]


def picture_bytes(sampling: SamplingConfig) -> int:
    """Bytes for each pixel that sampling keeps while it runs."""
    return 4 * 3 * (4 if SAMPLERS[sampling.sampler].multistep else 3)


def source_bytes(header: Header) -> int:
    """Bytes of a picture to upscale: its samples, their floats, and its colours premultiplied."""
    each = header.samples * (header.sample_bytes + 4) + (4 * 3 if header.has_alpha else 0)
    return header.height * header.width * each


def upscaled_condition(
    colour: Floats, factor: int, multiple: int, folder: Path | None = None
) -> Floats:
    """What the network is conditioned on.

    Args:
        colour: (H, W, 3), float32 in [0, 1].
        factor: the network's.
        multiple: the condition's sides are, by reflection at the bottom and on the right.
        folder: see ``new_buffer``.

    Returns:
        (3, H', W'), at least ``factor`` times as large as ``colour``.
    """
    height, width = (side * factor for side in colour.shape[:2])
    rows, columns = (
        np.pad(np.arange(side), (0, -side % multiple), mode="reflect") for side in (height, width)
    )
    cond = new_buffer((3, len(rows), len(columns)), np.float32, folder)
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
        folder: where the picture-sized arrays live; see ``new_buffer``.
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
        self.variable = new_buffer(cond.shape, np.float32, folder)
        """(3, H, W), at the noise level that the chain has reached."""

    def run(self, seed: int, sample: int) -> Iterator[tuple[int, int]]:
        """Run the chain; afterwards ``variable`` is clean.

        Yields:
            (finished steps, finished tiles of the step under way), after every tile; the second is
            0 when a step has just been finished.

        Raises:
            MemoryEstimateError: the memory ran out even in the smallest tiles.
        """
        sampling, shape = self._sampling, self._cond.shape
        sampler = SAMPLERS[sampling.sampler]

        def noise(stream: int, part: tuple[slice, slice]) -> Floats:
            _, rows = part
            height, width = rows.stop - rows.start, shape[2]
            drawn = normal_noise(seed, sample, 3, height, width, top=rows.start, stream=stream)
            return drawn * np.float32(sampling.noise_scale)

        buffers = Buffers(
            self.variable,
            prediction=new_buffer(shape, np.float32, self._folder),
            previous=new_buffer(shape, np.float32, self._folder) if sampler.multistep else None,
            parts=[(slice(None), rows) for rows in self._strips],
        )
        timesteps = self._diffusion.schedule.timesteps(sampling.steps, sampling.spacing)
        return run_chain(
            self._diffusion,
            sampler,
            timesteps,
            buffers,
            self._predict_picture,
            noise,
            eta=sampling.eta,
        )

    def _predict_picture(
        self, seen: Callable[[Index], Floats], timestep: int, prediction: Floats
    ) -> Iterator[int]:
        """Fill ``prediction``, zeros until then; yields between tiles how many are done."""
        x, cond = self.variable, self._cond
        time = np.array([timestep], dtype=np.int64)

        def network(rows: slice, columns: slice) -> Floats:
            window = slice(None), rows, columns
            noisy = np.ascontiguousarray(seen(window))[None]
            condition = np.ascontiguousarray(cond[window])[None]
            release(x, cond)
            return self._predict(noisy, condition, time)[0]

        for done in self._network.run(network, prediction):
            release(prediction)
            if done < len(self._network.tiling):
                yield done

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
