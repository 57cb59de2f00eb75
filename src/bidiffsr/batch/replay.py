"""`bidiffsr replay`: a result's file made again, and compared with what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bidiffsr.errors import (
    ConfigError,
    ImageError,
    MemoryEstimateError,
    NumericalError,
    OutputError,
    ReplayError,
)
from bidiffsr.images.codec import MAX_PIXELS, check_output, most_bytes, read_image, write_image
from bidiffsr.images.decode import decode_image, known_format
from bidiffsr.images.formats import Compression
from bidiffsr.images.image import Image
from bidiffsr.system.files import printable, read_file, real_path
from bidiffsr.upscaling.progress import Progress
from bidiffsr.upscaling.record import Recipe, recipe_of
from bidiffsr.upscaling.replaying import check_source, circumstances, difference, replay
from bidiffsr.upscaling.upscaler import Upscaler

_CHANGED = (
    "model, settings, source, version and kernel are as they were, so the file was changed since, "
    "or a library decodes or computes otherwise"
)


@dataclass(frozen=True)
class Recorded:
    """A result, as its file holds it."""

    path: Path
    image: Image
    recipe: Recipe
    suffix: str
    """Of the format that it is in, whatever it is called."""

    @property
    def compression(self) -> Compression:
        """Of a lossy file."""
        file = self.recipe.file
        return Compression() if file is None else Compression(file.quality, file.subsampling)


def read_recorded(path: Path, *, max_pixels: int = MAX_PIXELS) -> Recorded:
    """Read a result and how it was made.

    Raises:
        ReplayError: it does not say that, or nothing that can be followed.
        ImageError: see ``read_image``.
    """
    data = read_file(path, max_bytes=most_bytes(max_pixels))
    image = decode_image(data, name=printable(path), max_pixels=max_pixels)
    with naming(path):
        return Recorded(path, image, recipe_of(image), known_format(data).suffixes[0])


def replay_file(
    upscaler: Upscaler,
    result: Recorded,
    source: Path,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Progress]:
    """Make a result again from its picture; the last that is yielded has it, the same as it was.

    Args:
        upscaler: see ``recorded_upscaler``.
        result: from ``read_recorded``.
        source: the picture that it was made from.
        output: where to write it, too, once it is the same; None: nowhere.
        overwrite: whether an existing file may be replaced.
        max_pixels: of the picture.

    Raises:
        ReplayError: it comes out otherwise, or was made from another picture.
        BidiffsrError: as ``upscale_file``.
    """
    if output is not None:
        _check_place(output, result.path, source, overwrite=overwrite)
    picture = read_image(source, max_pixels=max_pixels)
    with naming(source):
        check_source(result.recipe, picture, result.image, upscaler)
    with (
        TemporaryDirectory(prefix="bidiffsr-", ignore_cleanup_errors=True) as folder,
        naming(result.path),
    ):
        for at in replay(upscaler, result.recipe, picture, Path(folder)):
            if at.result is not None:
                _compare(at.result, result, upscaler, Path(folder))
                if output is not None:
                    _write(output, at.result, result.compression, overwrite=overwrite)
            yield at


def _compare(made: Image, result: Recorded, upscaler: Upscaler, folder: Path) -> None:
    """Of a file, since that of a lossy format does not hold what went into it."""
    again = folder / f"again{result.suffix}"
    _write(again, made, result.compression)
    pixels = made.height * made.width
    differs = difference(read_image(again, max_pixels=pixels), result.image)
    if differs is not None:
        why = circumstances(result.recipe, upscaler) or [_CHANGED]
        raise ReplayError("; ".join([f"comes out otherwise: {differs}", *why]))


def _write(path: Path, made: Image, lost: Compression, *, overwrite: bool = False) -> None:
    write_image(path, made, overwrite=overwrite, quality=lost.quality, subsampling=lost.subsampling)


def _check_place(output: Path, result: Path, source: Path, *, overwrite: bool) -> None:
    check_output(output, overwrite=overwrite)
    for what, path in (("result", result), ("source", source)):
        if real_path(output) == real_path(path):
            raise OutputError(f"{printable(output)}: is the {what} itself; choose another output")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is said by the code below, which does not know it."""
    try:
        yield
    except (ReplayError, ConfigError, ImageError) as error:
        raise ReplayError(f"{printable(path)}: {error}") from error
    except (MemoryEstimateError, NumericalError) as error:
        raise type(error)(f"{printable(path)}: {error}") from error
