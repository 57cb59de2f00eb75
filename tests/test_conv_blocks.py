"""Convolution blocks against loops written out from the paper, and every ablation switch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bidiffsr.binary import (
    ActivationSign,
    BiDiffSR,
    BinaryConv2d,
    ConvBlock,
    FullPrecision,
    ScaledWeightSign,
    TimestepRPReLU,
    TimestepShift,
)
from bidiffsr.nn import BiDiffSRUNet
from bidiffsr.nn.blocks import (
    ConcatFusion,
    ConsistentDown,
    ConsistentUp,
    ShuffleFusion,
    SplitFusion,
    StridedDown,
)
from helpers import scramble, tiny_network_config

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameters:
    """One BI-Conv block, as the paper writes it; the first axis of the vectors is the group."""

    weight: Array
    shift: Array
    bias_in: Array
    slope: Array
    bias_out: Array
    stride: int
    shortcut: bool


def parameters_of(block: ConvBlock) -> Parameters:
    assert block.shift is not None
    assert block.activation is not None
    return Parameters(
        weight=block.conv.weight.detach().numpy(),
        shift=block.shift.bias.detach().numpy(),
        bias_in=block.activation.bias_in.detach().numpy(),
        slope=block.activation.slope.detach().numpy(),
        bias_out=block.activation.bias_out.detach().numpy(),
        stride=block.conv.stride,
        shortcut=block.shortcut,
    )


def sign_convolution(sample: Array, shift: Array, p: Parameters) -> Array:
    """Six loops: sum of sign(x + b) · sign(w) over the taps that lie inside."""
    count, _, kernel, _ = p.weight.shape
    channels, height, width = sample.shape
    sums = np.zeros((count, -(-height // p.stride), -(-width // p.stride)))
    for out, row, column in np.ndindex(sums.shape):
        for channel, tap_row, tap_column in np.ndindex(channels, kernel, kernel):
            y = row * p.stride + tap_row - kernel // 2
            x = column * p.stride + tap_column - kernel // 2
            if 0 <= y < height and 0 <= x < width:
                active = 1 if sample[channel, y, x] + shift[channel] >= 0 else -1
                sums[out, row, column] += active * np.sign(
                    p.weight[out, channel, tap_row, tap_column]
                )
    return sums


def bi_conv(x: Array, groups: list[int], p: Parameters) -> Array:
    """The BI-Conv block of one sample after the other, each with its group's parameters."""
    results = []
    for sample, group in zip(x, groups, strict=True):
        y = sign_convolution(sample, p.shift[group], p)
        for out in range(len(y)):
            alpha = np.abs(p.weight[out]).mean()
            moved = alpha * y[out] + p.bias_in[group, out]
            moved[moved < 0] *= p.slope[group, out]
            y[out] = moved + p.bias_out[group, out]
        results.append(sample + y if p.shortcut else y)
    return np.stack(results)


def block_of(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
    """A scrambled block of three time groups in float64, some weights exactly zero."""
    method = BiDiffSR(shift_groups=3, activation_groups=3)
    block = method.conv(channels_in, channels_out, kernel, stride).double()
    scramble(block, seed=channels_in + 10 * channels_out + 100 * kernel)
    with torch.no_grad():
        block.conv.weight.view(-1)[::7] = 0
    return block


def picture(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


GROUPS = [2, 0, 1, 2]


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6), (3, 2), (9, 4)])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(3, 3), (2, 5), (5, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_block_equals_the_loops(
    channels_in: int, channels_out: int, kernel: int, size: tuple[int, int]
) -> None:
    block = block_of(channels_in, channels_out, kernel)
    x = picture(len(GROUPS), channels_in, *size)
    found = block(x, torch.tensor(GROUPS)).detach().numpy()
    np.testing.assert_allclose(found, bi_conv(x.numpy(), GROUPS, parameters_of(block)), atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_strided_block_equals_the_loops(kernel: int) -> None:
    block = block_of(2, 3, kernel, stride=2)
    x = picture(len(GROUPS), 2, 6, 8)
    found = block(x, torch.tensor(GROUPS)).detach().numpy()
    assert found.shape == (len(GROUPS), 3, 3, 4)
    np.testing.assert_allclose(found, bi_conv(x.numpy(), GROUPS, parameters_of(block)), atol=1e-12)


def test_taps_outside_contribute_nothing() -> None:
    conv = BinaryConv2d(2, 1, 3, activation=ActivationSign(), weight=ScaledWeightSign(), bias=False)
    with torch.no_grad():
        conv.weight.fill_(0.5)
    inside = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]])
    for sign in (1.0, -1.0):
        found = conv(torch.full((1, 2, 3, 3), sign))
        torch.testing.assert_close(found[0, 0], sign * 0.5 * 2 * inside)


