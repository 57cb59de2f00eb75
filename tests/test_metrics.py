"""PSNR and SSIM: against the reference's numbers, against scipy, and what a metric must obey."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bidiffsr.errors import BidiffsrError, ConfigError, ImageError
from bidiffsr.evaluation import psnr, ssim

Metric = Callable[..., float]
SEEDS = st.integers(0, 2**32 - 1)
both_metrics = pytest.mark.parametrize("metric", [psnr, ssim])


def random_picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(value: int, height: int = 16, width: int = 20) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("crop", [0, 2, 4])
@pytest.mark.parametrize("y", [True, False], ids=["y", "rgb"])
def test_equal_the_reference(golden: Path, crop: int, y: bool) -> None:
    arrays = np.load(golden / "metrics_and_resize.npz")
    for expected in json.loads((golden / "metrics.json").read_text()):
        a, b = (arrays[f"{expected['i']}.{name}"] for name in ("rgb", "distorted_rgb"))
        key = f"crop{crop}_{'y' if y else 'rgb'}"
        assert psnr(a, b, crop, y) == pytest.approx(expected[f"psnr_{key}"], rel=0, abs=1e-6)
        assert ssim(a, b, crop, y) == pytest.approx(expected[f"ssim_{key}"], rel=0, abs=1e-7)


def test_psnr_by_hand() -> None:
    assert psnr(flat(10), flat(13), 0, y=False) == pytest.approx(20 * math.log10(255 / 3))
    # Y moves by 219/255 for each step of grey.
    assert psnr(flat(10), flat(13), 0) == pytest.approx(20 * math.log10(255 / 3 * 255 / 219))


@given(seed=SEEDS, height=st.integers(11, 24), width=st.integers(11, 24))
@settings(max_examples=25, deadline=None)
def test_ssim_equals_a_direct_computation(seed: int, height: int, width: int) -> None:
    a, b = random_picture(seed, height, width), random_picture(seed + 1, height, width)

    def local_mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(plane, 1.5, radius=5)[5:-5, 5:-5]

    scores = []
    for channel in range(3):
        x, y = a[..., channel].astype(float), b[..., channel].astype(float)
        mx, my = local_mean(x), local_mean(y)
        vx, vy = local_mean(x * x) - mx * mx, local_mean(y * y) - my * my
        covariance = local_mean(x * y) - mx * my
        numerator = (2 * mx * my + 6.5025) * (2 * covariance + 58.5225)
        denominator = (mx * mx + my * my + 6.5025) * (vx + vy + 58.5225)
        scores.append((numerator / denominator).mean())
    assert ssim(a, b, 0, y=False) == pytest.approx(np.mean(scores), rel=0, abs=1e-12)


@both_metrics
@given(
    seed=SEEDS,
    height=st.integers(15, 30),
    width=st.integers(15, 30),
    crop=st.integers(0, 2),
    y=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_order_and_orientation_do_not_matter(
    metric: Metric, seed: int, height: int, width: int, crop: int, y: bool
) -> None:
    a, b = random_picture(seed, height, width), random_picture(seed + 1, height, width)
    score = metric(a, b, crop, y)
    assert metric(b, a, crop, y) == score
    for turned in (lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(0, 1)):
        assert metric(turned(a), turned(b), crop, y) == pytest.approx(score, abs=1e-11)


@given(seed=SEEDS, y=st.booleans(), crop=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_identical_pictures_are_perfect_and_inputs_are_left_alone(
    seed: int, y: bool, crop: int
) -> None:
    picture = random_picture(seed, 19, 23)
    before = picture.copy()
    assert psnr(picture, picture.copy(), crop, y) == math.inf
    assert ssim(picture, picture.copy(), crop, y) == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(picture, before)


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_ssim_is_bounded_and_more_noise_is_worse(seed: int) -> None:
    picture = random_picture(seed, 24, 24)
    noise = np.random.default_rng(seed).normal(0, 1, picture.shape)
    slightly, badly = (
        np.clip(picture + strength * noise, 0, 255).astype(np.uint8) for strength in (8, 60)
    )
    assert psnr(picture, slightly, 0) > psnr(picture, badly, 0) > 0
    assert 1 > ssim(picture, slightly, 0) > ssim(picture, badly, 0) > -1
    assert -1 <= ssim(picture, 255 - picture, 0) <= 1


@both_metrics
def test_the_cropped_border_does_not_count(metric: Metric) -> None:
    a, b = random_picture(1, 24, 28), random_picture(2, 24, 28)
    disturbed = b.copy()
    disturbed[:3], disturbed[-3:], disturbed[:, :3], disturbed[:, -3:] = 0, 255, 255, 0
    assert metric(a, disturbed, 3) == metric(a, b, 3)
    assert metric(a, disturbed, 2) != metric(a, b, 2)


@both_metrics
def test_flat_pictures_give_numbers(metric: Metric) -> None:
    assert math.isfinite(metric(flat(0), flat(255), 0))


GOOD = flat(7)


@both_metrics
@pytest.mark.parametrize(
    ("a", "b", "crop", "error", "says"),
    [
        (GOOD.astype(np.float32), GOOD, 0, ImageError, "first picture must be uint8, not float32"),
        (GOOD, GOOD.astype(np.uint16), 0, ImageError, "second picture must be uint8, not uint16"),
        (GOOD.tolist(), GOOD, 0, ImageError, "numpy array"),
        (GOOD, None, 0, ImageError, "NoneType"),
        (GOOD[..., 0], GOOD[..., 0], 0, ImageError, r"shape \(height, width, 3\), not \(16, 20\)"),
        (GOOD[..., :1], GOOD[..., :1], 0, ImageError, "shape"),
        (np.dstack([GOOD, GOOD]), GOOD, 0, ImageError, "shape"),
        (GOOD[None], GOOD, 0, ImageError, "shape"),
        (GOOD[:0], GOOD[:0], 0, ImageError, "shape"),
        (GOOD, GOOD[:, :-1], 0, ImageError, "same size, not 20x16 and 19x16"),
        (GOOD, GOOD.swapaxes(0, 1), 0, ImageError, "same size"),
        (GOOD, GOOD, 8, ImageError, "20x16 picture is too small to crop 8 pixels"),
        (GOOD, GOOD, 10**9, ImageError, "too small"),
        (GOOD, GOOD, -1, ConfigError, "crop"),
        (GOOD, GOOD, 1.5, ConfigError, "crop"),
        (GOOD, GOOD, True, ConfigError, "crop"),
        (GOOD, GOOD, None, ConfigError, "crop"),
    ],
)
def test_refuses_what_it_cannot_score(
    metric: Metric, a: Any, b: Any, crop: Any, error: type[BidiffsrError], says: str
) -> None:
    with pytest.raises(error, match=says) as raised:
        metric(a, b, crop)
    assert "\n" not in str(raised.value)


def test_ssim_needs_room_for_its_window() -> None:
    small, enough = flat(5, 10, 30), flat(5, 11, 30)
    with pytest.raises(ImageError, match=r"11x11 pixels, not 30x10 \(after 0 cropped"):
        ssim(small, small, 0)
    assert ssim(enough, enough, 0) == 1
    with pytest.raises(ImageError, match=r"not 28x9 \(after 1 cropped"):
        ssim(enough, enough, 1)
