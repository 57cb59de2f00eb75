"""XMP packets: checked, and one property of them, the record of how a picture was made.

Sources: XMP specification, part 1 (ISO 16684-1), section 7; RDF/XML syntax, W3C.
"""

from __future__ import annotations

import json
import re
import xml.parsers.expat
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

Record = Mapping[str, Any]
"""What a picture says of how bidiffsr made it (docs/replay.md): a JSON object, or nothing."""

NAMESPACE = "urn:bidiffsr:record#"
"""Of the property ``record``, whose value is the JSON text."""

NAME = "the record of bidiffsr"
"""For messages."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_LONGEST_RECORD = 1 << 16  # characters; ours take less than a hundredth
_PROPERTY, _GROUP = f"{NAMESPACE} record", f"{_RDF} RDF"
_BEFORE = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="' + _RDF.encode() + b'">'
)
_AFTER = b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
_OPENED = f'<rdf:Description rdf:about="" xmlns:rdf="{_RDF}" xmlns:bidiffsr="{NAMESPACE}">'.encode()
_CLOSED = b"</rdf:Description>"
_TAG = re.compile(rb"""<([^\s/<>"']+)[^<>"']*(?:(?:"[^"]*"|'[^']*')[^<>"']*)*>""")


def check(packet: bytes) -> None:
    """Make sure that a packet is XML in UTF-8.

    Raises:
        ValueError: it is not, or declares a document type.
    """
    try:
        packet.decode("utf-8")
        parser = xml.parsers.expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse_document_type  # it could define endless entities
        parser.Parse(packet, True)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(f"it is no XML: {error}") from None


def with_record(packet: bytes, record: Record) -> bytes | None:
    """A packet, or none, with the record added; None where it has no place for one.

    Args:
        packet: what ``check`` lets pass, without a record; or empty.
        record: what JSON can say.
    """
    text = escape(json.dumps(record, separators=(",", ":"))).encode()
    stated = _OPENED + b"<bidiffsr:record>" + text + b"</bidiffsr:record>" + _CLOSED
    if not packet:
        return _BEFORE + stated + _AFTER
    place = _Reader(packet).group
    if place is None:
        return None
    tag = _TAG.match(packet, place)
    if tag is not None and tag[0].endswith(b"/>"):  # the group is empty
        stated = tag[0][:-2] + b">" + stated + b"</" + tag[1] + b">"
        return packet[:place] + stated + packet[tag.end() :]
    return packet[:place] + stated + packet[place:]


def without_record(packet: bytes) -> tuple[bytes, str]:
    """A packet less its record, and that as text; empty where there is none.

    Args:
        packet: what ``check`` lets pass.
    """
    if NAMESPACE.encode() not in packet:
        return packet, ""
    found = _Reader(packet)
    kept = [0, *(place for cut in found.cuts for place in cut), len(packet)]
    parts = (packet[start:end] for start, end in zip(kept[::2], kept[1::2], strict=True))
    rest = b"".join(parts).replace(_OPENED + _CLOSED, b"")
    return b"" if rest == _BEFORE + _AFTER else rest, found.text


def parse_record(text: str) -> Record:
    """The record that text stands for; nothing in it has been checked but that it is an object.

    Raises:
        ValueError: it is no JSON object.
    """
    if len(text) > _LONGEST_RECORD:
        raise ValueError(f"it is longer than {_LONGEST_RECORD} characters")
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


class _Reader:
    """Where in a packet the record stands, as an element or an attribute, and where one can.

    Attributes:
        group: where the RDF element ends, or begins if it is empty; None where there is none.
        cuts: start and end of each occurrence of the record.
        text: the first of them.
    """

    def __init__(self, packet: bytes) -> None:
        self.group: int | None = None
        self.cuts: list[tuple[int, int]] = []
        self.text = ""
        self._packet = packet
        self._open: tuple[int, int] | None = None
        """Depth and start of the element under way."""
        self._depth = 0
        self._texts: list[str] = []
        parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
        parser.namespace_prefixes = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        self._parser = parser
        if b"\0" in packet:  # it is UTF-16, in which nothing of ours can stand
            return
        try:
            parser.Parse(packet, True)
        except xml.parsers.expat.ExpatError:  # of a prefix that stands for nothing
            self.group, self.cuts, self.text = None, [], ""

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._open is not None:
            return
        at = self._parser.CurrentByteIndex
        tag = _TAG.match(self._packet, at)
        if tag is None:
            return
        empty = tag[0].endswith(b"/>")
        if _bare(name) == _PROPERTY and empty:
            self._found(*tag.span(), "")
        elif _bare(name) == _PROPERTY:
            self._open = self._depth, at
        elif _bare(name) == _GROUP and empty and self.group is None:
            self.group = at
        for key, value in attributes.items():
            if _bare(key) == _PROPERTY and self._open is None:
                self._cut_attribute(tag, key.rsplit(" ", 1)[-1], value)

    def _cut_attribute(self, tag: re.Match[bytes], prefix: str, value: str) -> None:
        name = re.escape(prefix.encode())
        written = re.compile(rb"\s+" + name + rb""":record\s*=\s*("[^"]*"|'[^']*')""")
        place = written.search(self._packet, *tag.span())
        if place is not None:
            self._found(*place.span(), value)

    def _characters(self, text: str) -> None:
        if self._open is not None:
            self._texts.append(text)

    def _end(self, name: str) -> None:
        at = self._parser.CurrentByteIndex
        if self._open is not None and self._open[0] == self._depth:
            end = self._packet.index(b">", at) + 1
            self._found(self._open[1], end, "".join(self._texts))
            self._open, self._texts = None, []
        elif self._open is None and self.group is None and _bare(name) == _GROUP:
            self.group = at
        self._depth -= 1

    def _found(self, start: int, end: int, text: str) -> None:
        self.text = text if not self.cuts else self.text
        self.cuts.append((start, end))


def _bare(name: str) -> str:
    """Namespace and name, without the prefix that stands behind them."""
    return " ".join(name.split(" ")[:2])


def _refuse_document_type(*_: object) -> None:
    raise ValueError("it declares a document type")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
