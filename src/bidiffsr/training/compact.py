"""A training state in a third of its bytes or fewer, in parts, to go on from on another machine.

Nearly all of a state are the weights of convolutions; the rest stays as it is. Of each such weight
one of these is kept, the richest that there is room for:

- 4 bytes: the weight in bfloat16, its average's difference from that in 8 bits, and Adam's second
  moment in 8 bits of its logarithm. The first moment fills again within tens of iterations.
- 1 byte: the average alone. Training goes on from it with fresh moments, and warms up again.

A binarized weight is its sign, so no sign changes on the way, and nothing but 0 becomes 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bidiffsr.errors import TrainingError
from bidiffsr.system.files import write_atomically
from bidiffsr.training.state import dumps, loads

State: TypeAlias = dict[str, Any]
Codes: TypeAlias = tuple[Tensor, ...]

_KEPT = ("config", "iteration")
# Half of it is the smallest normal number of float32.
_LEAST_STEP = 2.0**-125
_ZERO = -128
_LARGEST = torch.finfo(torch.float32).max


def write_compact(path: Path, state: State, limit: int | None, part_bytes: int | None) -> None:
    """Write ``state`` in the richest form of at most ``limit`` bytes.

    Args:
        path: the parts are ``path`` with .000, .001 and so on behind it; parts left there by an
            earlier, larger state are removed.
        state: as the trainer writes it.
        limit: bytes of all parts together; None for no limit.
        part_bytes: of each part but the last, which may be smaller; None for one part.

    Raises:
        TrainingError: no form is that small.
        OutputError: the place cannot be written to.
    """
    data = compress(state, limit)
    step = part_bytes or len(data)
    for part, begin in zip(_parts(path), range(0, len(data), step), strict=False):
        piece = data[begin : begin + step]
        write_atomically(part, lambda temporary, piece=piece: temporary.write_bytes(piece))
    for part in list(_existing(path))[math.ceil(len(data) / step) :]:
        part.unlink()


def read_compact(path: Path) -> State:
    """The state that `write_compact` was given, as nearly as was kept.

    Raises:
        TrainingError: a part is missing or damaged.
    """
    parts = list(_existing(path))
    if not parts:
        raise TrainingError(f"{path}.000: no such file; expected a compact state in parts")
    try:
        return decompress(loads(b"".join(part.read_bytes() for part in parts)))
    except Exception as error:  # torch raises many kinds for damaged files
        raise TrainingError(
            f"{path}.000 to {parts[-1].suffix}: a part is damaged or missing "
            f"({type(error).__name__}); fetch all of them again"
        ) from None


def compress(state: State, limit: int | None) -> memoryview:
    """The bytes of the richest form of ``state`` that takes at most ``limit`` of them.

    Raises:
        TrainingError: there is none.
    """
    data = memoryview(b"")
    for form in (_with_moments, _averages_alone):
        data = dumps({**{key: state[key] for key in _KEPT}, **form(state)})
        if limit is None or len(data) <= limit:
            return data
    raise TrainingError(
        f"a compact state takes {len(data)} bytes at least, of which {limit} are allowed; train a "
        "smaller network, or raise the limit"
    )


def decompress(compact: State) -> State:
    """A state that the trainer can go on from."""
    moments: dict[int, State] = {}
    if "network" in compact:
        network = {name: value.float() for name, value in compact["network"].items()}
        average = {
            name: _decoded(value, from_difference, network[name])
            for name, value in compact["average"].items()
        }
        for index, one in compact["moments"].items():
            square = _decoded(one["square"], from_logarithms)
            moments[index] = {
                "step": one["step"],
                "exp_avg": torch.zeros_like(square),
                "exp_avg_sq": square,
            }
    else:
        average = {name: _decoded(value, from_bytes) for name, value in compact["average"].items()}
        network = average
    return {
        **{key: compact[key] for key in _KEPT},
        "network": network,
        "average": {
            "n_averaged": torch.tensor(compact["iteration"]),
            **{f"module.{name}": value for name, value in average.items()},
        },
        "optimizer": {"state": moments, "param_groups": compact["groups"]},
    }


def _with_moments(state: State) -> State:
    network = {name: _encoded(value, to_bfloat16) for name, value in state["network"].items()}
    return {
        "network": network,
        "average": {
            name: _encoded(state["average"][f"module.{name}"], to_difference, value.float())
            for name, value in network.items()
        },
        "moments": {
            index: {"step": one["step"], "square": _encoded(one["exp_avg_sq"], to_logarithms)}
            for index, one in state["optimizer"]["state"].items()
        },
        "groups": state["optimizer"]["param_groups"],
    }


def _averages_alone(state: State) -> State:
    return {
        "average": {
            name: _encoded(state["average"][f"module.{name}"], to_bytes)
            for name in state["network"]
        },
        "groups": state["optimizer"]["param_groups"],
    }


def _encoded(value: Tensor, encode: Callable[..., Any], *with_it: Tensor) -> Any:
    return encode(value, *with_it) if value.dim() == 4 else value


def _decoded(value: Tensor | Codes, decode: Callable[..., Tensor], *with_it: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else decode(*value, *with_it)


# The forms of one float32 tensor of finite numbers. "Rows" are its slices along the first
# dimension: output channels.


def to_bfloat16(value: Tensor) -> Tensor:
    """Bfloat16 of the same signs, never infinite; the error is below |value| / 128 + 2^-126."""
    limits = torch.finfo(torch.bfloat16)
    narrow = value.clamp(limits.min, limits.max).bfloat16()
    return torch.where(narrow == 0, value.sign() * limits.tiny, narrow).bfloat16()


def to_bytes(value: Tensor) -> Codes:
    """Signed 8-bit codes and a step for each row: at most half a step of error.

    Code ±k is the middle of the k-th step from 0, on its side of it; code 0 is 0 alone.
    """
    rows = _rows(value)
    step = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=_LEAST_STEP)
    codes = (rows.abs() / step).ceil().clamp(1, 127) * rows.sign()
    return codes.to(torch.int8).view(value.shape), step


def from_bytes(codes: Tensor, step: Tensor) -> Tensor:
    """The float32 that `to_bytes` made these of, nearly."""
    rows = _rows(codes).float()
    return ((rows - 0.5 * rows.sign()) * step).view(codes.shape)


def to_difference(value: Tensor, base: Tensor) -> Codes:
    """Signed 8-bit codes of ``value - base`` and a step for each row: less than a step of error.

    The nearest code, or the next one where the nearest would give ``value`` another sign.
    """
    difference = _rows(value.double() - base.double())
    step = (difference.abs().amax(1, keepdim=True) / 126).float().clamp(min=_LEAST_STEP)
    codes = (difference / step).round()
    restored = _rows(base) + codes * step
    codes += (_rows(value).sign() - restored.sign()).sign()
    codes = codes.to(torch.int8).view(value.shape)
    return codes.masked_fill(value == 0, _ZERO), step


def from_difference(codes: Tensor, step: Tensor, base: Tensor) -> Tensor:
    """The float32 value that `to_difference` made these of, nearly."""
    value = base.double() + (_rows(codes) * step.double()).view(codes.shape)
    return value.clamp(-_LARGEST, _LARGEST).float().masked_fill(codes == _ZERO, 0)


def to_logarithms(value: Tensor) -> Codes:
    """Of numbers not below 0: 8-bit codes, and for each row the lowest logarithm and a step.

    Half a step of error in the logarithm; code 0 is 0 alone.
    """
    logarithms = _rows(value).double().clamp(max=_LARGEST).log2()
    is_zero = logarithms.isinf()
    low = logarithms.masked_fill(is_zero, math.inf).amin(1, keepdim=True)
    low = low.masked_fill(low.isinf(), 0.0)
    high = logarithms.amax(1, keepdim=True).maximum(low)
    step = ((high - low) / 254).clamp(min=_LEAST_STEP)
    codes = 1 + ((logarithms - low) / step).round().clamp(0, 254)
    codes = codes.masked_fill(is_zero, 0).to(torch.uint8).view(value.shape)
    return codes, low.float(), step.float()


def from_logarithms(codes: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """The float32 that `to_logarithms` made these of, nearly."""
    logarithms = low.double() + (_rows(codes).double() - 1) * step.double()
    value = logarithms.exp2().clamp(max=_LARGEST).float().view(codes.shape)
    return value.masked_fill(codes == 0, 0)


def _rows(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def _parts(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.{number:03}") for number in count())


def _existing(path: Path) -> Iterator[Path]:
    return takewhile(Path.exists, _parts(path))
