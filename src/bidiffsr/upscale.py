"""The one upscaling job: the command line, evaluation and training's validation all call this."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import ModelConfig, SamplingConfig, parse_config
from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.diffusion.process import Diffusion
from bidiffsr.diffusion.samplers import SAMPLERS, SamplingStep
from bidiffsr.errors import ConfigError, ImageError, NumericalError
from bidiffsr.images import Image, from_float, premultiply, read_image, to_float, unpremultiply
from bidiffsr.memory import require_memory
from bidiffsr.resize import LARGEST_SCALE, cubic_upscale, imresize

# The published test code pads to this, whatever the network needs.
_PAD_MULTIPLE = 8
# A result may differ from its input by this much (RMS, [0, 1]) and no more when both are shrunk to
# a quarter of the input's size: only there do stripes and text, which upscaling has to invent
# anew, no longer count. Bicubic results stay below 0.03; one that has lost the picture is above.
_MAX_INCONSISTENCY = 0.1
_COARSER = 4
# Differences in a picture, [0, 1], that a sound result may have smoothed away.
_FAINT = 0.02


class Backend(Protocol):
    """Runs a network."""

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, 3, H, W), (B, 3, H, W), (B,) → (B, 3, H, W), float32."""
        ...


@dataclass(frozen=True)
class UpscaleStep:
    """What is known after one network evaluation."""

    sample: int
    samples: int
    step: int
    """Finished steps of this sample, from 1."""
    steps: int
    result: Image | None
    """The finished picture, with the last step of each sample."""


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

    @classmethod
    def from_pretrained(
        cls, model: str | os.PathLike[str] = "default", *, device: str | None = None
    ) -> Upscaler:
        """Load a model that ships with the package by its name, or a model file by its path.

        Args:
            model: "default", or the path of a ``.safetensors`` model file.
            device: a torch device; by default a GPU where there is one.

        Raises:
            CheckpointError: the file is missing, damaged, or no model.
            ConfigError: PyTorch, which runs the network, is not installed, or has no ``device``.
        """
        try:
            from bidiffsr.torch_backend import TorchBackend
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{error.name} is not installed; pip install 'bidiffsr[torch]'"
            ) from None
        try:
            with find_model(model) as path:
                return cls(*TorchBackend.load(path, device))
        except (RuntimeError, AssertionError) as error:  # PyTorch's ways to refuse a device
            if device is None:
                raise
            reason = shorten(str(error), 100)
            raise ConfigError(f"device {device!r} cannot be used ({reason}); try 'cpu'") from None

    def __call__(
        self,
        image: Any,
        *,
        scale: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        samples: int = 1,
    ) -> Any:
        """Upscale a picture.

        Args:
            image: a uint8 or uint16 array (H, W, 3), (H, W, 4) with alpha, (H, W, 1) or (H, W);
                a PIL image; or the path of a picture.
            scale: the factor, at most the one the model was trained for, which is the default.
            steps: sampling steps; more is slower; by default what the model asks for.
            seed: the same seed, file and settings give the same result.
            samples: how many different results to draw.

        Returns:
            The like of ``image``: an array of the same dtype and channels for an array, (H, W, 3)
            or (H, W, 4) for a path, a PIL image for a PIL image; a list where ``samples`` > 1.

        Raises:
            ImageError: ``image`` is none of these, or cannot be read.
            ConfigError: ``scale``, ``steps``, ``seed`` or ``samples`` is out of range.
            MemoryEstimateError: the picture is too large for the memory there is.
            NumericalError: the network's result is not a picture.
        """
        source, restore = _accept(image)
        progress = self.stream(source, scale=scale, steps=steps, seed=seed, samples=samples)
        results = [restore(step.result) for step in progress if step.result is not None]
        return results[0] if samples == 1 else results

    def stream(
        self,
        image: Image,
        *,
        scale: float | None = None,
        steps: int | None = None,
        seed: int = 0,
        samples: int = 1,
    ) -> Iterator[UpscaleStep]:
        """As ``__call__``, for an ``Image``, yielding after every network evaluation."""
        sampling, scale = self._settings(scale, steps, samples)
        factor = self.config.scale
        require_memory(self.config.network, image.height * factor, image.width * factor)
        opacity = None if image.alpha is None else to_float(image.alpha)
        colour = to_float(image.pixels)
        if opacity is not None:
            colour = premultiply(colour, opacity)
        cond, (height, width) = self._condition(colour)

        for sample in range(samples):
            latents = self._sample(cond, sampling, seed, sample)
            for step in latents:
                done = step.index + 1
                result = None
                if done == step.count:
                    picture = self._diffusion.to_picture(step.latent, cond)
                    picture = picture[0, :, :height, :width].transpose(1, 2, 0)
                    result = _finish(picture, image, opacity, scale / factor, scale)
                yield UpscaleStep(sample, samples, done, step.count, result)

    def check_settings(
        self, *, scale: float | None = None, steps: int | None = None, samples: int = 1
    ) -> float:
        """Make sure, before any work, that these settings suit the model; returns the scale.

        Raises:
            ConfigError: one is out of range.
        """
        return self._settings(scale, steps, samples)[1]

    def _settings(
        self, scale: float | None, steps: int | None, samples: int
    ) -> tuple[SamplingConfig, float]:
        scale = self.config.scale if scale is None else scale
        least = self.config.scale / LARGEST_SCALE
        if not least <= scale <= self.config.scale:
            raise ConfigError(
                f"scale: got {scale}, this model upscales by {least:g} to {self.config.scale}; "
                "for more, upscale its result again"
            )
        if samples < 1:
            raise ConfigError(f"samples: got {samples}, expected 1 or more")
        sampling = self.config.sampling
        if steps is not None:
            limit = self.config.diffusion.schedule.timesteps
            if not 1 <= steps <= limit:
                raise ConfigError(f"steps: got {steps}, this model takes 1 to {limit}")
            sampling = parse_config(
                SamplingConfig, sampling.model_dump() | {"steps": steps}, "sampling"
            )
        return sampling, scale

    def _condition(
        self, colour: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """(H, W, 3) → the padded condition (1, 3, H', W') and the size without padding."""
        upscaled = cubic_upscale(colour, self.config.scale)
        height, width = upscaled.shape[:2]
        multiple = math.lcm(_PAD_MULTIPLE, self.config.network.size_multiple)
        padding = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
        padded = np.pad(upscaled, padding, mode="reflect")
        return np.ascontiguousarray(padded.transpose(2, 0, 1))[None], (height, width)

    def _sample(
        self, cond: NDArray[np.float32], sampling: SamplingConfig, seed: int, sample: int
    ) -> Iterator[SamplingStep]:
        """One chain from noise, for the whole padded picture."""
        schedule = self._diffusion.schedule
        _, channels, height, width = cond.shape

        def noise(stream: int) -> NDArray[np.float32]:
            drawn = normal_noise(seed, sample, channels, height, width, stream=stream)
            return drawn[None]

        def network(x: NDArray[np.float32], timestep: int) -> NDArray[np.float32]:
            return self.backend.predict(
                x.astype(np.float32, copy=False), cond, np.array([timestep], dtype=np.int64)
            )

        start = noise(0) * np.float32(sampling.noise_scale)
        return SAMPLERS[sampling.sampler](
            self._diffusion.denoiser(network),
            start,
            schedule,
            schedule.timesteps(sampling.steps, sampling.spacing),
            eta=sampling.eta,
            fresh_noise=lambda index: noise(index + 1) * np.float32(sampling.noise_scale),
        )


def find_model(model: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """The file of a model that ships with the package, by its name, or of another by its path."""
    if str(model) == "default":
        return as_file(files("bidiffsr") / "weights" / "default.safetensors")
    return nullcontext(Path(model))


def _finish(
    picture: NDArray[np.float32],
    source: Image,
    opacity: NDArray[np.float32] | None,
    shrink: float,
    scale: float,
) -> Image:
    """Resize to the asked scale, refuse what is no picture, restore grey, alpha and depth."""
    if not np.isfinite(picture).all():
        raise NumericalError("the network's result holds NaN or infinity; the model is unsound")
    picture = picture.clip(0, 1).astype(np.float32)
    if shrink != 1:
        picture = imresize(picture, shrink).clip(0, 1)
    dtype = source.pixels.dtype
    if source.grey:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    alpha = None
    if opacity is not None:
        alpha = imresize(opacity, scale).clip(0, 1)
        picture = unpremultiply(picture, alpha)
        alpha = from_float(alpha, dtype)
    return Image(
        from_float(picture, dtype), alpha, grey=source.grey, icc=source.icc, dpi=source.dpi
    )


def check_result(source: Image, result: Image) -> None:
    """Refuse a result that cannot have come from its source: nothing like it should be saved.

    Raises:
        NumericalError: the result is constant though the source is not, or seen from afar it is
            another picture.
    """
    before, after = _visible(source), _visible(result)
    if result.pixels[..., 0].size > 1 and np.ptp(after) == 0 and np.ptp(before) > _FAINT:
        raise NumericalError("the result is one flat colour; the model is unsound")
    small, large = sorted((before, after), key=np.size)
    # Both sides were rounded up to whole pixels, which changes the longer one's ratio the least.
    ratio = max(small.shape[:2]) / max(large.shape[:2])
    coarse = max(ratio / _COARSER, 1 / LARGEST_SCALE)
    small, large = imresize(small, coarse / ratio), imresize(large, coarse)
    height, width = (min(sides) for sides in zip(small.shape[:2], large.shape[:2], strict=True))
    difference = large[:height, :width] - small[:height, :width]
    rms = float(np.sqrt(np.mean(np.square(difference))))
    if rms > _MAX_INCONSISTENCY:
        raise NumericalError(
            f"the result differs from its source by {rms:.2f} RMS, though both were made small, "
            f"more than {_MAX_INCONSISTENCY}; the model is unsound"
        )


def _visible(image: Image) -> NDArray[np.float32]:
    """The colours weighted by their opacity, since invisible ones may differ at will."""
    colour = to_float(image.pixels)
    return colour if image.alpha is None else premultiply(colour, to_float(image.alpha))


def _accept(image: Any) -> tuple[Image, Any]:
    """An ``Image`` of what the caller gave, and how to give the like back."""
    if isinstance(image, str | os.PathLike):
        source = read_image(image)
        return source, _to_array
    if isinstance(image, np.ndarray):
        squeeze = image.ndim == 2
        channels = 1 if squeeze else image.shape[-1] if image.ndim == 3 else 0
        source = _from_array(image[..., None] if squeeze else image)
        return source, lambda result: _to_array(result, channels, squeeze)
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        return _from_pil(image)
    raise ImageError(
        f"image is a {type(image).__name__}; expected a path, a uint8 or uint16 array "
        "(H, W, 3), or a PIL image"
    )


def _from_array(image: NDArray[Any]) -> Image:
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"array has shape {image.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    grey = image.shape[2] == 1
    pixels = np.repeat(image, 3, axis=2) if grey else image[..., :3]
    return Image(pixels, image[..., 3] if image.shape[2] == 4 else None, grey=grey)


def _to_array(result: Image, channels: int = 0, squeeze: bool = False) -> NDArray[Any]:
    pixels = result.pixels[..., :1] if channels == 1 else result.pixels
    if result.alpha is not None:
        pixels = np.concatenate([pixels, result.alpha[..., None]], axis=2)
    return pixels[..., 0] if squeeze else pixels


def _from_pil(image: Any) -> tuple[Image, Any]:
    from PIL import Image as PILImage  # installed, since the caller has one of its pictures

    if image.mode in ("I", "F"):
        raise ImageError(
            f"PIL image has mode {image.mode}, which states no range; expected one of 8 bits a "
            "channel or I;16"
        )
    if image.mode.startswith("I;16"):  # convert would clip its samples to 255
        array = np.asarray(image).astype(np.uint16)
    else:
        kept = {"1": "L", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "RGBa": "RGBA"}
        kept |= {"LA": "RGBA", "PA": "RGBA"}
        mode = kept.get(image.mode, "RGBA" if "transparency" in image.info else "RGB")
        array = np.asarray(image.convert(mode))
    grey = array.ndim == 2
    same_colours = image.mode not in ("CMYK", "LAB")
    names = ("dpi", "exif", "icc_profile") if same_colours else ("dpi", "exif")
    info = {name: image.info[name] for name in names if name in image.info}

    def restore(result: Image) -> Any:
        made = PILImage.fromarray(_to_array(result, int(grey), grey))
        made.info.update(info)
        return made

    return _from_array(array[..., None] if grey else array), restore
