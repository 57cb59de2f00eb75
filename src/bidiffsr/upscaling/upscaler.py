"""The one upscaling job: the command line, evaluation and training's validation all call this."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from numpy.typing import NDArray

from bidiffsr.backends.base import Backend, load_backend
from bidiffsr.backends.options import BackendKeywords, BackendOptions
from bidiffsr.config import ModelConfig, SamplingConfig, parse_config
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import ConfigError
from bidiffsr.images.convert import as_image
from bidiffsr.images.image import Header, Image, premultiply, to_float
from bidiffsr.images.resize import LARGEST_SCALE
from bidiffsr.models.catalog import find_model
from bidiffsr.system.files import StrPath
from bidiffsr.system.memory import held_memory, memory_limit
from bidiffsr.upscaling.options import OneResultKeywords, UpscaleKeywords, UpscaleOptions
from bidiffsr.upscaling.planning import MemoryPlan, plan_memory
from bidiffsr.upscaling.postprocess import result_image
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.sampling import (
    PictureSampler,
    back_project,
    picture_bytes,
    source_bytes,
    upscaled_condition,
)
from bidiffsr.upscaling.tiling import TiledNetwork, least_tile

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

# The published test code pads to this, whatever the network needs.
_PAD_MULTIPLE = 8


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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._held_memory = held_memory()  # perhaps another process

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "default",
        *,
        scale: float | None = None,
        **options: Unpack[BackendKeywords],
    ) -> Upscaler:
        """Load a model that ships with the package by its name, or a model file by its path.

        Args:
            model: one of ``bidiffsr.list_models()``; "default", the best of them for ``scale``; or
                the path of a ``.safetensors`` model file.
            scale: what the pictures will be upscaled by, if that is known; only "default" asks.
            options: what runs the network; by default the engine on all CPUs, without PyTorch.

                - backend ("auto"): "engine", "torch", or what suits the model and the device;
                - precision ("fast"): of the engine: rounded more where it cannot be seen, or
                  "exact", float32 throughout;
                - threads (0): of the engine; 0 for one on each CPU that this process may use;
                - device (None): of PyTorch, such as "cuda".

        Raises:
            CheckpointError: the file is missing, damaged, or no model.
            ConfigError: an option is out of range, or PyTorch is needed and not installed.
        """
        asked = BackendOptions(**options)
        with find_model(model, scale) as path:
            return cls(*load_backend(path, asked))

    @overload
    def __call__(
        self, image: NDArray[Any] | StrPath, **options: Unpack[OneResultKeywords]
    ) -> NDArray[Any]: ...

    @overload
    def __call__(self, image: PILImage, **options: Unpack[OneResultKeywords]) -> PILImage: ...

    @overload
    def __call__(
        self, image: NDArray[Any] | StrPath, **options: Unpack[UpscaleKeywords]
    ) -> NDArray[Any] | list[NDArray[Any]]: ...

    @overload
    def __call__(
        self, image: PILImage, **options: Unpack[UpscaleKeywords]
    ) -> PILImage | list[PILImage]: ...

    def __call__(self, image: Any, **options: Unpack[UpscaleKeywords]) -> Any:
        """Upscale a picture.

        Args:
            image: a uint8 or uint16 array (H, W, 3), (H, W, 4) with alpha, (H, W, 1) or (H, W);
                a PIL image; or the path of a picture.
            options: what is asked for.

                - scale (None): the factor, at most the one the model was trained for, which is the
                  default.
                - quality (None): one of the ways of sampling that the model names. "fast" is
                  fidelity: one step, the mean of all that the picture could be, with the highest
                  PSNR and no invented detail. "best" is detail: a sample of the diffusion,
                  sharper, with the lowest NIQE. "balanced" lies between. By default what the model
                  asks for.
                - steps (None): sampling steps, in place of the quality's; more is slower.
                - seed (0): the same seed, file and options give the same result.
                - samples (1): how many different results to draw.
                - tile ("auto"): the largest side of the parts a large picture is worked on in, in
                  pixels of the model's full scale; "auto" chooses it by the size and the memory.
                  Another tile gives a slightly different result.
                - max_memory (None): bytes the process may hold, what it held when the model was
                  loaded included, as a number or as text such as "2G"; by default most of what is
                  free.

        Returns:
            The like of ``image``: an array of the same dtype and channels for an array, (H, W, 3)
            or (H, W, 4) for a path, a PIL image for a PIL image; a list where ``samples`` > 1.

        Raises:
            ImageError: ``image`` is none of these, or cannot be read.
            ConfigError: an option is of the wrong kind or out of range, or the model does not
                name ``quality``.
            MemoryEstimateError: the picture is too large for the memory there is.
            NumericalError: the network's result is not a picture.
        """
        asked = UpscaleOptions(**options)
        source, restore = as_image(image, lambda header: self.check_memory(header, asked))
        progress = self.stream(source, **options)
        results = [restore(at.result) for at in progress if at.result is not None]
        return results[0] if len(results) == 1 else results

    def stream(
        self, image: Image, *, scratch: Path | None = None, **options: Unpack[UpscaleKeywords]
    ) -> Iterator[Progress]:
        """As ``__call__``, for an ``Image``, yielding after every tile of every step.

        Args:
            image: the picture.
            scratch: a folder for what does not fit into half of the memory, the results included;
                its files have no names and vanish with the process. None: all is in memory.
            options: see ``__call__``.

        Raises:
            OutputError: there is no room in ``scratch``.
        """
        asked = UpscaleOptions(**options)
        scale, sampling = self.check(asked), self._sampling(asked)
        factor, samples = self.config.scale, asked.samples
        plan = self._plan(image.header, sampling, asked, disk=scratch is not None)
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

        def progress(step: int, tile: int, result: Image | None = None) -> Progress:
            tiles = len(network.tiling)
            return Progress(sample, samples, step, sampling.steps, tile, tiles, result)

        for sample in range(samples):
            chain = PictureSampler(
                self._diffusion, self.backend.predict, cond, sampling, network, folder
            )
            for step, tile in chain.run(asked.seed, sample):
                if step < sampling.steps:
                    yield progress(step, tile)
            result = finished(chain)
            del chain  # so that its memory is there for whoever takes the result
            yield progress(sampling.steps, 0, result)

    def check_memory(self, header: Header, options: UpscaleOptions, *, disk: bool = False) -> None:
        """Make sure, before a picture is decoded, that there is room to upscale it.

        Args:
            header: of the picture.
            options: as asked for.
            disk: whether there is a folder for what does not fit into the memory.

        Raises:
            MemoryEstimateError: there is not.
            ConfigError: as ``check``.
        """
        self._plan(header, self._sampling(options), options, disk=disk)

    def _plan(
        self, header: Header, sampling: SamplingConfig, options: UpscaleOptions, *, disk: bool
    ) -> MemoryPlan:
        size = [side * self.config.scale for side in (header.height, header.width)]
        height, width = (side + -side % self._multiple for side in size)
        each = picture_bytes(sampling) + header.samples * header.sample_bytes
        return plan_memory(
            self.backend.memory,
            (height, width),
            height * width * each,
            multiple=self._multiple,
            attends=self.config.network.attends,
            tile=options.tile,
            limit=memory_limit(options.memory, self._held_memory),
            source=source_bytes(header),
            disk=disk,
        )

    def check(self, options: UpscaleOptions) -> float:
        """Make sure, before any work, that the options suit the model; returns the scale.

        Raises:
            ConfigError: one is out of the model's range, or it does not name the quality.
        """
        self._sampling(options)
        least = least_tile(self._multiple)
        if options.tile != "auto" and options.tile < least:
            raise ConfigError(f"tile: got {options.tile}, expected {least} or more, or 'auto'")
        factor = self.config.scale
        scale = factor if options.scale is None else options.scale
        if scale > factor:
            raise ConfigError(
                f"scale: got {scale:g}, this model makes pictures up to {factor} times larger; "
                "for more, upscale its result again"
            )
        if scale * LARGEST_SCALE < factor:
            raise ConfigError(
                f"scale: got {scale:g}, expected a number from 1/{LARGEST_SCALE // factor} to "
                f"{factor}; 1 keeps the size"
            )
        return scale

    def _sampling(self, options: UpscaleOptions) -> SamplingConfig:
        sampling, qualities = self.config.sampling, self.config.qualities
        if options.quality is not None:
            if options.quality not in qualities:
                named = ", ".join(qualities) or "none"
                raise ConfigError(
                    f"quality: got {options.quality!r}, this model names {named}; "
                    "leave it out for the model's default"
                )
            sampling = qualities[options.quality]
        if options.steps is not None:
            limit = self.config.diffusion.schedule.timesteps
            if options.steps > limit:
                raise ConfigError(f"steps: got {options.steps}, this model takes 1 to {limit}")
            sampling = parse_config(
                SamplingConfig, sampling.model_dump() | {"steps": options.steps}, "sampling"
            )
        return sampling
