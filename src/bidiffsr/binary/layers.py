"""Convolutions whose activations and weights may be binarized, and what surrounds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bidiffsr.binary.fused import Epilogue, Kernels, binary_conv_block
from bidiffsr.binary.quantizers import (
    ActivationSign,
    ScaledWeightSign,
    bi_real_derivative,
)


class TimestepShift(nn.Module):
    """TaR: a learned shift per channel and time group before the sign.

    Its K sets are gathered by the group of each sample, so that a batch may mix timesteps.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """Shift ``x`` (B, C, H, W) by the set of each sample's ``group`` (B,), int64."""
        return x + _per_sample(self.bias, group)


class TimestepRPReLU(nn.Module):
    """TaA: RPReLU(y) = PReLU(y + b0; slope) + b1 per channel and group."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.bias_in = nn.Parameter(torch.zeros(groups, channels))
        self.slope = nn.Parameter(torch.full((groups, channels), 0.25))
        self.bias_out = nn.Parameter(torch.zeros(groups, channels))

    def forward(self, y: Tensor, group: Tensor) -> Tensor:
        """Apply each sample's set to ``y`` (B, C, H, W); ``group`` (B,) int64."""
        y = y + _per_sample(self.bias_in, group)
        negative = _per_sample(self.slope, group) * y
        return torch.where(y >= 0, y, negative) + _per_sample(self.bias_out, group)


def _per_sample(parameter: Tensor, group: Tensor) -> Tensor:
    """(K, C), (B,) → (B, C, 1, 1); a single set serves every group."""
    if parameter.shape[0] == 1:
        return parameter[:, :, None, None]
    return parameter[group][:, :, None, None]


class BinaryConv2d(nn.Module):
    """A "same" convolution with two slots; an empty slot leaves that side in full precision.

    Zero padding comes after the activation's sign, so a tap outside contributes 0.

    Args:
        channels_in, channels_out: channels.
        kernel: odd kernel size.
        stride: stride; H and W must then be divisible by it.
        activation: binarizer of the input, e.g. ``ActivationSign()``.
        weight: binarizer of the weight, e.g. ``ScaledWeightSign()``.
        bias: whether a bias is added.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        activation: nn.Module | None = None,
        weight: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        initial = nn.Conv2d(channels_in, channels_out, kernel)
        self.weight = initial.weight
        self.bias = initial.bias if bias else None
        self.stride = stride
        self.binarize_activation = activation
        self.binarize_weight = weight
        self.scale_map: nn.Module | None = None
        """What the result is multiplied by, a function of the real input, if anything; only
        without a bias, and where the weights of an output channel have one magnitude."""

    @property
    def weight_bits(self) -> int:
        """Bits a stored weight takes at inference: 1 or 32."""
        return 32 if self.binarize_weight is None else 1

    @property
    def is_binary(self) -> bool:
        """Whether multiply-accumulates are one-bit operations: both slots are filled."""
        return self.binarize_weight is not None and self.binarize_activation is not None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C_out, H / stride, W / stride), float."""
        active = x if self.binarize_activation is None else self.binarize_activation(x)
        weight = self.weight if self.binarize_weight is None else self.binarize_weight(self.weight)
        padding = weight.shape[-1] // 2
        if self.scale_map is None:
            return F.conv2d(active, weight, self.bias, self.stride, padding)
        # Bare signs add up exactly, as they do in the engine: where they cancel each other, the sum
        # is 0, and rounding does not decide the next sign.
        scale = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
        scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
        y = F.conv2d(active, weight / scale, None, self.stride, padding)
        return y * scale[:, 0] * self.scale_map(x)


class ConvBlock(nn.Module):
    """The BI-Conv block of BI-DiffSR: shift → conv (→ gain) → activation → + identity (→ + help).

    In full precision all but the conv are absent and it is a plain biased one.
    """

    def __init__(
        self,
        conv: BinaryConv2d,
        *,
        shift: TimestepShift | None = None,
        gain: bool = False,
        activation: TimestepRPReLU | None = None,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.conv = conv
        self.gain = nn.Parameter(torch.ones(len(conv.weight))) if gain else None
        self.activation = activation
        self.shortcut = shortcut
        self.help: nn.Conv2d | None = None
        """A full-precision convolution of the input whose result is added, if any."""
        self.kernels: Kernels | None = None
        """What training runs in place of the modules, if anything (see ``fuse``)."""

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """``x`` (B, C_in, H, W) float, ``group`` (B,) int64 → (B, C_out, H', W')."""
        if self.kernels is not None and self.training and self.conv.is_binary:
            y = self._fused(x, group, self.kernels)
        else:
            y = self._plain(x, group)
        return y if self.help is None else y + self.help(x)

    def _plain(self, x: Tensor, group: Tensor) -> Tensor:
        y = self.conv(x if self.shift is None else self.shift(x, group))
        if self.gain is not None:
            y = self.gain[:, None, None] * y
        if self.activation is not None:
            y = self.activation(y, group)
        return x + y if self.shortcut else y

    def _fused(self, x: Tensor, group: Tensor, kernels: Kernels) -> Tensor:
        shift, activation, weight = self.shift, self.activation, self.conv.weight
        assert shift is not None and activation is not None
        scale = weight.detach().abs().mean(dim=(1, 2, 3))
        if self.gain is not None:
            scale = scale * self.gain
        epilogue = Epilogue(
            scale[None, :, None, None],
            _per_sample(activation.bias_in, group),
            _per_sample(activation.slope, group),
            _per_sample(activation.bias_out, group),
        )
        return binary_conv_block(
            x,
            weight,
            _per_sample(shift.bias, group),
            epilogue,
            kernels,
            stride=self.conv.stride,
            shortcut=self.shortcut,
        )


def fuse(network: nn.Module, kernels: Kernels) -> None:
    """Have the BI-Conv blocks of ``network`` train as one function each (`binary.fused`).

    Blocks of other methods, and all of them in evaluation mode, run module by module as before.
    """
    for block in network.modules():
        if (
            isinstance(block, ConvBlock)
            and isinstance(block.conv.binarize_activation, ActivationSign)
            and block.conv.binarize_activation.derivative is bi_real_derivative
            and isinstance(block.conv.binarize_weight, ScaledWeightSign)
            and block.shift is not None
            and block.activation is not None
        ):
            block.kernels = kernels
