"""How much a lossy file may lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bidiffsr.errors import ConfigError

if TYPE_CHECKING:
    import pyvips


@dataclass(frozen=True)
class Compression:
    """How much a lossy file may lose.

    Raises:
        ConfigError: one is out of range.
    """

    quality: int = 95
    """1 to 100."""
    subsampling: str = "4:4:4"
    """Of a JPEG, AVIF or HEIC file's colours: 4:4:4, or 4:2:0 for half their resolution."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}; expected 1 to 100")
        if self.subsampling not in tuple(SUBSAMPLINGS):
            wanted = " or ".join(SUBSAMPLINGS)
            raise ConfigError(f"subsampling is {self.subsampling!r}; expected {wanted}")


SUBSAMPLINGS = {"4:4:4": "off", "4:2:0": "on"}
"""libvips' words for them."""


Pack = Callable[["pyvips.Image", Compression], bytes]
"""Makes a file of a picture, its ICC profile included; raises pyvips.Error where it cannot."""
