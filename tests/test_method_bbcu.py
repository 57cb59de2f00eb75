"""BBCU in the slots, against loops written out from the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bidiffsr.binary import ConvBlock, fuse, method_for
from bidiffsr.binary.fused import EAGER
from helpers import scramble, tiny_network_config
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
    vector,
    weight_of,
)

NAME = "bbcu"


def loops(block: ConvBlock, x: Array) -> Array:
    """RSign, the scaled convolution over k, RPReLU."""
    weight = weight_of(block)
    active = signs(x + vector(block, "shift.bias")[:, None, None])
    y = gained(block, convolve(active, signs(weight), block.conv.stride))
    for out, plane in enumerate(y):
        plane *= np.abs(weight[out]).mean() / (130 * len(x) / 64)
        plane += vector(block, "activation.bias_in")[out]
        plane[plane < 0] *= vector(block, "activation.slope")[out]
        plane += vector(block, "activation.bias_out")[out]
    return y


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def test_a_chain_of_blocks_is_the_original_which_amplifies_the_picture() -> None:
    """Between real convs, all by k in front and by 1/k behind: the paper's residual alignment."""
    channels, k = 4, 130 * 4 / 64
    ours = [block_of(NAME, (channels, channels, 3, 1)) for _ in range(3)]
    for seed, block in enumerate(ours):
        scramble(block, seed)
    head, tail = picture(channels, 3, 3, 3), picture(3, channels, 3, 3, seed=1)
    x, group = picture(1, 3, 6, 7, seed=2), torch.tensor([0])
    found = F.conv2d(x, head, padding=1)
    theirs = F.conv2d(k * x, head, padding=1)
    for block in ours:
        found = block(found, group)
        # A threshold and biases learned in the amplified range are k times ours.
        active = signs(
            (theirs + k * block.get_parameter("shift.bias")[:, :, None, None]).detach().numpy()[0]
        )
        weight = weight_of(block)
        alpha = np.abs(weight).mean(axis=(1, 2, 3), keepdims=True)[:, 0]
        y = torch.from_numpy(alpha * convolve(active, signs(weight)))[None]
        biases = [
            k * block.get_parameter(f"activation.bias_{at}")[:, :, None, None]
            for at in ("in", "out")
        ]
        slope = block.get_parameter("activation.slope")[0]
        theirs = theirs + F.prelu(y + biases[0], slope) + biases[1]
    found, theirs = F.conv2d(found, tail, padding=1), F.conv2d(theirs, tail, padding=1) / k
    torch.testing.assert_close(found, theirs)


def test_weight_and_its_gradient_by_hand() -> None:
    binarize = method_for(tiny_network_config(method=NAME)).conv(4, 1, 1).conv.binarize_weight
    assert binarize is not None

    def flat(x: torch.Tensor) -> torch.Tensor:
        return binarize(x.view(1, 4, 1, 1)).flatten()

    weights = [-2.0, -1.0, 0.0, 1.5]
    scale = 4.5 / 4 / (130 * 4 / 64)
    found = flat(torch.tensor(weights, dtype=torch.float64)).tolist()
    assert found == pytest.approx([-scale, -scale, scale, scale])
    assert slopes(flat, weights) == pytest.approx([0, scale, scale, 0])


def test_gradient_of_the_sign_around_its_threshold() -> None:
    block = block_of(NAME, (1, 1, 1, 1), identity_shortcut=False)
    with torch.no_grad():
        block.conv.weight.fill_(1)
        block.get_parameter("shift.bias").fill_(-0.5)
        block.get_parameter("activation.slope").fill_(1)
    points = [-1.0, -0.5, -0.25, 0.5, 0.75, 1.5]
    found = slopes(lambda x: block(x.view(1, 1, 1, -1), torch.tensor([0])).view(-1), points)
    assert [130 / 64 * slope for slope in found] == pytest.approx([0, 0, 0.5, 2, 1.5, 0])


def test_training_does_not_take_it_for_bi_diffsr() -> None:
    """The fused function, whose scale is another, leaves it alone."""
    block = block_of(NAME, (4, 4, 3, 1)).train()
    x, group = picture(1, 4, 5, 5), torch.tensor([0])
    before = block(x, group)
    fuse(block, EAGER)
    assert block.kernels is None
    assert torch.equal(block(x, group), before)


def test_bits_are_signs_and_the_scale_is_the_mean_magnitude_over_k() -> None:
    packed = packed_of(NAME, np.array([[0.5, -0.25, 0.0], [-1, -2, 3]])[:, :, None, None])
    assert unpacked_bits(packed, 3).tolist() == [[1, -1, 1], [-1, -1, 1]]
    k = 130 * 3 / 64
    assert packed.scale.tolist() == pytest.approx([0.25 / k, 2 / k])
    assert not len(packed.zeros)


def test_counts_are_those_of_reactnet() -> None:
    # The paper has 0.03 M and 0.18 G less for it than for its ReActNet: norms that are left out.
    assert published_counts(NAME) == published_counts("reactnet")
