"""SR3's U-Net in full precision (Saharia et al. 2021), the rival the tables compare with."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bidiffsr.config import SR3Config
from bidiffsr.nn.blocks import SelfAttention, TimeEmbedding


class SR3Block(nn.Module):
    """Residual block that may change the channels, with a 1×1 conv in its shortcut if so."""

    def __init__(
        self, channels_in: int, channels_out: int, config: SR3Config, *, attention: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(config.channels, channels_out)
        self.norm2 = nn.GroupNorm(config.norm_groups, channels_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.attention = (
            SelfAttention(channels_out, partial(nn.GroupNorm, config.norm_groups))
            if attention
            else None
        )

    def forward(self, x: Tensor, time_embedding: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, C_time) → (B, C_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time_embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        h = h + self.shortcut(x)
        return h if self.attention is None else self.attention(h)


class SR3UNet(nn.Module):
    """SR3: strided convs down, nearest ×2 and a conv up, skips by concatenation.

    Args:
        config: the network; the defaults have the paper's 55,407,235 parameters.
    """

    def __init__(self, config: SR3Config) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        deepest = len(widths) - 1
        self.time_embedding = TimeEmbedding(config.channels)
        self.stem = nn.Conv2d(config.stem_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        self.downsample = nn.ModuleList()
        width = config.channels
        skips = [width]
        for level, level_width in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(config.blocks_per_level):
                blocks.append(SR3Block(width, level_width, config))
                width = level_width
                skips.append(width)
            self.down.append(blocks)
            if level < deepest:
                self.downsample.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                skips.append(width)
        self.middle = nn.ModuleList(
            SR3Block(width, width, config, attention=attention) for attention in (True, False)
        )
        self.up = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks_per_level + 1):
                blocks.append(SR3Block(width + skips.pop(), widths[level], config))
                width = widths[level]
            self.up.append(blocks)
            if level > 0:
                self.upsample.append(nn.Conv2d(width, width, 3, padding=1))
        self.nearest = nn.Upsample(scale_factor=2, mode="nearest")
        self.tail_norm = nn.GroupNorm(config.norm_groups, width)
        self.tail = nn.Conv2d(width, config.tail_channels, 3, padding=1)

    def forward(self, x_t: Tensor, cond: Tensor, t: Tensor) -> Tensor:
        """Predict from the noisy picture.

        Args:
            x_t: noisy picture (B, 3, H, W), float.
            cond: low-resolution picture resized to (B, 3, H, W), float in [0, 1].
            t: noise level (SR3: sqrt of the cumulative alpha) or timestep (B,).

        Returns:
            The prediction (B, 3, H, W).
        """
        time_embedding = self.time_embedding(t)
        patch = self.config.patch
        seen = [F.pixel_unshuffle(cond, patch), F.pixel_unshuffle(x_t, patch)]
        x = self.stem(torch.cat(seen, dim=1))
        skips = [x]
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[union-attr]
                x = block(x, time_embedding)
                skips.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
                skips.append(x)
        for block in self.middle:
            x = block(x, time_embedding)
        for level, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[union-attr]
                x = block(torch.cat([x, skips.pop()], dim=1), time_embedding)
            if level < len(self.upsample):
                x = self.upsample[level](self.nearest(x))
        return F.pixel_shuffle(self.tail(F.silu(self.tail_norm(x))), patch)
