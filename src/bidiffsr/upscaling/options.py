"""What may be asked of an upscaling, declared and checked once for everybody who asks.

Light to import: the command line reads its options from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from bidiffsr.system.checks import (
    amount_of_memory,
    check_options,
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

_CHECKS = {
    "scale": optional(positive),
    "quality": optional(one_of(*get_args(Quality))),
    "steps": optional(whole(1)),
    "seed": whole(0, MAX_SEED),
    "samples": whole(1, MAX_SAMPLES),
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
    """How many times larger; fractions are fine. Default: the most the model can, which is 4 where
    none is chosen."""
    quality: Quality | None = None
    """fast is most faithful: one step, nothing invented, smooth. best is sharpest: it invents
    detail. balanced lies between. Default: what the model was made for."""
    steps: int | None = None
    """Sampling steps, in place of the quality's: more take longer."""
    seed: int = 0
    """A different number gives different invented detail."""
    samples: int = 1
    """How many different results to make of each picture."""
    tile: TileSize = "auto"
    """Side of the parts that large pictures are worked on in, in pixels, or auto, which is the
    default."""
    max_memory: str | int | None = None
    """What the program may take, such as 2G or 800M. Default: most of what is free."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)

    @property
    def memory(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else int(self.max_memory)


class OneResultKeywords(TypedDict, total=False):
    """The fields of ``UpscaleOptions``, but for ``samples``, as keyword arguments."""

    scale: float | None
    quality: Quality | None
    steps: int | None
    seed: int
    tile: TileSize
    max_memory: str | int | None


class UpscaleKeywords(OneResultKeywords, total=False):
    """The fields of ``UpscaleOptions`` as keyword arguments."""

    samples: int
