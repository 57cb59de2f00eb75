"""DoReFa-Net in the slots, of one and of two bits, against loops written out from the paper."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from bidiffsr.binary import ConvBlock, method_for
from helpers import tiny_network_config
from method_cases import (
    Array,
    check_block,
    check_samples_one_by_one,
    convolve,
    gained,
    packed_of,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    weight_of,
)

BITS = {"dorefa": 1, "dorefa-w1a2": 2}
every_width = pytest.mark.parametrize("name", BITS)


def nearest_level(value: float, bits: int) -> float:
    """Of the levels i / (2^bits - 1); the even one of two that are equally near."""
    count = 2**bits
    levels = [i / (count - 1) for i in range(count)]
    distance = [abs(level - value) for level in levels]
    return levels[min(range(count), key=lambda i: (round(distance[i], 12), i % 2))]


def loops(block: ConvBlock, x: Array, bits: int) -> Array:
    """Levels by signs under one scale for the layer."""
    weight = weight_of(block)
    active = np.array([nearest_level(value, bits) for value in x.flat]).reshape(x.shape)
    y = convolve(active, signs(weight), block.conv.stride)
    return gained(block, y * np.abs(weight).sum() / weight.size)


@every_width
def test_block_equals_the_loops(name: str) -> None:
    check_block(name, partial(loops, bits=BITS[name]))


@every_width
def test_mixed_timesteps_equal_the_samples_one_by_one(name: str) -> None:
    check_samples_one_by_one(name)


@pytest.mark.parametrize(
    ("name", "points", "levels"),
    [
        ("dorefa", [-1.0, -0.1, 0.0, 0.49, 0.5, 0.51, 1.0, 1.1], [0, 0, 0, 0, 0, 1, 1, 1]),
        (
            "dorefa-w1a2",
            [-1.0, 0.0, 0.16, 0.17, 0.49, 0.5, 0.51, 0.83, 0.84, 1.0, 2.0],
            [0, 0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1, 1, 1],
        ),
    ],
)
def test_activation_and_its_gradient_by_hand(
    name: str, points: list[float], levels: list[float]
) -> None:
    binarize = method_for(tiny_network_config(method=name)).conv(1, 1, 1).conv.binarize_activation
    assert binarize is not None
    found = binarize(torch.tensor(points, dtype=torch.float64))
    assert found.tolist() == pytest.approx(levels, abs=1e-15)
    assert slopes(binarize, points) == [float(0 <= x <= 1) for x in points]


@every_width
def test_weight_and_its_gradient_by_hand(name: str) -> None:
    binarize = method_for(tiny_network_config(method=name)).conv(3, 2, 1).conv.binarize_weight
    assert binarize is not None

    def flat(x: torch.Tensor) -> torch.Tensor:
        return binarize(x.view(2, 3, 1, 1)).flatten()

    weights = [-3.0, -1.0, 0.0, 0.5, 0.5, 1.0]
    assert flat(torch.tensor(weights)).tolist() == [-1, -1, 1, 1, 1, 1]
    assert slopes(flat, weights) == [1] * 6


@every_width
def test_bits_are_signs_and_all_scales_one_mean(name: str) -> None:
    packed = packed_of(name, np.array([[0.5, -0.25, 0.0], [-1, -2, 2.25]])[:, :, None, None])
    assert unpacked_bits(packed, 3).tolist() == [[1, -1, 1], [-1, -1, 1]]
    assert packed.scale.tolist() == [1, 1]
    assert not len(packed.zeros)


def test_two_bits_cost_twice_the_bit_operations() -> None:
    params, operations = published_counts("dorefa")
    assert (params, operations) == published_counts("bnn")  # as in the paper's table
    more = published_counts("dorefa-w1a2")
    assert more[0] == params
    assert more[1] - operations == pytest.approx(98.65 / 64, abs=1e-4)  # G binary MACs, published
