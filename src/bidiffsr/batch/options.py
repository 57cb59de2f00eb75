"""What may be asked of a batch beside the upscaling itself; light, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from bidiffsr.batch.names import name_template
from bidiffsr.batch.patterns import Patterns, pattern_texts
from bidiffsr.batch.shards import WHOLE, Shard, shard_of, shard_text
from bidiffsr.system.checks import check_options, flag, one_of, optional, whole

FileFormat = Literal[
    "png",
    "jpeg",
    "webp",
    "tiff",
    "gif",
    "avif",
    "heic",
    "jxl",
    "bmp",
    "ppm",
    "pgm",
    "pam",
    "pfm",
    "exr",
]
Subsampling = Literal["4:4:4", "4:2:0"]
PageChoice = Literal["all"]

_SELECTION_CHECKS = {
    "recursive": flag,
    "include": pattern_texts,
    "exclude": pattern_texts,
    "shard": optional(shard_text),
}

_CHECKS = {
    "overwrite": flag,
    "format": optional(one_of(*get_args(FileFormat))),
    "name": optional(name_template),
    "pages": optional(one_of(*get_args(PageChoice))),
    "file_quality": whole(1, 100),
    "subsampling": one_of(*get_args(Subsampling)),
    "mean": flag,
    "uncertainty": flag,
    "strip": flag,
    "keep_times": flag,
    "max_pixels": optional(whole(1)),
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which pictures are taken.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    recursive: bool = False
    """Look into folders inside folders."""
    include: tuple[str, ...] = ()
    """Of a folder's pictures, take those whose name, or a folder's that they are in, matches a
    pattern such as 'IMG_*'; with / it is for the path inside the folder. May be repeated."""
    exclude: tuple[str, ...] = ()
    """Of a folder's pictures, leave out those that match, in the same way. May be repeated."""
    shard: str | None = None
    """Do one part of the pictures, such as 2/16, the second of 16; other machines do the others.
    A picture's path inside its folder decides which part it is in."""

    def __post_init__(self) -> None:
        check_options(self, _SELECTION_CHECKS)

    @property
    def patterns(self) -> Patterns:
        """For the pictures of folders."""
        return Patterns(self.include, self.exclude)

    @property
    def part(self) -> Shard:
        """What is to be done here."""
        return WHOLE if self.shard is None else shard_of(self.shard)


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How picture files are read and written.

    Raises:
        OptionError: a value is of the wrong kind or out of range; the message names the option.
    """

    overwrite: bool = False
    """Replace results that exist."""
    format: FileFormat | None = None
    """Of the results. Default: each picture's own."""
    name: str | None = None
    """Names of the results, such as {stem}_x{scale}{ext}; also {width} and {height} that were
    asked for, {seed} and {sample}. {stem}{ext} keeps the names, in another folder."""
    pages: PageChoice | None = None
    """all: of a file of several pages or frames, upscale every one, into one file like it. Default:
    such a file is refused."""
    file_quality: int = 95
    """1 to 100, for JPEG, WebP, AVIF, HEIC and JXL. Default: 95."""
    subsampling: Subsampling = "4:4:4"
    """Of a JPEG, AVIF or HEIC file's colours: 4:4:4 keeps them sharp, 4:2:0 makes smaller files.
    Default: 4:4:4."""
    mean: bool = False
    """With several samples: also write their mean, more faithful and smoother than each of them."""
    uncertainty: bool = False
    """With several samples: also write how far they are apart in each pixel, as a picture from
    black to white (photo_x4_uncertainty.png) and as data, whose 65535 is a standard deviation of
    the whole range (photo_x4_deviation.png)."""
    strip: bool = False
    """Write nothing but the picture and its colours: no place, camera, date, text or resolution."""
    keep_times: bool = False
    """Give the results the date and time at which their pictures were last changed."""
    max_pixels: int | None = None
    """Refuse pictures of more pixels before decoding them. Default: 268 million."""

    def __post_init__(self) -> None:
        check_options(self, _CHECKS)

    @property
    def summaries(self) -> dict[str, str | None]:
        """What is written of all samples together, and its suffix, where that is its own."""
        mean = {"mean": None} if self.mean else {}
        apart = {"uncertainty": ".png", "deviation": ".png"} if self.uncertainty else {}
        return mean | apart
