"""What size a result gets, and how often the network has to enlarge the picture for it.

One pass enlarges by the network's factor and is then resized. A result that is larger than that
takes two: the first makes the picture just as large as the second needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.images.image import Header
from bidiffsr.images.resize import LARGEST_SCALE, Resizing, resized
from bidiffsr.upscaling.options import UpscaleOptions

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Pass:
    """One enlargement."""

    source: Header
    """Of the picture that goes in."""
    scale: Resizing
    """From this to what comes out; see ``imresize``."""

    @property
    def result(self) -> Size:
        """Of what comes out."""
        return resized((self.source.height, self.source.width), self.scale)


def check_scale(scale: float, factor: int) -> None:
    """Make sure that a model of this ``factor`` can make pictures so much larger.

    Raises:
        ConfigError: it cannot.
    """
    if scale > factor**2:
        raise ConfigError(
            f"scale: got {scale:g}, this model makes pictures up to {factor**2} times larger, in "
            "two passes; for more, upscale its result again"
        )
    if scale * LARGEST_SCALE < factor:
        raise ConfigError(
            f"scale: got {scale:g}, expected a number from 1/{LARGEST_SCALE // factor} to "
            f"{factor**2}; 1 keeps the size"
        )


def lay_passes(header: Header, options: UpscaleOptions, factor: int) -> tuple[Pass, ...]:
    """The passes from a picture to the result that is asked for, one or two.

    Args:
        header: of the picture.
        options: whose scale has been checked.
        factor: the network's.

    Raises:
        ImageError: a side would be larger than two passes make it, or smaller than ``imresize``.
    """
    whole = Pass(header, _asked(header, options, factor))
    sides = zip((header.height, header.width), whole.result, strict=True)
    if all(length <= side * factor for side, length in sides):
        return (whole,)
    # Of what the second pass makes enough, and as small as the first can make it.
    height, width = (
        max(-(-length // factor), -(-side * factor // LARGEST_SCALE))
        for side, length in zip((header.height, header.width), whole.result, strict=True)
    )
    between = height, width
    enlarged = replace(header, height=between[0], width=between[1])
    return Pass(header, between), Pass(enlarged, whole.result)


def _asked(header: Header, options: UpscaleOptions, factor: int) -> Resizing:
    width, height = options.sides
    if width is None and height is None:
        return factor if options.scale is None else options.scale
    if width is None:
        width = max(1, round(header.width * (height or 1) / header.height))
    if height is None:
        height = max(1, round(header.height * width / header.width))
    for name, length, side in (
        ("wide", width, header.width),
        ("high", height, header.height),
    ):
        least, most = -(-side * factor // LARGEST_SCALE), side * factor**2
        if not least <= length <= most:
            raise ImageError(
                f"is {side} pixels {name}, and the result would be {length}; expected {least} to "
                f"{most}: this model makes pictures up to {factor**2} times larger, in two passes"
            )
    return height, width
