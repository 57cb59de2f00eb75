"""Degraded low-resolution pictures: each part against what another library makes of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from bidiffsr.config import DegradationConfig
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.data.degradation import degrade, gaussian_blur
from bidiffsr.evaluation import evaluate
from bidiffsr.images.codec import read_image, through_jpeg
from bidiffsr.images.image import to_float

RECIPE = Path(__file__).parent.parent / "recipes" / "degrade.py"
EXAMPLE = Path(__file__).parent.parent / "examples" / "demo.png"


def example() -> NDArray[np.uint8]:
    return read_image(EXAMPLE).pixels[:61, :83]


def only(**parts: float) -> DegradationConfig:
    """Always what is named, and nothing else."""
    return DegradationConfig.model_validate(
        {"probability": 1, "blur": 0, "noise": 0, "jpeg": None, **parts}
    )


@pytest.mark.parametrize("deviation", [0.0, 0.3, 0.8, 2.0])
def test_the_blur_is_scipys(deviation: float) -> None:
    image = to_float(example())
    radius = int(np.ceil(3 * deviation))
    sigma = (max(deviation, 1e-6),) * 2 + (0,)
    expected = gaussian_filter(image, sigma, mode="nearest", radius=(radius, radius, 0))
    np.testing.assert_allclose(gaussian_blur(image, deviation), expected, atol=1e-5)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_loses_what_pillows_loses(quality: int) -> None:
    pixels = example()
    file = io.BytesIO()
    subsampling = "4:2:0" if quality < 90 else "4:4:4"
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.asarray(Image.open(file), np.float64)
    got = through_jpeg(pixels, quality)
    assert got.shape == pixels.shape and got.dtype == np.uint8
    lost = np.sqrt(np.mean((expected - pixels) ** 2))
    assert lost > 0.5
    assert np.sqrt(np.mean((expected - got) ** 2)) < 0.3 * lost


@pytest.mark.parametrize(("grey", "factor"), [(40, 0.657), (128, 1.002), (200, 1.284)])
def test_noise_grows_with_the_light_up_to_its_limit(grey: int, factor: float) -> None:
    """The variance is noise² · (1/2 + light), the strength uniform up to `noise`."""
    flat = np.full((64, 64, 3), grey, np.uint8)
    random = np.random.default_rng(1)
    deviations = np.array([degrade(flat, only(noise=10), random).std() for _ in range(200)])
    assert deviations.max() <= 10 * factor**0.5 * 1.05
    assert abs(deviations.mean() / (5 * factor**0.5) - 1) < 0.15


def test_chance_zero_changes_nothing() -> None:
    low = example()
    random = np.random.default_rng(0)
    for _ in range(5):
        assert np.array_equal(degrade(low, DegradationConfig(probability=0), random), low)


def test_it_is_a_function_of_its_random_numbers_alone() -> None:
    first, again, other = (
        degrade(example(), DegradationConfig(probability=1), np.random.default_rng(seed))
        for seed in (4, 4, 5)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_more_rounds_lose_more_and_keep_size_and_place(rounds: int) -> None:
    low = example()
    everything = DegradationConfig(
        probability=1, blur=1.2, noise=15, jpeg=40, sharpen=1, resize=0.5, rounds=rounds
    )
    lost = []
    for seed in range(12):
        worse = degrade(low, everything, np.random.default_rng(seed))
        assert worse.shape == low.shape and worse.dtype == np.uint8
        distances = {
            (down, right): np.abs(np.roll(worse, (down, right), (0, 1)) - low.astype(float)).mean()
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
        }
        assert min(distances, key=distances.__getitem__) == (0, 0)
        lost.append(np.abs(worse.astype(float) - low).mean())
    once = everything.model_copy(update={"rounds": 1})
    fewer = [
        np.abs(degrade(low, once, np.random.default_rng(seed)).astype(float) - low).mean()
        for seed in range(12)
    ]
    assert np.mean(lost) >= np.mean(fewer)
    assert np.mean(lost) > 2


def test_sharpening_is_an_unsharp_mask_and_leaves_halos() -> None:
    edge = np.full((16, 32, 3), 80, np.uint8)
    edge[:, 16:] = 160
    mask = edge - gaussian_filter(edge.astype(float), (1, 1, 0), mode="nearest", radius=(3, 3, 0))
    for seed in range(5):
        sharp = degrade(edge, only(sharpen=1), np.random.default_rng(seed)).astype(float)
        amount = (sharp - edge).max() / mask.max()
        assert 0 < amount < 1
        np.testing.assert_allclose(sharp, edge + amount * mask, atol=1)


def test_resizing_loses_what_a_smaller_picture_cannot_hold() -> None:
    """All that is left of the finest stripes after half the size is their mean."""
    stripes = np.full((32, 32, 3), 60, np.uint8)
    stripes[:, ::2] = 200
    contrasts = [
        degrade(stripes, only(resize=0.5), np.random.default_rng(seed))[8:-8, 8:-8].std()
        for seed in range(40)
    ]
    assert min(contrasts) < 5 < 30 < max(contrasts) <= 70


@pytest.mark.parametrize("clean", [0.0, 0.3, 1.0])
def test_the_clean_share_is_untouched(clean: float) -> None:
    low = example()
    config = DegradationConfig(probability=1, clean=clean, rounds=2)
    random = np.random.default_rng(0)
    untouched = np.mean([np.array_equal(degrade(low, config, random), low) for _ in range(150)])
    assert abs(untouched - clean) < 0.12
    after = [np.random.default_rng(3), np.random.default_rng(3)]
    degrade(low, config, after[0])
    degrade(low, config.model_copy(update={"clean": 0.5}), after[1])
    assert after[0].random() == after[1].random()


def test_crops_keep_their_pictures_and_places() -> None:
    """With degradation each sample shows the same place in the same orientation, less clearly."""

    def crops(degradation: DegradationConfig | None) -> TrainingCrops:
        return TrainingCrops(
            [EXAMPLE.parent], scale=4, crop=48, seed=3, length=8, degradation=degradation
        )

    plain, degraded = crops(None), crops(DegradationConfig(probability=1))
    for index in range(8):
        (high, cond), (same, worse) = plain[index], degraded[index]
        assert torch.equal(high, same)
        assert worse.shape == cond.shape and not torch.equal(cond, worse)
        assert (worse - high).square().mean() > 0.9 * (cond - high).square().mean()
        assert (worse - cond).abs().mean() < 0.1
    unharmed = crops(DegradationConfig(probability=0))
    assert all(torch.equal(plain[index][1], unharmed[index][1]) for index in range(8))


@pytest.mark.parametrize(
    "wrong", [{"blur": -1}, {"jpeg": 0}, {"probability": 1.5}, {"share": 1.5}, {"fog": 1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DegradationConfig.model_validate(wrong)


def test_the_recipe_makes_a_benchmark(tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    Image.fromarray(example()).save(pictures / "one.png")
    command = [sys.executable, str(RECIPE), str(pictures), str(out), "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{out}: 1 pictures"
    low = read_image(out / "LR_bicubic" / "X4" / "onex4.png").pixels
    seen: list[NDArray[np.uint8]] = []

    def nearest(low: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        seen.append(low)
        return low.repeat(scale, 0).repeat(scale, 1)

    list(evaluate(out, nearest, 4))
    assert np.array_equal(seen[0], low)
    command[3] = str(strong := tmp_path / "strong")
    subprocess.run([*command, "--strength", "strong"], check=True, stdout=subprocess.DEVNULL)
    worse = read_image(strong / "LR_bicubic" / "X4" / "onex4.png").pixels
    assert worse.shape == low.shape and not np.array_equal(worse, low)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing", "out"], "missing: no such folder"),
        ([str(EXAMPLE.parent), "out", "--seed", "-1"], "--seed is -1"),
        ([str(EXAMPLE.parent), "out", "--scale", "0"], "scale is 0"),
        ([str(EXAMPLE.parent), str(EXAMPLE)], "demo.png"),
    ],
)
def test_the_recipe_tells_of_bad_input_in_one_line(
    arguments: list[str], reason: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(RECIPE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
