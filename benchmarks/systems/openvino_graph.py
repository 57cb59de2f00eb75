"""Our networks as OpenVINO graphs, written by hand from the PyTorch modules.

A graph has one size and one time group. Signs are taken by FakeQuantize with two levels, whose
thresholds per channel are the negated TaR shifts. In the binary form the convolution behind it is
BinaryConvolution, which wants 0 and 1 for -1 and +1, and whose ``pad_value`` 0 leaves taps outside
the picture out of the sum: our zero padding. It is silently wrong with input channels that are no
multiple of 8, so channels are added whose contributions cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset15 as ops
from torch import Tensor, nn

from bidiffsr.binary import BinaryConv2d, ConvBlock
from bidiffsr.nn import BiDiffSRUNet, SR3UNet
from bidiffsr.nn.blocks import (
    ConsistentDown,
    ConsistentUp,
    ResidualBlock,
    SelfAttention,
    ShuffleFusion,
    TimeEmbedding,
)
from bidiffsr.nn.sr3 import SR3Block

Node = Any
"""A value of the graph; OpenVINO's node classes are made at run time."""

_SPATIAL = [2, 3]
# BinaryConvolution's input channels must be a multiple of this.
_CHANNELS = 8


def build_graph(network: nn.Module, height: int, width: int, group: int, *, binary: bool) -> Any:
    """The network's step: inputs x_t, cond (1, 3, H, W) and encoding (1, C), output (1, 3, H, W).

    Args:
        network: a ``BiDiffSRUNet`` as published or an ``SR3UNet``, in evaluation mode.
        height, width: of the picture.
        group: the time group whose parameters the graph holds.
        binary: whether binarized convolutions run on bits; otherwise on floats of -1 and +1.
    """
    if not isinstance(network, BiDiffSRUNet | SR3UNet):
        raise TypeError(f"no graph for {type(network).__name__}")
    x_t = _input("x_t", [1, 3, height, width])
    cond = _input("cond", [1, 3, height, width])
    encoding = _input("encoding", [1, network.config.channels])
    graph = _Graph(group, binary=binary)
    picture = ops.concat([cond, x_t], 1)
    build = graph.bidiffsr if isinstance(network, BiDiffSRUNet) else graph.sr3
    result = build(network, picture, encoding)  # type: ignore[arg-type]
    model: Any = ov.Model
    return model([result], [x_t, cond, encoding], "step")


