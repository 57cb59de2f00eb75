"""Weights of one network as the beginning of another.

Three ways: the very same network; one of another method or precision, whose parameters of equal
name and shape are taken over; and a wider one, whose channels are copies of the narrow one's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bidiffsr.config import BiDiffSRConfig, NetworkConfig

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
        _rename_into(source.state_dict(), target)
        return True
    factor, rest = divmod(target_config.channels, source_config.channels)
    size = ("channels", "norm_groups")
    if rest or _but(source_config, *size) != _but(target_config, *size):
        return False
    if not _block_of_copies(source_config):
        return False
    target.load_state_dict(_Widening(source.state_dict(), source_config, factor).run())
    return True


def _but(config: BiDiffSRConfig, *fields: str) -> dict[str, object]:
    return config.model_dump(exclude={*fields, "dropout"})


def _rename_into(state: dict[str, Tensor], target: nn.Module) -> None:
    """Copy what ``target`` has too; a plain conv's bias becomes the bias before the RPReLU."""
    own = target.state_dict()
    for name, value in state.items():
        if name not in own and name.endswith(".conv.bias"):
            name = name.removesuffix(".conv.bias") + ".activation.bias_in"
        if name in own:
            own[name] = value.expand_as(own[name]).clone()
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

    def run(self) -> dict[str, Tensor]:
        """The wide network's parameters by name."""
        config = self._config
        first = torch.arange(config.channels).view(-1, 1, _block_of_copies(config))
        first = first.expand(-1, self._factor, -1).flatten()
        self._time = first
        self._time_embedding()
        self._conv("stem", torch.arange(config.stem_channels), first)
        x = first
        levels = []
        skips = [x]
        for level in range(len(config.multipliers)):
            levels.append(x)
            for index in range(config.blocks_per_level):
                self._block(f"down.{level}.blocks.{index}", x)
                skips.append(x)
            if level + 1 < len(config.multipliers):
                x = self._down(f"down.{level}.resample", x)
                skips.append(x)
        for index in range(2):
            self._block(f"middle.{index}", x)
        for index, level in enumerate(reversed(range(len(config.multipliers)))):
            plain = level < config.full_precision_up_levels
            for part in range(config.blocks_per_level + 1):
                out = levels[level] if plain else None
                x = self._fusion(f"up.{index}.fusions.{part}", x, skips.pop(), out)
                self._block(f"up.{index}.blocks.{part}", x)
            if level > 0:
                x = self._up(f"up.{index}.resample", x)
        self._vectors("tail_norm", x, "weight", "bias")
        self._conv("tail", x, torch.arange(config.tail_channels))
        return self._wide

    def _time_embedding(self) -> None:
        """Every factor-th frequency of the wide encoding is one of the narrow encoding."""
        expand, contract = (f"time_embedding.{part}" for part in ("expand", "contract"))
        hidden = torch.arange(4 * len(self._time)) % (4 * self._config.channels)
        narrow = self._narrow[f"{expand}.weight"][hidden]
        wide = narrow.new_zeros(len(hidden), len(self._time))
        wide[:, :: self._factor] = narrow  # sines fill the first half of the columns, cosines
        self._wide[f"{expand}.weight"] = wide  # the second, so one stride takes both
        self._vectors(expand, hidden, "bias")
        self._conv(contract, hidden, self._time)

    def _block(self, name: str, x: Tensor) -> None:
        for index in (1, 2):
            self._vectors(f"{name}.norm{index}", x, "weight", "bias")
            self._conv_block(f"{name}.conv{index}", x, x)
        self._conv(f"{name}.time", self._time, x)
        if f"{name}.attention.norm.weight" in self._narrow:
            self._attention(f"{name}.attention", x)

    def _attention(self, name: str, x: Tensor) -> None:
        channels = len(x) // self._factor
        self._vectors(f"{name}.norm", x, "weight", "bias")
        self._conv(f"{name}.qkv", x, torch.cat([x, x + channels, x + 2 * channels]))
        # The products grow by the factor, what they are divided by only by its root.
        self._wide[f"{name}.qkv.weight"][: len(x)] /= self._factor**0.5
        self._conv(f"{name}.out", x, x)

    def _down(self, name: str, x: Tensor) -> Tensor:
        half = x[: len(x) // 2]
        for index in (1, 2):
            self._conv_block(f"{name}.conv{index}", half, half)
        return (4 * half[:, None] + torch.arange(4)).flatten()

    def _up(self, name: str, x: Tensor) -> Tensor:
        for index in (1, 2):
            self._conv_block(f"{name}.conv{index}", x, x)
        return torch.cat([x, x + len(x) // self._factor])[::4] // 4

    def _fusion(self, name: str, x: Tensor, skip: Tensor, out: Tensor | None) -> Tensor:
        half = len(x) // self._factor // 2
        first = torch.cat([x[1::2] // 2, skip[0::2] // 2 + half])
        second = torch.cat([x[0::2] // 2, skip[1::2] // 2 + half])
        out = second if out is None else out  # a shortcut keeps the input's channels
        self._conv_block(f"{name}.conv1", first, out)
        self._conv_block(f"{name}.conv2", second, out)
        return out

    def _conv_block(self, name: str, x: Tensor, out: Tensor) -> None:
        self._conv(f"{name}.conv", x, out)
        if f"{name}.shift.bias" in self._narrow:
            self._vectors(f"{name}.shift", x, "bias")
            self._vectors(f"{name}.activation", out, "bias_in", "slope", "bias_out")
            self._vectors(name, out, "gain")

    def _conv(self, name: str, x: Tensor, out: Tensor) -> None:
        narrow = self._narrow[f"{name}.weight"]
        copies = torch.bincount(x, minlength=narrow.shape[1])
        wide = narrow[out][:, x] / copies[x].view(1, -1, *[1] * (narrow.dim() - 2))
        noise = torch.randn_like(wide) * wide.abs().mean()
        self._wide[f"{name}.weight"] = wide + _NOISE * noise
        self._vectors(name, out, "bias")

    def _vectors(self, name: str, channels: Tensor, *parts: str) -> None:
        for part in parts:
            if f"{name}.{part}" in self._narrow:
                self._wide[f"{name}.{part}"] = self._narrow[f"{name}.{part}"][..., channels]
