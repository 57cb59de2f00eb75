"""What fills the slots of a convolution: signs, levels, scales and their gradients.

Those of BI-DiffSR are `ActivationSign` and `ScaledWeightSign` (docs/method.md, "BI-Conv").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WeightDerivative: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(weight, its scale) → what a gradient by the binarized weight is multiplied by."""


def bi_real_derivative(x: Tensor) -> Tensor:
    """2 + 2x on [-1, 0), 2 - 2x on [0, 1), 0 elsewhere (Bi-Real Net, Liu et al. 2018)."""
    return (2 - 2 * x.abs()).clamp_(min=0)


class _ActivationSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = derivative
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * ctx.derivative(x), None


class _ScaledWeightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        scale = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
        ctx.save_for_backward(weight, scale)
        return scale * weight.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        weight, scale = ctx.saved_tensors
        return gradients[0] * scale * (weight.abs() <= 1)


class ActivationSign(nn.Module):
    """Activation binarizer.

    Forward:  a = sign(x), with sign(0) = +1
    Gradient: derivative(x), by default that of Bi-Real Net

    Shape and dtype of the input are kept.
    """

    def __init__(self, derivative: Callable[[Tensor], Tensor] = bi_real_derivative) -> None:
        super().__init__()
        self.derivative = derivative

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs of ``x``, any float tensor."""
        result = _ActivationSign.apply(x, self.derivative)
        assert isinstance(result, Tensor)
        return result


class ScaledWeightSign(nn.Module):
    """Weight binarizer with one scale per output channel.

    Forward:  w_b = alpha_o sign(w), alpha_o = mean |w_o|
    Gradient: alpha_o where |w| <= 1 (straight-through, alpha a constant), 0 elsewhere
    Source:   XNOR-Net (Rastegari et al. 2016), scale; ReActNet (Liu et al. 2020), gradient

    A weight of exactly zero, which only rounding makes, stays zero as in the published code.
    Takes and returns (C_out, C_in, k, k).
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled signs of ``weight``."""
        result = _ScaledWeightSign.apply(weight)
        assert isinstance(result, Tensor)
        return result


class _WeightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, derivative: WeightDerivative) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.derivative = derivative
        return torch.where(weight >= 0, scale, -scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return gradients[0] * ctx.derivative(weight, scale), None, None


class WeightSign(nn.Module):
    """Weight binarizer of a method that says what its scale and its gradient are.

    Forward:  w_b = scale(w) sign(w), with sign(0) = +1
    Gradient: derivative(w, scale(w)), the scale a constant

    Args:
        scale: of a weight (C_out, C_in, k, k), broadcastable to it.
        derivative: of the result by the weight, each value by itself.
    """

    def __init__(self, scale: Callable[[Tensor], Tensor], derivative: WeightDerivative) -> None:
        super().__init__()
        self.scale = scale
        self.derivative = derivative

    def forward(self, weight: Tensor) -> Tensor:
        """(C_out, C_in, k, k) → same: the scaled signs."""
        result = _WeightSign.apply(weight, self.scale(weight.detach()), self.derivative)
        assert isinstance(result, Tensor)
        return result


class _Levels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, highest: int) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1).mul_(highest).round_().div_(highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * ((x >= 0) & (x <= 1)), None


class ActivationLevels(nn.Module):
    """Activation quantizer of DoReFa-Net: 2^bits levels from 0 to 1; one bit says 0 or 1.

    Forward:  round((2^bits - 1) clip(x, 0, 1)) / (2^bits - 1), halves to the even number
    Gradient: 1 on [0, 1], 0 elsewhere

    Shape and dtype of the input are kept.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.highest = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the nearest level of each value of ``x``, any float tensor."""
        result = _Levels.apply(x, self.highest)
        assert isinstance(result, Tensor)
        return result


class InputScale(nn.Module):
    """XNOR-Net's K: what each output of a convolution is multiplied by for its input's magnitudes.

    Forward:  K = A * k, A = mean over channels of |x|, k a box filter of 1 / (width · height)
    Gradient: that of the formula, with the derivative of |x| 0 at 0

    Taps outside the picture count as 0, as they do in the convolution.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), before its sign → (B, 1, H / stride, W / stride)."""
        magnitude = x.abs().mean(dim=1, keepdim=True)
        return F.avg_pool2d(magnitude, self.kernel, self.stride, padding=self.kernel // 2)


class Scheduled(nn.Module):
    """What depends on how far training is."""

    def __init__(self) -> None:
        super().__init__()
        self.progress = 0.0
        """The share of training that is done, 0 to 1 (`set_progress`)."""


class ErrorDecay(Scheduled):
    """IR-Net's error decay estimator (EDE): a gradient of signs that sharpens over training.

    k t (1 - tanh²(t x)), with t = 10^(2 progress - 1) from 0.1 to 10 and k = max(1 / t, 1): the
    derivative of k tanh(t x), first nearly 1 everywhere and at the end nearly that of the sign.
    """

    def forward(self, x: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """The derivative at each value of ``x``, any float tensor, of signs under a scale."""
        sharpness = 10 ** (2 * self.progress - 1)
        slope = max(1 / sharpness, 1.0) * sharpness
        return scale * slope * (1 - (sharpness * x).tanh().square())


def set_progress(network: nn.Module, progress: float) -> None:
    """Tell what in ``network`` depends on it what share of training is done, 0 to 1."""
    for module in network.modules():
        if isinstance(module, Scheduled):
            module.progress = progress


class BalancedWeightSign(nn.Module):
    """Weight binarizer of IR-Net (Libra parameter binarization), a scale each output channel.

    Forward:  w_b = 2^s_o sign(v), v = (w - mean w_o) / std w_o, sign(0) = +1,
              s_o = round(log2(mean |v_o|))
    Gradient: 2^s_o EDE'(v) by v, the scale a constant, and by w through the standardization

    The deviation is that of the n weights, not an estimate over n - 1; where it is 0, so is the
    scale. Takes and returns (C_out, C_in, k, k).
    """

    def __init__(self) -> None:
        super().__init__()
        self.sign = WeightSign(_power_of_two, ErrorDecay())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled signs of the standardized ``weight``."""
        return self.sign(_standardized(weight)).to(weight.dtype)


