"""Bi-Real Net in the slots, against loops written out from the paper."""

from __future__ import annotations

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
    gradient,
    packed_of,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    weight_of,
)

NAME = "bi-real"


def loops(block: ConvBlock, x: Array) -> Array:
    """The mean magnitude of each filter times the convolution of signs."""
    weight = weight_of(block)
    magnitude = np.array([np.abs(filter_).sum() / filter_.size for filter_ in weight])
    y = convolve(signs(x), signs(weight), block.conv.stride)
    return gained(block, y * magnitude[:, None, None])


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def test_activation_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(1, 1, 1).conv.binarize_activation
    assert binarize is not None
    points = [-1.5, -1.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0, 1.5]
    assert binarize(torch.tensor(points)).tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
    assert slopes(binarize, points) == [0, 0, 0.5, 1.5, 2, 1.5, 0.5, 0, 0]


def test_weight_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(4, 1, 1).conv.binarize_weight
    weight = torch.tensor([-2.0, -1.0, 0.5, 1.5], dtype=torch.float64).view(1, 4, 1, 1)
    assert binarize is not None
    assert binarize(weight).flatten().tolist() == [-1.25, -1.25, 1.25, 1.25]
    found = gradient(binarize, weight, torch.ones_like(weight))
    assert found.flatten().tolist() == [0, 1.25, 1.25, 0]


def test_bits_are_signs_and_the_scale_is_the_mean_magnitude() -> None:
    packed = packed_of(NAME, np.array([[0.5, -0.25, 0.75], [-1, -2, 3]])[:, :, None, None])
    assert unpacked_bits(packed, 3).tolist() == [[1, -1, 1], [-1, -1, 1]]
    assert packed.scale.tolist() == [0.5, 2]
    assert not len(packed.zeros)


def test_counts_are_those_of_one_time_group_without_its_vectors() -> None:
    params, operations = published_counts(NAME)
    # A set of TaR and TaA has as many parameters as two groups have more than one.
    assert params == pytest.approx(4.2975 - (4.3669 - 4.2975), abs=2e-4)
    assert operations == pytest.approx(36.669, abs=5e-4)
