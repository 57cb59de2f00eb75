"""The C library as a C program finds it, installed, and called through ctypes."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "python"

OK, BAD_ARGUMENT, BAD_MODEL, NO_MEMORY, CANCELLED = range(5)

Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_double)


class ModelOptions(ctypes.Structure):
    """bidiffsr_model_options."""

    _fields_ = (
        ("threads", ctypes.c_int),
        ("exact", ctypes.c_int),
        ("kernel", ctypes.c_char_p),
    )


class Picture(ctypes.Structure):
    """bidiffsr_picture."""

    _fields_ = tuple((name, ctypes.c_int) for name in ("height", "width", "channels", "bits"))


class UpscaleOptions(ctypes.Structure):
    """bidiffsr_upscale_options."""

    _fields_ = (
        ("quality", ctypes.c_char_p),
        ("steps", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("sample", ctypes.c_uint32),
        ("scale", ctypes.c_double),
        ("tile", ctypes.c_int),
        ("max_memory", ctypes.c_uint64),
        ("progress", Progress),
        ("user", ctypes.c_void_p),
    )


class CError(Exception):
    """A call that did not return BIDIFFSR_OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CLibrary:
    """The functions that tests call.

    Args:
        prefix: where the library is installed.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        (self.path,) = prefix.glob("lib*/**/libbidiffsr.so")
        self.c = ctypes.CDLL(str(self.path))
        self.c.bidiffsr_message.restype = ctypes.c_char_p
        self.c.bidiffsr_version.restype = ctypes.c_char_p
        self.c.bidiffsr_free.argtypes = [ctypes.c_void_p]
        self.c.bidiffsr_kernel.restype = ctypes.c_char_p
        pointer = ctypes.c_void_p
        self.c.bidiffsr_result.argtypes = [pointer, pointer, ctypes.c_double, pointer]

    def check(self, status: int) -> None:
        """Raise CError unless all went well."""
        if status != OK:
            message = self.c.bidiffsr_message().decode()
            assert message.isprintable(), message
            assert message
            raise CError(status, message)

    @contextmanager
    def model(self, source: Path | bytes, **options: Any) -> Iterator[ctypes.c_void_p]:
        """A loaded model."""
        model, given = ctypes.c_void_p(), ModelOptions(**{"threads": 1} | options)
        if isinstance(source, Path):
            name = str(source).encode()
            status = self.c.bidiffsr_load(name, ctypes.byref(given), ctypes.byref(model))
        else:
            size = ctypes.c_size_t(len(source))
            status = self.c.bidiffsr_load_memory(
                source, size, ctypes.byref(given), ctypes.byref(model)
            )
        self.check(status)
        try:
            yield model
        finally:
            self.c.bidiffsr_free(model)

    def upscale(self, model: ctypes.c_void_p, image: NDArray[Any], **options: Any) -> NDArray[Any]:
        """As ``Upscaler.__call__``: (H, W, C) of uint8 or uint16 → the like of it."""
        given = UpscaleOptions(**options)
        source = Picture(*image.shape, 8 * image.itemsize)
        made = Picture()
        self.check(
            self.c.bidiffsr_result(model, ctypes.byref(source), given.scale, ctypes.byref(made))
        )
        image = np.ascontiguousarray(image)
        result = np.empty((made.height, made.width, made.channels), image.dtype)
        self.check(
            self.c.bidiffsr_upscale(
                model,
                ctypes.byref(source),
                image.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_size_t(image.nbytes),
                ctypes.byref(given),
                result.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_size_t(result.nbytes),
            )
        )
        return result

    def predict(
        self,
        model: ctypes.c_void_p,
        x_t: NDArray[np.float32],
        cond: NDArray[np.float32],
        t: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """As ``Engine.predict``."""
        result = np.empty_like(x_t)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x_t, cond, t, result)]
        count, _, height, width = x_t.shape
        self.check(
            self.c.bidiffsr_predict(
                model,
                *pointers[:3],
                ctypes.c_size_t(count),
                height,
                width,
                pointers[3],
                ctypes.c_size_t(result.size),
                None,
                None,
            )
        )
        return result


def install(prefix: Path) -> CLibrary:
    """Install what the engine's own build has made; skips where it was not built here."""
    if not (BUILD / "build.ninja").exists():
        pytest.skip("the engine was not built under build/python")
    cmake = ROOT / ".venv" / "bin" / "cmake"
    command = [cmake, "--install", BUILD, "--component", "capi", "--prefix", prefix]
    subprocess.run(command, check=True, capture_output=True)
    return CLibrary(prefix)
