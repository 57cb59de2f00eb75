"""What may be asked of a batch beside the upscaling itself; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from bidiffsr.system.checks import check_options, flag, optional, whole

_CHECKS = {
    "overwrite": flag,
    "file_quality": whole(1, 100),
    "max_pixels": optional(whole(1)),
}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How picture files are read and written.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    overwrite: bool = False
    """Replace results that exist."""
    file_quality: int = 95
    """1 to 100, for JPEG and WebP. Default: 95."""
    max_pixels: int | None = None
    """Refuse pictures of more pixels before decoding them. Default: 268 million."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)
