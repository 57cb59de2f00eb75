"""The picture file formats bidiffsr reads and writes, one row each."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from numpy.typing import NDArray

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images import avif, bmp, exr, gif, heic, jpeg, jxl, png, pnm, tiff, webp
from bidiffsr.images.compression import SUBSAMPLINGS, Compression, Pack
from bidiffsr.images.contents import Album, Contents
from bidiffsr.images.libvips import libvips
from bidiffsr.images.metadata import Metadata, Resolution
from bidiffsr.images.timing import Join

if TYPE_CHECKING:
    import pyvips


_STRIP_PIXELS = 1 << 18

Write = Callable[[BinaryIO, Iterator[NDArray[Any]], int, int], None]


@dataclass(frozen=True)
class Format:
    """A file format: how to recognise it, and what it can hold.

    Attributes:
        name: for messages.
        suffixes: lower case, the usual one first.
        signature: matches the first bytes of every such file.
        operation: libvips' word for it: "png" stands for pngload_buffer and pngsave_buffer; empty
            where `contents` and `write` do what libvips cannot.
        contents: what a file's own structure says; raises ImageError, without the file's name.
        embed: puts metadata, and dots per inch where libvips does not, into a file, open for
            reading and writing, that has none; returns a line for each part that does not fit.
        write: writes a file of samples that come some rows at a time, and of a height and width;
            takes the place of libvips.
        unpack: raises ImageError, without the file's name, where what reads it is not installed.
        pack: gives what makes a file of a whole picture, where this libvips does not, else None;
            raises ImageError, without the file's name, where what it takes is not installed.
        extra: what installs that; empty where nothing is needed.
        is_complete: whether the end of a file's bytes is there, where libvips may not notice.
        album: the pictures of a file of several, or None where it has but one; raises ImageError.
        join: makes a file of several pictures; None where files hold one alone.
        timed: whether several are the frames of an animation, rather than pages.
        sixteen_bit: whether samples may have 16 bits, else 8.
        alpha: whether there may be an alpha channel.
        grey: whether there may be one colour channel, else three.
        colour: whether there may be three, else one.
        profiles: whether there may be an ICC profile; else colours are made sRGB.
        lossy: whether written files lose detail, by the quality asked for.
        subsampled: whether their colours may have half the resolution.
        everyday: whether people without special tools want files of it, such as a browser's users.
        largest_side: of a picture, in pixels.
        xmp_room: bytes of the largest XMP packet that it holds; None: any.
        saving_bytes: memory for each pixel that writing takes, where it needs the whole picture at
            once (`python -m benchmarks.saving`).
        options: for libvips when writing.
        exact: for libvips in place of the quality 100, where nothing is to be lost at that.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    contents: Callable[[bytes], Contents]
    embed: Callable[[BinaryIO, Metadata, Resolution], list[str]]
    operation: str = ""
    write: Write | None = None
    unpack: Callable[[], object] = lambda: None
    pack: Callable[[], Pack | None] = lambda: None
    extra: str = ""
    is_complete: Callable[[bytes], bool] = lambda data: True
    album: Callable[[bytes], Album | None] = lambda data: None
    join: Join | None = None
    timed: bool = False
    sixteen_bit: bool = True
    alpha: bool = True
    grey: bool = True
    colour: bool = True
    profiles: bool = True
    lossy: bool = False
    subsampled: bool = False
    everyday: bool = True
    largest_side: int = 10_000_000  # libvips' own limit
    xmp_room: int | None = None
    saving_bytes: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: Mapping[str, Any] = field(default_factory=dict)

    def check_side(self, name: str, side: int, advice: str) -> None:
        """Make sure that files of this format hold a result of this longer side.

        Args:
            name: of the file, for the message.
            side: in pixels.
            advice: what else to do, for the message.

        Raises:
            OutputError: they do not.
        """
        if side > self.largest_side:
            raise OutputError(
                f"{name}: the result would be {side} pixels long; {self.name} holds at most "
                f"{self.largest_side}; {advice}"
            )

    @property
    def is_read(self) -> bool:
        """Whether all is installed that reads such files."""
        try:
            self.unpack()
        except ImageError:
            return False
        return True

    @property
    def is_written(self) -> bool:
        """Whether all is installed that writes such files."""
        try:
            self.check_written(self.name)
        except OutputError:
            return False
        return True

    def check_written(self, name: str) -> None:
        """Make sure that all is installed that writes such files.

        Args:
            name: of the file, for the message.

        Raises:
            OutputError: it is not.
        """
        try:
            self.pack()
        except ImageError as error:
            raise OutputError(f"{name}: {error}") from error.__cause__

    def open(self, data: bytes, page: int = 0) -> pyvips.Image:
        """A picture of this format, its header read, its samples to be decoded once, in order.

        Raises:
            pyvips.Error: the data are damaged; later, too, when the samples are read.
        """
        load = getattr(libvips().Image, f"{self.operation}load_buffer")
        options = {"page": page} if page else {}
        # Below "warning", lost parts of a picture come out grey and count as read.
        picture = load(data, access="sequential", fail_on="warning", **options)
        if not self.is_complete(data):
            raise libvips().Error("the end of the file is missing")
        return picture

    def encode(self, picture: pyvips.Image, compression: Compression) -> bytes:
        """The bytes of a file of this format.

        Raises:
            pyvips.Error: the format cannot hold the picture.
        """
        if self.write is not None:
            file = io.BytesIO()
            self.write(file, _strips(picture), picture.height, picture.width)
            return file.getvalue()
        if (pack := self.pack()) is not None:
            return pack(picture, compression)
        return getattr(picture, f"{self.operation}save_buffer")(**self._options(compression))

    def save(self, picture: pyvips.Image, path: Path, compression: Compression) -> None:
        """Write those bytes to a file, little by little.

        Raises:
            pyvips.Error: the format cannot hold the picture, or the disk not the file.
            OSError: the file cannot be written.
        """
        if self.write is not None:
            with path.open("w+b") as file:
                self.write(file, _strips(picture), picture.height, picture.width)
            return
        if (pack := self.pack()) is not None:
            path.write_bytes(pack(picture, compression))
            return
        getattr(picture, f"{self.operation}save")(os.fspath(path), **self._options(compression))

    def _options(self, compression: Compression) -> dict[str, Any]:
        options: dict[str, Any] = {"keep": "icc", **self.options}  # `embed` does the rest
        if self.exact and compression.quality == 100:
            options |= self.exact
        elif self.lossy:
            options["Q"] = compression.quality
        if self.subsampled:
            options["subsample_mode"] = SUBSAMPLINGS[compression.subsampling]
        return options


