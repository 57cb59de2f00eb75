"""What the tests of binarization methods share: small blocks, loops, and how both are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bidiffsr.binary import ConvBlock, method_for
from bidiffsr.binary.packing import PackedWeight
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn.counting import count, total
from helpers import scramble, tiny_network_config

Array = NDArray[np.float64]

SHAPES = [(3, 3, 3, 1), (2, 5, 3, 1), (4, 4, 1, 1), (5, 2, 1, 1), (3, 3, 3, 2)]
"""Channels in and out, kernel, stride."""

_GROUPS = [2, 0, 4, 2]


def block_of(name: str, shape: tuple[int, int, int, int], **changes: Any) -> ConvBlock:
    """A block of the method in float64, every parameter random."""
    block = method_for(tiny_network_config(method=name, **changes)).conv(*shape).double()
    scramble(block, seed=sum(shape))
    return block


def picture(*shape: int, seed: int = 0) -> Tensor:
    """Normal features, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def convolve(active: Array, weight: Array, stride: int = 1) -> Array:
    """Six loops: (C_in, H, W) and (C_out, C_in, k, k) → sums over the taps that lie inside."""
    count_out, channels, kernel, _ = weight.shape
    _, height, width = active.shape
    sums = np.zeros((count_out, -(-height // stride), -(-width // stride)))
    for out, row, column in np.ndindex(sums.shape):
        for channel, tap_row, tap_column in np.ndindex(channels, kernel, kernel):
            y = row * stride + tap_row - kernel // 2
            x = column * stride + tap_column - kernel // 2
            if 0 <= y < height and 0 <= x < width:
                tap = weight[out, channel, tap_row, tap_column]
                sums[out, row, column] += active[channel, y, x] * tap
    return sums


def signs(values: Array) -> Array:
    """+1 from zero up, otherwise -1."""
    return np.array([1.0 if value >= 0 else -1.0 for value in values.flat]).reshape(values.shape)


def with_identity(result: Array, x: Array, stride: int) -> Array:
    """The shortcut of a block whose shape stays."""
    return result + x if result.shape == x.shape and stride == 1 else result


def weight_of(block: ConvBlock) -> Array:
    """The trained weight."""
    return block.conv.weight.detach().numpy()


def vector(block: ConvBlock, name: str) -> Array:
    """A parameter of one set for all timesteps, (C,)."""
    (values,) = block.get_parameter(name).detach().numpy()
    return values


def vector_of_gains(block: ConvBlock) -> Array:
    """The learned gain, (C_out,)."""
    return block.get_parameter("gain").detach().numpy()


def check_block(name: str, loops: Callable[[ConvBlock, Array], Array]) -> None:
    """A batch of mixed timesteps is, sample by sample, what ``loops`` make of (C, H, W).

    With the block's identity, with a learned gain, and without either.
    """
    for shape in SHAPES:
        for changes in ({}, {"weight_gain": True}, {"identity_shortcut": False}):
            block = block_of(name, shape, **changes)
            stride = block.conv.stride
            x = picture(len(_GROUPS), shape[0], *((6, 8) if stride == 2 else (5, 4)))
            found = block(x, torch.tensor(_GROUPS)).detach().numpy()
            for sample, result in zip(x.numpy(), found, strict=True):
                y = loops(block, sample)
                expected = (
                    y
                    if changes.get("identity_shortcut") is False
                    else with_identity(y, sample, stride)
                )
                np.testing.assert_allclose(result, expected, atol=1e-12)


def gained(block: ConvBlock, sums: Array) -> Array:
    """Times the learned gain, where there is one."""
    return sums if block.gain is None else sums * vector_of_gains(block)[:, None, None]


def check_samples_one_by_one(name: str) -> None:
    """A batch of mixed timesteps gives what its samples give alone."""
    block = block_of(name, (4, 4, 3, 1))
    x, groups = picture(len(_GROUPS), 4, 6, 5, seed=1), torch.tensor(_GROUPS)
    together = block(x, groups)
    for index in range(len(x)):
        alone = block(x[index : index + 1], groups[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-13)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Tensor:
    """By ``x``, for a gradient ``upstream`` of the function's value."""
    x = x.clone().requires_grad_(True)
    (result,) = torch.autograd.grad(function(x), x, upstream)
    return result


def slopes(function: Callable[[Tensor], Tensor], points: list[float]) -> list[float]:
    """The derivative that a function of each value by itself passes on."""
    x = torch.tensor(points, dtype=torch.float64)
    thrice = gradient(function, x, torch.full_like(x, -3.0))
    once = gradient(function, x, torch.ones_like(x))
    torch.testing.assert_close(thrice, -3 * once, rtol=1e-14, atol=0)
    return once.tolist()


def packed_of(name: str, weight: Array) -> PackedWeight:
    """What a file keeps of a weight (C_out, C_in, k, k) of the method."""
    out, channels, kernel, _ = weight.shape
    parameters = method_for(tiny_network_config(method=name)).parameters(channels, out, kernel)
    packing = parameters["conv.weight"].packing
    assert packing is not None
    return packing.pack(weight.astype(np.float32))


def unpacked_bits(packed: PackedWeight, columns: int) -> Array:
    """+1 and -1, (C_out, columns)."""
    return np.where(np.unpackbits(packed.signs, axis=1, count=columns) == 1, 1.0, -1.0)


def published_counts(name: str) -> tuple[float, float]:
    """Params in millions and OPs in billions of the method in the published network."""
    both = total(count(BiDiffSRConfig(method=name), 256, 256))
    return both.params / 1e6, both.ops / 1e9
