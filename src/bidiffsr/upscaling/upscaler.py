"""The one upscaling job: the command line, evaluation and training's validation all call this."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from numpy.typing import NDArray

from bidiffsr.backends.base import Backend, Surroundings, load_backend
from bidiffsr.backends.options import BackendKeywords, BackendOptions
from bidiffsr.config import ModelConfig, SamplingConfig, parse_config
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.errors import ConfigError
from bidiffsr.images.convert import as_image
from bidiffsr.images.image import Header, Image
from bidiffsr.models.catalog import find_model, model_digest, unchanged
from bidiffsr.system.checks import options_of
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.files import StrPath
from bidiffsr.system.memory import held_memory, memory_limit
from bidiffsr.upscaling.enlarging import Enlargement, Enlarger
from bidiffsr.upscaling.options import (
    OneResultKeywords,
    Quality,
    UpscaleKeywords,
    UpscaleOptions,
)
from bidiffsr.upscaling.passes import Pass, check_scale, lay_passes
from bidiffsr.upscaling.planning import MemoryPlan, Room, plan_memory
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.record import Origin, recorded
from bidiffsr.upscaling.sampling import picture_bytes, source_bytes
from bidiffsr.upscaling.surroundings import NumpySurroundings
from bidiffsr.upscaling.tiling import least_tile
from bidiffsr.upscaling.views import ALL_VIEWS, AS_IT_IS

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

# The published test code pads to this, whatever the network needs.
_PAD_MULTIPLE = 8


class Upscaler:
    """A model ready to upscale; safe to call from many threads.

    Args:
        backend: runs the network.
        config: the model's own description.
        threads: how many work on a picture beside the network, which the backend runs.
        origin: what results say of how they were made; None: nothing.
        surroundings: computes what is around the network; None: numpy, on ``threads``.
    """

    def __init__(
        self,
        backend: Backend,
        config: ModelConfig,
        *,
        threads: int = 1,
        origin: Origin | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.backend = backend
        self.origin = origin
        self._threads = threads
        self._surroundings = surroundings or NumpySurroundings(threads)
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
        quality: Quality | None = None,
        **options: Unpack[BackendKeywords],
    ) -> Upscaler:
        """Load a model that ships with the package by its name, or a model file by its path.

        Args:
            model: one of ``bidiffsr.list_models()``; "default", the best of them for ``scale`` and
                ``quality``; or the path of a ``.safetensors`` model file.
            scale: what the pictures will be upscaled by, if that is known; only "default" asks.
            quality: "fast", "balanced" or "best", if that is known; only "default" asks.
            options: what runs the network; by default the engine on all CPUs, without PyTorch.

                - backend ("auto"): "engine", "torch", or what suits the model and the device;
                - precision ("fast"): of the engine: rounded more where it cannot be seen, or
                  "exact", float32 throughout;
                - threads (0): of the engine; 0 for one on each CPU that this process may use;
                - device (None): of PyTorch, such as "cuda".

        Raises:
            CheckpointError: the file is missing, damaged, or no model.
            ConfigError: an option or the scale is out of range, or PyTorch is needed and not
                installed.
        """
        asked = options_of(BackendOptions, options)
        use = UpscaleOptions(scale=scale, quality=quality)
        with find_model(model, use.scale, use.quality) as path, unchanged(path):
            backend, config = load_backend(path, asked)
            origin = Origin(model_digest(path), backend.computation)
            return cls(
                backend,
                config,
                threads=asked.threads or usable_cpus(),
                origin=origin,
                surroundings=backend.surroundings,
            )

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

                - scale (None): the factor; the one the model was trained for, F, is the default,
                  and more takes two passes, up to F².
                - size (None), width (None), height (None): the result's exact size instead, such
                  as "1920x1080", or one of its sides, in pixels; from one the other follows.
                - quality (None): one of the ways of sampling that the model names. "fast" is
                  fidelity: one step, the mean of all that the picture could be, with the highest
                  PSNR and no invented detail. "best" is detail: a sample of the diffusion,
                  sharper, with the lowest NIQE. "balanced" lies between. By default what the model
                  asks for.
                - steps (None): sampling steps, in place of the quality's; more is slower.
                - seed (0): the same seed, file and options give the same result.
                - ensemble (False): average the results of the picture turned and mirrored in all
                  eight ways, of a single step each.
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
        asked = options_of(UpscaleOptions, options)
        self.check(asked)
        source, restore = as_image(image, lambda header: self.check_memory(header, asked))
        progress = self.stream(source, **options)
        results = [restore(at.result) for at in progress if at.result is not None]
        return results[0] if len(results) == 1 else results

    def stream(
        self,
        image: Image,
        *,
        scratch: Path | None = None,
        only: Collection[int] | None = None,
        preview: int | None = None,
        kept: int = 0,
        tiles: Sequence[int] | None = None,
        under_way: Callable[[], object] = lambda: None,
        **options: Unpack[UpscaleKeywords],
    ) -> Iterator[Progress]:
        """As ``__call__``, for an ``Image``, yielding after every tile of every step.

        The results say how they were made, in their metadata's ``record``, which `write_image`
        keeps; unless the upscaler has no ``origin``, or the memory ran out meanwhile.

        Args:
            image: the picture.
            scratch: a folder for what does not fit into half of the memory, the results included;
                its files have no names and vanish with the process. None: all is in memory.
            only: which of the samples to draw, counted from 0, each below ``samples``; None: all.
            preview: the longest side of the previews, in pixels; None: there are none.
            kept: bytes for each of the result's pixels that the caller keeps meanwhile.
            tiles: as the option ``tile``, in its place and for each pass.
            under_way: is called once the tiles are chosen by the memory there is, before anything
                is computed.
            options: see ``__call__``.

        Raises:
            OutputError: there is no room in ``scratch``.
        """
        asked = options_of(UpscaleOptions, options)
        checked = self.check(asked)
        sampling, samples = self._sampling(asked), asked.samples
        passes = self._passes(image.header, asked)
        disk = scratch is not None
        plans = self._plans(passes, sampling, asked, kept=kept, disk=disk, tiles=tiles)
        record = self.origin.record(image, checked) if self.origin is not None else {}
        image = recorded(image, {})  # an earlier result's is no longer true
        enlarger = Enlarger(
            *(self._diffusion, self.backend.predict, self.config.scale, self._multiple),
            sampling=sampling,
            surroundings=self._surroundings,
            threads=self._threads,
            views=ALL_VIEWS if asked.ensemble else AS_IT_IS,
        )
        steps = enlarger.steps * len(passes)

        def enlargement(picture: Image, number: int) -> Enlargement:
            return Enlargement(
                *(enlarger, picture, passes[number].scale, plans[number], scratch),
                preview=preview,
            )

        runs = [enlarger.steps * len(plan.tiling) for plan in plans]

        under_way()
        first = enlargement(image, 0)
        for sample in range(samples) if only is None else sorted(only):
            current, result = first, None
            sides: list[int | None] = []
            for number in range(len(passes)):
                if result is not None:
                    current = enlargement(result, number)
                done = number * enlarger.steps
                # Another pass sees other noise.
                seed = (asked.seed + number * 2**63) % 2**64
                for step, tile in current.draw(seed, sample, interpolated=number == 0):
                    runs[number] = enlarger.steps * current.tiles  # which may have become smaller
                    finished = sum(runs[:number]) + step * current.tiles + tile
                    if done + step < steps:
                        shown = current.preview() if tile == 0 else None
                        at = done + step, steps, tile, current.tiles, finished, sum(runs)
                        yield Progress(sample, samples, *at, preview=shown)
                result = current.result()
                sides.append(current.tile_side)
            if result is not None and record and None not in sides:
                result = recorded(result, {**record, "tiles": sides, "sample": sample})
            at = steps, steps, 0, current.tiles, sum(runs), sum(runs)
            yield Progress(sample, samples, *at, result=result, preview=current.preview())

    def release_memory(self) -> None:
        """Give the memory back that is kept for the next picture of the same size.

        For a program that will do something else for a while; the next picture takes a little
        longer. Pictures under way in other threads are not disturbed.
        """
        self.backend.release_memory()

    def check_memory(
        self,
        header: Header,
        options: UpscaleOptions,
        *,
        kept: int = 0,
        saving: int = 0,
        disk: bool = False,
        more: int = 0,
    ) -> Room:
        """Make sure, before a picture is decoded, that there is room to upscale it.

        Args:
            header: of the picture.
            options: as asked for.
            kept: see ``stream``.
            saving: bytes for each of the result's pixels that writing it takes.
            disk: whether there is a folder for what does not fit into the memory.
            more: bytes of memory that will be free by then, beside those that are.

        Returns:
            How much of it is taken.

        Raises:
            MemoryEstimateError: there is not.
            ConfigError: as ``check``.
        """
        passes = self._passes(header, options)
        sampling = self._sampling(options)
        plans = self._plans(
            passes, sampling, options, kept=kept, saving=saving, disk=disk, more=more
        )
        files = sum(plan.picture for plan in plans if plan.on_disk)
        return Room(max(plan.needed for plan in plans), files)

    def memory_left(self, options: UpscaleOptions) -> int | None:
        """Bytes that upscaling may take beyond what was held at first; None: nobody knows."""
        return memory_limit(options.memory, self._held_memory)

    def result_size(self, header: Header, options: UpscaleOptions) -> tuple[int, int]:
        """Height and width of the results of a picture.

        Args:
            header: of the picture.
            options: checked.

        Raises:
            ImageError: the model cannot make the picture so large, or so small.
        """
        return self._passes(header, options)[-1].result

    def _passes(self, header: Header, options: UpscaleOptions) -> tuple[Pass, ...]:
        return lay_passes(header, options, self.config.scale)

    def _plans(
        self,
        passes: Sequence[Pass],
        sampling: SamplingConfig,
        options: UpscaleOptions,
        *,
        kept: int = 0,
        saving: int = 0,
        disk: bool,
        more: int = 0,
        tiles: Sequence[int] | None = None,
    ) -> list[MemoryPlan]:
        if tiles is not None and len(tiles) != len(passes):
            raise ConfigError(f"tiles: got {len(tiles)}, expected one for each of {len(passes)}")
        plans, held = [], 0
        for number, each in enumerate(passes):
            asked = options
            if tiles is not None:
                asked = self.check(replace(options, tile=tiles[number]))
            last = each is passes[-1]
            source = held + source_bytes(each.source)
            plans.append(
                self._plan(
                    *(each.source, sampling, asked, source, kept * last, saving * last),
                    disk=disk,
                    more=more,
                )
            )
            # The first picture lives until the end, with its condition.
            held = source + 4 * 3 * self.config.scale**2 * each.source.height * each.source.width
        return plans

    def _plan(
        self,
        header: Header,
        sampling: SamplingConfig,
        options: UpscaleOptions,
        source: int,
        kept: int,
        saving: int,
        *,
        disk: bool,
        more: int,
    ) -> MemoryPlan:
        limit = self.memory_left(options)
        size = [side * self.config.scale for side in (header.height, header.width)]
        height, width = (side + -side % self._multiple for side in size)
        each = picture_bytes(sampling) + header.samples * header.sample_bytes + kept
        network = self.backend.memory
        if options.ensemble:  # then there is a mean, and tiles are turned as well
            each += 4 * 3

            def network(height: int, width: int) -> int:
                memory = self.backend.memory
                return max(memory(height, width), memory(width, height))

        return plan_memory(
            network,
            (height, width),
            height * width * each,
            multiple=self._multiple,
            attends=self.config.network.attends,
            tile=options.tile,
            limit=None if limit is None else limit + more,
            source=source,
            saving=height * width * saving,
            disk=disk,
        )

    def check(self, options: UpscaleOptions) -> UpscaleOptions:
        """Make sure, before any work, that the options suit the model.

        Returns:
            The options, with the model's scale where neither that nor a size is given.

        Raises:
            ConfigError: one is out of the model's range, or it does not name the quality.
        """
        steps = self._sampling(options).steps
        if options.ensemble and steps > 1:
            raise ConfigError(
                f"ensemble: got it with {steps} steps, which invent detail that an average blurs; "
                "expected a single step, as quality 'fast' takes"
            )
        least = least_tile(self._multiple)
        if options.tile != "auto" and options.tile < least:
            raise ConfigError(f"tile: got {options.tile}, expected {least} or more, or 'auto'")
        if options.scale is None and options.sides == (None, None):
            options = replace(options, scale=self.config.scale)
        if options.scale is not None:
            check_scale(options.scale, self.config.scale)
        return options

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