def _strips(picture: pyvips.Image) -> Iterator[NDArray[Any]]:
    """Its samples (H, W, C), some rows at a time."""
    rows = max(1, _STRIP_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        height = min(rows, picture.height - top)
        strip = picture.crop(0, top, picture.width, height).numpy()
        yield strip.reshape(height, picture.width, picture.bands)


FORMATS = (
    Format(
        name="PNG",
        suffixes=(".png",),
        signature=re.compile(rb"\x89PNG\r\n\x1a\n"),
        operation="png",
        contents=png.contents,
        embed=png.embed,
        is_complete=png.is_complete,
        album=png.album,
        join=png.join,
        timed=True,
    ),
    Format(
        name="JPEG",
        suffixes=(".jpg", ".jpeg", ".jfif", ".jpe"),
        signature=re.compile(rb"\xff\xd8\xff"),
        operation="jpeg",
        contents=jpeg.contents,
        embed=jpeg.embed,
        is_complete=jpeg.is_complete,
        sixteen_bit=False,
        alpha=False,
        lossy=True,
        subsampled=True,
        largest_side=65500,
        xmp_room=jpeg.XMP_ROOM,
        saving_bytes=13,
        options={"optimize_coding": True},
    ),
    Format(
        name="WebP",
        suffixes=(".webp",),
        signature=re.compile(rb"RIFF....WEBP", re.DOTALL),
        operation="webp",
        contents=webp.contents,
        embed=webp.embed,
        album=webp.album,
        join=webp.join,
        timed=True,
        sixteen_bit=False,
        grey=False,
        lossy=True,
        largest_side=16383,
        saving_bytes=33,
        options={"smart_subsample": True},
    ),
    Format(
        name="TIFF",
        suffixes=(".tif", ".tiff"),
        signature=re.compile(rb"II[*+]\0|MM\0[*+]"),
        operation="tiff",
        contents=tiff.contents,
        embed=tiff.embed,
        album=tiff.album,
        join=tiff.join,
        options={"compression": "deflate", "predictor": "horizontal"},
    ),
    Format(
        name="GIF",
        suffixes=(".gif",),
        signature=re.compile(rb"GIF8[79]a"),
        operation="gif",
        contents=gif.contents,
        embed=gif.embed,
        album=gif.album,
        join=gif.join,
        timed=True,
        sixteen_bit=False,
        grey=False,
        profiles=False,
        largest_side=65535,
        saving_bytes=80,
    ),
    Format(
        name="AVIF",
        suffixes=(".avif",),
        signature=re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
        operation="heif",
        contents=avif.contents,
        embed=avif.embed,
        grey=False,
        lossy=True,
        subsampled=True,
        largest_side=16384,
        saving_bytes=52,
        options={"compression": "av1", "effort": 2},
    ),
    Format(
        name="HEIC",
        suffixes=(".heic", ".heif"),
        signature=re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL),
        operation="heif",
        contents=heic.contents,
        embed=heic.embed,
        unpack=heic.unpack,
        pack=heic.pack,
        extra=heic.EXTRA,
        grey=False,
        lossy=True,
        subsampled=True,
        largest_side=16384,
        saving_bytes=75,
        options={"compression": "hevc"},
    ),
    Format(
        name="JXL",
        suffixes=(".jxl",),
        signature=re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
        operation="jxl",
        contents=jxl.contents,
        embed=jxl.embed,
        unpack=jxl.unpack,
        pack=jxl.pack,
        extra=jxl.EXTRA,
        lossy=True,
        saving_bytes=67,
        exact={"lossless": True},
    ),
    Format(
        name="BMP",
        suffixes=(".bmp",),
        signature=re.compile(rb"BM.{4}\0{4}", re.DOTALL),
        contents=bmp.contents,
        embed=bmp.embed,
        write=bmp.write,
        sixteen_bit=False,
        profiles=False,
        xmp_room=0,
        largest_side=30000,  # so that no file is larger than its header can say
    ),
    Format(
        name="PPM",
        everyday=False,
        suffixes=(".ppm", ".pnm"),
        signature=re.compile(rb"P[36]\s+[#\d]"),
        contents=pnm.contents,
        embed=pnm.embed,
        write=pnm.write_ppm,
        alpha=False,
        grey=False,
        profiles=False,
        xmp_room=0,
    ),
    Format(
        name="PGM",
        everyday=False,
        suffixes=(".pgm",),
        signature=re.compile(rb"P[25]\s+[#\d]"),
        contents=pnm.contents,
        embed=pnm.embed,
        write=pnm.write_pgm,
        alpha=False,
        colour=False,
        profiles=False,
        xmp_room=0,
    ),
    Format(
        name="PAM",
        everyday=False,
        suffixes=(".pam",),
        signature=re.compile(rb"P7\n"),
        contents=pnm.contents,
        embed=pnm.embed,
        write=pnm.write_pam,
        profiles=False,
        xmp_room=0,
    ),
    Format(
        name="PFM",
        everyday=False,
        suffixes=(".pfm",),
        signature=re.compile(rb"P[Ff]\s+[#\d]"),
        contents=pnm.float_contents,
        embed=pnm.embed,
        write=pnm.write_pfm,
        alpha=False,
        profiles=False,
        xmp_room=0,
    ),
    Format(
        name="EXR",
        everyday=False,
        suffixes=(".exr",),
        signature=re.compile(rb"v/1\x01"),
        contents=exr.contents,
        embed=exr.embed,
        write=exr.write,
        unpack=exr.unpack,
        extra=exr.EXTRA,
        profiles=False,
        xmp_room=0,
    ),
)

FORMAT_BY_SUFFIX = {suffix: known for known in FORMATS for suffix in known.suffixes}

FORMAT_BY_NAME = {known.name.lower(): known for known in FORMATS}


def suffix_of(name: str) -> str:
    """The usual suffix of files of a format, by its lower-case name."""
    return FORMAT_BY_NAME[name].suffixes[0]


# Of pictures that are not read, what their files begin with, for messages.
_FOREIGN = {
    "PBM": rb"P[14]\s[#\d]",
    "JPEG 2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)",
    "Photoshop": rb"8BPS",
}


def foreign_name(data: bytes) -> str | None:
    """What a picture that is not read is called, by a file's first 16 bytes."""
    found = (name for name, start in _FOREIGN.items() if re.match(start, data, re.DOTALL))
    return next(found, None)


def format_of(data: bytes) -> Format | None:
    """The format that a file's bytes are in, or None for any other."""
    return next((known for known in FORMATS if known.signature.match(data)), None)
