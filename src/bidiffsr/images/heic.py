"""HEIC: pictures that HEVC makes small, in AVIF's boxes.

libvips reads and writes them where its libheif has codecs for HEVC, else pillow-heif does (the
extra `heif`). What stands beside the samples, libvips reads in any case.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.images import avif
from bidiffsr.images.compression import Compression, Pack
from bidiffsr.images.contents import Contents, Raw, damaged
from bidiffsr.images.extras import optional
from bidiffsr.images.image import from_float
from bidiffsr.images.libvips import libvips
from bidiffsr.images.libvips import metadata as item
from bidiffsr.images.metadata import Metadata, Resolution

if TYPE_CHECKING:
    import pyvips

_NAME, EXTRA = "HEIC", "heif"
_DEEP_BITS = 12  # of what has 16, as libvips writes them
# 16 by 16 black pixels, by x265.
BLACK = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABmgABAAAAAAAAACEAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAAAHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4"
    "+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrprmwIA"
    "AAMAMgAAAwACEGIAAQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNs"
    "YXAAAAAQAAAAAQAAABAAAAAB////0AAAAAL////QAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQAB"
    "BYECAwWEAAAAKW1kYXQAAAAdKAGuCCQkGcDbKDSP90rLluSyoQHwpodtwJcoqIA="
)


def contents(data: bytes) -> Contents:
    """What a HEIC file's boxes say.

    Raises:
        ImageError: see `avif.contents`; or what decodes it is not installed.
    """
    found = avif.contents(data)
    picture = avif.opened(data)
    if item(picture, "heif-compression", "hevc") != "hevc" or _in_libvips("load"):
        return found
    heif = optional("pillow_heif", EXTRA, _NAME)
    raw = Raw(
        *(picture.height, picture.width, picture.bands, 1 if picture.format == "uchar" else 2),
        lambda: _samples(heif, data, picture),
        icc=lambda: item(picture, "icc-profile-data", None),
    )
    return replace(found, raw=raw)


def _samples(heif: ModuleType, data: bytes, picture: pyvips.Image) -> NDArray[Any]:
    """Samples (H, W, C), the whole range of uint8 or uint16.

    Raises:
        ImageError: the file is damaged.
    """
    try:
        file = heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
        samples, bits = np.asarray(file), file.info["bit_depth"]
    except (ValueError, EOFError, SyntaxError, RuntimeError, OSError) as error:
        raise damaged(" ".join(str(error).split()) or "its samples are not all there") from error
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[:2] != (picture.height, picture.width):
        raise damaged("its samples are not as many as it says")
    if samples.shape[2] < picture.bands:
        samples = np.repeat(samples[..., :1], picture.bands, axis=2)
    samples = samples[..., : picture.bands]
    if samples.dtype == np.uint8:
        return samples
    most = (1 << bits) - 1
    return from_float(np.arange(most + 1) / most, np.uint16)[np.minimum(samples, most)]


def unpack() -> None:
    """Make sure that something decodes such files.

    Raises:
        ImageError: nothing does, since it is not installed.
    """
    if not _in_libvips("load"):
        optional("pillow_heif", EXTRA, _NAME)


def pack() -> Pack | None:
    """What makes a file of a picture, where libvips does not.

    Raises:
        ImageError: nothing does, since it is not installed.
    """
    if _in_libvips("save"):
        return None
    return partial(_packed, optional("pillow_heif", EXTRA, _NAME))


def _packed(heif: ModuleType, picture: pyvips.Image, compression: Compression) -> bytes:
    """The bytes of a file, without metadata but the profile.

    Raises:
        pyvips.Error: it cannot be encoded.
    """
    samples = picture.numpy().reshape(picture.height, picture.width, picture.bands)
    if picture.bands < 3:
        samples = samples[..., [0, 0, 0, *range(1, picture.bands)]]
    mode = {3: "RGB", 4: "RGBA"}[samples.shape[2]] + ("" if samples.itemsize == 1 else ";16")
    profile = item(picture, "icc-profile-data", None)
    file = io.BytesIO()
    try:
        made = heif.from_bytes(mode, (picture.width, picture.height), samples.tobytes())
        made.save(
            file,
            quality=compression.quality,
            chroma=compression.subsampling.replace(":", ""),
            bit_depth=_DEEP_BITS,
            **({} if profile is None else {"icc_profile": bytes(profile)}),
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise libvips().Error(str(error)) from error
    return file.getvalue()


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """See `avif.embed`."""
    return avif.embed(file, metadata, dpi, _NAME)


@cache
def _in_libvips(what: str) -> bool:
    """Whether this libvips can load or save HEVC, which only trying tells."""
    try:
        if what == "save":
            libvips().Image.black(16, 16, bands=3).heifsave_buffer(compression="hevc")
        else:
            libvips().Image.heifload_buffer(BLACK).copy_memory()
    except (libvips().Error, AttributeError):  # of the latter, it has no such operation
        return False
    return True
