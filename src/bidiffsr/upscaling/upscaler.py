"""The one upscaling job: the command line, evaluation and training's validation all call this."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from bidiffsr.backends.base import Backend, BackendOptions, load_backend
from bidiffsr.config import ModelConfig, Quality, SamplingConfig, parse_config
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import ConfigError
from bidiffsr.images.convert import accept
from bidiffsr.images.image import Image, premultiply, to_float
from bidiffsr.images.resize import LARGEST_SCALE
from bidiffsr.models.catalog import find_model
from bidiffsr.system.memory import held_memory, memory_limit
from bidiffsr.upscaling.planning import MemoryPlan, TileSize, plan_memory
from bidiffsr.upscaling.postprocess import result_image
from bidiffsr.upscaling.sampling import (
    PictureSampler,
    back_project,
    picture_bytes,
    upscaled_condition,
)
from bidiffsr.upscaling.tiling import TiledNetwork, least_tile

# The published test code pads to this, whatever the network needs.
_PAD_MULTIPLE = 8


@dataclass(frozen=True)
class UpscaleStep:
    """What is known after one run of the network: a step, or a tile of one."""

    sample: int
    samples: int
    step: int
    """Finished steps of this sample."""
    steps: int
    tile: int
    """Finished tiles of the step under way; 0 when a step has just been finished."""
    tiles: int
    """How many tiles there are; 1 where the picture is one."""
    result: Image | None
    """The finished picture, with the last step of each sample."""


class Options(TypedDict, total=False):
    """What may be asked of ``Upscaler.from_pretrained``; see ``BackendOptions``."""

    backend: Literal["auto", "engine", "torch"]
    precision: Literal["fast", "exact"]
    threads: int
    device: str | None


class Settings(TypedDict, total=False):
    """What may be asked of ``Upscaler.stream``; see ``Upscaler.__call__``."""

    scale: float | None
    quality: Quality | None
    steps: int | None
    seed: int
    samples: int
    tile: TileSize
    max_memory: int | None


class Upscaler:
    """A model ready to upscale; safe to call from many threads.

    Args:
        backend: runs the network.
        config: the model's own description.
    """

    def __init__(self, backend: Backend, config: ModelConfig) -> None:
        self.backend = backend
        self.config = config
        self._diffusion = Diffusion(config.diffusion)
        self._multiple = math.lcm(_PAD_MULTIPLE, config.network.size_multiple)
        # Now, so that what earlier pictures left behind does not change the tiles of later ones.
        self._held_memory = held_memory()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        scale: float | None = None,
        **options: Unpack[Options],
    ) -> Upscaler:
        """Load a model that ships with the package by its name, or a model file by its path.

        Args:
            model: one of ``bidiffsr.list_models()``; "default", the best of them for ``scale``; or
                the path of a ``.safetensors`` model file.
            scale: what the pictures will be upscaled by, if that is known; only "default" asks.
            options: what runs the network; by default the engine on all CPUs, without PyTorch.
                See ``bidiffsr.backends.BackendOptions``.

        Raises:
            CheckpointError: the file is missing, damaged, or no model.
            ConfigError: an option is out of range, or PyTorch is needed and not installed.
        """
        with find_model(model, scale) as path:
            return cls(*load_backend(path, BackendOptions(**options)))

    def __call__(
        self,
        image: Any,
        *,
        scale: float | None = None,
        quality: Quality | None = None,
        steps: int | None = None,
        seed: int = 0,
        samples: int = 1,
        tile: TileSize = "auto",
        max_memory: int | None = None,
    ) -> Any:
        """Upscale a picture.

        Args:
            image: a uint8 or uint16 array (H, W, 3), (H, W, 4) with alpha, (H, W, 1) or (H, W);
                a PIL image; or the path of a picture.
            scale: the factor, at most the one the model was trained for, which is the default.
            quality: one of the ways of sampling that the model names. "fast" is fidelity: one
                step, the mean of all that the picture could be, with the highest PSNR and no
                invented detail. "best" is detail: a sample of the diffusion, sharper, with the
                lowest NIQE. "balanced" lies between. By default what the model asks for.
            steps: sampling steps, in place of the quality's; more is slower.
            seed: the same seed, file and settings give the same result.
            samples: how many different results to draw.
            tile: the largest side of the parts a large picture is worked on in, in pixels of the
                model's full scale; "auto" chooses it by the size and the memory. Another tile
                gives a slightly different result.
            max_memory: bytes the process may hold, what it held when the model was loaded
                included; by default most of what is free.

        Returns:
            The like of ``image``: an array of the same dtype and channels for an array, (H, W, 3)
            or (H, W, 4) for a path, a PIL image for a PIL image; a list where ``samples`` > 1.

        Raises:
            ImageError: ``image`` is none of these, or cannot be read.
            ConfigError: ``scale``, ``steps``, ``seed``, ``samples`` or ``tile`` is out of range,
                or the model does not name ``quality``.
            MemoryEstimateError: the picture is too large for the memory there is.
            NumericalError: the network's result is not a picture.
        """
        source, restore = accept(image)
        progress = self.stream(
            source,
            scale=scale,
            quality=quality,
            steps=steps,
            seed=seed,
            samples=samples,
            tile=tile,
            max_memory=max_memory,
        )
        results = [restore(step.result) for step in progress if step.result is not None]
        return results[0] if samples == 1 else results

    def stream(
        self, image: Image, *, scratch: Path | None = None, **settings: Unpack[Settings]
    ) -> Iterator[UpscaleStep]:
        """As ``__call__``, for an ``Image``, yielding after every tile of every step.

        Args:
            image: the picture.
            scratch: a folder for what does not fit into half of the memory, the results included;
                its files have no names and vanish with the process. None: all is in memory.
            settings: see ``__call__``.

        Raises:
            OutputError: there is no room in ``scratch``.
        """
        samples, seed = settings.get("samples", 1), settings.get("seed", 0)
        tile = settings.get("tile", "auto")
        sampling = self._sampling(settings.get("quality"), settings.get("steps"))
        scale = self._scale(settings.get("scale"), samples, tile)
        factor = self.config.scale
        limit = memory_limit(settings.get("max_memory"), self._held_memory)
        plan = self._plan(image, sampling, tile, limit, disk=scratch is not None)
        folder = scratch if plan.on_disk else None

        opacity = None if image.alpha is None else to_float(image.alpha)
        colour = to_float(image.pixels)
        if opacity is not None:
            colour = premultiply(colour, opacity)
        cond = upscaled_condition(colour, factor, self._multiple, folder)
        network = TiledNetwork(plan.tiling, self._multiple)

        def finished(chain: PictureSampler) -> Image:
            picture = chain.picture()[: image.height * factor, : image.width * factor]
            for _ in range(sampling.back_projections):
                back_project(picture, colour, factor)
            shrink = scale / factor
            return result_image(picture, image, opacity, shrink=shrink, scale=scale, folder=folder)

        for sample in range(samples):
            chain = PictureSampler(
                self._diffusion, self.backend.predict, cond, sampling, network, folder
            )
            for step, tile in chain.run(seed, sample):
                tiles = len(network.tiling)
                if step < sampling.steps:
                    yield UpscaleStep(sample, samples, step, sampling.steps, tile, tiles, None)
            result = finished(chain)
            del chain  # so that its memory is there for whoever takes the result
            tiles = len(network.tiling)
            yield UpscaleStep(sample, samples, sampling.steps, sampling.steps, 0, tiles, result)

    def _plan(
        self, image: Image, sampling: SamplingConfig, tile: TileSize, limit: int | None, disk: bool
    ) -> MemoryPlan:
        size = [side * self.config.scale for side in (image.height, image.width)]
        height, width = (side + -side % self._multiple for side in size)
        samples = 3 if image.alpha is None else 4
        each = picture_bytes(sampling) + samples * image.pixels.itemsize
        return plan_memory(
            self.backend.memory,
            (height, width),
            height * width * each,
            multiple=self._multiple,
            tile=tile,
            limit=limit,
            disk=disk,
        )

    def check_settings(
        self,
        *,
        scale: float | None = None,
        quality: Quality | None = None,
        steps: int | None = None,
        samples: int = 1,
        tile: TileSize = "auto",
    ) -> float:
        """Make sure, before any work, that these settings suit the model; returns the scale.

        Raises:
            ConfigError: one is out of range, or the model does not name the quality.
        """
        self._sampling(quality, steps)
        return self._scale(scale, samples, tile)

    def _scale(self, scale: float | None, samples: int, tile: TileSize) -> float:
        scale = self.config.scale if scale is None else scale
        least = self.config.scale / LARGEST_SCALE
        if not least <= scale <= self.config.scale:
            raise ConfigError(
                f"scale: got {scale}, this model upscales by {least:g} to {self.config.scale}; "
                "for more, upscale its result again"
            )
        if samples < 1:
            raise ConfigError(f"samples: got {samples}, expected 1 or more")
        least = least_tile(self._multiple)
        if tile != "auto" and tile < least:
            raise ConfigError(f"tile: got {tile}, expected {least} or more, or 'auto'")
        return scale

    def _sampling(self, quality: Quality | None, steps: int | None) -> SamplingConfig:
        sampling, qualities = self.config.sampling, self.config.qualities
        if quality is not None:
            if quality not in qualities:
                named = ", ".join(qualities) or "none"
                raise ConfigError(
                    f"quality: got {quality!r}, this model names {named}; "
                    "leave it out for the model's default"
                )
            sampling = qualities[quality]
        if steps is not None:
            limit = self.config.diffusion.schedule.timesteps
            if not 1 <= steps <= limit:
                raise ConfigError(f"steps: got {steps}, this model takes 1 to {limit}")
            sampling = parse_config(
                SamplingConfig, sampling.model_dump() | {"steps": steps}, "sampling"
            )
        return sampling
