"""The U-Net of BI-DiffSR on paper: what `bidiffsr.nn.unet` builds of PyTorch modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bidiffsr.binary.methods import ConvMethod, FullPrecision, method_for
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn.layout.layers import Attention, Conv, ConvBlock, Enlargement, Layer, Linear, Norm


@dataclass(frozen=True)
class Unit:
    """What the network is put together from: a residual block, a way down or up, a fusion."""

    name: str
    layers: dict[str, Layer]
    """By their names within it, in PyTorch's order."""


@dataclass(frozen=True)
class Level:
    """Residual blocks at one size, and what surrounds them."""

    fusions: tuple[Unit, ...]
    """Going up, one before each block; going down, none."""
    blocks: tuple[Unit, ...]
    resample: Unit | None
    """The way to the next level."""
    full_precision: bool = False
    """Whether fusions and blocks are so whatever the method is."""

    def units(self) -> Iterator[Unit]:
        """All of them, in PyTorch's order."""
        yield from self.fusions
        yield from self.blocks
        if self.resample is not None:
            yield self.resample


@dataclass(frozen=True)
class UNetLayout:
    """Every layer of the network, by what it is for."""

    time_embedding: Unit
    stem: Conv
    down: tuple[Level, ...]
    """The shallowest first."""
    middle: tuple[Unit, Unit]
    up: tuple[Level, ...]
    """The deepest first."""
    tail_norm: Norm
    tail: Conv

    def layers(self) -> Iterator[Layer]:
        """All layers, in PyTorch's order."""
        yield from self.time_embedding.layers.values()
        yield self.stem
        for level in self.down:
            for unit in level.units():
                yield from unit.layers.values()
        for unit in self.middle:
            yield from unit.layers.values()
        for level in self.up:
            for unit in level.units():
                yield from unit.layers.values()
        yield self.tail_norm
        yield self.tail


def unet_layout(config: BiDiffSRConfig) -> UNetLayout:
    """The layout of the network that ``config`` describes."""
    drawing = _Drawing(config)
    base, levels = config.channels, range(len(config.multipliers))
    deepest, method = levels[-1], method_for(config)
    return UNetLayout(
        time_embedding=time_embedding(base),
        stem=Conv("stem", config.stem_channels, base, 3, config.patch),
        down=tuple(drawing.down_level(level, method) for level in levels),
        middle=(
            drawing.block("middle.0", deepest, method, attention=config.middle_attention),
            drawing.block("middle.1", deepest, method, attention=False),
        ),
        up=tuple(drawing.up_level(level, method) for level in reversed(levels)),
        tail_norm=drawing.norm("tail_norm", 0),
        tail=Conv("tail", base, config.tail_channels, 3, config.patch),
    )


def time_embedding(channels: int) -> Unit:
    """The two linear layers behind the sines of the timestep."""
    name = "time_embedding"
    expand = Linear(f"{name}.expand", channels, 4 * channels)
    contract = Linear(f"{name}.contract", 4 * channels, channels)
    return Unit(name, {"expand": expand, "contract": contract})


def attention_layers(name: str, norm: Norm) -> dict[str, Layer]:
    """Self-attention ``name`` behind its ``norm``, by the names within a residual block."""
    channels, shrink = norm.channels, norm.shrink
    return {
        "attention": Attention(name, channels, shrink),
        "attention.norm": norm,
        "attention.qkv": Conv(f"{name}.qkv", channels, 3 * channels, 1, shrink, bias=False),
        "attention.out": Conv(f"{name}.out", channels, channels, 1, shrink),
    }


