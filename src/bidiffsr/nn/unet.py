"""The U-Net of BI-DiffSR and its ablations (docs/method.md, "Network")."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bidiffsr.binary import ConvMethod, FullPrecision, method_for
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn.blocks import (
    AddFusion,
    ChannelAffine,
    ConcatFusion,
    ConsistentDown,
    ConsistentUp,
    NearestUp,
    ResidualBlock,
    ShuffleFusion,
    SplitFusion,
    StridedDown,
    TimeEmbedding,
)

_FUSIONS: dict[str, Callable[[int, ConvMethod], nn.Module]] = {
    "cs": ShuffleFusion,
    "split": SplitFusion,
    "concat": ConcatFusion,
    "add": lambda channels, method: AddFusion(),
}
_DOWN: dict[str, Callable[[int, int, ConvMethod], nn.Module]] = {
    "consistent": lambda channels, channels_out, method: ConsistentDown(channels, method),
    "strided": StridedDown,
}
_UP: dict[str, Callable[[int, int, ConvMethod], nn.Module]] = {
    "consistent": lambda channels, channels_out, method: ConsistentUp(channels, method),
    "strided": NearestUp,
}


_NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "group": nn.GroupNorm,
    "affine": lambda groups, channels: ChannelAffine(channels),
}


class DownLevel(nn.Module):
    """Residual blocks at one size, then the way to the next."""

    def __init__(self, blocks: list[ResidualBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor, time_embedding: Tensor, group: Tensor) -> list[Tensor]:
        """Return every result that a skip connection keeps, the last of them going on down."""
        results = []
        for block in self.blocks:
            x = block(x, time_embedding, group)
            results.append(x)
        if self.resample is not None:
            results.append(self.resample(x, group))
        return results


class UpLevel(nn.Module):
    """Fusions with the skips, each followed by a residual block, then the way up."""

    def __init__(
        self,
        fusions: list[nn.Module],
        blocks: list[ResidualBlock],
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(
        self, x: Tensor, skips: list[Tensor], time_embedding: Tensor, group: Tensor
    ) -> Tensor:
        """Consume the last skips of the list, one for each block."""
        for fusion, block in zip(self.fusions, self.blocks, strict=True):
            x = block(fusion(x, skips.pop(), group), time_embedding, group)
        return x if self.resample is None else self.resample(x, group)


class BiDiffSRUNet(nn.Module):
    """The network of BI-DiffSR: what it predicts is up to the diffusion it is used in.

    Args:
        config: the network; the defaults are the published one.
    """

    def __init__(self, config: BiDiffSRConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        method = method_for(config)

        self.time_embedding = TimeEmbedding(config.channels)
        self.stem = nn.Conv2d(config.stem_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            self._down_level(level, widths, method) for level in range(len(widths))
        )
        self.middle = nn.ModuleList(
            self._block(widths[-1], method, attention=attention)
            for attention in (config.middle_attention, False)
        )
        self.up = nn.ModuleList(
            self._up_level(level, widths, method) for level in reversed(range(len(widths)))
        )
        self.tail_norm = self._norm(config.channels)
        self.tail = nn.Conv2d(config.channels, config.tail_channels, 3, padding=1)

    def _block(self, channels: int, method: ConvMethod, *, attention: bool) -> ResidualBlock:
        return ResidualBlock(
            channels,
            self.config.channels,
            method,
            norm=self._norm,
            dropout=self.config.dropout,
            attention=attention,
        )

    def _norm(self, channels: int) -> nn.Module:
        return _NORMS[self.config.normalization](self.config.norm_groups, channels)

    def _down_level(self, level: int, widths: list[int], method: ConvMethod) -> DownLevel:
        attention = level in self.config.attention_levels
        blocks = [
            self._block(widths[level], method, attention=attention)
            for _ in range(self.config.blocks_per_level)
        ]
        if level == len(widths) - 1:
            return DownLevel(blocks, None)
        resample = _DOWN[self.config.resampling](widths[level], widths[level + 1], method)
        return DownLevel(blocks, resample)

    def _up_level(self, level: int, widths: list[int], method: ConvMethod) -> UpLevel:
        config = self.config
        full_precision = level < config.full_precision_up_levels
        inside = FullPrecision() if full_precision else method
        attention = level in config.attention_levels
        count = config.blocks_per_level + 1
        fusions = [_FUSIONS[config.fusion](widths[level], inside) for _ in range(count)]
        blocks = [self._block(widths[level], inside, attention=attention) for _ in range(count)]
        if level == 0:
            return UpLevel(fusions, blocks, None)
        # The conv that leads into a full-precision level is binarized all the same.
        resample = _UP[config.resampling](widths[level], widths[level - 1], method)
        return UpLevel(fusions, blocks, resample)

    def group_of(self, t: Tensor) -> Tensor:
        """The time group of each timestep: clamp(floor(t K / T), 0, K - 1), int64 like ``t``."""
        groups = self.config.time_groups
        index = torch.div(t * groups, self.config.timesteps, rounding_mode="floor")
        return index.clamp(0, groups - 1)

    def forward(self, x_t: Tensor, cond: Tensor, t: Tensor) -> Tensor:
        """Predict from the noisy picture.

        Args:
            x_t: noisy variable (B, 3, H, W), float; H, W multiples of ``config.size_multiple``.
            cond: low-resolution picture resized to (B, 3, H, W), float in [0, 1].
            t: integer timesteps (B,), int64, which may differ from sample to sample.

        Returns:
            The prediction (B, 3, H, W).
        """
        group = self.group_of(t)
        time_embedding = self.time_embedding(t)
        x = self.stem(self._stem_input(x_t, cond))
        skips = [x]
        for level in self.down:
            skips += level(skips[-1], time_embedding, group)
        x = skips[-1]
        for block in self.middle:
            x = block(x, time_embedding, group)
        for level in self.up:
            x = level(x, skips, time_embedding, group)
        return F.pixel_shuffle(self.tail(F.silu(self.tail_norm(x))), self.config.patch)

    def _stem_input(self, x_t: Tensor, cond: Tensor) -> Tensor:
        patch = self.config.patch
        if self.config.stem_condition == "mean":
            seen = F.avg_pool2d(cond, patch)
        else:
            seen = F.pixel_unshuffle(cond, patch)
        return torch.cat([seen, F.pixel_unshuffle(x_t, patch)], dim=1)
