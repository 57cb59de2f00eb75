"""The BI-Conv block as one differentiable function: what training runs.

It computes what the block's modules compute one after the other (`bidiffsr.binary.layers`), with
three differences that matter for time alone: the convolution sees bare signs, which are exact in
any float type, and the scale follows it; what surrounds the convolution is one pass over the
features before it and one behind it, forward and backward; and only the input, its signs and the
convolution's sums are kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Epilogue(NamedTuple):
    """What follows the convolution: RPReLU of its scaled sums.

    Each part is (B, C, 1, 1), or (1, C, 1, 1) where all samples have the same.
    """

    scale: Tensor
    bias_in: Tensor
    slope: Tensor
    bias_out: Tensor


@dataclass(frozen=True)
class Kernels:
    """The passes over features, each of which may be compiled into a single loop."""

    signs: Callable[..., Tensor]
    signs_backward: Callable[..., tuple[Tensor, Tensor]]
    epilogue: Callable[..., Tensor]
    epilogue_backward: Callable[..., tuple[Tensor, ...]]


def binary_conv_block(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    epilogue: Epilogue,
    kernels: Kernels,
    *,
    stride: int,
    shortcut: bool,
) -> Tensor:
    """RPReLU(scale · conv(sign(x + shift), sign(weight))), and ``x`` added for a ``shortcut``.

    Under autocast the convolution's operands and sums are of its type, else of the input's.

    Args:
        x: (B, C_in, H, W), float.
        weight: (C_out, C_in, k, k), float; its gradient is straight-through where |w| <= 1, the
            scale a constant factor.
        shift: (B or 1, C_in, 1, 1), TaR's of each sample.
        epilogue: what follows.
        kernels: how it is computed; the results are alike but for rounding.
        stride: of the convolution.
        shortcut: whether ``x`` is added; the shape must then stay.

    Returns:
        (B, C_out, H / stride, W / stride).
    """
    options = _Options(kernels, stride, shortcut)
    result = _BinaryConvBlock.apply(x, weight, shift, *epilogue, options)
    assert isinstance(result, Tensor)
    return result


class _Options(NamedTuple):
    kernels: Kernels
    stride: int
    shortcut: bool


class _BinaryConvBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shift: Tensor, *rest: Any) -> Tensor:
        *parts, options = rest
        # The passes are compiled for plain values, not for tensors that a graph follows.
        x, weight, shift, *epilogue = (each.detach() for each in (x, weight, shift, *parts))
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else x.dtype
        signs = options.kernels.signs(x, shift, dtype)
        weight_signs = weight.sign().to(dtype)
        sums = F.conv2d(signs, weight_signs, None, options.stride, weight.shape[-1] // 2)
        ctx.save_for_backward(x, weight, shift, *epilogue, signs, weight_signs, sums)
        ctx.options = options
        return options.kernels.epilogue(sums, *epilogue, x if options.shortcut else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, shift, *epilogue, signs, weight_signs, sums = ctx.saved_tensors
        options: _Options = ctx.options
        by_sums, *by_epilogue = options.kernels.epilogue_backward(gradients[0], sums, *epilogue[:3])
        by_signs, by_weight, _ = torch.ops.aten.convolution_backward(
            by_sums,
            signs,
            weight_signs,
            bias_sizes=None,
            stride=[options.stride] * 2,
            padding=[weight.shape[-1] // 2] * 2,
            dilation=[1, 1],
            transposed=False,
            output_padding=[0, 0],
            groups=1,
            output_mask=[True, True, False],
        )
        by_x, by_shift = options.kernels.signs_backward(
            by_signs, x, shift, gradients[0] if options.shortcut else None
        )
        by_weight = by_weight.to(weight.dtype) * (weight.abs() <= 1)
        by_shift, *by_epilogue = (
            gradient.sum_to_size(parameter.shape)
            for gradient, parameter in zip(
                (by_shift, *by_epilogue), (shift, *epilogue), strict=True
            )
        )
        return by_x, by_weight, by_shift, *by_epilogue, None


def _signs(x: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(x + shift >= 0, 1.0, -1.0).to(dtype)


def _signs_backward(
    by_signs: Tensor, x: Tensor, shift: Tensor, by_shortcut: Tensor | None
) -> tuple[Tensor, Tensor]:
    # Bi-Real Net's piecewise quadratic (see ``bi_real_derivative``).
    by_x = by_signs * (2 - 2 * (x + shift).abs()).clamp(min=0)
    by_shift = by_x.sum((2, 3), keepdim=True)
    return by_x if by_shortcut is None else by_x + by_shortcut, by_shift


def _epilogue(
    sums: Tensor, scale: Tensor, bias_in: Tensor, slope: Tensor, bias_out: Tensor, x: Tensor | None
) -> Tensor:
    y = scale * sums + bias_in
    result = torch.where(y >= 0, y, slope * y) + bias_out
    return result if x is None else result + x


def _epilogue_backward(
    gradient: Tensor, sums: Tensor, scale: Tensor, bias_in: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by the sums and, for each sample and channel, by the four parts of ``Epilogue``."""
    y = scale * sums + bias_in
    by_y = torch.where(y >= 0, gradient, slope * gradient)
    return (
        (scale * by_y).to(sums.dtype),
        (by_y * sums).sum((2, 3), keepdim=True),
        by_y.sum((2, 3), keepdim=True),
        (gradient * y.clamp(max=0)).sum((2, 3), keepdim=True),
        gradient.sum((2, 3), keepdim=True),
    )


EAGER = Kernels(_signs, _signs_backward, _epilogue, _epilogue_backward)


# Of a network's features, each of which gets a loop of its own, at most.
_SHAPES = 256


@cache
def compiled_kernels() -> Kernels:
    """The passes as compiled loops; the first call with each shape takes some seconds."""
    options: dict[str, Any] = {"dynamic": False, "recompile_limit": _SHAPES}
    parts = (getattr(EAGER, field.name) for field in fields(Kernels))
    return Kernels(*(torch.compile(part, **options) for part in parts))
