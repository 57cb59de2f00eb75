"""How much a lossy file may lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bidiffsr.system.checks import check_options, one_of, whole

if TYPE_CHECKING:
    import pyvips


SUBSAMPLINGS = {"4:4:4": "off", "4:2:0": "on"}
"""libvips' words for them."""

_CHECKS = {"quality": whole(1, 100), "subsampling": one_of(*SUBSAMPLINGS)}


@dataclass(frozen=True)
class Compression:
    """How much a lossy file may lose.

    Raises:
        OptionError: one is out of range or of another kind.
    """

    quality: int = 95
    """1 to 100."""
    subsampling: str = "4:4:4"
    """Of a JPEG, AVIF or HEIC file's colours: 4:4:4, or 4:2:0 for half their resolution."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)


Pack = Callable[["pyvips.Image", Compression], bytes]
"""Makes a file of a picture, its ICC profile included; raises pyvips.Error where it cannot."""