def below(threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next smaller float: what is above it is at least ``threshold``.

    Denormal numbers are skipped, which the CPU may be told to take for zero.
    """
    smaller = np.nextafter(threshold, np.float32(-np.inf))
    tiny = np.finfo(np.float32).tiny
    return np.where(np.abs(smaller) < tiny, -tiny, smaller).astype(np.float32)


def binary_convolution(x: Node, signs: NDArray[np.bool_], threshold: NDArray[np.float32]) -> Node:
    """Integer sums of sign(x - threshold) times ±1 over a "same" window, as float32.

    Args:
        x: (1, C_in, H, W); sign(0) = +1.
        signs: (C_out, C_in, k, k), True for +1.
        threshold: (C_in,).
    """
    if missing := -signs.shape[1] % _CHANNELS:
        x, signs, threshold = _with_channels(x, signs, threshold, missing)
    bits = np.packbits(signs.reshape(-1), bitorder="little")
    tensor = ov.Tensor(bits, ov.Shape(list(signs.shape)), ov.Type.u1)
    weights = ov.op.Constant(tensor, shared_memory=False)  # copied: ``bits`` ends with this call
    pad = [signs.shape[-1] // 2] * 2
    limit = _per_channel(below(threshold))
    bit = ops.fake_quantize(x, limit, limit, _constant(0.0), _constant(1.0), 2)
    return ops.binary_convolution(bit, weights, [1, 1], pad, pad, [1, 1], "xnor-popcount", 0.0)


def _with_channels(
    x: Node, signs: NDArray[np.bool_], threshold: NDArray[np.float32], more: int
) -> tuple[Node, NDArray[np.bool_], NDArray[np.float32]]:
    """As many channels of +1 with weights of +1 as with weights of -1."""
    if more % 2:
        raise ValueError(f"{signs.shape[1]} channels: an odd number cannot be filled up")
    shape = [1, more, *_shape(x)[2:]]
    plus = np.arange(more) % 2 == 0
    added = np.broadcast_to(plus[:, None, None], (len(signs), more, *signs.shape[2:]))
    return (
        ops.concat([x, ops.constant(np.ones(shape, np.float32))], 1),
        np.concatenate([signs, added], 1),
        np.concatenate([threshold, np.zeros(more, np.float32)]),
    )


def _shape(x: Node) -> list[int]:
    """Of a node's only output, or of one output of several."""
    return list((x if isinstance(x, ov.Output) else x.output(0)).shape)


def _input(name: str, shape: list[int]) -> Node:
    parameter = ops.parameter(shape, np.float32, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _constant(value: Any) -> Node:
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    return ops.constant(np.array(value, np.float32))


def _per_channel(value: Any) -> Node:
    return _constant(np.asarray(value, np.float32)[None, :, None, None])


class _Graph:
    """Turns modules into nodes; each method mirrors one module's forward."""

    def __init__(self, group: int, *, binary: bool) -> None:
        self.group = group
        self.binary = binary

    def bidiffsr(self, network: BiDiffSRUNet, picture: Node, encoding: Node) -> Node:
        embedding = ops.swish(self.time_embedding(network.time_embedding, encoding))
        x = self.conv2d(network.stem, picture)
        skips = [x]
        for level in network.down:
            for block in level.blocks:  # type: ignore[union-attr]
                x = self.residual_block(block, x, embedding)
                skips.append(x)
            if level.resample is not None:
                x = self.resample(level.resample, x)
                skips.append(x)
        for block in network.middle:
            x = self.residual_block(block, x, embedding)
        for level in network.up:
            for fusion, block in zip(level.fusions, level.blocks, strict=True):  # type: ignore[arg-type]
                x = self.fusion(fusion, x, skips.pop())
                x = self.residual_block(block, x, embedding)
            if level.resample is not None:
                x = self.resample(level.resample, x)
        return self.conv2d(network.tail, self.norm_silu(network.tail_norm, x))

    def sr3(self, network: SR3UNet, picture: Node, encoding: Node) -> Node:
        embedding = self.time_embedding(network.time_embedding, encoding)
        x = self.conv2d(network.stem, picture)
        skips = [x]
        for level, blocks in enumerate(network.down):
            for block in blocks:  # type: ignore[union-attr]
                x = self.residual_block(block, x, embedding)
                skips.append(x)
            if level < len(network.downsample):
                x = self.conv2d(network.downsample[level], x)
                skips.append(x)
        for block in network.middle:
            x = self.residual_block(block, x, embedding)
        for level, blocks in enumerate(network.up):
            for block in blocks:  # type: ignore[union-attr]
                x = self.residual_block(block, ops.concat([x, skips.pop()], 1), embedding)
            if level < len(network.upsample):
                x = self.conv2d(network.upsample[level], self.nearest(x))
        return self.conv2d(network.tail, self.norm_silu(network.tail_norm, x))

    def time_embedding(self, module: TimeEmbedding, encoding: Node) -> Node:
        return self.linear(module.contract, ops.swish(self.linear(module.expand, encoding)))

    def residual_block(self, block: Any, x: Node, embedding: Node) -> Node:
        """A ``ResidualBlock``, whose embedding comes with its SiLU done, or an ``SR3Block``."""
        h = self.conv(block.conv1, self.norm_silu(block.norm1, x))
        time = self.linear(block.time, embedding)
        h = self.conv(block.conv2, self.norm_silu(block.norm2, h, time))
        match block:
            case SR3Block(shortcut=nn.Conv2d() as shortcut):
                x = self.conv2d(shortcut, x)
            case SR3Block() | ResidualBlock():
                pass
            case _:
                raise TypeError(f"no graph for {type(block).__name__}")
        h = ops.add(h, x)
        return h if block.attention is None else self.attention(block.attention, h)

    def attention(self, module: SelfAttention, x: Node) -> Node:
        _, channels, height, width = _shape(x)
        normed = self.affine(x, *self.norm_affine(module.norm, x))
        qkv = self.conv2d(module.qkv, normed)
        flat = ops.transpose(
            ops.reshape(qkv, ops.constant(np.array([1, 3 * channels, height * width])), False),
            ops.constant(np.array([0, 2, 1])),
        )
        query, key, value = ops.split(flat, ops.constant(2), 3).outputs()
        attended = ops.scaled_dot_product_attention(query, key, value)
        attended = ops.transpose(attended, ops.constant(np.array([0, 2, 1])))
        attended = ops.reshape(
            attended, ops.constant(np.array([1, channels, height, width])), False
        )
        return ops.add(x, self.conv2d(module.out, attended))

    def fusion(self, module: Any, x: Node, skip: Node) -> Node:
        if not isinstance(module, ShuffleFusion):
            raise TypeError(f"no graph for {type(module).__name__}")
        if not module.conv1.conv.is_binary:
            return self.float_fusion(module, x, skip)
        odd, even = ([self.every_other(one, start) for one in (x, skip)] for start in (1, 0))
        first = ops.concat([odd[0], even[1]], 1)
        second = ops.concat([even[0], odd[1]], 1)
        return ops.add(self.conv(module.conv1, first), self.conv(module.conv2, second))

    def float_fusion(self, module: Any, x: Node, skip: Node) -> Node:
        """The same sums with the shuffle moved into the weights."""
        first, second = (block.conv.weight.detach() for block in (module.conv1, module.conv2))
        half = first.shape[1] // 2
        of_x, of_skip = torch.empty_like(first), torch.empty_like(first)
        of_x[:, 1::2], of_x[:, 0::2] = first[:, :half], second[:, :half]
        of_skip[:, 0::2], of_skip[:, 1::2] = first[:, half:], second[:, half:]
        bias = sum(block.conv.bias.detach() for block in (module.conv1, module.conv2))
        filters = _constant(torch.cat([of_x, of_skip], 1))
        y = ops.convolution(ops.concat([x, skip], 1), filters, [1, 1], [0, 0], [0, 0], [1, 1])
        return ops.add(y, _per_channel(bias))

    def every_other(self, x: Node, start: int) -> Node:
        channels = _shape(x)[1]
        index = ops.constant(np.arange(start, channels, 2))
        return ops.gather(x, index, ops.constant(1))

    def resample(self, module: Any, x: Node) -> Node:
        match module:
            case ConsistentDown():
                first, second = ops.split(x, ops.constant(1), 2).outputs()
                total = ops.add(self.conv(module.conv1, first), self.conv(module.conv2, second))
                return ops.space_to_depth(total, "depth_first", 2)
            case ConsistentUp():
                both = ops.concat([self.conv(module.conv1, x), self.conv(module.conv2, x)], 1)
                return ops.depth_to_space(both, "depth_first", 2)
            case _:
                raise TypeError(f"no graph for {type(module).__name__}")

    def conv(self, module: nn.Module, x: Node) -> Node:
        """A ``ConvBlock``, or the plain convolution that SR3 has in its place."""
        if isinstance(module, nn.Conv2d):
            return self.conv2d(module, x)
        assert isinstance(module, ConvBlock)
        if module.shift is None or module.activation is None:
            return self.conv2d(module.conv, x)
        shift = module.shift.bias.detach().numpy()
        y = self.sign_conv(module.conv, x, -shift[self.group % len(shift)])
        taa = module.activation
        group = self.group % len(taa.slope)
        bias_in, slope, bias_out = (
            value[group].detach().numpy() for value in (taa.bias_in, taa.slope, taa.bias_out)
        )
        y = ops.prelu(ops.add(y, _per_channel(bias_in)), _constant(slope))
        y = ops.add(y, _per_channel(bias_out))
        return ops.add(y, x) if module.shortcut else y

    def sign_conv(self, conv: BinaryConv2d, x: Node, threshold: NDArray[np.float32]) -> Node:
        weight = conv.weight.detach().numpy()
        if not weight.all():
            raise ValueError("a weight of exactly 0 has no sign")
        scale = np.abs(weight).mean((1, 2, 3))
        if self.binary:
            return ops.multiply(binary_convolution(x, weight > 0, threshold), _per_channel(scale))
        pad = [weight.shape[-1] // 2] * 2
        filters = _constant(np.sign(weight) * scale[:, None, None, None])
        positive = ops.greater_equal(x, _per_channel(threshold))
        sign = ops.select(positive, _constant(1.0), _constant(-1.0))
        return ops.convolution(sign, filters, [1, 1], pad, pad, [1, 1])

    def conv2d(self, module: Any, x: Node) -> Node:
        """An ``nn.Conv2d``, or a ``BinaryConv2d`` in full precision."""
        stride = module.stride if isinstance(module.stride, int) else module.stride[0]
        pad = [module.weight.shape[-1] // 2] * 2
        weight = _constant(module.weight)
        y = ops.convolution(x, weight, [stride] * 2, pad, pad, [1, 1])
        return y if module.bias is None else ops.add(y, _per_channel(module.bias.detach()))

    def linear(self, module: nn.Linear, x: Node) -> Node:
        return ops.add(ops.matmul(x, _constant(module.weight), False, True), _constant(module.bias))

    def nearest(self, x: Node) -> Node:
        scales = ops.constant(np.array([2, 2], np.float32))
        return ops.interpolate(
            x,
            scales,
            "nearest",
            "scales",
            [0] * 4,
            [0] * 4,
            "asymmetric",
            "floor",
            axes=ops.constant(np.array(_SPATIAL)),
        )

    def norm_silu(self, norm: nn.GroupNorm, x: Node, time: Node | None = None) -> Node:
        return ops.swish(self.affine(x, *self.norm_affine(norm, x, time)))

    def affine(self, x: Node, scale: Node, shift: Node) -> Node:
        return ops.add(ops.multiply(x, scale), shift)

    def norm_affine(
        self, norm: nn.GroupNorm, x: Node, time: Node | None = None
    ) -> tuple[Node, Node]:
        """Scale and shift (1, C, 1, 1) that make ``x`` the norm of ``x`` + ``time``.

        From the mean and the mean square of each channel, which reductions get without leaving
        the channels-last layout; adding a constant to a channel changes both predictably.
        """
        channels, size = norm.num_channels, _shape(x)[2] * _shape(x)[3]
        axes = ops.constant(np.array(_SPATIAL))
        mean = ops.reduce_mean(x, axes, True)
        length = ops.reduce_l2(x, axes, True)
        square = ops.multiply(ops.multiply(length, length), _constant(1 / size))
        offset = None
        if time is not None:
            offset = ops.reshape(time, ops.constant(np.array([1, channels, 1, 1])), False)
            double = ops.add(ops.multiply(mean, _constant(2.0)), offset)
            square = ops.add(square, ops.multiply(double, offset))
            mean = ops.add(mean, offset)
        mean, square = self.over_group(norm, mean), self.over_group(norm, square)
        variance = ops.subtract(square, ops.multiply(mean, mean))
        deviation = ops.sqrt(ops.add(variance, _constant(norm.eps)))
        scale = ops.divide(_per_channel(norm.weight.detach()), deviation)
        centre = mean if offset is None else ops.subtract(mean, offset)
        shift = ops.subtract(_per_channel(norm.bias.detach()), ops.multiply(centre, scale))
        return scale, shift

    def over_group(self, norm: nn.GroupNorm, value: Node) -> Node:
        """The mean of each group of channels, for each of its channels: (1, C, 1, 1)."""
        groups, channels = norm.num_groups, norm.num_channels
        split = ops.constant(np.array([1, groups, channels // groups, 1]))
        mean = ops.reduce_mean(ops.reshape(value, split, False), ops.constant(np.array([2])), True)
        mean = ops.broadcast(mean, split)
        return ops.reshape(mean, ops.constant(np.array([1, channels, 1, 1])), False)
