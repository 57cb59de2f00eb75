"""Counter-based noise: published known answers, an independent scalar oracle, statistics."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bidiffsr.diffusion.noise import MAX_SEED, normal_noise, philox4x32
from bidiffsr.errors import ConfigError

# Random123's kat_vectors file, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

seeds = st.integers(0, MAX_SEED)
offsets = st.integers(0, 2**31)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, int, int, int]
) -> None:
    assert tuple(int(word) for word in philox4x32(counter, key)) == answer


def test_philox_works_on_arrays_as_on_single_counters() -> None:
    counters = np.array([counter for counter, _, _ in KNOWN_ANSWERS], dtype=np.uint32)
    key = KNOWN_ANSWERS[2][1]
    together = np.stack(
        philox4x32((counters[:, 0], counters[:, 1], counters[:, 2], counters[:, 3]), key)
    )
    for index, (counter, _, _) in enumerate(KNOWN_ANSWERS):
        np.testing.assert_array_equal(together[:, index], np.stack(philox4x32(counter, key)))


def scalar_normal(seed: int, sample: int, stream: int, y: int, x: int, channel: int) -> float:
    """The documented definition for one value, in Python integers and the C library's functions."""
    counter = [x, y, sample, stream << 16 | channel // 4]
    key = [seed % 2**32, seed // 2**32]
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * counter[0], 2**32)
        high_1, low_1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    pair = channel % 4 // 2 * 2
    radius = math.sqrt(-2 * math.log((counter[pair] + 0.5) / 2**32))
    turn = math.cos if channel % 2 == 0 else math.sin
    return radius * turn(2 * math.pi * ((counter[pair + 1] + 0.5) / 2**32))


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 2**32 - 1), st.integers(0, 65535), offsets, offsets)
def test_values_match_the_scalar_definition(
    seed: int, sample: int, stream: int, top: int, left: int
) -> None:
    channels, height, width = 6, 2, 3
    noise = normal_noise(seed, sample, channels, height, width, top=top, left=left, stream=stream)
    assert noise.dtype == np.float32
    assert noise.shape == (channels, height, width)
    for channel, y, x in itertools.product(range(channels), range(height), range(width)):
        expected = scalar_normal(seed, sample, stream, top + y, left + x, channel)
        # One unit of float32, or the rounding of the oracle's own argument near a zero of cos.
        assert abs(float(noise[channel, y, x]) - expected) <= max(
            float(np.spacing(np.float32(abs(expected)))), 1e-14
        )


def test_bytes_never_change() -> None:
    """Saved seeds keep their meaning between releases and machines."""
    noise = normal_noise(20241210, 3, 5, 97, 131, top=7, left=11, stream=2)
    digest = hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest()
    assert digest == "f7949d25b2c1b9376f368ba2e0495e7af12d8cbe0b9eae2c3b8d7bd4f44a10cf"


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """A whole picture's size and a window (top, left, height, width) inside it."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    rows, columns = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    return height, width, top, left, rows, columns


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(0, 5), st.integers(0, 5), st.integers(1, 9), windows(), offsets)
def test_a_window_equals_the_same_window_cut_from_the_whole(
    seed: int,
    sample: int,
    stream: int,
    channels: int,
    window: tuple[int, int, int, int, int, int],
    offset: int,
) -> None:
    height, width, top, left, rows, columns = window
    whole = normal_noise(
        seed, sample, channels, height, width, top=offset, left=offset, stream=stream
    )
    part = normal_noise(
        seed,
        sample,
        max(1, channels - 1),
        rows,
        columns,
        top=offset + top,
        left=offset + left,
        stream=stream,
    )
    cut = whole[: max(1, channels - 1), top : top + rows, left : left + columns]
    np.testing.assert_array_equal(part, cut)


def test_the_last_position_can_be_reached() -> None:
    last = 2**32 - 1
    corner = normal_noise(0, 0, 1, 2, 2, top=last - 1, left=last - 1)
    alone = normal_noise(0, 0, 1, 1, 1, top=last, left=last)
    np.testing.assert_array_equal(corner[:, 1:, 1:], alone)


def test_values_are_standard_normal() -> None:
    values = normal_noise(1, 0, 4, 500, 500).astype(np.float64)
    for channel in values:
        count = channel.size
        # Five standard errors of each estimate.
        assert abs(channel.mean()) < 5 / math.sqrt(count)
        assert abs(channel.std() - 1) < 5 / math.sqrt(2 * count)
        assert abs(float(stats.skew(channel.ravel()))) < 5 * math.sqrt(6 / count)
        assert abs(float(stats.kurtosis(channel.ravel()))) < 5 * math.sqrt(24 / count)
        assert stats.kstest(channel.ravel(), "norm").pvalue > 1e-3


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation of two arrays of one shape."""
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_neighbours_and_channels_are_uncorrelated() -> None:
    values = normal_noise(2, 0, 6, 400, 400)
    limit = 5 / math.sqrt(399 * 399)
    for power in (1, 2):
        field = values.astype(np.float64) ** power
        assert abs(correlation(field[0, 1:], field[0, :-1])) < limit
        assert abs(correlation(field[0, :, 1:], field[0, :, :-1])) < limit
        for first, second in itertools.combinations(range(6), 2):
            assert abs(correlation(field[first], field[second])) < limit


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"seed": 7 + 2**32},
        {"seed": MAX_SEED},
        {"sample": 1},
        {"stream": 1},
        {"stream": 2},
    ],
)
def test_seed_sample_and_stream_each_give_unrelated_noise(change: dict[str, int]) -> None:
    base: dict[str, Any] = {"seed": 7, "sample": 0, "channels": 3, "height": 300, "width": 300}
    first = normal_noise(**base).astype(np.float64)
    second = normal_noise(**{**base, **change}).astype(np.float64)
    assert not np.any(np.all(first == second, axis=0))
    for power in (1, 2):
        assert abs(correlation(first**power, second**power)) < 5 / math.sqrt(first.size)


def test_numpy_integers_are_accepted() -> None:
    np.testing.assert_array_equal(
        normal_noise(int(np.uint64(9)), 0, 1, 2, 3),
        normal_noise(np.uint64(9), np.int32(0), 1, 2, 3),  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.5),
        ("seed", "1"),
        ("sample", -1),
        ("sample", 2**32),
        ("stream", -1),
        ("stream", 65536),
        ("channels", 0),
        ("channels", 262145),
        ("height", 0),
        ("width", 0),
        ("top", -1),
        ("left", -1),
        ("left", 2**32 - 3),
    ],
)
def test_a_bad_argument_is_named_in_one_line(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {
        "seed": 0,
        "sample": 0,
        "channels": 1,
        "height": 4,
        "width": 4,
        "stream": 0,
    }
    culprit = {"left": "(left|width)"}.get(name, name)
    with pytest.raises(ConfigError, match=f"^{culprit}: got [^\\n]+$"):
        normal_noise(**{**arguments, name: value})
