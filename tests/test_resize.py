"""The two bicubics: against the reference's numbers, and against what a resampler must obey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.images import resize
from bidiffsr.images.codec import read_image
from bidiffsr.images.image import from_float, to_float
from bidiffsr.images.resize import cubic_upscale, imresize, mod_crop

Resizer = Callable[[NDArray[np.float32], float], NDArray[np.float32]]

SIZES = st.integers(1, 33)
SCALES = st.one_of(
    st.sampled_from([1 / 8, 1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0, 8.0]), st.floats(0.1, 5.0)
)
FACTORS = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.floats(1.0, 5.0))
SEEDS = st.integers(0, 2**32 - 1)


def random_picture(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)


def keys(distance: float, a: float) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_imresize_equals_matlab_on_float_pictures(golden: Path) -> None:
    arrays = np.load(golden / "metrics_and_resize.npz")
    for index in range(3):
        for scale in (2, 4):
            high = to_float(mod_crop(arrays[f"{index}.rgb"], scale))
            low = imresize(high, 1 / scale)
            expected = arrays[f"{index}.matlab_down{scale}_rgb_f32"]
            np.testing.assert_allclose(low, expected, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(from_float(low), arrays[f"{index}.lr{scale}_rgb"])


def test_cubic_upscale_equals_opencv(golden: Path) -> None:
    arrays = np.load(golden / "metrics_and_resize.npz")
    for index in range(3):
        for factor in (2, 4):
            high = cubic_upscale(to_float(arrays[f"{index}.lr{factor}_rgb"]), factor)
            expected = arrays[f"{index}.cv2_up{factor}_rgb_f32"]
            np.testing.assert_allclose(high, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
def test_official_low_resolution_set5_bit_for_bit(shared: Path, name: str, scale: int) -> None:
    folder = shared / "golden" / "set5_lr"
    high = mod_crop(read_image(folder / "HR" / f"{name}.png").pixels, scale)
    expected = read_image(folder / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png").pixels
    # The x8 pictures came from floats, the others from MATLAB's uint8; see imresize.
    low = from_float(imresize(to_float(high), 1 / 8)) if scale == 8 else imresize(high, 1 / scale)
    np.testing.assert_array_equal(low, expected)


@given(SIZES, SCALES, SEEDS)
@settings(max_examples=60, deadline=None)
def test_imresize_is_the_sum_over_a_mirrored_plane(size: int, scale: float, seed: int) -> None:
    row = random_picture(seed, size)
    stretch = max(1.0, 1 / scale)
    expected = []
    for output in range(len(imresize(row[None], scale)[0])):
        centre = (output + 0.5) / scale - 0.5
        reach = int(2 * stretch) + 1
        taps = range(int(centre) - reach, int(centre) + reach + 1)
        weights = np.array([keys((centre - tap) / stretch, -0.5) for tap in taps])
        plane = np.concatenate([row, row[::-1]])
        samples = np.array([plane[tap % (2 * size)] for tap in taps])
        expected.append(weights @ samples / weights.sum())
    column = imresize(row[:, None], scale)  # one pixel wide: its own mirror, so only rows count
    np.testing.assert_allclose(
        column, np.tile(np.array(expected)[:, None], column.shape[1]), atol=1e-5
    )


@given(SIZES, FACTORS, SEEDS)
@settings(max_examples=60, deadline=None)
def test_cubic_upscale_is_the_sum_over_four_neighbours(size: int, factor: float, seed: int) -> None:
    row = random_picture(seed, size)
    upscaled = cubic_upscale(row[None], factor)[0]
    assert len(upscaled) == round(size * factor)
    for output, value in enumerate(upscaled):
        centre = (output + 0.5) / factor - 0.5
        nearest = int(np.floor(centre))
        expected = sum(
            keys(centre - tap, -0.75) * row[min(max(tap, 0), size - 1)]
            for tap in range(nearest - 1, nearest + 3)
        )
        assert value == pytest.approx(expected, abs=1e-5)


@given(SIZES, SIZES, SCALES, st.floats(0, 1, width=32))
@settings(max_examples=40, deadline=None)
def test_constant_pictures_stay_constant(
    height: int, width: int, scale: float, value: float
) -> None:
    picture = np.full((height, width, 3), value, np.float32)
    for resizer in [imresize, cubic_upscale] if scale >= 1 else [imresize]:
        np.testing.assert_allclose(resizer(picture, scale), value, rtol=1e-6, atol=1e-30)
    whole = np.full((height, width), round(value * 255), np.uint8)
    assert np.all(imresize(whole, scale) == round(value * 255))


@pytest.mark.parametrize(("resizer", "scale"), [(imresize, 0.3), (imresize, 2), (cubic_upscale, 3)])
@given(SIZES, SIZES, SEEDS)
@settings(max_examples=15, deadline=None)
def test_resizing_is_linear(
    resizer: Resizer, scale: float, height: int, width: int, seed: int
) -> None:
    first, second = random_picture(seed, 2, height, width, 2)
    mixed = resizer(0.25 * first + 2 * second, scale)
    parts = 0.25 * resizer(first, scale) + 2 * resizer(second, scale)
    np.testing.assert_allclose(mixed, parts, atol=1e-5)


@pytest.mark.parametrize(
    ("resizer", "scale"), [(imresize, 0.4), (imresize, 3), (cubic_upscale, 2.5)]
)
def test_turned_and_mirrored_pictures_give_turned_and_mirrored_results(
    resizer: Resizer, scale: float
) -> None:
    picture = random_picture(0, 20, 20, 3)
    expected = resizer(picture, scale)
    for turn in range(4):
        turned = resizer(np.rot90(picture, turn), scale)
        np.testing.assert_allclose(turned, np.rot90(expected, turn), atol=1e-6)
    np.testing.assert_allclose(resizer(picture[:, ::-1], scale), expected[:, ::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [(50, 1.1, 55), (525, 1 / 75, 7), (30, 0.1, 3), (5, 0.5, 3), (7, 0.25, 2), (3, 1 / 8, 1)],
)
def test_imresize_rounds_the_size_up_but_not_on_binary_dust(
    size: int, scale: float, expected: int
) -> None:
    assert imresize(np.zeros((size, 2 * size), np.float32), scale).shape[0] == expected


def test_antialiasing_removes_what_the_small_grid_cannot_hold() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (64, 32))
    inner = imresize(stripes, 0.25)[4:-4, 4:-4]
    np.testing.assert_allclose(inner, 0.5, atol=0.02)


@pytest.mark.parametrize("size", [(1, 1), (8, 60), (60, 8), (13, 17), (41, 90), (20, 30)])
def test_an_exact_size_scales_each_axis_as_pillow_does(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(3).random((20, 30), np.float32)
    height, width = size
    result = imresize(picture, size)
    assert result.shape == size
    made = PIL.Image.fromarray(picture).resize((width, height), PIL.Image.Resampling.BICUBIC)
    # It cuts the kernel off at the border, where MATLAB mirrors: only the inside is the same.
    down, across = (-(-2 * max(new, old) // old) + 1 for new, old in ((height, 20), (width, 30)))
    inside = slice(down, height - down), slice(across, width - across)
    np.testing.assert_allclose(result[inside], np.asarray(made)[inside], atol=1e-5)
    assert result[inside].size > 0 or size == (1, 1)


def test_a_size_that_a_scale_gives_is_the_same() -> None:
    picture = np.random.default_rng(3).random((20, 30, 3), np.float32)
    for scale in (0.1, 0.5, 1, 2.5, 4):
        size = round(20 * scale), round(30 * scale)
        np.testing.assert_array_equal(imresize(picture, size), imresize(picture, scale))
    with pytest.raises(ConfigError, match="scale is 1025"):
        imresize(picture, (20, 1025 * 30))


def test_overshoot_is_not_clipped() -> None:
    edge = np.repeat(np.array([0, 1], np.float32), 8)[None].repeat(8, axis=0)
    for resizer in (imresize, cubic_upscale):
        result = resizer(edge, 2)
        assert result.min() < -0.01
        assert result.max() > 1.01


def test_scale_one_changes_nothing() -> None:
    picture = random_picture(1, 9, 7, 3)
    np.testing.assert_array_equal(imresize(picture, 1), picture)
    np.testing.assert_array_equal(cubic_upscale(picture, 1), picture)


def test_grey_planes_and_channels_are_treated_alike() -> None:
    picture = random_picture(2, 11, 14, 4)
    for resizer, scale in ((imresize, 0.5), (cubic_upscale, 2)):
        stacked = np.stack([resizer(plane, scale) for plane in np.moveaxis(picture, 2, 0)], axis=2)
        np.testing.assert_array_equal(resizer(picture, scale), stacked)
        strided = np.asfortranarray(picture)
        np.testing.assert_array_equal(resizer(strided, scale), stacked)


@pytest.mark.parametrize(("resizer", "scale"), [(imresize, 0.5), (cubic_upscale, 2)])
def test_blocks_of_rows_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch, resizer: Resizer, scale: float
) -> None:
    picture = random_picture(3, 41, 13, 3)
    whole = resizer(picture, scale)
    monkeypatch.setattr(resize, "_BLOCK_SAMPLES", 1)
    np.testing.assert_array_equal(resizer(picture, scale), whole)


def test_uint8_is_rounded_half_up_after_each_axis() -> None:
    # Halving four pixels mirrored about both ends weighs them by exact binary fractions.
    column = np.array([[0], [0], [255], [255]], np.uint8)
    rows_first = imresize(column, 0.5)
    exact = imresize(column.astype(np.float32), 0.5)
    np.testing.assert_array_equal(rows_first, np.floor(np.clip(exact, 0, 255) + 0.5))
    assert rows_first.dtype == np.uint8
    tie = np.array([[0, 1], [0, 1]], np.uint8)
    assert imresize(tie, 0.5) == [[1]]


def test_uint8_saturates() -> None:
    edge = np.repeat(np.array([0, 255], np.uint8), 8)[None].repeat(8, axis=0)
    result = imresize(edge, 2).astype(int)
    assert np.all(np.diff(result[0, 12:20]) >= 0)


def test_mod_crop_keeps_the_top_left() -> None:
    picture = random_picture(4, 11, 9, 3)
    np.testing.assert_array_equal(mod_crop(picture, 4), picture[:8, :8])
    np.testing.assert_array_equal(mod_crop(picture[..., 0], 3), picture[:9, :9, 0])
    assert mod_crop(picture, 1).shape == picture.shape


@pytest.mark.parametrize("resizer", [imresize, cubic_upscale])
@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), 1e-9, "two", None])
def test_impossible_scales_are_refused(resizer: Resizer, scale: float) -> None:
    with pytest.raises(ConfigError, match=r"^(scale|factor) is [^\n]*; expected [^\n]*$"):
        resizer(np.zeros((4, 4, 3), np.float32), scale)


def test_cubic_upscale_does_not_shrink() -> None:
    with pytest.raises(ConfigError, match="imresize"):
        cubic_upscale(np.zeros((4, 4), np.float32), 0.5)


@pytest.mark.parametrize("resizer", [imresize, cubic_upscale])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float64),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros(4, np.float32),
        np.zeros((1, 4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.float32),
        np.zeros((4, 4, 0), np.float32),
        [[0.0]],
    ],
)
def test_what_is_no_picture_is_refused(resizer: Resizer, image: NDArray[np.float32]) -> None:
    with pytest.raises(ImageError, match=r"^image [^\n]*; expected [^\n]*$"):
        resizer(image, 2)


def test_mod_crop_refuses_what_it_cannot_crop() -> None:
    with pytest.raises(ConfigError):
        mod_crop(np.zeros((4, 4), np.float32), 0)
    with pytest.raises(ImageError):
        mod_crop(np.zeros((4, 3), np.float32), 4)
