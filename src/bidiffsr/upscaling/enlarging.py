"""One pass: a picture enlarged by the network's factor, as often as there are samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.backends.base import Surroundings
from bidiffsr.config import SamplingConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.images.image import Image, premultiply, to_float
from bidiffsr.images.resize import Resizing
from bidiffsr.system.buffers import release, strips
from bidiffsr.system.threads import for_each
from bidiffsr.upscaling.planning import MemoryPlan
from bidiffsr.upscaling.postprocess import result_image
from bidiffsr.upscaling.preview import Preview
from bidiffsr.upscaling.sampling import (
    PictureSampler,
    Predict,
    upscaled_condition,
)
from bidiffsr.upscaling.tiling import TiledNetwork
from bidiffsr.upscaling.views import AS_IT_IS, View


@dataclass(frozen=True)
class Enlarger:
    """How a model enlarges pictures.

    Attributes:
        diffusion: the model's.
        predict: the backend's.
        factor: how much larger the network makes them.
        multiple: see ``lay_tiles``.
        sampling: settings.
        surroundings: what is computed around the network.
        threads: see ``for_each``.
        views: ways to look at the picture, whose results are averaged.
    """

    diffusion: Diffusion
    predict: Predict
    factor: int
    multiple: int
    sampling: SamplingConfig
    surroundings: Surroundings
    threads: int
    views: tuple[View, ...] = AS_IT_IS

    @property
    def steps(self) -> int:
        """Of the network over the whole picture, for each sample."""
        return self.sampling.steps * len(self.views)


class Enlargement:
    """A picture that is enlarged.

    Args:
        how: the model's way.
        image: the picture.
        scale: from it to the result.
        plan: for the memory.
        folder: where picture-sized arrays live that do not fit into the memory.
        preview: the longest side of the previews, in pixels; None: there are none.
    """

    def __init__(
        self,
        how: Enlarger,
        image: Image,
        scale: Resizing,
        plan: MemoryPlan,
        folder: Path | None,
        *,
        preview: int | None = None,
    ) -> None:
        self._how, self._image, self._scale = how, image, scale
        self._folder = folder if plan.on_disk else None
        self._opacity = None if image.alpha is None else to_float(image.alpha)
        self._colour = to_float(image.pixels)
        if self._opacity is not None:
            self._colour = premultiply(self._colour, self._opacity)
        self._colour = np.ascontiguousarray(self._colour.transpose(2, 0, 1))
        self._cond = upscaled_condition(
            self._colour, how.factor, how.multiple, self._folder, how.surroundings
        )
        turned = replace(plan.tiling, rows=plan.tiling.columns, columns=plan.tiling.rows)
        self._upright, self._turned = (
            TiledNetwork(tiling, how.multiple) for tiling in (plan.tiling, turned)
        )
        self._picture: NDArray[np.float32] | None = None
        self._preview = None if preview is None else Preview(image, how.factor, preview)
        self._watched = False
        self._began = plan.tiling.largest

    @property
    def tiles(self) -> int:
        """In each step."""
        return len(self._upright.tiling)

    @property
    def tile_side(self) -> int | None:
        """The largest side of the sample's tiles; None if that changed while it was drawn."""
        sides = {self._began, *self._sides()}
        return self._began if len(sides) == 1 else None

    def _sides(self) -> list[int]:
        turned = any(view.turned for view in self._how.views)
        networks = (self._upright, self._turned) if turned else (self._upright,)
        return [network.tiling.largest for network in networks]

    def draw(
        self, seed: int, sample: int, *, interpolated: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Make a sample; yields (finished steps, finished tiles of the next) after every tile.

        Where there are previews, (0, 0) comes first if that of the picture interpolated is wanted.
        """
        how, self._picture, self._began = self._how, None, self._sides()[0]
        if self._preview is not None and interpolated:
            self._preview.add_all(self._cond)
            self._watched = True
            yield 0, 0
        for number, view in enumerate(how.views):
            chain = PictureSampler(
                *(how.diffusion, how.predict, view.of(self._cond), how.sampling),
                network=self._turned if view.turned else self._upright,
                surroundings=how.surroundings,
                folder=self._folder,
            )
            self._watched = self._preview is not None and view == AS_IT_IS[0]
            watch = self._preview.add if self._preview is not None and self._watched else None
            for step, tile in chain.run(seed, sample, watch=watch, threads=how.threads):
                yield number * how.sampling.steps + step, tile
            self._add(view.undone(chain.picture(how.threads).transpose(2, 0, 1)))
            del chain  # so that its memory is there for the next

    def preview(self) -> Image | None:
        """After a step, what it predicts, made small; None for other views."""
        return self._preview.take() if self._preview is not None and self._watched else None

    def _add(self, seen: NDArray[np.float32]) -> None:
        """One view's share of the mean."""
        if self._picture is None:
            self._picture = seen
        total, count = self._picture, len(self._how.views)

        def add(rows: slice) -> None:
            if total is seen:
                total[:, rows] /= count
            else:
                total[:, rows] += seen[:, rows] / count
            release(total, seen)

        if count > 1:
            for_each(strips(*total.shape[1:]), add, self._how.threads)

    def result(self) -> Image:
        """The sample that has been drawn, of which nothing is kept here."""
        how, image = self._how, self._image
        assert self._picture is not None
        picture = self._picture[:, : image.height * how.factor, : image.width * how.factor]
        self._picture = None  # so that its memory is there for whoever takes the result
        for _ in range(how.sampling.back_projections):
            how.surroundings.back_project(picture, self._colour, how.factor)
        shrink = self._scale if isinstance(self._scale, tuple) else self._scale / how.factor
        return result_image(
            *(picture.transpose(1, 2, 0), image, self._opacity),
            shrink=shrink,
            scale=self._scale,
            folder=self._folder,
            threads=how.threads,
        )
