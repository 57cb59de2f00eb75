"""Sampling a picture of any size: the network tile by tile, all else in strips of rows.

Beside the tile at hand there are three arrays of the picture's size: the condition, the variable,
and the network's prediction; one more where the sampler looks at the step before, and one where the
result holds some of what the first step predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.backends.base import Surroundings
from bidiffsr.config import SamplingConfig
from bidiffsr.diffusion.chain import Buffers, Index, run_chain
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.samplers import SAMPLERS
from bidiffsr.errors import NumericalError
from bidiffsr.images.image import Header
from bidiffsr.system.buffers import new_buffer, release, strips
from bidiffsr.system.threads import for_each
from bidiffsr.upscaling.surroundings import NumpySurroundings
from bidiffsr.upscaling.tiling import TiledNetwork

Floats = NDArray[np.float32]
Predict = Callable[[Floats, Floats, NDArray[np.int64]], Floats]
Watch = Callable[[slice, Floats], object]
"""Told, at every step, of some rows and the picture, (3, rows, W), that is predicted there."""


def picture_bytes(sampling: SamplingConfig) -> int:
    """Bytes for each pixel that sampling keeps while it runs."""
    return 4 * 3 * (3 + SAMPLERS[sampling.sampler].multistep + _keeps_first(sampling))


def _keeps_first(sampling: SamplingConfig) -> bool:
    return sampling.mean_weight > 0 and sampling.steps > 1


def source_bytes(header: Header) -> int:
    """Bytes of a picture to upscale: its samples, their floats, and its colours premultiplied."""
    each = header.samples * (header.sample_bytes + 4) + (4 * 3 if header.has_alpha else 0)
    return header.height * header.width * each


def upscaled_condition(
    colour: Floats,
    factor: int,
    multiple: int,
    folder: Path | None = None,
    surroundings: Surroundings | None = None,
) -> Floats:
    """What the network is conditioned on.

    Args:
        colour: (3, H, W), float32 in [0, 1].
        factor: the network's.
        multiple: the condition's sides are, by reflection at the bottom and on the right.
        folder: see ``new_buffer``.
        surroundings: what computes it; None: numpy.

    Returns:
        (3, H', W'), at least ``factor`` times as large as ``colour``.
    """
    sides = (side * factor for side in colour.shape[1:])
    height, width = (side + -side % multiple for side in sides)
    cond = new_buffer((3, height, width), np.float32, folder)
    (surroundings or NumpySurroundings()).interpolate(colour, factor, cond)
    return cond


class PictureSampler:
    """One chain from noise to a picture.

    Args:
        diffusion: the model's.
        predict: the backend's.
        cond: (3, H, W) float32, see ``upscaled_condition``.
        sampling: settings.
        network: how the picture is cut; shared by the chains of one picture.
        surroundings: what draws the noise; None: numpy.
        folder: where the picture-sized arrays live; see ``new_buffer``.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        predict: Predict,
        cond: Floats,
        sampling: SamplingConfig,
        network: TiledNetwork,
        surroundings: Surroundings | None = None,
        folder: Path | None = None,
    ) -> None:
        self._diffusion = diffusion
        self._predict = predict
        self._cond = cond
        self._sampling = sampling
        self._network = network
        self._surroundings = surroundings or NumpySurroundings()
        self._folder = folder
        _, height, width = cond.shape
        self._strips = list(strips(height, width))
        self.variable = new_buffer(cond.shape, np.float32, folder)
        """(3, H, W), at the noise level that the chain has reached."""

    def run(
        self, seed: int, sample: int, *, watch: Watch | None = None, threads: int = 1
    ) -> Iterator[tuple[int, int]]:
        """Run the chain; afterwards ``variable`` is clean.

        Args:
            seed: of the noise.
            sample: which of the seed's.
            watch: see ``Watch``.
            threads: see ``for_each``.

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
            scale = sampling.noise_scale
            return self._surroundings.noise(seed, sample, stream, rows, shape[2], scale)

        buffers = Buffers(
            self.variable,
            prediction=new_buffer(shape, np.float32, self._folder),
            previous=new_buffer(shape, np.float32, self._folder) if sampler.multistep else None,
            first=new_buffer(shape, np.float32, self._folder) if _keeps_first(sampling) else None,
            parts=[(slice(None), rows) for rows in self._strips],
        )
        timesteps = self._diffusion.schedule.timesteps(sampling.steps, sampling.spacing)
        return run_chain(
            self._diffusion,
            sampler,
            timesteps,
            buffers,
            partial(self._predict_picture, threads=threads),
            noise,
            eta=sampling.eta,
            mean_weight=sampling.mean_weight,
            watch=None if watch is None else self._shown_to(watch),
            threads=threads,
        )

    def _shown_to(self, watch: Watch) -> Callable[[Index, Floats], None]:
        """What ``run_chain`` tells of, as pictures."""

        def show(part: Index, clean: Floats) -> None:
            _, rows = part
            watch(rows, self._diffusion.to_picture(clean, self._cond[part]))
            release(self._cond)

        return show

    def _predict_picture(
        self, seen: Callable[[Index], Floats], timestep: int, prediction: Floats, threads: int
    ) -> Iterator[int]:
        """Fill ``prediction``, zeros until then; yields between tiles how many are done."""
        x, cond = self.variable, self._cond
        time = np.array([timestep], dtype=np.int64)

        def network(rows: slice, columns: slice) -> Floats:
            condition = np.ascontiguousarray(cond[:, rows, columns])
            noisy = np.empty(condition.shape, np.float32)

            def fill(part: slice) -> None:
                window = slice(rows.start + part.start, rows.start + part.stop), columns
                noisy[:, part] = seen((slice(None), *window))

            for_each(strips(*condition.shape[1:]), fill, threads)
            release(x, cond)
            return self._predict(noisy[None], condition[None], time)[0]

        for done in self._network.run(network, prediction, threads):
            release(prediction)
            if done < len(self._network.tiling):
                yield done

    def picture(self, threads: int = 1) -> Floats:
        """(H, W, 3) float32 in [0, 1], a view of ``variable``, which it replaces.

        Args:
            threads: see ``for_each``.

        Raises:
            NumericalError: it holds NaN or infinity.
        """
        x, cond = self.variable, self._cond

        def finish(rows: slice) -> None:
            part = self._diffusion.to_picture(x[:, rows], cond[:, rows])
            if not np.isfinite(part).all():
                raise NumericalError(
                    "the network's result holds NaN or infinity; the model is unsound"
                )
            np.clip(part, 0, 1, out=x[:, rows])
            release(x, cond)

        for_each(self._strips, finish, threads)
        return x.transpose(1, 2, 0)
