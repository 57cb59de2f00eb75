"""The container of model files, read without trusting it and written whole (docs/format.md).

It is a safetensors file. Reading and writing are done here rather than by the safetensors library
because its numpy side knows no bfloat16, it takes a name that is there twice, it orders metadata at
random, and it maps the file, which ends the process if somebody else makes the file shorter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import ModelConfig, parse_config
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.system.files import StrPath, printable, reason, write_atomically

METADATA_KEY = "bidiffsr"
FORMAT_KEY = "bidiffsr.format"
FORMAT_VERSION = "1"
"""What is written. A file that names no version is of version 1."""

# The largest network that a configuration allows needs a header of 1 MB.
MAX_HEADER = 4 * 2**20
MAX_DESCRIPTION = 2**16
"""Bytes of the whole header, and characters of the configuration within it."""

# How the dtypes of model files lie in memory; bfloat16 has no numpy type of its own.
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "U8": "u1"}
_MOST_DIMENSIONS = 8
_UNSOUND = "is not a sound safetensors file"
_PUBLISHED = "a published checkpoint has to go through `bidiffsr pack`, or convert to train on from"


@dataclass(frozen=True)
class Entry:
    """How a tensor is stored: ``dtype`` as safetensors calls it, bytes [begin, end) of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int = 0
    end: int = 0

    def __str__(self) -> str:
        return shortened(f"{self.dtype} of {list(self.shape)}")


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file: its header is sound, no more than that."""

    where: str
    """The path, for messages."""
    entries: Mapping[str, Entry]
    file: BufferedReader
    data: int
    """Where the tensors begin, bytes."""

    def read(self, name: str) -> NDArray[Any]:
        """A tensor in C order: any float as float32, U8 as uint8, I32 as int32.

        Raises:
            CheckpointError: it cannot be read.
        """
        entry = self.entries[name]
        dtype = np.dtype(_STORED[entry.dtype])
        stored = np.empty(entry.shape, dtype)
        try:
            self.file.seek(self.data + entry.begin)
            count = self.file.readinto(stored.data)
        except OSError as error:
            raise CheckpointError(f"{self.where}: cannot be read ({reason(error)})") from None
        if count != stored.nbytes:
            raise CheckpointError(
                f"{self.where}: {name}: the file became shorter while it was read"
            )
        if entry.dtype == "BF16":
            return widen(stored)
        return stored.astype(
            np.float32 if dtype.kind == "f" else dtype.newbyteorder("="), copy=False
        )

    def read_floats(
        self, name: str, shape: tuple[int, ...], *, whole: str, mend: str
    ) -> NDArray[np.float32]:
        """A tensor that has to be there, of finite floats, in this shape.

        Args:
            name: of the tensor.
            shape: of the tensor.
            whole: what the file is to hold, for messages.
            mend: how to get it, for messages.

        Raises:
            CheckpointError: it is not like that, or cannot be read.
        """
        where = f"{self.where}: {name}"
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{where}: missing from these {whole}; {mend}")
        if entry.shape != shape or entry.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(f"{where}: has {entry}, expected floats of {list(shape)}; {mend}")
        value = self.read(name)
        if not np.isfinite(value).all():
            raise CheckpointError(f"{where}: holds NaN or infinity; {mend}")
        return value


@dataclass(frozen=True)
class ModelFile(TensorFile):
    """An open model file: its header is sound and its configuration valid, no more than that."""

    config: ModelConfig


@contextmanager
def open_tensor_file(path: StrPath) -> Iterator[TensorFile]:
    """Open any safetensors file and check all that can be checked without knowing its tensors.

    Raises:
        CheckpointError: the file cannot be read or is no sound safetensors file.
    """
    where = printable(path)
    with _open(path) as file:
        entries, _, data = _read_header(file, where)
        yield TensorFile(where, entries, file, data)


@contextmanager
def open_model_file(path: StrPath) -> Iterator[ModelFile]:
    """Open a model file and check all that can be checked without knowing its network's shapes.

    Raises:
        CheckpointError: the file cannot be read, is no sound safetensors file, is none of ours or
            of a later version, or its configuration is not valid.
    """
    where = printable(path)
    pickled = where.endswith((".pth", ".pt", ".ckpt"))
    with _open(path) as file:
        unsound = f"is no model file; {_PUBLISHED}" if pickled else _UNSOUND
        entries, metadata, data = _read_header(file, where, unsound)
        yield ModelFile(where, entries, file, data, _read_config(metadata, where))


def is_model(path: StrPath) -> bool:
    """Whether ``path`` is one of our model files, its configuration and tensors sound or not."""
    try:
        with _open(path) as file:
            return METADATA_KEY in _read_header(file, printable(path))[1]
    except CheckpointError:
        return False


def write_model_file(
    path: StrPath, config: ModelConfig, tensors: Mapping[str, tuple[str, NDArray[Any]]]
) -> None:
    """Write a model file; the same arguments give the same bytes. It appears whole or not at all.

    Args:
        path: the file.
        config: what it says of itself.
        tensors: by name, each with its dtype: "F32", "I32" or "U8", or "BF16" with uint16 bits.

    Raises:
        ConfigError: ``config`` takes more room than a header has.
        OutputError: the place cannot be written to.
    """
    description = config.model_dump_json()
    if len(description) > MAX_DESCRIPTION:
        raise ConfigError(
            f"{printable(path)}: what the model says of itself takes {len(description)} characters "
            f"of JSON, at most {MAX_DESCRIPTION} are allowed; shorten its provenance"
        )
    metadata = {METADATA_KEY: description, FORMAT_KEY: FORMAT_VERSION}
    header: dict[str, Any] = {"__metadata__": metadata}
    arrays: list[NDArray[Any]] = []
    begin = 0
    # The widest first, so that every tensor is aligned to its dtype.
    for name in sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name)):
        dtype, value = tensors[name]
        arrays.append(np.ascontiguousarray(value, _STORED[dtype]))
        end = begin + arrays[-1].nbytes
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays:
                file.write(array.data)

    write_atomically(path, write)


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bfloat16 as float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(value: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 as bfloat16, rounded to nearest, ties to even; may become infinite."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def parse_json(text: str, where: str) -> Any:
    """Plain data out of JSON text; CheckpointError naming ``where`` if it is none."""
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise CheckpointError(f"{where}: is JSON nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: is not JSON: {shortened(error)}") from None


def shortened(text: object, length: int = 120) -> str:
    """Text out of a file for a message: one line, and not a long one."""
    whole = str(text)
    shown = whole[:length]
    return (shown if shown.isprintable() else repr(shown)) + "..." * (len(whole) > length)


def _open(path: StrPath) -> BufferedReader:
    where = printable(path)
    try:
        if Path(path).is_file():  # not a pipe, which would be waited for
            return Path(path).open("rb")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{where}: cannot be read ({reason(error)})") from None
    raise CheckpointError(f"{where}: no such file; check the path")


def _read_header(
    file: BufferedReader, where: str, unsound: str = _UNSOUND
) -> tuple[dict[str, Entry], dict[str, str], int]:
    """The tensors, the metadata, and where the data begins; ``unsound`` is said of a bad file."""
    unsound = f"{where}: {unsound}"
    try:
        size = os.fstat(file.fileno()).st_size - 8
        length = int.from_bytes(file.read(8), "little")
        if size < 0 or length > size:
            raise CheckpointError(
                f"{unsound}: its header would end {length - size} bytes beyond it"
            )
        if length > MAX_HEADER:
            raise CheckpointError(
                f"{unsound}: its JSON header takes {length} bytes, expected at most {MAX_HEADER}"
            )
        text = file.read(length).decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read ({reason(error)})") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{unsound}: its header is not UTF-8") from None
    header = parse_json(text, f"{unsound}: its header")
    if not isinstance(header, dict) or not text.startswith("{"):
        raise CheckpointError(f"{unsound}: its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{unsound}: its metadata are not texts by name")
    entries = {name: _entry(value, name, unsound) for name, value in header.items()}
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != reached:
            raise CheckpointError(
                f"{unsound}: {shortened(name)}: begins at byte {entry.begin}, expected "
                f"{reached}, where the tensor before it ends"
            )
        reached = entry.end
    if reached != size - length:
        raise CheckpointError(
            f"{unsound}: its tensors take {reached} bytes, but {size - length} are there"
        )
    return entries, metadata, 8 + length


def _entry(value: Any, name: str, unsound: str) -> Entry:
    def whole(numbers: Any) -> bool:
        # Bounded, or multiplying them might take minutes.
        return (
            isinstance(numbers, list)
            and len(numbers) <= _MOST_DIMENSIONS
            and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
        )

    where = f"{unsound}: {shortened(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not whole(shape) or not whole(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"{where}: expected a dtype by name, a shape of at most {_MOST_DIMENSIONS} whole "
            "numbers, and two data_offsets"
        )
    entry = Entry(dtype, tuple(shape), *offsets)
    if dtype in _STORED:
        size = prod(shape) * np.dtype(_STORED[dtype]).itemsize
        if entry.end - entry.begin != size:
            raise CheckpointError(
                f"{where}: has {entry.end - entry.begin} bytes, expected {shortened(size)} for "
                f"{entry}"
            )
    elif entry.end < entry.begin:
        raise CheckpointError(f"{where}: ends before it begins")
    return entry


def _read_config(metadata: Mapping[str, str], where: str) -> ModelConfig:
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{where}: is not a bidiffsr model; {_PUBLISHED}")
    version = metadata.get(FORMAT_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: is of format version {shortened(version)}, this bidiffsr reads version "
            f"{FORMAT_VERSION}; upgrade it"
        )
    description = metadata[METADATA_KEY]
    if len(description) > MAX_DESCRIPTION:
        raise CheckpointError(
            f"{where}: header: its JSON takes {len(description)} characters, expected at most "
            f"{MAX_DESCRIPTION}"
        )
    values = parse_json(description, f"{where}: header")
    try:
        return parse_config(ModelConfig, values, "header")
    except (ConfigError, RecursionError) as error:  # the latter from showing a value in depth
        raise CheckpointError(f"{where}: {shortened(error, 400)}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{shortened(name)} is there twice")
        result[name] = value
    return result
