"""What belongs to a picture beside its samples: EXIF, XMP, IPTC and comments, from file to file."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from bidiffsr.images import exif
from bidiffsr.images import xmp as xmp_packets
from bidiffsr.images.xmp import Record

# A picture's camera, place and story fill some kilobytes; what is much more is no such thing.
LARGEST = 1 << 24

_PIECE = 1 << 20
_RESOURCES = (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR")
_IPTC_RESOURCE = 0x0404

_NUMBERS = (
    (rb"tiff:Orientation", None),
    (rb"tiff:ImageWidth", 0),
    (rb"tiff:ImageLength", 1),
    (rb"exif:PixelXDimension", 0),
    (rb"exif:PixelYDimension", 1),
)
_XMP_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b[^>/]*>.*?</\1:Thumbnails\s*>", re.DOTALL)


Resolution = tuple[float, float] | None
"""Dots per inch, across and down."""


@dataclass(frozen=True)
class Comment:
    """A text of a PNG, or a JPEG's comment, which has the keyword "Comment"."""

    keyword: str
    text: str

    @property
    def line(self) -> str:
        """For a place without keywords."""
        return self.text if self.keyword == "Comment" else f"{self.keyword}: {self.text}"


@dataclass(frozen=True)
class Metadata:
    """What a file says about its picture.

    Attributes:
        exif: camera, time and place: a TIFF header and what it leads to; empty where there is none.
        xmp: an XMP packet, XML in UTF-8; empty where there is none.
        iptc: IPTC-IIM records; empty where there are none.
        comments: texts.
        record: how bidiffsr made the picture; empty where it did not. In files it is part of `xmp`.
        left_out: a line for each part that was damaged.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    comments: tuple[Comment, ...] = ()
    record: Record = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def fitted(self, width: int, height: int) -> Metadata:
        """What is true of an upright picture of another size, in pixels: no thumbnail, no turn."""
        return replace(
            self,
            exif=exif.fitted(self.exif, width, height) if self.exif else b"",
            xmp=_fitted_xmp(self.xmp, width, height),
        )

    def stated(self, xmp_room: int | None) -> tuple[Metadata, list[str]]:
        """The record put into the XMP packet, as files hold it.

        Args:
            xmp_room: bytes of the largest packet that the file holds; None: any.

        Returns:
            The metadata, and a line if the record has no place there.
        """
        if not self.record:
            return self, []
        packet = xmp_packets.with_record(self.xmp, self.record)
        if packet is None or (xmp_room is not None and len(packet) > xmp_room):
            left = f"{xmp_packets.NAME} is left out: the picture's XMP has no place for it"
            return replace(self, record={}), [left]
        return replace(self, xmp=packet, record={}), []


NO_METADATA = Metadata()


@dataclass
class Collector:
    """Takes in what a file holds, part by part; what is damaged is left out with a line."""

    found: Metadata = Metadata()

    def exif(self, data: bytes) -> None:
        """An EXIF block, with or without the name that JPEG puts before it."""
        self._take("exif", data.removeprefix(b"Exif\0\0"), exif.check)

    def xmp(self, data: bytes) -> None:
        """An XMP packet."""
        before = self.found.xmp
        self._take("xmp", data.rstrip(b"\0"), xmp_packets.check)
        if self.found.xmp != before:
            self._take_record()

    def iptc(self, data: bytes) -> None:
        """IPTC-IIM records, perhaps with zeros behind."""
        self._take("iptc", data.rstrip(b"\0") if data[:1] == b"\0" else data, _check_iptc)

    def photoshop(self, resources: bytes) -> None:
        """Photoshop's image resources, IPTC records perhaps among them."""
        try:
            self.iptc(photoshop_iptc(resources))
        except ValueError as error:
            self.leave_out("IPTC", error)

    def comment(self, keyword: str, text: str) -> None:
        """A text."""
        comments = (*self.found.comments, Comment(keyword, text.rstrip("\0")))
        if sum(len(one.text) for one in comments) > LARGEST:
            self.leave_out("a comment", f"it is larger than {LARGEST >> 20} MiB")
        else:
            self.found = replace(self.found, comments=comments)

    def _take_record(self) -> None:
        """Out of the packet, which then is what other programs have written."""
        packet, text = xmp_packets.without_record(self.found.xmp)
        self.found = replace(self.found, xmp=packet)
        try:
            self.found = replace(self.found, record=xmp_packets.parse_record(text) if text else {})
        except ValueError as error:
            self.leave_out(xmp_packets.NAME, error)

    def leave_out(self, what: str, why: object) -> None:
        """Remember that a part cannot be kept."""
        line = f"{what} is left out ({why}); the picture is whole"
        if line not in self.found.left_out:
            self.found = replace(self.found, left_out=(*self.found.left_out, line))

    def _take(self, name: str, data: bytes, check: Callable[[bytes], None]) -> None:
        if not data or getattr(self.found, name):  # the first counts, as for other readers
            return
        try:
            if len(data) > LARGEST:
                raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
            check(data)
        except ValueError as error:
            self.leave_out(name.upper(), error)
        else:
            self.found = replace(self.found, **{name: bytes(data)})


