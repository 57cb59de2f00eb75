"""The packed model file, one bit a binarized weight: read, write; no PyTorch (docs/format.md).

What a network's tensors are called and how large they are follows from its configuration alone
(`bidiffsr.nn.layout`); what their bits mean, from its method (`bidiffsr.binary.packing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.binary.packing import Floats, PackedWeight
from bidiffsr.binary.parameters import Parameter, Role
from bidiffsr.config import BiDiffSRConfig, ModelConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.models.container import (
    Entry,
    narrow,
    open_model_file,
    shortened,
    write_model_file,
)
from bidiffsr.nn.layout import network_parameters
from bidiffsr.system.files import StrPath, printable

FloatType: TypeAlias = Literal["bf16", "fp32"]

LARGEST_MAGNITUDE = 1e6
"""Of any weight: trained ones stay far below, and what is computed from such stays finite."""
_MOST_WEIGHTS = 2**31
"""Of a one-bit convolution, so that int32 numbers them."""
_FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class PackedModel:
    """A BI-DiffSR model, as the engine takes it."""

    config: ModelConfig
    tensors: dict[str, NDArray[Any]]
    """By parameter name, in C order: float32 as it is; of a one-bit weight ``N`` only ``N.signs``,
    ``N.scale`` and, where any are 0, ``N.zeros`` (see ``PackedWeight``)."""


def load_packed(path: StrPath) -> PackedModel:
    """Read a model file; weights that it keeps as floats are packed.

    Raises:
        CheckpointError: the file cannot be read, is not as docs/format.md says, or holds a network
            that cannot be packed.
    """
    tensors: dict[str, NDArray[Any]] = {}
    with open_model_file(path) as file:
        parameters = network_parameters(_packable(file.config, file.where))
        for name, value in read_parameters(file.entries, file.read, parameters, file.where):
            tensors |= _packed_tensors(name, value, parameters[name])
        return PackedModel(file.config, tensors)


def check_model(path: StrPath) -> ModelConfig:
    """What a model file of any network says of itself, once every tensor is known to be sound.

    Raises:
        CheckpointError: as ``load_packed``, but for networks that cannot be packed.
    """
    with open_model_file(path) as file:
        parameters = network_parameters(file.config.network)
        for _ in read_parameters(file.entries, file.read, parameters, file.where):
            pass  # one after the other, so that little memory is taken
        return file.config


def save_packed(
    path: StrPath,
    config: ModelConfig,
    tensors: Mapping[str, NDArray[Any]],
    *,
    float_type: FloatType = "bf16",
) -> None:
    """Write a packed model file, which appears whole or not at all.

    Args:
        path: the file.
        config: what it says of itself.
        tensors: the parameters by name, float32; one-bit weights so, too, or packed, as in
            ``PackedModel``.
        float_type: "bf16" rounds all that is not one-bit to bfloat16, but for the scales and the
            thresholds, which decide signs by themselves.

    Raises:
        CheckpointError: ``tensors`` are not those of ``config``, not finite, or too large.
        ConfigError, OutputError: as ``write_model_file``.
    """
    where = printable(path)
    parameters = network_parameters(_packable(config, where))
    kinds = {"float32": "F32", "uint8": "U8", "int32": "I32"}
    entries = {
        name: Entry(kinds.get(str(value.dtype), str(value.dtype)), value.shape)
        for name, value in tensors.items()
    }
    stored: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, value in read_parameters(entries, lambda name: tensors[name], parameters, where):
        for part, array in _packed_tensors(name, value, parameters[name]).items():
            stored[part] = (kinds[str(array.dtype)], array)
        if float_type == "bf16" and _is_rounded(parameters[name]):
            stored[name] = ("BF16", narrow(stored[name][1]))
    write_model_file(path, config, stored)


def read_parameters(
    entries: Mapping[str, Entry],
    read: Callable[[str], NDArray[Any]],
    parameters: Mapping[str, Parameter],
    where: str,
) -> Iterator[tuple[str, Floats | PackedWeight]]:
    """Check tensors against the parameters they have to be, then read one after the other.

    Nothing is read before every name, dtype and shape is known to fit.

    Args:
        entries: what there is.
        read: gives a tensor by name: float32, or uint8 or int32 as stored.
        parameters: what there has to be.
        where: names the file in messages.

    Yields:
        Each parameter's name and value: float32, or for a one-bit weight that is stored so, bits.

    Raises:
        CheckpointError: a tensor is missing, superfluous, misshapen, of another dtype, or holds
            what it must not.
    """
    expected = _expected(entries, parameters, where)
    for name, (dtypes, shape) in expected.items():
        _check_entry(name, entries, dtypes, shape, where)
    superfluous = min(entries.keys() - expected.keys(), default=None)
    if superfluous is not None:
        raise CheckpointError(f"{where}: {shortened(superfluous)}: is no part of this network")
    for name, parameter in parameters.items():
        if f"{name}.signs" in expected:
            has_zeros = f"{name}.zeros" in entries
            weight = PackedWeight(
                signs=read(f"{name}.signs"),
                scale=read(f"{name}.scale"),
                zeros=read(f"{name}.zeros") if has_zeros else np.empty(0, np.int32),
            )
            _check_packed(weight, prod(parameter.shape[1:]), f"{where}: {name}", has_zeros)
            assert parameter.packing is not None  # or nothing of it would be expected as bits
            if not parameter.packing.allows(weight, parameter.shape):
                raise CheckpointError(
                    f"{where}: {name}: has a scale or zeros that no weight of this method has"
                )
            yield name, _with_ones(weight, prod(parameter.shape[1:]))
        else:
            value = read(name)
            _check_floats(value, f"{where}: {name}")
            yield name, value


def _expected(
    entries: Mapping[str, Entry], parameters: Mapping[str, Parameter], where: str
) -> dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]]:
    """The dtypes and the shape that each stored tensor may have."""
    expected: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {}
    for name, parameter in parameters.items():
        signs, scale, zeros = (f"{name}.{part}" for part in ("signs", "scale", "zeros"))
        is_packed = parameter.one_bit and (signs in entries or scale in entries)
        if is_packed and name in entries:
            raise CheckpointError(f"{where}: {name}: is there twice, packed and as floats")
        if parameter.one_bit and prod(parameter.shape) > _MOST_WEIGHTS:
            raise CheckpointError(f"{where}: {name}: has more than {_MOST_WEIGHTS} weights")
        if not is_packed:
            expected[name] = (_FLOATS, parameter.shape)
            continue
        rows, columns = parameter.shape[0], prod(parameter.shape[1:])
        expected[signs] = (("U8",), (rows, -(-columns // 8)))
        expected[scale] = (("F32",), (rows,))
        if zeros in entries:
            expected[zeros] = (("I32",), (None,))
    return expected


def _check_entry(
    name: str,
    entries: Mapping[str, Entry],
    dtypes: tuple[str, ...],
    shape: tuple[int | None, ...],
    where: str,
) -> None:
    if name not in entries:
        raise CheckpointError(f"{where}: {name}: missing")
    found = entries[name]
    fits = len(found.shape) == len(shape) and all(
        expected in (None, size) for size, expected in zip(found.shape, shape, strict=True)
    )
    if not fits or found.dtype not in dtypes:
        sizes = ", ".join("n" if size is None else str(size) for size in shape)
        raise CheckpointError(
            f"{where}: {name}: has {found}, expected {' or '.join(dtypes)} of [{sizes}]"
        )


def _check_floats(value: Floats, where: str) -> None:
    if not np.isfinite(value).all():
        raise CheckpointError(f"{where}: holds NaN or infinity")
    if np.abs(value).max() > LARGEST_MAGNITUDE:
        raise CheckpointError(f"{where}: holds magnitudes above {LARGEST_MAGNITUDE:g}")


def _check_packed(weight: PackedWeight, columns: int, where: str, has_zeros: bool) -> None:
    if not ((weight.scale >= 0) & (weight.scale <= LARGEST_MAGNITUDE)).all():  # nor NaN
        raise CheckpointError(
            f"{where}.scale: holds what is no magnitude, expected 0 to {LARGEST_MAGNITUDE:g}"
        )
    padding = np.uint8(0xFF >> columns % 8 if columns % 8 else 0)
    if (weight.signs[:, -1] & padding).any():
        raise CheckpointError(f"{where}.signs: has padding bits that are not 0")
    zeros = weight.zeros
    count = len(weight.scale) * columns
    if has_zeros and not len(zeros):
        raise CheckpointError(f"{where}.zeros: is empty, expected to be left out")
    if (np.diff(zeros) <= 0).any() or (zeros < 0).any() or (zeros >= count).any():
        raise CheckpointError(f"{where}.zeros: expected ascending int32 indices below {count}")


def _with_ones(weight: PackedWeight, columns: int) -> PackedWeight:
    """The same weight with bit 1 where it is zero, which the engine takes for granted."""
    if not len(weight.zeros):
        return weight
    rows, places = np.divmod(weight.zeros, columns)
    signs = weight.signs.copy()
    np.bitwise_or.at(signs, (rows, places // 8), (0x80 >> places % 8).astype(np.uint8))
    return replace(weight, signs=signs)


def _packable(config: ModelConfig, where: str) -> BiDiffSRConfig:
    if isinstance(config.network, BiDiffSRConfig):
        return config.network
    raise CheckpointError(
        f"{where}: is an SR3 network, which PyTorch has to run; only BI-DiffSR networks are packed"
    )


def _packed_tensors(
    name: str, value: Floats | PackedWeight, parameter: Parameter
) -> dict[str, NDArray[Any]]:
    if parameter.packing is not None and not isinstance(value, PackedWeight):
        value = parameter.packing.pack(value)
    return value.named(name) if isinstance(value, PackedWeight) else {name: value}


def _is_rounded(parameter: Parameter) -> bool:
    return not parameter.one_bit and parameter.role is not Role.THRESHOLD
