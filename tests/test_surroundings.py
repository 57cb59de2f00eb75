"""What is computed around the network: by the engine's threads the same bytes as by numpy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr import Engine, Upscaler
from bidiffsr.backends.base import Surroundings
from bidiffsr.system import buffers
from bidiffsr.system.buffers import new_buffer
from bidiffsr.upscaling import surroundings as in_numpy
from bidiffsr.upscaling.surroundings import NumpySurroundings

Floats = NDArray[np.float32]

NUMPY = NumpySurroundings()
sides = st.integers(1, 40)


@pytest.fixture(scope="module", params=[1, 3], ids="{} threads".format)
def engine(request: pytest.FixtureRequest) -> Surroundings:
    return Engine("x4-small", threads=request.param).surroundings


def colours(seed: int, height: int, width: int) -> Floats:
    """Random in [0, 1], both ends often among them."""
    random = np.random.default_rng(seed)
    return random.uniform(-0.2, 1.2, (3, height, width)).clip(0, 1).astype(np.float32)


def same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """The sign of a zero counts, too."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), sides, sides, st.integers(1, 5), st.integers(1, 24))
def test_interpolation_is_the_same(
    engine: Surroundings, seed: int, height: int, width: int, factor: int, multiple: int
) -> None:
    colour = colours(seed, height, width)
    full = [side * factor + -(side * factor) % multiple for side in (height, width)]
    found, expected = (np.zeros((3, *full), np.float32) for _ in range(2))
    engine.interpolate(colour, factor, found)
    NUMPY.interpolate(colour, factor, expected)
    same(found, expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), sides, sides, st.integers(1, 5), st.integers(0, 9))
def test_back_projection_is_the_same(
    engine: Surroundings, seed: int, height: int, width: int, factor: int, beyond: int
) -> None:
    source = colours(seed, height, width)
    whole = colours(seed + 1, height * factor + beyond, width * factor + beyond)
    found, expected = whole.copy(), whole.copy()
    for how, picture in ((engine, found), (NUMPY, expected)):
        how.back_project(picture[:, : height * factor, : width * factor], source, factor)
    same(found, expected)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**20),
    sides,
    sides,
    st.floats(0, 2),
)
def test_noise_is_the_same(
    engine: Surroundings,
    seed: int,
    sample: int,
    stream: int,
    top: int,
    height: int,
    width: int,
    scale: float,
) -> None:
    given_to_both = seed, sample, stream, slice(top, top + height), width, scale
    same(engine.noise(*given_to_both), NUMPY.noise(*given_to_both))


def test_pictures_on_the_disk_are_the_same(
    engine: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "_STRIP_PIXELS", 700)
    colour = colours(0, 21, 17)
    found = new_buffer((3, 96, 72), np.float32, tmp_path)
    expected = np.empty(found.shape, np.float32)
    for how, picture in ((engine, found), (NUMPY, expected)):
        how.interpolate(colour, 4, picture)
        how.back_project(picture[:, :84, :68], colour[:, ::-1].copy(), 4)
    same(np.array(found), expected)


def test_what_does_not_fit_is_refused(engine: Any) -> None:
    native, small, large = engine._native, colours(0, 4, 5), colours(0, 8, 10)
    lacking = np.empty_like(small)
    with pytest.raises(ValueError, match="sizes"):
        native.interpolate(small, 3, large, 0, 8)
    for first, last in ((-1, 8), (0, 9), (5, 4)):
        with pytest.raises(ValueError, match="rows"):
            native.interpolate(small, 2, large, first, last)
        with pytest.raises(ValueError, match="rows"):
            native.add_lacking(large, small, 2, first, last)
    for factor in (0, -1, 2**18, 2**31 - 1):
        with pytest.raises(ValueError, match="factor"):
            native.interpolate(small, factor, large, 0, 8)
    with pytest.raises(ValueError, match="sizes"):
        native.find_lacking(large, small[:, :3], 2, lacking, 0, 3)
    with pytest.raises(ValueError, match="sizes"):
        native.find_lacking(large, small, 2, lacking[:, :, :4], 0, 4)
    with pytest.raises(ValueError, match="gaps"):
        native.interpolate(small[:, :, ::2], 2, large, 0, 8)
    with pytest.raises(ValueError, match="no pixels"):
        native.interpolate(small[:, :0], 2, large, 0, 8)
    for wrong in (large.astype(np.float64), large[:2], large[0]):
        with pytest.raises(TypeError):
            native.interpolate(small, 2, wrong, 0, 8)
    large.flags.writeable = False
    with pytest.raises(TypeError):
        native.interpolate(small, 2, large, 0, 8)


@pytest.mark.parametrize("options", [{"steps": 1}, {"steps": 2, "seed": 9, "tile": 96}], ids=str)
def test_pictures_by_the_engine_owe_numpy_nothing(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    upscaler = Upscaler.from_pretrained("x4-small", backend="engine", threads=2)
    without = Upscaler(upscaler.backend, upscaler.config)
    picture = np.random.default_rng(5).integers(0, 256, (31, 26, 3), np.uint8)
    expected = without(picture, **options)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("numpy was asked")

    for name in ("cubic_upscale", "imresize", "normal_noise"):
        monkeypatch.setattr(in_numpy, name, refuse)
    np.testing.assert_array_equal(upscaler(picture, **options), expected)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(upscaler))(picture, **options), expected
    )
    with pytest.raises(AssertionError, match="numpy was asked"):
        without(picture, **options)
