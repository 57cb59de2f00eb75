"""What the first step predicts, the mean, mixed into the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from bidiffsr.config import AngularSchedule, DiffusionConfig, LinearSchedule, SamplingConfig
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.images.image import Image, to_float
from bidiffsr.upscaling.options import TileSize
from bidiffsr.upscaling.sampling import picture_bytes
from chains import chain_of
from tiny_model import resampled, tiny_upscaler

Floats = NDArray[np.float64]


def random_picture(height: int, width: int) -> Image:
    return Image(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def noise_of(stream: int) -> Floats:
    return np.random.default_rng(stream).standard_normal((3, 6, 5))


def result_and_first(
    schedule: Any, sampler: str, steps: int, eta: float, weight: float | None
) -> tuple[Floats, Floats]:
    """The end of a chain, and the clean variable that its first step predicts."""
    diffusion = Diffusion(DiffusionConfig(schedule=schedule, prediction="v", clip=None))
    shown: list[Floats] = []
    *_, last = chain_of(
        diffusion,
        lambda seen, timestep: np.tanh(seen + timestep),
        noise_of(0),
        diffusion.schedule.timesteps(steps, "trailing"),
        sampler=sampler,
        eta=eta,
        fresh_noise=lambda index: noise_of(1 + index),
        mean_weight=weight,
        watch=lambda _, clean: shown.append(clean.copy()),
    )
    assert len(shown) == steps
    np.testing.assert_array_equal(shown[-1], last.latent)  # who watches sees the result
    return last.latent, shown[0]


@pytest.mark.parametrize("schedule", [AngularSchedule(timesteps=4), LinearSchedule(timesteps=50)])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.8), ("dpm-solver++", 0.0)])
@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_result_is_the_weighted_mean_of_the_sample_and_the_first_prediction(
    schedule: Any, sampler: str, eta: float, steps: int, weight: float
) -> None:
    sample, first = result_and_first(schedule, sampler, steps, eta, None)
    mixed, same_first = result_and_first(schedule, sampler, steps, eta, weight)
    np.testing.assert_array_equal(same_first, first)
    np.testing.assert_allclose(mixed, (1 - weight) * sample + weight * first, atol=1e-12)
    assert np.abs(sample - first).max() > 0.01


def test_all_of_it_is_the_picture_of_one_step() -> None:
    upscaler, image = tiny_upscaler(tail=0.5), random_picture(21, 30)
    mean = resampled(upscaler, mean_weight=1.0)(image.pixels)
    np.testing.assert_array_equal(mean, upscaler(image.pixels, steps=1))
    assert not np.array_equal(mean, upscaler(image.pixels))


def test_a_single_step_is_what_it_is() -> None:
    upscaler, image = tiny_upscaler(tail=0.5), random_picture(9, 12)
    one = resampled(upscaler, mean_weight=0.7)(image.pixels, steps=1)
    np.testing.assert_array_equal(one, upscaler(image.pixels, steps=1))


@pytest.mark.parametrize("tile", ["auto", 64])
@pytest.mark.parametrize("on_disk", [False, True])
def test_pictures_of_any_size_and_place_are_mixed(
    tile: TileSize, on_disk: bool, tmp_path: Path
) -> None:
    upscaler, image = tiny_upscaler(tail=0.5), random_picture(40, 30)
    scratch = tmp_path if on_disk else None

    def pixels(weight: float) -> NDArray[np.float64]:
        stream = resampled(upscaler, mean_weight=weight).stream(image, tile=tile, scratch=scratch)
        *_, result = (at.result for at in stream if at.result is not None)
        return to_float(result.pixels).astype(np.float64)

    sample, mean, mixed = pixels(0.0), pixels(1.0), pixels(0.25)
    # Each is rounded to 8 bits; where one of them left [0, 1] it was clipped.
    inside = (np.minimum(sample, mean) > 0) & (np.maximum(sample, mean) < 1)
    assert np.abs(mixed - (0.75 * sample + 0.25 * mean))[inside].max() < 1.01 / 255
    assert np.abs(sample - mean).max() > 10 / 255


def test_the_last_preview_shows_it() -> None:
    upscaler = resampled(tiny_upscaler(tail=0.5), mean_weight=0.6)
    seen = list(upscaler.stream(random_picture(16, 20), preview=80))
    *_, preview = (at.preview for at in seen if at.preview is not None)
    *_, result = (at.result for at in seen if at.result is not None)
    difference = to_float(preview.pixels) - to_float(result.pixels)
    assert np.abs(difference).max() < 1.01 / 255


def test_it_takes_an_array_of_the_pictures_size_where_there_is_something_to_mix() -> None:
    plain, several = SamplingConfig(steps=2), {"steps": 2, "mean_weight": 0.5}
    more = picture_bytes(SamplingConfig.model_validate(several)) - picture_bytes(plain)
    assert more == 3 * np.dtype(np.float32).itemsize
    assert picture_bytes(SamplingConfig(steps=1, mean_weight=0.5)) == picture_bytes(plain)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_the_weight_is_bounded(weight: float) -> None:
    with pytest.raises(ValidationError, match="mean_weight"):
        SamplingConfig.model_validate({"mean_weight": weight})


def test_files_that_mix_nothing_do_not_say_so() -> None:
    assert "mean_weight" not in SamplingConfig().model_dump()
    assert SamplingConfig(mean_weight=0.5).model_dump()["mean_weight"] == 0.5