def test_a_shifted_activation_of_exactly_zero_counts_as_plus_one() -> None:
    block = ConvBlock(
        BinaryConv2d(1, 1, 1, activation=ActivationSign(), weight=ScaledWeightSign(), bias=False),
        shift=TimestepShift(1, 1),
    )
    with torch.no_grad():
        block.conv.weight.fill_(1)
        block.get_parameter("shift.bias").fill_(-0.5)
    found = block(torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1), torch.tensor([0, 0]))
    assert found.flatten().tolist() == [1.0, -1.0]


def test_mixed_groups_equal_the_samples_one_by_one() -> None:
    block = block_of(4, 4, 3)
    x = picture(5, 4, 7, 5)
    groups = torch.tensor([1, 2, 0, 0, 2])
    together = block(x, groups)
    alone = torch.cat([block(x[i : i + 1], groups[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)
    swapped = block(x, groups.flip(0))
    assert not torch.allclose(together[0], swapped[0])  # the groups do differ


def test_only_the_groups_in_the_batch_learn() -> None:
    block = block_of(3, 3, 3)
    block(picture(2, 3, 5, 5), torch.tensor([0, 2])).square().sum().backward()
    for name in ("shift.bias", "activation.bias_in", "activation.slope", "activation.bias_out"):
        gradient = block.get_parameter(name).grad
        assert gradient is not None
        assert gradient[1].count_nonzero() == 0, name
        assert gradient[0].count_nonzero() > 0, name
        assert gradient[2].count_nonzero() > 0, name


def test_a_single_set_serves_every_group() -> None:
    shift, activation = TimestepShift(3, 1), TimestepRPReLU(3, 1)
    scramble(shift)
    scramble(activation)
    x = torch.randn(2, 3, 4, 4)
    for module in (shift, activation):
        torch.testing.assert_close(module(x, torch.tensor([4, 0])), module(x, torch.tensor([0, 0])))


def test_activation_is_torchs_prelu_between_two_biases() -> None:
    activation = scramble(TimestepRPReLU(3, 2))
    bias_in, slope, bias_out = (
        activation.get_parameter(name) for name in ("bias_in", "slope", "bias_out")
    )
    y = torch.randn(2, 3, 4, 5)
    found = activation(y, torch.tensor([1, 0]))
    for index, group in enumerate((1, 0)):
        moved = y[index : index + 1] + bias_in[group].reshape(1, 3, 1, 1)
        expected = F.prelu(moved, slope[group]) + bias_out[group].reshape(1, 3, 1, 1)
        torch.testing.assert_close(found[index : index + 1], expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(3, 3), (2, 5)])
def test_full_precision_block_is_a_plain_biased_convolution(
    channels_in: int, channels_out: int, kernel: int, stride: int
) -> None:
    block = FullPrecision().conv(channels_in, channels_out, kernel, stride)
    scramble(block)
    x = torch.randn(2, channels_in, 6, 8)
    expected = F.conv2d(x, block.conv.weight, block.conv.bias, stride, padding=kernel // 2)
    torch.testing.assert_close(block(x, torch.tensor([0, 3])), expected)
    assert block.conv.bias is not None
    assert not block.conv.is_binary


@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize(
    ("channels_in", "channels_out", "stride"), [(4, 4, 1), (4, 4, 2), (4, 6, 1), (6, 4, 1)]
)
def test_shortcut_needs_equal_shapes(
    channels_in: int, channels_out: int, stride: int, identity: bool
) -> None:
    method = BiDiffSR(shift_groups=1, activation_groups=1, identity_shortcut=identity)
    block = method.conv(channels_in, channels_out, 3, stride)
    assert block.shortcut == (identity and channels_in == channels_out and stride == 1)
    assert block.conv.bias is None
    assert block(torch.randn(1, channels_in, 4, 6), torch.tensor([0])).shape == (
        1,
        channels_out,
        4 // stride,
        6 // stride,
    )


@dataclass(frozen=True)
class Marked(FullPrecision):
    """Stands in for a method: each conv multiplies by a number of its own, so orders show."""

    factors: Iterator[float] = field(default_factory=lambda: iter((10.0, 1000.0)))

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvBlock:
        block = super().conv(channels_in, channels_out, kernel, stride)
        with torch.no_grad():
            block.conv.weight.zero_()
            for channel in range(channels_out):
                block.conv.weight[channel, channel % channels_in, kernel // 2, kernel // 2] = 1
            block.conv.weight.mul_(next(self.factors))
            block.conv.bias.zero_()  # type: ignore[union-attr]
        return block


NO_GROUP = torch.tensor([0])


def test_consistent_down_adds_the_halves_and_unshuffles() -> None:
    x = picture(1, 4, 4, 6).float()
    found = ConsistentDown(4, Marked())(x, NO_GROUP)
    expected = torch.empty(1, 8, 2, 3)
    for channel, row, column in itertools.product(range(2), range(2), range(2)):
        summed = 10 * x[0, channel] + 1000 * x[0, channel + 2]
        expected[0, 4 * channel + 2 * row + column] = summed[row::2, column::2]
    torch.testing.assert_close(found, expected)


def test_consistent_up_concatenates_and_shuffles() -> None:
    x = picture(1, 4, 3, 2).float()
    found = ConsistentUp(4, Marked())(x, NO_GROUP)
    both = torch.cat([10 * x[0], 1000 * x[0]])
    expected = torch.empty(1, 2, 6, 4)
    for channel, row, column in itertools.product(range(2), range(2), range(2)):
        expected[0, channel, row::2, column::2] = both[4 * channel + 2 * row + column]
    torch.testing.assert_close(found, expected)


def test_shuffle_fusion_gives_both_convolutions_half_of_either() -> None:
    x, skip = picture(1, 4, 2, 3).float(), picture(1, 4, 2, 3, seed=1).float()
    found = ShuffleFusion(4, Marked())(x, skip, NO_GROUP)
    first = torch.stack([x[0, 1], x[0, 3], skip[0, 0], skip[0, 2]])
    second = torch.stack([x[0, 0], x[0, 2], skip[0, 1], skip[0, 3]])
    torch.testing.assert_close(found[0], 10 * first + 1000 * second)


def test_other_fusions() -> None:
    x, skip = picture(1, 4, 2, 3).float(), picture(1, 4, 2, 3, seed=1).float()
    torch.testing.assert_close(SplitFusion(4, Marked())(x, skip, NO_GROUP), 10 * x + 1000 * skip)
    torch.testing.assert_close(ConcatFusion(4, Marked())(x, skip, NO_GROUP), 10 * x)


def binarized(network: BiDiffSRUNet) -> dict[str, ConvBlock]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, ConvBlock) and module.conv.is_binary
    }


@pytest.mark.parametrize("fusion", ["cs", "split", "concat", "add"])
@pytest.mark.parametrize("resampling", ["consistent", "strided"])
def test_every_ablation_runs_forward_and_backward(resampling: str, fusion: str) -> None:
    x, cond = torch.randn(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    timesteps = torch.tensor([3, 97])
    switches = itertools.product([True, False], [True, False], [True, False], [1, 2, 5])
    for identity, redistribution, activation, groups in switches:
        config = tiny_network_config(
            resampling=resampling,
            fusion=fusion,
            identity_shortcut=identity,
            timestep_aware_redistribution=redistribution,
            timestep_aware_activation=activation,
            time_groups=groups,
        )
        network = BiDiffSRUNet(config).train()
        blocks = binarized(network)
        assert blocks
        for name, block in blocks.items():
            assert block.shift is not None
            assert block.activation is not None
            assert block.shift.bias.shape[0] == (groups if redistribution else 1), name
            assert block.activation.slope.shape[0] == (groups if activation else 1), name
            resized = isinstance(network.get_submodule(name.rpartition(".")[0]), StridedDown)
            same = block.conv.weight.shape[0] == block.conv.weight.shape[1] and not resized
            assert block.shortcut == (identity and same), name
        result = network(x, cond, timesteps)
        assert result.shape == x.shape
        result.square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{config}: {name}"
            assert parameter.grad.isfinite().all(), f"{config}: {name}"


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_full_precision_levels_are_counted_from_the_shallowest(levels: int) -> None:
    network = BiDiffSRUNet(tiny_network_config(full_precision_up_levels=levels))
    names = binarized(network)
    for index in range(2):  # going up, the deepest comes first
        inside = [name for name in names if name.startswith((f"up.{index}.f", f"up.{index}.b"))]
        assert bool(inside) == (index < 2 - levels)
    assert any(name.startswith("up.0.resample") for name in names)
    assert any(name.startswith("down.0.blocks") for name in names)


def test_full_precision_method_binarizes_nothing() -> None:
    network = BiDiffSRUNet(tiny_network_config(method="full-precision"))
    assert not binarized(network)
    x = torch.randn(1, 3, 4, 4)
    assert network(x, x, torch.tensor([7])).shape == x.shape


def test_strided_resampling_takes_any_widths() -> None:
    network = BiDiffSRUNet(tiny_network_config(resampling="strided", multipliers=(1, 3, 2)))
    x = torch.randn(1, 3, 8, 4)
    assert network(x, x, torch.tensor([7])).shape == x.shape
