"""Previews: what a step predicts, made small, against loops over the large picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.images.image import Image, to_float
from bidiffsr.images.resize import cubic_upscale
from bidiffsr.upscaling.preview import Preview
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_config, tiny_network, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


def random_picture(height: int, width: int) -> Image:
    """Without extremes, so that nothing that is made of it is clipped."""
    generator = np.random.default_rng(0)
    return Image(generator.integers(90, 160, (height, width, 3), dtype=np.uint8))


def block_means(picture: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """(H, W, 3) → the mean of each block, smaller ones at the bottom and on the right."""
    height, width, _ = picture.shape
    return np.array(
        [
            [
                picture[y : y + block, x : x + block].mean(axis=(0, 1), dtype=np.float64)
                for x in range(0, width, block)
            ]
            for y in range(0, height, block)
        ]
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 40), st.integers(1, 9))
def test_a_preview_is_the_mean_of_blocks_however_the_strips_fall(
    height: int, width: int, side: int, rows: int
) -> None:
    factor, padding = 2, 3
    preview = Preview(random_picture(height, width), factor, side)
    sides = factor * height, factor * width
    large = np.random.default_rng(1).random(
        (3, sides[0] + padding, sides[1] + padding), dtype=np.float32
    )
    strips = [slice(top, min(top + rows, large.shape[1])) for top in range(0, large.shape[1], rows)]
    for strip in reversed(strips):
        preview.add(strip, large[:, strip])
    shown = to_float(preview.take().pixels)
    assert max(shown.shape[:2]) <= side
    expected = block_means(
        large[:, : sides[0], : sides[1]].transpose(1, 2, 0), -(-max(sides) // side)
    )
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() <= 0.5001 / 255


def test_every_step_has_one_and_they_lead_from_interpolation_to_the_result() -> None:
    config = tiny_config()
    # Previews are of what the chain arrives at; the result is corrected by its source afterwards.
    chain = config.sampling.model_copy(update={"back_projections": 0})
    upscaler = Upscaler(
        TorchBackend(tiny_network(tail=0.1)), config.model_copy(update={"sampling": chain})
    )
    source = random_picture(21, 30)
    seen = list(upscaler.stream(source, preview=40, samples=2, seed=3))
    shown = [(at.sample, at.step, at.preview) for at in seen if at.preview is not None]
    assert [(sample, step) for sample, step, _ in shown] == [
        (sample, step) for sample in (0, 1) for step in (0, 1, 2)
    ]
    assert all(at.preview is None for at in seen if at.tile)
    interpolated = cubic_upscale(to_float(source.pixels), 4)
    results = [at.result for at in seen if at.result is not None]
    for sample, step, preview in shown:
        assert preview is not None
        large = {0: interpolated, 2: to_float(results[sample].pixels)}.get(step)
        if large is not None:
            difference = to_float(preview.pixels) - block_means(large, 3)
            # Both are rounded; the result before its blocks are averaged, too.
            assert np.abs(difference).max() < 1.01 / 255
    assert shown[1][2] is not None
    assert not np.array_equal(shown[0][2].pixels, shown[1][2].pixels)  # type: ignore[union-attr]


def test_tiles_show_the_same_steps() -> None:
    upscaler, source = tiny_upscaler(tail=1.0), random_picture(60, 50)
    seen = list(upscaler.stream(source, preview=64, tile=128))
    assert max(at.tiles for at in seen) > 1
    assert [at.step for at in seen if at.preview is not None] == [0, 1, 2]


def test_asking_for_previews_changes_no_result_and_not_asking_gives_none() -> None:
    upscaler, source = tiny_upscaler(tail=1.0), random_picture(12, 9)
    plain = list(upscaler.stream(source))
    assert all(at.preview is None for at in plain)
    watched = list(upscaler.stream(source, preview=8))
    assert plain[-1].result is not None
    assert watched[-1].result is not None
    assert np.array_equal(plain[-1].result.pixels, watched[-1].result.pixels)


def test_a_preview_has_the_colours_of_its_source_and_nothing_else() -> None:
    source = random_picture(8, 8)
    sixteen = replace(
        source,
        pixels=source.pixels.astype(np.uint16) * 257,
        alpha=np.full((8, 8), 65535, np.uint16),
        icc=b"a profile",
        grey=True,
        dpi=(300.0, 300.0),
    )
    preview = Preview(sixteen, 2, 4).take()
    assert preview.pixels.dtype == np.uint8
    assert (preview.alpha, preview.dpi) == (None, None)
    assert (preview.icc, preview.grey) == (b"a profile", True)
