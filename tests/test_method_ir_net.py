"""IR-Net in the slots, against loops written out from the paper."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bidiffsr.binary import ConvBlock, method_for, set_progress
from bidiffsr.binary.packing import Balanced
from bidiffsr.binary.quantizers import ErrorDecay
from bidiffsr.config import TrainingConfig
from helpers import tiny_network_config
from method_cases import (
    Array,
    block_of,
    check_block,
    check_samples_one_by_one,
    convolve,
    gained,
    gradient,
    packed_of,
    picture,
    published_counts,
    signs,
    slopes,
    unpacked_bits,
    weight_of,
)
from training_runs import run

NAME = "ir-net"
POINTS = [-2.0, -1.0, -0.3, 0.0, 0.1, 1.0, 2.0]


def standardized(filter_: Array) -> Array:
    """Mean 0 and deviation 1."""
    centred = filter_ - filter_.mean()
    return centred / math.sqrt((centred**2).sum() / centred.size)


def shift(filter_: Array) -> float:
    """2 to the whole number that is nearest to log2 of the mean magnitude."""
    mean = np.abs(filter_).sum() / filter_.size
    powers = [2.0**-i for i in range(9)]
    return min(powers, key=lambda power: abs(math.log2(power) - math.log2(mean)))


def loops(block: ConvBlock, x: Array) -> Array:
    """Signs by the signs of standardized weights, shifted."""
    weight = np.stack([standardized(filter_) for filter_ in weight_of(block)])
    y = convolve(signs(x), signs(weight), block.conv.stride)
    return gained(block, y * np.array([shift(filter_) for filter_ in weight])[:, None, None])


def test_block_equals_the_loops() -> None:
    check_block(NAME, loops)


def test_mixed_timesteps_equal_the_samples_one_by_one() -> None:
    check_samples_one_by_one(NAME)


def binarizers(channels: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = method_for(tiny_network_config(method=NAME)).conv(channels, 1, 1).conv
    assert conv.binarize_activation is not None
    assert conv.binarize_weight is not None
    return conv.binarize_activation, conv.binarize_weight


@pytest.mark.parametrize(
    ("progress", "sharpness", "height"),
    [(0, 0.1, 10), (0.25, 10**-0.5, 10**0.5), (0.5, 1, 1), (0.75, 10**0.5, 1), (1, 10, 1)],
)
def test_the_gradient_sharpens(progress: float, sharpness: float, height: float) -> None:
    """Against autograd of k tanh(t x); the values stay signs."""
    activation, _ = binarizers()
    set_progress(activation, progress)
    assert activation(torch.tensor(POINTS)).tolist() == [-1, -1, -1, 1, 1, 1, 1]
    smooth = slopes(lambda x: height * torch.tanh(sharpness * x), POINTS)
    assert slopes(activation, POINTS) == pytest.approx(smooth, abs=1e-12)


def test_it_begins_nearly_flat_and_ends_nearly_as_a_sign() -> None:
    activation, _ = binarizers()
    assert slopes(activation, [-1.0, 0.0, 1.0]) == pytest.approx([1, 1, 1], abs=0.01)
    set_progress(activation, 1)
    assert slopes(activation, [-1.0, 0.0, 1.0]) == pytest.approx([0, 10, 0], abs=1e-6)


def test_gradient_of_the_weight_goes_through_the_standardization() -> None:
    _, binarize = binarizers(6)
    set_progress(binarize, 0.4)
    weight = picture(1, 6, 1, 1)
    upstream = picture(1, 6, 1, 1, seed=1)
    sharpness = 10**-0.2

    def smooth(w: torch.Tensor) -> torch.Tensor:
        v = (w - w.mean()) / w.std(correction=0)
        scale = shift(v.detach().numpy())
        return scale / sharpness * torch.tanh(sharpness * v)

    found = gradient(binarize, weight, upstream)
    torch.testing.assert_close(found, gradient(smooth, weight, upstream))


def test_progress_reaches_every_binarizer_of_a_network() -> None:
    block = block_of(NAME, (2, 2, 3, 1))
    x, group = picture(1, 2, 4, 4), torch.tensor([0])

    def by_input_and_weight() -> tuple[torch.Tensor, torch.Tensor]:
        x.requires_grad_(True)
        result = torch.autograd.grad(block(x, group).square().sum(), [x, block.conv.weight])
        return result[0], result[1]

    early = by_input_and_weight()
    set_progress(block, 1)
    late = by_input_and_weight()
    assert all(not torch.allclose(one, other) for one, other in zip(early, late, strict=True))


def test_bits_are_signs_above_the_mean_and_the_scale_is_a_power_of_two() -> None:
    # Means 2 and 0; mean magnitudes of the standardized weights 0.87 and 2/n √(n/2) = 0.41.
    second = np.zeros(12)
    second[:2] = 1, -1
    first = np.tile([1.0, 2.0, 1.0, 4.0], 3)
    packed = packed_of(NAME, np.stack([first, second])[:, :, None, None])
    assert unpacked_bits(packed, 12)[0].tolist() == [-1, 1, -1, 1] * 3
    assert unpacked_bits(packed, 12)[1].tolist() == [1, -1, *[1] * 10]
    assert packed.scale.tolist() == [1, 0.5]
    assert not len(packed.zeros)


def test_equal_weights_say_nothing() -> None:
    _, binarize = binarizers(3)
    weight = torch.full((1, 3, 1, 1), 0.7)
    assert binarize(weight).flatten().tolist() == [0, 0, 0]
    assert packed_of(NAME, weight.numpy()).scale.tolist() == [0]


@settings(deadline=None)
@given(
    count=st.integers(2, 600),
    seed=st.integers(0, 999),
    power=st.sampled_from([0, 1, 2, 5, 9, 15]),
    offset=st.sampled_from([0, 0.3, -2]),
)
def test_an_unpacked_weight_packs_to_the_same(
    count: int, seed: int, power: int, offset: float
) -> None:
    """Whatever the tails: the heavier, the smaller the scale."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((3, count))
    weight = (np.sign(values) * np.abs(values) ** power + offset).astype(np.float32)
    weight = weight[:, :, None, None]
    packed = Balanced().pack(weight)
    again = Balanced().pack(Balanced().unpack(packed, weight.shape))
    used = packed.scale > 0  # signs under 0 say nothing
    np.testing.assert_array_equal(again.signs[used], packed.signs[used])
    np.testing.assert_array_equal(again.scale, packed.scale)


def test_counts_are_those_of_the_other_bare_methods() -> None:
    assert published_counts(NAME) == published_counts("bnn")  # as in the paper's table


def test_training_tells_of_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a run goes on."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    network = tiny_network_config(method=NAME, channels=2, timesteps=2000, dropout=0)
    values = {
        "output": tmp_path / "run",
        "model": {"network": network, "scale": 4},
        "data": {"folders": [tmp_path], "crop": 32},
        "iterations": 5,
        "batch": 1,
        "accelerator": "cpu",
    }
    seen: set[float] = set()
    derivative = ErrorDecay.forward

    def noted(module: ErrorDecay, *inputs: torch.Tensor) -> torch.Tensor:
        seen.add(module.progress)
        return derivative(module, *inputs)

    monkeypatch.setattr(ErrorDecay, "forward", noted)
    config = TrainingConfig.model_validate(values)
    run(config, 2)
    assert seen == {0, 0.2}
    run(config)
    assert seen == {0, 0.2, 0.4, 0.6, 0.8}
