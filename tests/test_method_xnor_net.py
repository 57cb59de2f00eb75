"""XNOR-Net in the slots, against loops written out from the paper."""

from __future__ import annotations

import numpy as np
import torch

from bidiffsr.binary import ConvBlock, method_for
from helpers import tiny_network_config
from method_cases import (
    Array,
    block_of,
    check_block,
    check_samples_one_by_one,
    convolve,
    gained,
    packed_of,
    picture,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    weight_of,
)

NAME = "xnor-net"


def magnitudes(x: Array, kernel: int, stride: int) -> Array:
    """K: the mean magnitude of what lies under the kernel, 0 outside of the picture."""
    _, height, width = x.shape
    result = np.zeros((-(-height // stride), -(-width // stride)))
    for row, column in np.ndindex(result.shape):
        for tap_row, tap_column in np.ndindex(kernel, kernel):
            i = row * stride + tap_row - kernel // 2
            j = column * stride + tap_column - kernel // 2
            if 0 <= i < height and 0 <= j < width:
                result[row, column] += np.abs(x[:, i, j]).mean() / kernel**2
    return result


def loops(block: ConvBlock, x: Array) -> Array:
    """(sign ⊛ sign) ⊙ K alpha."""
    weight, stride = weight_of(block), block.conv.stride
    alpha = np.array([np.abs(filter_).sum() / filter_.size for filter_ in weight])
    y = convolve(signs(x), signs(weight), stride) * alpha[:, None, None]
    return gained(block, y * magnitudes(x, weight.shape[-1], stride))


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def test_where_all_magnitudes_are_equal_the_approximation_is_the_convolution() -> None:
    """Equation 11 is exact for an input and a weight that are signs times a number already."""
    block = block_of(NAME, (3, 2, 1, 1))
    with torch.no_grad():
        block.conv.weight.copy_(0.3 * block.conv.weight.sign())
    x = 1.7 * picture(2, 3, 4, 4).sign()
    expected = torch.nn.functional.conv2d(x, block.conv.weight)
    torch.testing.assert_close(block(x, torch.zeros(2, dtype=torch.int64)), expected)


def test_activation_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(1, 1, 1).conv.binarize_activation
    assert binarize is not None
    points = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    assert binarize(torch.tensor(points)).tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert slopes(binarize, points) == [0, 1, 1, 1, 1, 1, 0]


def test_gradient_by_the_input_is_that_of_both_factors() -> None:
    """Of one weight and one channel: y = alpha |x| sign(x), so alpha (sign' |x| + 1)."""
    block = block_of(NAME, (1, 1, 1, 1), identity_shortcut=False)
    with torch.no_grad():
        block.conv.weight.fill_(2)
    group = torch.tensor([0])
    points = [-1.5, -0.5, 0.25, 1.0, 1.5]
    found = slopes(lambda x: block(x.view(1, 1, 1, -1), group).view(-1), points)
    assert found == [2 * ((abs(x) <= 1) * abs(x) + 1) for x in points]


def test_weight_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(4, 1, 1).conv.binarize_weight
    assert binarize is not None

    def flat(x: torch.Tensor) -> torch.Tensor:
        return binarize(x.view(1, 4, 1, 1)).flatten()

    weights = [-2.0, -1.0, 0.0, 1.5]
    alpha = 4.5 / 4
    assert flat(torch.tensor(weights)).tolist() == [-alpha, -alpha, alpha, alpha]
    assert slopes(flat, weights) == [0.25, 0.25 + alpha, 0.25 + alpha, 0.25]


def test_bits_are_signs_and_the_scale_is_the_mean_magnitude() -> None:
    packed = packed_of(NAME, np.array([[0.5, -0.25, 0.0], [-1, -2, 3]])[:, :, None, None])
    assert unpacked_bits(packed, 3).tolist() == [[1, -1, 1], [-1, -1, 1]]
    assert packed.scale.tolist() == [0.25, 2]
    assert not len(packed.zeros)


def test_counts_are_those_of_the_other_bare_methods() -> None:
    assert published_counts(NAME) == published_counts("bnn")  # as in the paper's table
