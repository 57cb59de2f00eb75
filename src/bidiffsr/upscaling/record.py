"""How a result was made, in a form that stands in its file and lets it be made again.

The form is described in docs/replay.md. What is read from a file is checked before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from bidiffsr.backends.options import Precision
from bidiffsr.config.base import Config, PositiveInt, parse_config
from bidiffsr.errors import ConfigError, ReplayError
from bidiffsr.images import xmp
from bidiffsr.images.image import Image
from bidiffsr.models.container import shortened
from bidiffsr.system.buffers import strips
from bidiffsr.system.checks import options_of
from bidiffsr.system.version import installed_version
from bidiffsr.upscaling.options import (
    MAX_SAMPLES,
    MAX_SEED,
    Quality,
    UpscaleOptions,
)

FORMAT = 1
"""The version that is written, and the only one that is read."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Word = Annotated[str, Field(pattern=r"^[\w.+-]{1,64}$")]


class Settings(Config):
    """What of ``UpscaleOptions`` changes a sample; tiles stand beside them as they were."""

    scale: float | None = None
    size: str | None = None
    width: int | None = None
    height: int | None = None
    quality: Quality | None = None
    steps: int | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    ensemble: bool = False


class Computation(Config):
    """The backend, and what its rounding depends on."""

    name: Literal["engine", "torch"]
    precision: Precision | None = None
    kernel: _Word | None = None
    version: _Word | None = None
    device: _Word | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, self.model_dump().values()))


class Compression(Config):
    """What a lossy file may lose."""

    quality: Annotated[int, Field(ge=1, le=100)]
    subsampling: Literal["4:4:4", "4:2:0"]


class Recipe(Config):
    """How a picture was made.

    Attributes:
        format: of this form.
        bidiffsr: its version.
        model: SHA-256 of the model's file.
        computation: what ran the network.
        settings: as asked for, with the scale that was the model's.
        tiles: their largest side in each pass, in pixels.
        sample: which of the samples it is, from 0; None: it is the mean of several.
        mean_of: how many; None: it is no mean.
        source: see ``source_digest``.
        file: of a lossy file; its pixels follow from this, too.
    """

    format: int
    bidiffsr: _Word
    model: Digest
    computation: Computation
    settings: Settings
    tiles: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=2)]
    sample: Annotated[int, Field(ge=0, lt=MAX_SAMPLES)] | None = None
    mean_of: Annotated[int, Field(ge=2, le=MAX_SAMPLES)] | None = None
    source: Digest
    file: Compression | None = None

    @property
    def options(self) -> UpscaleOptions:
        """To make it again with.

        Raises:
            OptionError: a setting cannot be meant.
        """
        count = self.mean_of or (self.sample or 0) + 1
        given = self.settings.model_dump() | {"samples": count}
        return options_of(UpscaleOptions, given)

    @property
    def only(self) -> list[int] | None:
        """Which of the samples it takes; None: all."""
        return None if self.sample is None else [self.sample]


@dataclass(frozen=True)
class Origin:
    """What an upscaler was made of.

    Attributes:
        model: SHA-256 of the model's file.
        computation: see ``LoadedBackend``.
    """

    model: str
    computation: Mapping[str, str]

    def record(self, source: Image, options: UpscaleOptions) -> xmp.Record:
        """What holds for all samples of a picture.

        Args:
            source: the picture.
            options: as ``Upscaler.check`` returns them.
        """
        asked = {name: value for name, value in asdict(options).items() if value is not None}
        return {
            "format": FORMAT,
            "bidiffsr": installed_version(),
            "model": self.model,
            "computation": dict(self.computation),
            "settings": {name: asked[name] for name in Settings.model_fields if name in asked},
            "source": source_digest(source),
        }


def recipe_of(image: Image) -> Recipe:
    """How a picture that was read from a file says that it was made.

    Raises:
        ReplayError: it says nothing of the kind, or nothing that can be followed; the message does
            not name the file.
    """
    record: Mapping[str, Any] = image.metadata.record
    if not record:
        damaged = [line for line in image.metadata.left_out if line.startswith(xmp.NAME)]
        raise ReplayError(
            "; ".join(["does not say how it was made", *damaged])
            + "; expected a result that bidiffsr wrote with its record, so without --strip"
        )
    version = record.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ReplayError(
            f"its record is of format {shortened(version)}, this bidiffsr reads format {FORMAT}; "
            "take the bidiffsr that made it"
        )
    try:
        recipe = parse_config(Recipe, record, "its record")
        if (recipe.sample is None) == (recipe.mean_of is None):
            raise ConfigError("its record: expected either sample or mean_of")
        recipe.options  # noqa: B018  it checks
    except (ConfigError, RecursionError) as error:  # the latter from showing a value in depth
        raise ReplayError(f"{shortened(error, 400)}; the record cannot be followed") from None
    return recipe


def recorded(image: Image, record: xmp.Record) -> Image:
    """A picture whose file will say how it was made."""
    return replace(image, metadata=replace(image.metadata, record=record))


def source_digest(image: Image) -> str:
    """SHA-256 of all that results depend on: samples, their kind and their colour space."""
    digest = hashlib.sha256()
    profile = image.icc or b""
    kind = image.pixels.dtype, image.height, image.width, image.grey, image.alpha is not None
    digest.update(" ".join(map(str, (*kind, len(profile)))).encode() + profile)
    little_endian = image.pixels.dtype.newbyteorder("<")
    for samples in (image.pixels, *([] if image.alpha is None else [image.alpha])):
        for rows in strips(image.height, image.width):
            digest.update(np.ascontiguousarray(samples[rows], little_endian).data)
    return digest.hexdigest()
