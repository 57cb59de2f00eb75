"""Binarized weights as bits, and the packed model file: read, write; no PyTorch (docs/format.md).

What a network's tensors are called and how large they are follows from its configuration alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.config import BiDiffSRConfig, ModelConfig
from bidiffsr.errors import CheckpointError
from bidiffsr.models.container import (
    Entry,
    narrow,
    open_model_file,
    shortened,
    write_model_file,
)
from bidiffsr.system.files import StrPath, printable

FloatType: TypeAlias = Literal["bf16", "fp32"]
Floats: TypeAlias = NDArray[np.float32]

LARGEST_MAGNITUDE = 1e6
"""Of any weight: trained ones stay far below, and what is computed from such stays finite."""
_MOST_WEIGHTS = 2**31
"""Of a one-bit convolution, so that int32 numbers them."""
_FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True)
class Form:
    """What a parameter is."""

    shape: tuple[int, ...]
    one_bit: bool = False
    """Whether only signs and one magnitude per output channel of it count."""


def parameter_forms(config: BiDiffSRConfig) -> dict[str, Form]:
    """Every parameter of the network, under the PyTorch module's name and in its order."""
    return dict(_network(config))


@dataclass(frozen=True)
class PackedWeight:
    """A one-bit weight (C_out, C_in, k, k)."""

    signs: NDArray[np.uint8]
    """(C_out, ⌈C_in·k·k / 8⌉): bit 1 is +1, most significant bit first, padding bits 0."""
    scale: Floats
    """(C_out,): alpha, the mean magnitude."""
    zeros: NDArray[np.int32]
    """(n,): ascending flat indices of the weights that are exactly 0, whatever their bit."""

    def named(self, name: str) -> dict[str, NDArray[Any]]:
        """The tensors that a file keeps of the weight ``name``."""
        tensors: dict[str, NDArray[Any]] = {
            f"{name}.signs": self.signs,
            f"{name}.scale": self.scale,
        }
        return tensors | {f"{name}.zeros": self.zeros} if len(self.zeros) else tensors


def pack_weight(weight: Floats) -> PackedWeight:
    """Signs, scale and zeros of a weight, float32 (C_out, C_in, k, k)."""
    rows = weight.reshape(len(weight), -1)
    scale = np.abs(rows).mean(axis=1, dtype=np.float64)
    return PackedWeight(
        signs=np.packbits(rows >= 0, axis=1),
        scale=scale.astype(np.float32),
        zeros=np.flatnonzero(rows == 0).astype(np.int32),
    )


