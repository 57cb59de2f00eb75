"""State files: plain values and tensors as torch saves them, with a checksum behind.

The checksum is ours, since torch does not check that of the archive it writes.
"""

from __future__ import annotations

import io
import zlib
from typing import Any

import torch

_CHECKSUM_BYTES = 4


def dumps(state: dict[str, Any]) -> memoryview:
    """The bytes of a state file."""
    data = io.BytesIO()
    torch.save(state, data)
    data.write(zlib.crc32(data.getbuffer()).to_bytes(_CHECKSUM_BYTES, "little"))
    return data.getbuffer()


def loads(data: bytes) -> Any:
    """What `dumps` was given, its tensors on the CPU; whatever is in ``data``, no code of it runs.

    Raises:
        ValueError: the checksum differs.
        Exception: torch raises many kinds for what is no state file.
    """
    content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if zlib.crc32(content) != int.from_bytes(checksum, "little"):
        raise ValueError("checksum")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