class _Drawing:
    """The parts of one network's layout; level 0 is the shallowest."""

    def __init__(self, config: BiDiffSRConfig) -> None:
        self.config = config
        self.widths = [config.channels * multiplier for multiplier in config.multipliers]

    def down_level(self, level: int, method: ConvMethod) -> Level:
        config, name = self.config, f"down.{level}"
        attention = level in config.attention_levels
        blocks = tuple(
            self.block(f"{name}.blocks.{index}", level, method, attention=attention)
            for index in range(config.blocks_per_level)
        )
        if level == len(self.widths) - 1:
            return Level((), blocks, None)
        draw = {"consistent": self._consistent_down, "strided": self._strided_down}
        return Level((), blocks, draw[config.resampling](f"{name}.resample", level, method))

    def up_level(self, level: int, method: ConvMethod) -> Level:
        config, name = self.config, f"up.{len(self.widths) - 1 - level}"
        full_precision = level < config.full_precision_up_levels
        inside = FullPrecision() if full_precision else method
        attention = level in config.attention_levels
        count = range(config.blocks_per_level + 1)
        fusions = tuple(self._fusion(f"{name}.fusions.{index}", level, inside) for index in count)
        blocks = tuple(
            self.block(f"{name}.blocks.{index}", level, inside, attention=attention)
            for index in count
        )
        if level == 0:
            return Level(fusions, blocks, None, full_precision)
        draw = {"consistent": self._consistent_up, "strided": self._nearest_up}
        resample = draw[config.resampling](f"{name}.resample", level, method)
        return Level(fusions, blocks, resample, full_precision)

    def block(self, name: str, level: int, method: ConvMethod, *, attention: bool) -> Unit:
        width, shrink = self.widths[level], self._shrink(level)
        layers: dict[str, Layer] = {
            "norm1": self.norm(f"{name}.norm1", level),
            "conv1": ConvBlock(f"{name}.conv1", method, width, width, 3, shrink),
            "time": Linear(f"{name}.time", self.config.channels, width),
            "norm2": self.norm(f"{name}.norm2", level),
            "conv2": ConvBlock(f"{name}.conv2", method, width, width, 3, shrink),
        }
        if attention:
            inside = f"{name}.attention"
            layers |= attention_layers(inside, self.norm(f"{inside}.norm", level))
        return Unit(name, layers)

    def norm(self, name: str, level: int) -> Norm:
        statistics = self.config.normalization == "group"
        return Norm(name, self.widths[level], self._shrink(level), statistics)

    def _shrink(self, level: int) -> int:
        return self.config.patch * 2**level

    def _consistent_down(self, name: str, level: int, method: ConvMethod) -> Unit:
        return self._two(name, method, self.widths[level] // 2, 3, level)

    def _consistent_up(self, name: str, level: int, method: ConvMethod) -> Unit:
        return self._two(name, method, self.widths[level], 3, level)

    def _strided_down(self, name: str, level: int, method: ConvMethod) -> Unit:
        width, width_out = self.widths[level], self.widths[level + 1]
        conv = ConvBlock(f"{name}.conv", method, width, width_out, 3, self._shrink(level + 1), 2)
        return Unit(name, {"conv": conv})

    def _nearest_up(self, name: str, level: int, method: ConvMethod) -> Unit:
        width, width_out, shrink = (
            self.widths[level],
            self.widths[level - 1],
            self._shrink(level - 1),
        )
        return Unit(
            name,
            {
                "nearest": Enlargement(f"{name}.nearest", ((width, shrink),)),
                "conv": ConvBlock(f"{name}.conv", method, width, width_out, 3, shrink),
            },
        )

    def _fusion(self, name: str, level: int, method: ConvMethod) -> Unit:
        width = self.widths[level]
        match self.config.fusion:
            case "cs" | "split":
                return self._two(name, method, width, 1, level)
            case "concat":
                shrink = self._shrink(level)
                conv = ConvBlock(f"{name}.conv", method, 2 * width, width, 1, shrink)
                return Unit(name, {"conv": conv})
            case "add":
                return Unit(name, {})

    def _two(self, name: str, method: ConvMethod, width: int, kernel: int, level: int) -> Unit:
        shrink = self._shrink(level)
        return Unit(
            name,
            {
                part: ConvBlock(f"{name}.{part}", method, width, width, kernel, shrink)
                for part in ("conv1", "conv2")
            },
        )