def unpack_weight(packed: PackedWeight, shape: tuple[int, ...]) -> Floats:
    """A weight that packs to this: float32 of ``shape``, one magnitude per output channel.

    The magnitude is such that the mean over the whole channel, its zeros included, is the scale.
    """
    columns = prod(shape[1:])
    weight = np.unpackbits(packed.signs, axis=1, count=columns).astype(np.float32) * 2 - 1
    weight.reshape(-1)[packed.zeros] = 0
    others = np.maximum(np.count_nonzero(weight, axis=1), 1)
    weight *= (packed.scale * np.float64(columns) / others).astype(np.float32)[:, None]
    return weight.reshape(shape)


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
        forms = parameter_forms(_packable(file.config, file.where))
        for name, value in read_parameters(file.entries, file.read, forms, file.where):
            tensors |= _packed_tensors(name, value, forms[name])
        return PackedModel(file.config, tensors)


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
            shifts, which decide signs by themselves.

    Raises:
        CheckpointError: ``tensors`` are not those of ``config``, not finite, or too large.
        ConfigError, OutputError: as ``write_model_file``.
    """
    where = printable(path)
    forms = parameter_forms(_packable(config, where))
    kinds = {"float32": "F32", "uint8": "U8", "int32": "I32"}
    entries = {
        name: Entry(kinds.get(str(value.dtype), str(value.dtype)), value.shape)
        for name, value in tensors.items()
    }
    stored: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, value in read_parameters(entries, lambda name: tensors[name], forms, where):
        for part, array in _packed_tensors(name, value, forms[name]).items():
            stored[part] = (kinds[str(array.dtype)], array)
        if float_type == "bf16" and _is_rounded(name, forms[name]):
            stored[name] = ("BF16", narrow(stored[name][1]))
    write_model_file(path, config, stored)


def read_parameters(
    entries: Mapping[str, Entry],
    read: Callable[[str], NDArray[Any]],
    forms: Mapping[str, Form],
    where: str,
) -> Iterator[tuple[str, Floats | PackedWeight]]:
    """Check tensors against the parameters they have to be, then read one after the other.

    Nothing is read before every name, dtype and shape is known to fit.

    Args:
        entries: what there is.
        read: gives a tensor by name: float32, or uint8 or int32 as stored.
        forms: what there has to be.
        where: names the file in messages.

    Yields:
        Each parameter's name and value: float32, or for a one-bit weight that is stored so, bits.

    Raises:
        CheckpointError: a tensor is missing, superfluous, misshapen, of another dtype, or holds
            what it must not.
    """
    expected = _expected(entries, forms, where)
    for name, (dtypes, shape) in expected.items():
        _check_entry(name, entries, dtypes, shape, where)
    superfluous = min(entries.keys() - expected.keys(), default=None)
    if superfluous is not None:
        raise CheckpointError(f"{where}: {shortened(superfluous)}: is no part of this network")
    for name, form in forms.items():
        if f"{name}.signs" in expected:
            has_zeros = f"{name}.zeros" in entries
            weight = PackedWeight(
                signs=read(f"{name}.signs"),
                scale=read(f"{name}.scale"),
                zeros=read(f"{name}.zeros") if has_zeros else np.empty(0, np.int32),
            )
            _check_packed(weight, prod(form.shape[1:]), f"{where}: {name}", has_zeros)
            yield name, weight
        else:
            value = read(name)
            _check_floats(value, f"{where}: {name}")
            yield name, value


def _expected(
    entries: Mapping[str, Entry], forms: Mapping[str, Form], where: str
) -> dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]]:
    """The dtypes and the shape that each stored tensor may have."""
    expected: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {}
    for name, form in forms.items():
        signs, scale, zeros = (f"{name}.{part}" for part in ("signs", "scale", "zeros"))
        is_packed = form.one_bit and (signs in entries or scale in entries)
        if is_packed and name in entries:
            raise CheckpointError(f"{where}: {name}: is there twice, packed and as floats")
        if form.one_bit and prod(form.shape) > _MOST_WEIGHTS:
            raise CheckpointError(f"{where}: {name}: has more than {_MOST_WEIGHTS} weights")
        if not is_packed:
            expected[name] = (_FLOATS, form.shape)
            continue
        rows, columns = form.shape[0], prod(form.shape[1:])
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


def _packable(config: ModelConfig, where: str) -> BiDiffSRConfig:
    if isinstance(config.network, BiDiffSRConfig):
        return config.network
    raise CheckpointError(
        f"{where}: is an SR3 network, which PyTorch has to run; only BI-DiffSR networks are packed"
    )


def _packed_tensors(name: str, value: Floats | PackedWeight, form: Form) -> dict[str, NDArray[Any]]:
    if form.one_bit and not isinstance(value, PackedWeight):
        value = pack_weight(value)
    return value.named(name) if isinstance(value, PackedWeight) else {name: value}


def _is_rounded(name: str, form: Form) -> bool:
    return not form.one_bit and not name.endswith(".shift.bias")


# The forms of the network's parts, which mirror the modules of bidiffsr.nn and bidiffsr.binary.

_Forms: TypeAlias = Iterator[tuple[str, Form]]
_Conv: TypeAlias = Callable[[str, int, int, int], _Forms]


def _affine(name: str, out: int, *inner: int, bias: bool = True) -> _Forms:
    yield f"{name}.weight", Form((out, *inner))
    if bias:
        yield f"{name}.bias", Form((out,))


def _plain_conv(name: str, channels_in: int, channels_out: int, kernel: int) -> _Forms:
    return _affine(f"{name}.conv", channels_out, channels_in, kernel, kernel)


def _method(config: BiDiffSRConfig) -> _Conv:
    if config.method == "full-precision":
        return _plain_conv
    shifts = config.time_groups if config.timestep_aware_redistribution else 1
    activations = config.time_groups if config.timestep_aware_activation else 1

    def conv(name: str, channels_in: int, channels_out: int, kernel: int) -> _Forms:
        if config.weight_gain:
            yield f"{name}.gain", Form((channels_out,))
        yield f"{name}.shift.bias", Form((shifts, channels_in))
        weight = (channels_out, channels_in, kernel, kernel)
        yield f"{name}.conv.weight", Form(weight, one_bit=True)
        for part in ("bias_in", "slope", "bias_out"):
            yield f"{name}.activation.{part}", Form((activations, channels_out))

    return conv


def _block(name: str, channels: int, time_channels: int, conv: _Conv, attention: bool) -> _Forms:
    yield from _affine(f"{name}.norm1", channels)
    yield from conv(f"{name}.conv1", channels, channels, 3)
    yield from _affine(f"{name}.time", channels, time_channels)
    yield from _affine(f"{name}.norm2", channels)
    yield from conv(f"{name}.conv2", channels, channels, 3)
    if attention:
        yield from _affine(f"{name}.attention.norm", channels)
        yield from _affine(f"{name}.attention.qkv", 3 * channels, channels, 1, 1, bias=False)
        yield from _affine(f"{name}.attention.out", channels, channels, 1, 1)


def _resample(name: str, channels: int, channels_out: int, conv: _Conv, consistent: bool) -> _Forms:
    if not consistent:
        yield from conv(f"{name}.conv", channels, channels_out, 3)
        return
    width = channels // 2 if channels_out > channels else channels
    yield from conv(f"{name}.conv1", width, width, 3)
    yield from conv(f"{name}.conv2", width, width, 3)


def _fusion(name: str, channels: int, conv: _Conv, kind: str) -> _Forms:
    match kind:
        case "cs" | "split":
            yield from conv(f"{name}.conv1", channels, channels, 1)
            yield from conv(f"{name}.conv2", channels, channels, 1)
        case "concat":
            yield from conv(f"{name}.conv", 2 * channels, channels, 1)


def _network(config: BiDiffSRConfig) -> _Forms:
    base, count = config.channels, config.blocks_per_level
    widths = [base * multiplier for multiplier in config.multipliers]
    conv = _method(config)
    consistent = config.resampling == "consistent"
    yield from _affine("time_embedding.expand", 4 * base, base)
    yield from _affine("time_embedding.contract", base, 4 * base)
    yield from _affine("stem", base, config.stem_channels, 3, 3)
    for level, width in enumerate(widths):
        attention = level in config.attention_levels
        for block in range(count):
            yield from _block(f"down.{level}.blocks.{block}", width, base, conv, attention)
        if level + 1 < len(widths):
            name = f"down.{level}.resample"
            yield from _resample(name, width, widths[level + 1], conv, consistent)
    yield from _block("middle.0", widths[-1], base, conv, config.middle_attention)
    yield from _block("middle.1", widths[-1], base, conv, False)
    for index, level in enumerate(reversed(range(len(widths)))):
        inside = _plain_conv if level < config.full_precision_up_levels else conv
        attention = level in config.attention_levels
        width = widths[level]
        for block in range(count + 1):
            yield from _fusion(f"up.{index}.fusions.{block}", width, inside, config.fusion)
        for block in range(count + 1):
            yield from _block(f"up.{index}.blocks.{block}", width, base, inside, attention)
        if level > 0:
            yield from _resample(f"up.{index}.resample", width, widths[level - 1], conv, consistent)
    yield from _affine("tail_norm", base)
    yield from _affine("tail", config.tail_channels, base, 3, 3)
