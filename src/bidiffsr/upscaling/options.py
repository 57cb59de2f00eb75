"""What may be asked of an upscaling, declared and checked once for everybody who asks.

Light to import: the command line reads its options from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from bidiffsr.errors import OptionError
from bidiffsr.system.checks import (
    amount_of_memory,
    check_options,
    dimensions,
    flag,
    one_of,
    optional,
    positive,
    whole,
    word_or,
)

Quality = Literal["fast", "balanced", "best"]
TileSize = int | Literal["auto"]

MAX_SEED = 2**64 - 1
MAX_SAMPLES = 2**32
MAX_SIDE = 10_000_000
"""Of a result, in pixels; no picture format holds more."""

_CHECKS = {
    "scale": optional(positive),
    "size": optional(dimensions(MAX_SIDE)),
    "width": optional(whole(1, MAX_SIDE)),
    "height": optional(whole(1, MAX_SIDE)),
    "quality": optional(one_of(*get_args(Quality))),
    "steps": optional(whole(1)),
    "seed": whole(0, MAX_SEED),
    "samples": whole(1, MAX_SAMPLES),
    "ensemble": flag,
    "tile": word_or("auto", whole(1)),
    "max_memory": optional(amount_of_memory),
}


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions:
    """How pictures are upscaled; whether a model can, ``Upscaler.check`` says.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    scale: float | None = None
    """How many times larger; fractions are fine, and what is more than the model's own takes two
    passes. Default: the model's, which is 4 where none is chosen."""
    size: str | None = None
    """Exact size of the results instead, such as 1920x1080: width, then height."""
    width: int | None = None
    """Exact width of the results instead, in pixels; alone it keeps the shape."""
    height: int | None = None
    """Exact height of the results instead, in pixels; alone it keeps the shape."""
    quality: Quality | None = None
    """fast is most faithful: one step, nothing invented, smooth. best is sharpest: it invents
    detail. balanced lies between. Default: what the model was made for."""
    steps: int | None = None
    """Sampling steps, in place of the quality's: more take longer."""
    seed: int = 0
    """A different number gives different invented detail."""
    samples: int = 1
    """How many different results to make of each picture."""
    ensemble: bool = False
    """Average the results of the picture turned and mirrored in all eight ways: still more
    faithful, eight times as slow, and only for a single step, such as quality fast."""
    tile: TileSize = "auto"
    """Side of the parts that large pictures are worked on in, in pixels, or auto, which is the
    default."""
    max_memory: str | int | None = None
    """What the program may take, such as 2G or 800M. Default: most of what is free."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)
        given = [name for name in ("scale", "size", "width", "height") if getattr(self, name)]
        if len(given) > 1 and given != ["width", "height"]:
            raise OptionError(given[1], f"got it beside {given[0]}, expected one of them")

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """Width and height asked for, in pixels; None where they follow from the picture."""
        if self.size is None:
            return self.width, self.height
        width, height = map(int, self.size.split("x"))
        return width, height

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory)


class OneResultKeywords(TypedDict, total=False):
    """The fields of ``UpscaleOptions``, but for ``samples``, as keyword arguments."""

    scale: float | None
    size: str | None
    width: int | None
    height: int | None
    quality: Quality | None
    steps: int | None
    seed: int
    ensemble: bool
    tile: TileSize
    max_memory: str | int | None


class UpscaleKeywords(OneResultKeywords, total=False):
    """The fields of ``UpscaleOptions`` as keyword arguments."""

    samples: int
