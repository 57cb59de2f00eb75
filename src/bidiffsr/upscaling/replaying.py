"""A result made again from its record and the picture it was made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.backends.options import KERNEL_VARIABLE
from bidiffsr.errors import ReplayError
from bidiffsr.images.image import Image, peak
from bidiffsr.models.catalog import find_model, model_digest, shipped_as
from bidiffsr.system.buffers import strips
from bidiffsr.system.files import printable
from bidiffsr.system.version import installed_version
from bidiffsr.upscaling.draws import KEPT_BYTES, Draws
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.record import Computation, Recipe, source_digest
from bidiffsr.upscaling.upscaler import Upscaler


def recorded_upscaler(
    recipe: Recipe, model: str | os.PathLike[str] | None = None, *, threads: int = 0
) -> Upscaler:
    """The upscaler that a result was made with.

    Args:
        recipe: the result's.
        model: the model, by name or path; None: one of those that ship with the package.
        threads: see ``BackendOptions``.

    Raises:
        ReplayError: it is another model, or none of the package's.
        CheckpointError, ConfigError: as ``Upscaler.from_pretrained``.
    """
    if model is None:
        model = shipped_as(recipe.model)
        if model is None:
            raise ReplayError(
                f"its model does not come with this bidiffsr; name the file whose SHA-256 is "
                f"{recipe.model} (--model)"
            )
    with find_model(model) as path:
        found = model_digest(path)
        if found != recipe.model:
            raise ReplayError(
                f"was made with another model than {printable(model)}, whose SHA-256 is {found}; "
                f"name the file whose SHA-256 is {recipe.model} (--model)"
            )
    made = recipe.computation
    if made.name == "torch":
        return Upscaler.from_pretrained(model, backend="torch", device=made.device)
    return Upscaler.from_pretrained(
        model, backend="engine", precision=made.precision or "fast", threads=threads
    )


def check_source(recipe: Recipe, source: Image, result: Image, upscaler: Upscaler) -> None:
    """Make sure, before any work, that a result can have been made of a picture.

    Raises:
        ReplayError: it was made of another, or it is not of the size that its record asks for.
        ImageError, ConfigError: as ``Upscaler.result_size``.
    """
    found = source_digest(source)
    if found != recipe.source:
        raise ReplayError(
            f"is not the picture that was enlarged: the SHA-256 of its pixels is {found}, expected "
            f"{recipe.source}; name that one (--source)"
        )
    height, width = upscaler.result_size(source.header, upscaler.check(recipe.options))
    if (height, width) != (result.height, result.width):
        raise ReplayError(
            f"would be {width}x{height} by the record of the result, which is "
            f"{result.width}x{result.height}; take the result as it was written"
        )


def replay(
    upscaler: Upscaler, recipe: Recipe, source: Image, scratch: Path | None = None
) -> Iterator[Progress]:
    """Make a result again; the last that is yielded has it.

    Args:
        upscaler: see ``recorded_upscaler``.
        recipe: the result's.
        source: the picture it was made from.
        scratch: see ``Upscaler.stream``.

    Raises:
        BidiffsrError: as ``Upscaler.stream``.
    """
    draws = None if recipe.mean_of is None else Draws(scratch)
    for at in upscaler.stream(
        source,
        scratch=scratch,
        only=recipe.only,
        tiles=recipe.tiles,
        kept=0 if draws is None else KEPT_BYTES,
        **asdict(recipe.options),
    ):
        if at.result is not None and draws is not None:
            draws.add(at.result)
            last = at.sample == at.samples - 1
            at = replace(at, result=draws.mean() if last else None)
        yield at


def difference(made: Image, wanted: Image) -> str | None:
    """How the pixels of two pictures differ, in words; None where they do not."""
    if made.pixels.shape != wanted.pixels.shape or made.pixels.dtype != wanted.pixels.dtype:
        return f"it is {_kind(made)} and was {_kind(wanted)}"
    if (made.alpha is None, made.grey) != (wanted.alpha is None, wanted.grey):
        return "alpha or grey are there in only one of them"
    count = most = 0
    for rows in strips(made.height, made.width):
        apart = np.abs(_samples(made, rows) - _samples(wanted, rows)).max(axis=2)
        count += np.count_nonzero(apart)
        most = max(most, int(apart.max()))
    if count == 0:
        return None
    pixels, largest = made.height * made.width, peak(made.pixels.dtype)
    return f"{count} of {pixels} pixels differ, by up to {most} of {largest}"


def circumstances(recipe: Recipe, upscaler: Upscaler) -> list[str]:
    """What is otherwise than it was, in words, and how to have it as it was."""
    found = []
    if recipe.bidiffsr != installed_version():
        found.append(f"made by bidiffsr {recipe.bidiffsr}, this is {installed_version()}")
    assert upscaler.origin is not None  # see `recorded_upscaler`
    there, here = recipe.computation, Computation.model_validate(upscaler.origin.computation)
    if here != there:
        other = there.kernel is not None and here.kernel != there.kernel
        mend = f" ({KERNEL_VARIABLE}={there.kernel} asks for it)" if other else ""
        found.append(f"computed by {there}{mend}, here by {here}")
    return found


def _kind(image: Image) -> str:
    return f"{image.width}x{image.height} {image.pixels.dtype}"


def _samples(image: Image, rows: slice) -> NDArray[np.int32]:
    """(H, W, 3), or (H, W, 4) with alpha."""
    parts = [image.pixels[rows]]
    if image.alpha is not None:
        parts.append(image.alpha[rows, :, None])
    return np.concatenate(parts, axis=2).astype(np.int32)
