"""Results of any size: one pass of the network, or two, and what is resized."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.errors import ImageError, MemoryEstimateError
from bidiffsr.images.image import Header, Image
from bidiffsr.images.resize import imresize
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.passes import lay_passes
from bidiffsr.upscaling.postprocess import check_result
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return tiny_upscaler()


def smooth(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    planes = [127 + 100 * np.sin((1 + c) * x / width * 3 + y / height * 2) for c in range(channels)]
    return np.stack(planes, axis=2).astype(np.uint8)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 4), st.floats(0.3, 20), st.data())
@settings(max_examples=300, deadline=None)
def test_every_size_is_reached_exactly(
    height: int, width: int, factor: int, stretch: float, data: st.DataObject
) -> None:
    header = Header(height, width, has_alpha=False, sample_bytes=1)
    asked = max(1, round(width * stretch)), max(1, round(height * stretch))
    which = data.draw(st.sampled_from(["size", "width", "height"]))
    options: dict[str, Any] = {
        "size": {"size": f"{asked[0]}x{asked[1]}"},
        "width": {"width": asked[0]},
        "height": {"height": asked[1]},
    }[which]
    try:
        passes = lay_passes(header, UpscaleOptions(**options), factor)
    except ImageError:
        assert stretch > 0.9 * factor**2 or max(asked) > factor**2 * min(height, width)
        return
    found_height, found_width = passes[-1].result
    if which != "height":
        assert found_width == asked[0]
    if which != "width":
        assert found_height == asked[1]
    if which != "size":  # to the nearest pixel
        exact = (
            (height * asked[0] / width, found_height)
            if which == "width"
            else (width * asked[1] / height, found_width)
        )
        assert abs(exact[0] - exact[1]) <= 0.5 or exact[1] == 1
    assert len(passes) == 1 + (found_height > factor * height or found_width > factor * width)
    for before, after in pairwise(passes):
        assert (after.source.height, after.source.width) == before.result
    for each in passes:  # none is asked for more than the network makes
        assert each.result[0] <= factor * each.source.height
        assert each.result[1] <= factor * each.source.width


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"size": "30x20"}, (20, 30)),
        ({"size": "1x1"}, (1, 1)),
        ({"size": "7x150"}, (150, 7)),
        ({"width": 48}, (40, 48)),
        ({"height": 41}, (41, 49)),
        ({"width": 100}, (83, 100)),
        ({"scale": 4.5}, (45, 54)),
        ({"size": "192x160"}, (160, 192)),
    ],
)
@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "16 bits"])
def test_results_are_the_picture_at_that_size(
    upscaler: Upscaler, options: dict[str, Any], shape: tuple[int, int], kind: str
) -> None:
    pixels = smooth(10, 12)
    if kind == "grey":
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    if kind == "16 bits":
        pixels = pixels.astype(np.uint16) * 257
    alpha = np.full(pixels.shape[:2], 255, np.uint8) if kind == "alpha" else None
    source = Image(pixels, alpha, grey=kind == "grey")
    *_, last = upscaler.stream(source, **options)
    result = last.result
    assert result is not None
    assert (result.height, result.width) == shape
    assert result.pixels.dtype == pixels.dtype
    if kind == "alpha":
        np.testing.assert_array_equal(result.alpha, 255)
    check_result(source, result)
    if min(shape) > 10:
        plain = PIL.Image.fromarray(smooth(10, 12))
        expected = plain.resize((shape[1], shape[0]), PIL.Image.Resampling.BICUBIC)
        close = np.asarray(expected, np.float64) * (257 if kind == "16 bits" else 1)
        if kind != "grey":
            assert (
                np.abs(result.pixels - close)[2:-2, 2:-2].mean() < 0.02 * np.iinfo(pixels.dtype).max
            )


@pytest.mark.parametrize(
    ("width", "scale"), [(89, 2.404494382033708), (1562, 1.1363636363642766), (89, 2.4)]
)
def test_a_scale_that_rounds_twice_has_one_result(width: int, scale: float) -> None:
    tripled = tiny_upscaler(3)
    image = Image(smooth(4, width), alpha=smooth(4, width)[..., 0])
    (result,) = [at.result for at in tripled.stream(image, steps=1, scale=scale) if at.result]
    size = tripled.result_size(image.header, UpscaleOptions(scale=scale))
    assert result.pixels.shape[:2] == size
    assert result.alpha is not None
    assert result.alpha.shape == size


def test_a_size_far_from_the_shape_takes_two_passes_too(upscaler: Upscaler) -> None:
    result = upscaler(smooth(1000, 10), steps=1, size="45x4")
    assert isinstance(result, np.ndarray)
    assert result.shape == (4, 45, 3)


def test_progress_over_two_passes_only_grows() -> None:
    steps = list(tiny_upscaler().stream(Image(smooth(20, 30)), scale=8, samples=2, tile=96))
    assert {at.total for at in steps} == {steps[-1].done}
    assert [at.done for at in steps] == list(range(1, steps[-1].done + 1))


def test_a_stretched_result_that_is_another_picture_is_refused(upscaler: Upscaler) -> None:
    source = Image(smooth(16, 24))
    *_, last = upscaler.stream(source, size="90x20")
    assert last.result is not None
    check_result(source, last.result)
    with pytest.raises(ArithmeticError, match="RMS"):
        check_result(source, Image(255 - last.result.pixels))


def test_two_passes_are_two_upscalings() -> None:
    upscaler = tiny_upscaler(tail=1.0)
    pixels = smooth(8, 8)
    first = upscaler(pixels, size="16x16")
    expected = upscaler(first, size="64x64", seed=2**63)
    np.testing.assert_array_equal(upscaler(pixels, scale=8), expected)
    assert (expected != imresize(first, 4)).any()


def test_each_sample_goes_through_both_passes() -> None:
    upscaler = tiny_upscaler(tail=1.0, sees_noise=True)
    source = Image(smooth(6, 6))
    steps = list(upscaler.stream(source, scale=6, samples=2))
    assert [(at.sample, at.step, at.steps) for at in steps] == [
        (sample, step, 4) for sample in (0, 1) for step in (1, 2, 3, 4)
    ]
    shares = [at.done / at.total for at in steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    first, second = (at.result for at in steps if at.result is not None)
    *_, last = upscaler.stream(source, scale=6, samples=2, only=[1])
    alone = last.result
    assert alone is not None
    assert (first.pixels != second.pixels).any()
    np.testing.assert_array_equal(second.pixels, alone.pixels)


def test_memory_is_planned_for_the_larger_pass(upscaler: Upscaler) -> None:
    header = Header(1000, 1000, has_alpha=False, sample_bytes=1)
    upscaler.check_memory(header, UpscaleOptions(scale=4, max_memory="64G"))
    with pytest.raises(MemoryEstimateError, match="an output of 16000x16000 pixels needs"):
        upscaler.check_memory(header, UpscaleOptions(scale=16, max_memory="5G"))
