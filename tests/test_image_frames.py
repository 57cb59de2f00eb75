"""One file, one picture: animations and pages are refused, small copies of the picture are not."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images import decode_image
from image_files import EXTRA, SUBFILE, chunk, page, png, tiff

RGB, OLD_SUBFILE = 2, 255


def noise(seed: int = 0, height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def animation(kind: str, frames: int, **options: Any) -> bytes:
    pictures = [PIL.Image.fromarray(noise(seed)) for seed in range(frames)]
    stream = io.BytesIO()
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"big_tiff": True})],
)
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_file_of_several_pictures_is_refused(
    kind: str, options: dict[str, Any], frames: int
) -> None:
    data = animation(kind, frames, **options)
    if frames == 1:
        np.testing.assert_array_equal(decode_image(data).pixels, noise())
        return
    with pytest.raises(ImageError, match=f"a.x: holds {frames} pages or frames; expected one"):
        decode_image(data, name="a.x")


def test_a_still_picture_before_an_animation_is_one_of_two() -> None:
    data = animation("PNG", 2, default_image=True)
    with pytest.raises(ImageError, match="holds 2 pages or frames"):
        decode_image(data)


def test_an_animation_of_one_frame_is_that_picture() -> None:
    control = chunk(b"acTL", struct.pack(">2I", 1, 0))
    frame = chunk(b"fcTL", struct.pack(">5I2H2B", 0, 24, 16, 0, 0, 1, 10, 0, 0))
    data = png(noise(), control, frame)
    np.testing.assert_array_equal(decode_image(data).pixels, noise())


SMALL: list[dict[int, Any]] = [{SUBFILE: [1]}, {SUBFILE: [3]}, {OLD_SUBFILE: [2]}]


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_small_copies_of_a_tiffs_picture_are_passed_over(
    big_endian: bool, small: dict[int, Any], place: int
) -> None:
    copies = [page(noise(seed, 4, 6), RGB, small) for seed in (1, 2)]
    copies.insert(place, page(noise(), RGB, {SUBFILE: [0]}))
    data = tiff(*copies, big_endian=big_endian)
    np.testing.assert_array_equal(decode_image(data).pixels, noise())


@pytest.mark.parametrize("small", SMALL)
def test_samples_are_judged_on_the_page_that_is_read(small: dict[int, Any]) -> None:
    odd = np.concatenate([noise(), noise()[..., :1]], axis=2)
    with pytest.raises(ImageError, match="not stated to be alpha"):
        decode_image(tiff(page(noise(1, 4, 6), RGB, small), page(odd, RGB, {EXTRA: [0]})))


@pytest.mark.parametrize("full", [{SUBFILE: [0]}, {SUBFILE: [2]}, {SUBFILE: [4]}, {}])
def test_pages_that_are_no_copies_count(full: dict[int, Any]) -> None:
    with pytest.raises(ImageError, match="holds 2 pages or frames"):
        decode_image(tiff(page(noise(), RGB), page(noise(1), RGB, full)))


def test_a_tiff_of_nothing_but_a_copy_is_refused() -> None:
    with pytest.raises(ImageError, match="only a reduced copy of a picture"):
        decode_image(tiff(page(noise(), RGB, {SUBFILE: [1]})))


def test_pages_in_a_circle_are_read_once() -> None:
    data = bytearray(tiff(page(noise(), RGB)))
    data[-4:] = data[4:8]
    np.testing.assert_array_equal(decode_image(bytes(data)).pixels, noise())
