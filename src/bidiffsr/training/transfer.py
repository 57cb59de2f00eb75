"""Weights of one network as the beginning of another.

Three ways: the very same network; one of another method or precision, whose parameters of equal
name and shape are taken over; and a wider one, whose channels are copies of the narrow one's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bidiffsr.binary.methods import method_for
from bidiffsr.config import BiDiffSRConfig, NetworkConfig
from bidiffsr.nn.layout import (
    ConvBlock,
    Layer,
    Level,
    Role,
    Unit,
    network_layers,
    unet_layout,
)

# Copies must not stay copies: their weights differ by noise of this standard deviation, in units
# of the mean magnitude. It turns about one sign in twenty-five.
_NOISE = 0.1


def transfer(
    source: nn.Module, source_config: NetworkConfig, target: nn.Module, target_config: NetworkConfig
) -> bool:
    """Give ``target`` the weights of ``source``, as far as they can be carried over.

    Returns:
        False, and ``target`` is unchanged, where the networks are too different.
    """
    if source_config == target_config:
        target.load_state_dict(source.state_dict())
        return True
    if not isinstance(source_config, BiDiffSRConfig) or not isinstance(
        target_config, BiDiffSRConfig
    ):
        return False
    if _but(source_config, "method") == _but(target_config, "method"):
        _take_over(source.state_dict(), target, target_config)
        return True
    factor, rest = divmod(target_config.channels, source_config.channels)
    size = ("channels", "norm_groups")
    if rest or _but(source_config, *size) != _but(target_config, *size):
        return False
    if not _block_of_copies(source_config) or not method_for(source_config).scale_follows:
        return False
    target.load_state_dict(_Widening(source.state_dict(), source_config, factor).run())
    return True


def _but(config: BiDiffSRConfig, *fields: str) -> dict[str, object]:
    return config.model_dump(exclude={*fields, "dropout"})


def _take_over(state: dict[str, Tensor], target: nn.Module, config: BiDiffSRConfig) -> None:
    """Copy what ``target`` has too; a plain conv's bias becomes what the method says."""
    biases = {
        f"{layer.name}.conv.bias": f"{layer.name}.{layer.method.bias}"
        for layer in network_layers(config)
        if isinstance(layer, ConvBlock) and layer.method.bias is not None
    }
    own = target.state_dict()
    for theirs, value in state.items():
        name = biases.get(theirs, theirs)
        if name in own and own[name].shape[-value.dim() :] == value.shape:
            own[name] = value.expand_as(own[name]).clone()  # of every time group
    target.load_state_dict(own)


def _block_of_copies(config: BiDiffSRConfig) -> int:
    """How many neighbouring channels are copied as one; 0 where widening is not possible.

    Every CP-Down makes blocks four times as long and the halves it convolves only twice: the
    last half must still hold whole blocks.
    """
    if config.resampling != "consistent" or config.fusion != "cs":
        return 0
    block, rest = divmod(config.channels, 2 ** (len(config.multipliers) - 1))
    return 0 if rest else block


