"""SR3's U-Net on paper: what `bidiffsr.nn.sr3` builds of PyTorch modules."""

from __future__ import annotations

from collections.abc import Iterator

from bidiffsr.config import SR3Config
from bidiffsr.nn.layout.layers import Conv, Enlargement, Layer, Linear, Norm
from bidiffsr.nn.layout.unet import attention_layers, time_embedding


def sr3_layers(config: SR3Config) -> Iterator[Layer]:
    """Every layer, in PyTorch's order."""
    base, count = config.channels, config.blocks_per_level
    widths = [base * multiplier for multiplier in config.multipliers]
    levels = range(len(widths))
    shrinks = [config.patch * 2**level for level in levels]
    down, up = list(levels[:-1]), list(reversed(levels[1:]))
    yield from time_embedding(base).layers.values()
    yield Conv("stem", config.stem_channels, base, 3, shrinks[0])
    width, skips = base, [base]
    for level in levels:
        for index in range(count):
            yield from _block(f"down.{level}.{index}", width, widths[level], base, shrinks[level])
            width = widths[level]
            skips.append(width)
        if level in down:
            skips.append(width)
    for level in down:
        yield Conv(f"downsample.{level}", widths[level], widths[level], 3, shrinks[level + 1])
    for index in range(2):
        yield from _block(f"middle.{index}", width, width, base, shrinks[-1], index == 0)
    for position, level in enumerate(reversed(levels)):
        for index in range(count + 1):
            name = f"up.{position}.{index}"
            yield from _block(name, width + skips.pop(), widths[level], base, shrinks[level])
            width = widths[level]
    for position, level in enumerate(up):
        yield Conv(f"upsample.{position}", widths[level], widths[level], 3, shrinks[level - 1])
    yield Enlargement("nearest", tuple((widths[level], shrinks[level - 1]) for level in up))
    yield Norm("tail_norm", width, shrinks[0])
    yield Conv("tail", width, config.tail_channels, 3, shrinks[0])


def _block(
    name: str, width: int, width_out: int, time: int, shrink: int, attention: bool = False
) -> Iterator[Layer]:
    yield Norm(f"{name}.norm1", width, shrink)
    yield Conv(f"{name}.conv1", width, width_out, 3, shrink)
    yield Linear(f"{name}.time", time, width_out)
    yield Norm(f"{name}.norm2", width_out, shrink)
    yield Conv(f"{name}.conv2", width_out, width_out, 3, shrink)
    if width != width_out:
        yield Conv(f"{name}.shortcut", width, width_out, 1, shrink)
    if attention:
        inside = f"{name}.attention"
        yield from attention_layers(inside, Norm(f"{inside}.norm", width_out, shrink)).values()
