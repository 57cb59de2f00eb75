"""Damaged pictures by the thousand: each is refused in one line, or read as another reader does.

Alone, `python tests/fuzz_images.py [how many]` tries them all and prints what was read otherwise.
"""

from __future__ import annotations

import io
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image

from bidiffsr.errors import BidiffsrError
from bidiffsr.images import decode_image

KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "RGB", {}),
    ("PNG", "LA", {}),
    ("PNG", "P", {}),
    ("JPEG", "RGB", {"quality": 95}),
    ("JPEG", "L", {"progressive": True}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "L", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("BMP", "RGBA", {}),
    ("PPM", "RGB", {}),
    ("PPM", "L", {}),
]

# Upsampling and colour conversion are each reader's own; of lossy formats, nearly equal is equal.
LARGEST_DIFFERENCE = {"JPEG": 12, "WEBP": 12}


def damaged(count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files, the same every time, each with the name of its format."""
    for seed in range(count):
        chance = random.Random(seed)
        kind, mode, options = KINDS[seed % len(KINDS)]
        yield kind, _hurt(chance, _whole(kind, mode, options))


def _whole(kind: str, mode: str, options: dict[str, Any]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 4), np.uint8)
    picture = PIL.Image.fromarray(pixels)
    picture = picture.convert("RGB").quantize(16) if mode == "P" else picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _hurt(chance: random.Random, whole: bytes) -> bytes:
    """One to three bits turned over, a part lost, doubled or zeroed, or a number near the front."""
    data = bytearray(whole)
    near_front = chance.random() < 0.5
    start = chance.randrange(min(len(data), 200) if near_front else len(data))
    length = chance.choice([1, 2, 4, 30])
    match chance.randrange(6):
        case 0:
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:
            data[start] ^= 1 << chance.randrange(8)
        case 2:
            del data[start:]
        case 3:
            del data[start : start + length]
        case 4:
            data[start:start] = data[start : start + length]
        case _:
            data[start : start + length] = chance.randbytes(length)
    return bytes(data)


def verdict(kind: str, data: bytes) -> str:
    """What became of a file: "refused", "equal", "unread" by the other reader, or what differs.

    Any exception but the house's own is let through.
    """
    try:
        read = decode_image(data, max_pixels=1_000_000)
    except BidiffsrError as error:
        assert "\n" not in str(error), str(error)
        return "refused"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = PIL.Image.open(io.BytesIO(data))
            described = {"gamma", "chromaticity", "icc_profile"} & set(other.info)
            exif_turned = other.getexif().get(0x0112, 1) != 1
            pixels = np.asarray(other.convert("RGBA"))
    except Exception as error:
        return f"unread ({type(error).__name__})"
    if described or exif_turned or other.mode.startswith(("I", "F", "CMYK", "LAB")):
        return "not comparable"
    if pixels.shape[:2] != read.pixels.shape[:2]:
        return f"other size: {read.pixels.shape}, {pixels.shape}"
    alpha = np.full(pixels.shape[:2], 255) if read.alpha is None else read.alpha
    difference = np.abs(read.pixels.astype(int) - pixels[..., :3]) * (pixels[..., 3:] > 0)
    largest = max(difference.max(), np.abs(alpha.astype(int) - pixels[..., 3]).max())
    return "equal" if largest <= LARGEST_DIFFERENCE.get(kind, 0) else f"differs by {largest}"


def main(count: int) -> None:
    """Print how many had which verdict, by format."""
    tally = Counter((kind, verdict(kind, data)) for kind, data in damaged(count))
    for (kind, what), number in sorted(tally.items()):
        print(f"{number:6} {kind:5} {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
