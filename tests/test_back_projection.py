"""Results corrected towards what they were made of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from bidiffsr.config import SamplingConfig
from bidiffsr.images.image import Image, to_float
from bidiffsr.images.resize import imresize
from bidiffsr.system import buffers
from bidiffsr.upscaling.surroundings import NumpySurroundings
from tiny_model import resampled, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


def back_project(picture: NDArray[np.float32], source: NDArray[np.float32], factor: int) -> None:
    """Of (H, W, 3), in place; the engine's gives the same (test_surroundings.py)."""
    planes = picture.transpose(2, 0, 1), source.transpose(2, 0, 1)
    NumpySurroundings().back_project(*planes, factor)


def lacking(picture: NDArray[np.float32], source: NDArray[np.float32], factor: int) -> float:
    """RMS of what the shrunk picture lacks of its source."""
    return float(np.sqrt(np.mean(np.square(source - imresize(picture, 1 / factor)))))


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 20), st.integers(3, 20), st.sampled_from([2, 3, 4]), st.integers(0, 99))
def test_every_correction_brings_the_picture_nearer(
    height: int, width: int, factor: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # In the middle of the range, where nothing is cut off.
    shape = (factor * height, factor * width, 3)
    original = random.uniform(0.3, 0.7, shape).astype(np.float32)
    source = imresize(original, 1 / factor)
    picture = np.full(shape, 0.5, np.float32)
    apart = [lacking(picture, source, factor)]
    for _ in range(6):
        back_project(picture, source, factor)
        apart.append(lacking(picture, source, factor))
    assert all(after <= before for before, after in pairwise(apart))
    assert apart[-1] < 0.3 * apart[0]


def test_a_picture_that_shrinks_to_its_source_stays() -> None:
    original = np.random.default_rng(0).uniform(0.1, 0.9, (24, 36, 3)).astype(np.float32)
    picture = original.copy()
    back_project(picture, imresize(original, 1 / 4), 4)
    np.testing.assert_allclose(picture, original, atol=1e-6)


def test_the_result_keeps_its_range() -> None:
    source = np.zeros((8, 8, 3), np.float32)
    source[:, 4:] = 1
    picture = np.random.default_rng(1).random((32, 32, 3), np.float32)
    back_project(picture, source, 4)
    assert picture.min() == 0
    assert picture.max() == 1


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    source = random.random((23, 17, 3), np.float32)
    whole = random.random((92, 68, 3), np.float32)
    parts = whole.copy()
    back_project(whole, source, 4)
    monkeypatch.setattr(buffers, "_STRIP_PIXELS", 5 * 68)
    back_project(parts, source, 4)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("scale", [2, 4])
def test_upscaled_pictures_shrink_to_what_they_were(scale: int, channels: int) -> None:
    pixels = np.random.default_rng(3).integers(60, 190, (13, 18, channels), dtype=np.uint8)
    if channels == 4:
        pixels[..., 3] = 255
    wild = tiny_upscaler(scale, tail=0.3)
    apart = [
        np.abs(
            imresize(resampled(wild, back_projections=count)(pixels), 1 / scale)
            - pixels.astype(float)
        ).mean()
        for count in (0, 2, 8)
    ]
    assert apart[0] > 2 * apart[1] > 2 * apart[2]


def test_a_picture_on_the_disk_is_corrected_alike(tmp_path: Path) -> None:
    upscaler = resampled(tiny_upscaler(tail=0.3), back_projections=2)
    image = Image(np.random.default_rng(4).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    in_memory = list(upscaler.stream(image))[-1].result
    on_disk = list(upscaler.stream(image, scratch=tmp_path))[-1].result
    assert in_memory is not None
    assert on_disk is not None
    np.testing.assert_array_equal(on_disk.pixels, in_memory.pixels)
    assert to_float(in_memory.pixels).std() > 0.05


@pytest.mark.parametrize("count", [-1, 17, 0.5])
def test_how_often_is_bounded(count: float) -> None:
    with pytest.raises(ValidationError, match="back_projections"):
        SamplingConfig.model_validate({"back_projections": count})


def test_files_that_do_not_correct_do_not_say_so() -> None:
    assert "back_projections" not in SamplingConfig().model_dump()
    assert SamplingConfig(back_projections=2).model_dump()["back_projections"] == 2
