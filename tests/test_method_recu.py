"""ReCU in the slots, against loops written out from the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bidiffsr.binary import ConvBlock, method_for, set_progress
from bidiffsr.binary.packing import Centred
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn.counting import count, total
from helpers import tiny_network_config
from method_cases import (
    Array,
    check_block,
    check_samples_one_by_one,
    convolve,
    gradient,
    packed_of,
    picture,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    vector_of_gains,
    weight_of,
)

NAME = "recu"


def quantile(progress: float, mean: float) -> float:
    """Below which the share tau of a Laplace distribution of this mean magnitude lies."""
    slope = (0.99 - 0.85) / (math.e - 1)
    tau = slope * math.exp(progress) + 0.85 - slope
    return -mean * math.log(2 * (1 - tau))


def loops(block: ConvBlock, x: Array) -> Array:
    """Signs by the signs of centred weights, times what is learned."""
    weight = np.stack([filter_ - filter_.sum() / filter_.size for filter_ in weight_of(block)])
    y = convolve(signs(x), signs(weight), block.conv.stride)
    return y * vector_of_gains(block)[:, None, None]


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def binarizers(channels: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = method_for(tiny_network_config(method=NAME)).conv(channels, 1, 1).conv
    assert conv.binarize_activation is not None
    assert conv.binarize_weight is not None
    return conv.binarize_activation, conv.binarize_weight


def test_activation_and_its_gradient_by_hand() -> None:
    activation, _ = binarizers()
    points = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    assert activation(torch.tensor(points)).tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert slopes(activation, points) == [0, 0, 1, 2, 1, 0, 0]


@pytest.mark.parametrize(("progress", "share"), [(0, 0.85), (1, 0.99)])
def test_it_rectifies_beyond_the_quantiles_of_a_laplace_distribution(
    progress: float, share: float
) -> None:
    """Weights at a Laplace distribution's own quantiles: 1 - share of them lie beyond each."""
    count = 2000
    levels = (np.arange(count) + 0.5) / count
    weight = -np.sign(levels - 0.5) * np.log(1 - 2 * np.abs(levels - 0.5))
    _, binarize = binarizers(count)
    set_progress(binarize, progress)
    values = torch.from_numpy(weight).view(1, -1, 1, 1)
    # Whether the gradient passes shows in the direction that the standardization leaves alone.
    upstream = picture(1, count, 1, 1)
    mean, deviation = weight.mean(), weight.std()
    limit = quantile(progress, np.abs(weight - mean).mean() / deviation)
    inside = np.abs(weight - mean) / deviation <= limit
    assert (1 - inside.mean()) / 2 == pytest.approx(1 - share, abs=1e-3)

    def smooth(w: torch.Tensor) -> torch.Tensor:
        v = (w - w.mean()) / w.std(correction=0)
        return 2 * math.sqrt(2) * torch.from_numpy(inside).view_as(v) * v

    found = gradient(binarize, values, upstream)
    torch.testing.assert_close(found, gradient(smooth, values, upstream))


def test_rectifying_changes_no_sign() -> None:
    _, binarize = binarizers(6)
    weight = torch.tensor([-50.0, -0.5, -0.1, 0.0, 0.3, 2.0])
    for progress in (0, 0.5, 1):
        set_progress(binarize, progress)
        assert binarize(weight.view(1, 6, 1, 1)).flatten().tolist() == [-1, 1, 1, 1, 1, 1]


def test_scales_begin_where_results_are_as_large_as_activations() -> None:
    block = method_for(tiny_network_config(method=NAME)).conv(7, 5, 3)
    assert vector_of_gains(block).tolist() == pytest.approx([1 / math.sqrt(63)] * 5)


def test_bits_are_signs_above_the_mean_and_there_is_no_scale() -> None:
    rows = np.array([[1.0, 2.0, 1.0, 4.0], [0.7, 0.7, 0.7, 0.7]])
    packed = packed_of(NAME, rows[:, :, None, None])
    assert unpacked_bits(packed, 4).tolist() == [[-1, 1, -1, 1], [1, 1, 1, 1]]
    assert packed.scale.tolist() == [1, 1]
    assert not len(packed.zeros)


@settings(deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 999), offset=st.sampled_from([0, 0.3, -2]))
def test_an_unpacked_weight_packs_to_the_same(count: int, seed: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((3, count, 1, 1)) + offset).astype(np.float32)
    packed = Centred().pack(weight)
    assert Centred().allows(packed, weight.shape)
    again = Centred().pack(Centred().unpack(packed, weight.shape))
    np.testing.assert_array_equal(again.signs, packed.signs)


def test_signs_that_no_weight_has_are_refused() -> None:
    """All below their mean."""
    packed = packed_of(NAME, np.array([[1.0, 2.0], [3.0, 3.0]])[:, :, None, None])
    assert Centred().allows(packed, (2, 2, 1, 1))
    packed.signs[1] = 0
    assert not Centred().allows(packed, (2, 2, 1, 1))


def test_counts_are_those_of_the_other_bare_methods_with_gains() -> None:
    both = total(count(BiDiffSRConfig(method="bnn", weight_gain=True), 256, 256))
    assert published_counts(NAME) == (both.params / 1e6, both.ops / 1e9)
