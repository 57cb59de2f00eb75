"""Benchmark folders: pairs of low- and high-resolution pictures.

A benchmark is a folder of 8-bit high-resolution (HR) pictures, or one in the official layout::

    Set5/HR/{name}.png
    Set5/LR_bicubic/X4/{name}x4.png            low resolution (LR), where present
    Manga109/LR_bicubic/X4/{name}_LRBI_x4.png  the same, as Manga109 names it

An LR picture that is not there is made as those were: MATLAB's imresize of the 8-bit HR picture
cropped to a multiple of the scale.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bidiffsr.errors import ImageError
from bidiffsr.evaluation.pixels import Uint8Array
from bidiffsr.images.codec import read_image
from bidiffsr.images.find import find_images
from bidiffsr.images.resize import imresize, mod_crop
from bidiffsr.system.files import StrPath


@dataclass(frozen=True, eq=False)
class Pair:
    """An HR picture and the LR picture to make it from.

    Attributes:
        path: the HR picture's file.
        low: uint8 (height, width, 3), RGB.
        high: uint8 (scale height, scale width, 3), RGB.
    """

    path: Path
    low: Uint8Array
    high: Uint8Array


@dataclass(frozen=True)
class Benchmark:
    """A named folder of pictures, in order of file name."""

    name: str
    pictures: tuple[Path, ...]

    @classmethod
    def open(cls, directory: StrPath) -> Benchmark:
        """List a benchmark folder, or the `HR` folder of one.

        Raises:
            ImageError: it is missing, not a folder, or has no pictures.
        """
        root = Path(directory)
        if not root.is_dir():
            problem = "not a folder" if root.exists() else "no such folder"
            raise ImageError(
                f"{root}: {problem}; expected a folder of HR pictures, or one with HR/ inside"
            )
        pictures = high_resolution_folder(root)
        # Not resolve(): a link's own name is the set's.
        named = Path(os.path.abspath(root))  # noqa: PTH100
        if named.name == "HR":
            root = named = named.parent
        return cls(
            name=named.name,
            pictures=tuple(find_images(pictures)),
        )

    def pairs(self, scale: int) -> Iterator[Pair]:
        """Read the pictures one at a time, HR cropped to a multiple of the scale.

        Raises:
            ImageError: a picture cannot be read, is not 8-bit or is smaller than `scale`, or an LR
                picture is not of its HR picture's size over `scale`.
        """
        for path in self.pictures:
            yield read_pair(path, scale)


def read_pair(path: Path, scale: int) -> Pair:
    """Read an HR picture and find or make its LR picture; raises as `Benchmark.pairs` does."""
    high = _read_high(path, scale)
    return Pair(path, low_resolution(path, high, scale), high)


def high_resolution_folder(folder: Path) -> Path:
    """Where the pictures of a folder lie that may be in the official layout."""
    return folder / "HR" if (folder / "HR").is_dir() else folder


def low_resolution_folder(pictures: Path) -> Path:
    """Where the official layout keeps the folders X2, X4, ... of a folder of HR pictures."""
    return (pictures.parent if pictures.name == "HR" else pictures) / "LR_bicubic"


def low_resolution(path: Path, high: Uint8Array, scale: int) -> Uint8Array:
    """An HR picture's LR picture: that of the official layout, or else made.

    Args:
        path: the HR picture's file.
        high: what it holds, uint8 (height, width, 3), multiples of `scale`.
        scale: the factor.

    Raises:
        ImageError: there is one of another size.
    """
    folder = low_resolution_folder(path.parent) / f"X{scale}"
    for name in (f"{path.stem}x{scale}.png", f"{path.stem}_LRBI_x{scale}.png"):
        if (folder / name).is_file():
            return _read_low(folder / name, high, scale)
    return imresize(high, 1 / scale)


def _read_high(path: Path, scale: int) -> Uint8Array:
    pixels = _read_rgb8(path)
    try:
        return mod_crop(pixels, scale)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _read_low(path: Path, high: Uint8Array, scale: int) -> Uint8Array:
    low = _read_rgb8(path)
    height, width = high.shape[0] // scale, high.shape[1] // scale
    if low.shape[:2] != (height, width):
        raise ImageError(
            f"{path}: picture is {low.shape[1]}x{low.shape[0]}; expected {width}x{height}, its HR "
            f"picture's size over {scale}; remove it to have it made"
        )
    return low


def _read_rgb8(path: Path) -> Uint8Array:
    pixels = read_image(path).pixels
    if pixels.dtype != np.uint8:
        raise ImageError(
            f"{path}: picture is {pixels.dtype}; expected uint8, which is what the published "
            "scores are of; convert it to 8 bits"
        )
    return pixels
