"""The blocks of the U-Nets: time embedding, residual block, attention, resampling, fusion.

Every block that holds convolutions takes (x, group): features (B, C, H, W) and the time group
(B,) of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bidiffsr.binary import ConvMethod


class TimeEmbedding(nn.Module):
    """Sines and cosines of the timestep, then two linear layers (docs/method.md, "Time").

    The angles are t · exp(-ln(10⁴) · i / (C/2)) for i < C/2; t is the raw integer timestep.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.frequencies = channels // 2
        self.expand = nn.Linear(channels, 4 * channels)
        self.contract = nn.Linear(4 * channels, channels)

    def forward(self, time: Tensor) -> Tensor:
        """``time`` (B,), any number → (B, C)."""
        weight = self.expand.weight
        index = torch.arange(self.frequencies, dtype=weight.dtype, device=weight.device)
        frequency = torch.exp(-math.log(1e4) / self.frequencies * index)
        angles = time.to(weight.dtype)[:, None] * frequency
        encoding = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.contract(F.silu(self.expand(encoding)))


class ChannelAffine(nn.Module):
    """A learned scale and shift for each channel: what group norm has without its statistics.

    The scale begins small, since nothing else keeps features from growing block by block: each adds
    to its input what it makes of the scaled input, which it holds as a shortcut too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → same."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class SelfAttention(nn.Module):
    """Single-head attention over all positions with a residual, in full precision."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → same."""
        # Contiguous, or PyTorch takes a path that stores the whole attention matrix.
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous()
        query, key, value = qkv[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(attended[:, 0].transpose(1, 2).reshape(x.shape))


class ResidualBlock(nn.Module):
    """Two convolutions with the time embedding added between, and an optional attention.

    Channels in and out are equal, so the shortcut is the full-precision input itself.
    """

    def __init__(
        self,
        channels: int,
        time_channels: int,
        method: ConvMethod,
        *,
        norm: Callable[[int], nn.Module],
        dropout: float,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = method.conv(channels, channels, 3)
        self.time = nn.Linear(time_channels, channels)
        self.norm2 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = method.conv(channels, channels, 3)
        self.attention = SelfAttention(channels, norm) if attention else None

    def forward(self, x: Tensor, time_embedding: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W), (B, C_time), (B,) → (B, C, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)), group)
        h = h + self.time(F.silu(time_embedding))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))), group)
        h = h + x
        return h if self.attention is None else self.attention(h)


class ConsistentDown(nn.Module):
    """CP-Down: (C, H, W) → (2C, H/2, W/2) with every conv keeping its channels.

    Each half of the channels has its own conv; their sum is pixel-unshuffled.
    """

    def __init__(self, channels: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv1 = method.conv(channels // 2, channels // 2, 3)
        self.conv2 = method.conv(channels // 2, channels // 2, 3)

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 2C, H/2, W/2)."""
        first, second = x.chunk(2, dim=1)
        return F.pixel_unshuffle(self.conv1(first, group) + self.conv2(second, group), 2)


class ConsistentUp(nn.Module):
    """CP-Up: (C, H, W) → (C/2, 2H, 2W): two convs of the input, concatenated, pixel-shuffled."""

    def __init__(self, channels: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv1 = method.conv(channels, channels, 3)
        self.conv2 = method.conv(channels, channels, 3)

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C/2, 2H, 2W)."""
        return F.pixel_shuffle(torch.cat([self.conv1(x, group), self.conv2(x, group)], dim=1), 2)


class StridedDown(nn.Module):
    """Ablation of CP-Down: one strided conv that doubles the channels, no shortcut possible."""

    def __init__(self, channels: int, channels_out: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv = method.conv(channels, channels_out, 3, stride=2)

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C_out, H/2, W/2)."""
        return self.conv(x, group)


class NearestUp(nn.Module):
    """Ablation of CP-Up: nearest neighbour ×2, then one conv that changes the channels."""

    def __init__(self, channels: int, channels_out: int, method: ConvMethod) -> None:
        super().__init__()
        self.nearest = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv = method.conv(channels, channels_out, 3)

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C_out, 2H, 2W)."""
        return self.conv(self.nearest(x), group)


class ShuffleFusion(nn.Module):
    """CS-Fusion: both 1×1 convs see half of either input, so their ranges match.

    With channels counted from 0: f1 = [x odd, skip even], f2 = [x even, skip odd]; the convs'
    results are added.
    """

    def __init__(self, channels: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv1 = method.conv(channels, channels, 1)
        self.conv2 = method.conv(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) twice → (B, C, H, W)."""
        first = torch.cat([x[:, 1::2], skip[:, 0::2]], dim=1)
        second = torch.cat([x[:, 0::2], skip[:, 1::2]], dim=1)
        return self.conv1(first, group) + self.conv2(second, group)


class SplitFusion(nn.Module):
    """Ablation of CS-Fusion: a 1×1 conv for each input, unshuffled; the results are added."""

    def __init__(self, channels: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv1 = method.conv(channels, channels, 1)
        self.conv2 = method.conv(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) twice → (B, C, H, W)."""
        return self.conv1(x, group) + self.conv2(skip, group)


class ConcatFusion(nn.Module):
    """Ablation of CS-Fusion: one 1×1 conv 2C → C of the concatenation, no shortcut possible."""

    def __init__(self, channels: int, method: ConvMethod) -> None:
        super().__init__()
        self.conv = method.conv(2 * channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) twice → (B, C, H, W)."""
        return self.conv(torch.cat([x, skip], dim=1), group)


class AddFusion(nn.Module):
    """Ablation of CS-Fusion: the plain sum."""

    def forward(self, x: Tensor, skip: Tensor, group: Tensor) -> Tensor:
        """(B, C, H, W) twice → (B, C, H, W)."""
        return x + skip
