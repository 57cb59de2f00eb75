"""Files that OpenImageIO decodes, for the formats that libvips does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bidiffsr.images.contents import damaged
from bidiffsr.images.extras import optional


@dataclass(frozen=True)
class Decoded:
    """What it found.

    Attributes:
        described: its `ImageSpec`.
        samples: flat or (H, W, C), of the kind that was asked for; None where they cannot be had.
        complaint: of its, on one line; empty where it has none.
    """

    described: Any
    samples: NDArray[Any] | None
    complaint: str


def decode(
    pieces: Iterable[bytes | memoryview], suffix: str, kind: str, extra: str, name: str
) -> Decoded:
    """Decode a file.

    Args:
        pieces: its bytes.
        suffix: of its format, such as ".jxl".
        kind: of samples that is wanted, in its words: "uint8", "uint16", "float".
        extra: see `optional`.
        name: of the format, for messages.

    Raises:
        ImageError: it has no header that can be read, or OpenImageIO is not installed.
    """
    imageio = optional("OpenImageIO", extra, name)
    with tempfile.TemporaryDirectory(prefix="bidiffsr-") as folder:
        path = Path(folder, f"picture{suffix}")  # it is found by its suffix, and takes no bytes
        with path.open("wb") as written:
            written.writelines(pieces)
        file = imageio.ImageInput.open(str(path))
        if file is None:
            raise damaged(_one_line(imageio.geterror()) or "its header cannot be read")
        described = file.spec()
        samples = file.read_image(kind)
        complaint = _one_line(file.geterror())
        file.close()
    return Decoded(described, samples, complaint)


def _one_line(said: Any) -> str:
    return " ".join(str(said).split())[:200]
