"""BNN in the slots, against loops written out from the paper."""

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
    packed_of,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    weight_of,
)

NAME = "bnn"
POINTS = [-1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5]
SIGNS = [-1, -1, -1, 1, 1, 1, 1, 1]
SLOPES = [0, 1, 1, 1, 1, 1, 1, 0]


def loops(block: ConvBlock, x: Array) -> Array:
    """Signs by signs, and nothing else."""
    return gained(block, convolve(signs(x), signs(weight_of(block)), block.conv.stride))


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def test_activation_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(1, 1, 1).conv.binarize_activation
    assert binarize is not None
    assert binarize(torch.tensor(POINTS)).tolist() == SIGNS
    assert slopes(binarize, POINTS) == SLOPES


def test_weight_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(8, 1, 1).conv.binarize_weight
    assert binarize is not None

    def flat(x: torch.Tensor) -> torch.Tensor:
        return binarize(x.view(1, -1, 1, 1)).flatten()

    assert flat(torch.tensor(POINTS)).tolist() == SIGNS
    assert slopes(flat, POINTS) == SLOPES


def test_bits_are_signs_and_every_scale_is_one() -> None:
    packed = packed_of(NAME, np.array([[0.5, -0.25, 0.0], [-1, -2, 3]])[:, :, None, None])
    assert unpacked_bits(packed, 3).tolist() == [[1, -1, 1], [-1, -1, 1]]
    assert packed.scale.tolist() == [1, 1]
    assert not len(packed.zeros)


def test_counts_are_those_of_the_other_bare_methods() -> None:
    # The paper, too, has the same 4.78 M and 37.93 G for all of these (tests/test_method_reactnet).
    assert published_counts(NAME) == published_counts("bi-real")
    assert published_counts("reactnet")[0] - published_counts(NAME)[0] == pytest.approx(
        4.85 - 4.78, abs=0.005
    )