class _Widening:
    """Net2WiderNet (Chen et al. 2016) for BI-DiffSR: a function-preserving start, nearly.

    A map (C',) gives for each wide channel the narrow one it copies. A conv divides its weights
    by the number of copies it reads, so its output, and with it each sign after it, stays as it
    was; this holds for one-bit weights too, whose scale is divided alike. CP-Down, CP-Up and
    CS-Fusion carry the maps along as they carry channels. Exact down to the middle where the norm
    groups keep their size; on the way up, where CS-Fusion halves the blocks of copies, one channel
    in eight of the second deepest level has no narrow counterpart, and norms see other groups.
    """

    def __init__(self, state: dict[str, Tensor], config: BiDiffSRConfig, factor: int) -> None:
        self._narrow = state
        self._config = config
        self._factor = factor
        self._wide: dict[str, Tensor] = {}
        first = torch.arange(config.channels).view(-1, 1, _block_of_copies(config))
        self._first = first.expand(-1, factor, -1).flatten()

    def run(self) -> dict[str, Tensor]:
        """The wide network's parameters by name."""
        config, layout = self._config, unet_layout(self._config)
        self._time_embedding(layout.time_embedding)
        self._carry(layout.stem, torch.arange(config.stem_channels), self._first)
        x = self._first
        widths: list[Tensor] = []
        skips = [x]
        for level in layout.down:
            widths.append(x)
            for block in level.blocks:
                self._block(block, x)
                skips.append(x)
            if level.resample is not None:
                x = self._down(level.resample, x)
                skips.append(x)
        for block in layout.middle:
            self._block(block, x)
        for level in layout.up:
            x = self._up_level(level, x, skips, widths.pop())
        self._carry(layout.tail_norm, x, x)
        self._carry(layout.tail, x, torch.arange(config.tail_channels))
        return self._wide

    def _time_embedding(self, unit: Unit) -> None:
        """Every factor-th frequency of the wide encoding is one of the narrow encoding."""
        expand, contract = unit.layers["expand"], unit.layers["contract"]
        hidden = torch.arange(4 * len(self._first)) % (4 * self._config.channels)
        narrow = self._narrow[f"{expand.name}.weight"][hidden]
        wide = narrow.new_zeros(len(hidden), len(self._first))
        wide[:, :: self._factor] = narrow  # sines fill the first half of the columns, cosines
        self._wide[f"{expand.name}.weight"] = wide  # the second, so one stride takes both
        self._wide[f"{expand.name}.bias"] = self._narrow[f"{expand.name}.bias"][hidden]
        self._carry(contract, hidden, self._first)

    def _up_level(self, level: Level, x: Tensor, skips: list[Tensor], width: Tensor) -> Tensor:
        for fusion, block in zip(level.fusions, level.blocks, strict=True):
            x = self._fusion(fusion, x, skips.pop(), width if level.full_precision else None)
            self._block(block, x)
        return x if level.resample is None else self._up(level.resample, x)

    def _block(self, unit: Unit, x: Tensor) -> None:
        for part in ("norm1", "conv1", "norm2", "conv2"):
            self._carry(unit.layers[part], x, x)
        self._carry(unit.layers["time"], self._first, x)
        if "attention" in unit.layers:
            self._attention(unit, x)

    def _attention(self, unit: Unit, x: Tensor) -> None:
        norm, qkv, out = (unit.layers[f"attention.{part}"] for part in ("norm", "qkv", "out"))
        channels = len(x) // self._factor
        self._carry(norm, x, x)
        self._carry(qkv, x, torch.cat([x, x + channels, x + 2 * channels]))
        # The products grow by the factor, what they are divided by only by its root.
        self._wide[f"{qkv.name}.weight"][: len(x)] /= self._factor**0.5
        self._carry(out, x, x)

    def _down(self, unit: Unit, x: Tensor) -> Tensor:
        half = x[: len(x) // 2]
        for conv in unit.layers.values():
            self._carry(conv, half, half)
        return (4 * half[:, None] + torch.arange(4)).flatten()

    def _up(self, unit: Unit, x: Tensor) -> Tensor:
        for conv in unit.layers.values():
            self._carry(conv, x, x)
        return torch.cat([x, x + len(x) // self._factor])[::4] // 4

    def _fusion(self, unit: Unit, x: Tensor, skip: Tensor, out: Tensor | None) -> Tensor:
        half = len(x) // self._factor // 2
        first = torch.cat([x[1::2] // 2, skip[0::2] // 2 + half])
        second = torch.cat([x[0::2] // 2, skip[1::2] // 2 + half])
        out = second if out is None else out  # a shortcut keeps the input's channels
        self._carry(unit.layers["conv1"], first, out)
        self._carry(unit.layers["conv2"], second, out)
        return out

    def _carry(self, layer: Layer, x: Tensor, out: Tensor) -> None:
        """Widen a layer's parameters by the maps of its input and its output."""
        for name, parameter in layer.parameters.items():
            narrow = self._narrow[name]
            match parameter.role:
                case Role.WEIGHT:
                    self._wide[name] = _widened(narrow, x, out)
                case Role.THRESHOLD:
                    self._wide[name] = narrow[..., x]
                case Role.VECTOR:
                    self._wide[name] = narrow[..., out]


def _widened(narrow: Tensor, x: Tensor, out: Tensor) -> Tensor:
    copies = torch.bincount(x, minlength=narrow.shape[1])
    wide = narrow[out][:, x] / copies[x].view(1, -1, *[1] * (narrow.dim() - 2))
    noise = torch.randn_like(wide) * wide.abs().mean()
    return wide + _NOISE * noise