def _standardized(weight: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each output channel's weights; 0 where all are equal.

    In float64, or the last bits of the mean could decide signs.
    """
    centred = weight.double()
    centred = centred - centred.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    deviation = variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
    return centred / deviation


def _power_of_two(standardized: Tensor) -> Tensor:
    mean = standardized.abs().mean(dim=(1, 2, 3), keepdim=True)
    return mean.log2().round().exp2()


class RectifiedWeightSign(Scheduled):
    """Weight binarizer of ReCU: signs of standardized weights, drawn back to their quantiles.

    Forward:  sign(ReCU(v)), v = 2√2 (w - mean w_o) / std w_o, ReCU(v) = max(min(v, Q), -Q),
              Q = -b ln(2 - 2 tau), b = mean |v|, tau = 0.85 + 0.14 (e^progress - 1) / (e - 1)
    Gradient: that of ``sign`` by ReCU(v), 1 by v within [-Q, Q] and 0 beyond, Q a constant, and by
              w through the standardization

    Args:
        sign: what makes signs of the rectified weights.

    Takes and returns (C_out, C_in, k, k).
    """

    def __init__(self, sign: nn.Module) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, weight: Tensor) -> Tensor:
        """Return the signs of the rectified ``weight``."""
        standardized = 2 * math.sqrt(2) * _standardized(weight)
        tau = 0.85 + 0.14 * math.expm1(self.progress) / math.expm1(1)
        quantile = -math.log(2 - 2 * tau) * standardized.detach().abs().mean()
        return self.sign(standardized.clamp(-quantile, quantile)).to(weight.dtype)
