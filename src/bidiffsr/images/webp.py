"""WebP's own structure: how many frames.

Source: the WebP container specification (RFC 9649, section 2).
"""

from __future__ import annotations

import struct

from bidiffsr.images.contents import Contents, refuse_pages

_FIRST_CHUNK = 12


def contents(data: bytes) -> Contents:
    """What a WebP file's chunks say.

    Raises:
        ImageError: it is an animation.
    """
    frames, position = 0, _FIRST_CHUNK
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        frames += name == b"ANMF"
        position += 8 + length + length % 2
    if frames > 1:
        raise refuse_pages(frames)
    return Contents(data)