def photoshop_iptc(data: bytes) -> bytes:
    """The IPTC records among Photoshop's image resources; empty where there are none.

    Source: Adobe Photoshop File Formats Specification, "Image Resource Blocks".

    Raises:
        ValueError: the resources are damaged.
    """
    at = 0
    while at + 12 <= len(data):
        kind, number, name = struct.unpack_from(">4sHB", data, at)
        at += 6 + (name + 2) // 2 * 2  # the name's length counts, and is padded with it
        if kind not in _RESOURCES or at + 4 > len(data):
            raise ValueError("the resources around it are damaged")
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if number == _IPTC_RESOURCE:
            return data[at : at + length]
        at += length + length % 2
    return b""


def photoshop_resource(iptc: bytes) -> bytes:
    """IPTC records as Photoshop's image resource."""
    header = struct.pack(">4sHHI", b"8BIM", _IPTC_RESOURCE, 0, len(iptc))
    return header + iptc + bytes(len(iptc) % 2)


def without_place(metadata: Metadata, name: str) -> list[str]:
    """A line for each part of the metadata, for a format that holds none."""
    held = {
        "EXIF": metadata.exif,
        "XMP": metadata.xmp,
        "IPTC": metadata.iptc,
        "a comment": metadata.comments,
    }
    return [f"{what} is left out: {name} has no place for it" for what in held if held[what]]


def decoded_text(content: bytes) -> str:
    """A text of unknown encoding: UTF-8, or else Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def insert(file: BinaryIO, place: int, content: bytes) -> None:
    """Put bytes into an open file, those behind them further back, a piece at a time."""
    end = file.seek(0, io.SEEK_END)
    while end > place:
        start = max(place, end - _PIECE)
        file.seek(start)
        piece = file.read(end - start)
        file.seek(start + len(content))
        file.write(piece)
        end = start
    file.seek(place)
    file.write(content)


def unpacked(data: bytes) -> bytes:
    """What zlib made small.

    Raises:
        ValueError: it is damaged, or far too large.
    """
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, LARGEST)
    except zlib.error:
        raise ValueError("it cannot be unpacked") from None
    if not unpacker.eof:
        raise ValueError("it is cut short or too large")
    return content


def _fitted_xmp(data: bytes, width: int, height: int) -> bytes:
    for name, side in _NUMBERS:
        number = b"1" if side is None else str((width, height)[side]).encode()
        written = re.compile(name + rb"(\s*=\s*[\"']|\s*>)\s*\d+")
        data = written.sub(
            lambda found, number=number: found[0].rstrip(b"0123456789") + number, data
        )
    return _XMP_THUMBNAILS.sub(b"", data)


def _check_iptc(data: bytes) -> None:
    """IPTC-NAA Information Interchange Model 4.2, section 1.5: each record says how long it is."""
    at = 0
    while at < len(data):
        if data[at] != 0x1C:
            if not data[at:].strip(b"\0"):
                return
            raise ValueError("a record of it begins with no marker")
        if at + 5 > len(data):
            raise ValueError("it is cut short")
        (length,) = struct.unpack_from(">H", data, at + 3)
        at += 5
        if length & 0x8000:  # the length of the length
            size = length & 0x7FFF
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        at += length
    if at > len(data):
        raise ValueError("it is cut short")
