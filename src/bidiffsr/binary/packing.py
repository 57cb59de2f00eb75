"""Binarized weights as bits (docs/format.md, "Tensors"); no PyTorch.

A packing rule says what the bits and the scale of a method's weights are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class PackedWeight:
    """A one-bit weight (C_out, C_in, k, k)."""

    signs: NDArray[np.uint8]
    """(C_out, ⌈C_in·k·k / 8⌉): bit 1 is +1, most significant bit first, padding bits 0."""
    scale: Floats
    """(C_out,): what the signs of an output channel are multiplied by, 0 or more."""
    zeros: NDArray[np.int32]
    """(n,): ascending flat indices of the weights that are exactly 0; their bits are 1."""

    def named(self, name: str) -> dict[str, NDArray[Any]]:
        """The tensors that a file keeps of the weight ``name``."""
        tensors: dict[str, NDArray[Any]] = {
            f"{name}.signs": self.signs,
            f"{name}.scale": self.scale,
        }
        return tensors | {f"{name}.zeros": self.zeros} if len(self.zeros) else tensors


class Packing(Protocol):
    """A packing rule: what of a trained weight inference needs."""

    def pack(self, weight: Floats) -> PackedWeight:
        """Signs, scale and zeros of a trained weight, float32 (C_out, C_in, k, k)."""
        ...

    def unpack(self, packed: PackedWeight, shape: tuple[int, ...]) -> Floats:
        """A trained weight that packs to this: float32 of ``shape``, (C_out, C_in, k, k)."""
        ...

    def allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        """Whether a trained weight of ``shape`` packs to this, as ``unpack`` takes for granted."""
        ...


@dataclass(frozen=True)
class MeanMagnitude:
    """The packing rule of signs under alpha = mean |w| per output channel (`ScaledWeightSign`)."""

    def pack(self, weight: Floats) -> PackedWeight:
        """See ``Packing.pack``."""
        rows = weight.reshape(len(weight), -1)
        scale = np.abs(rows).mean(axis=1, dtype=np.float64)
        return PackedWeight(
            signs=np.packbits(rows >= 0, axis=1),
            scale=scale.astype(np.float32),
            zeros=np.flatnonzero(rows == 0).astype(np.int32),
        )

    def unpack(self, packed: PackedWeight, shape: tuple[int, ...]) -> Floats:
        """See ``Packing.unpack``; the weights of a channel have one magnitude.

        It is such that the mean over the whole channel, its zeros included, is the scale.
        """
        columns = prod(shape[1:])
        weight = np.unpackbits(packed.signs, axis=1, count=columns).astype(np.float32) * 2 - 1
        weight.reshape(-1)[packed.zeros] = 0
        others = np.maximum(np.count_nonzero(weight, axis=1), 1)
        weight *= (packed.scale * np.float64(columns) / others).astype(np.float32)[:, None]
        return weight.reshape(shape)

    def allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        """See ``Packing.allows``: any scale."""
        return True


# Weights of a file that are looked at together.
_CHECKED_WEIGHTS = 1 << 18


class Signs(ABC):
    """A packing rule of signs, sign(0) = +1, under a scale (`WeightSign`)."""

    def pack(self, weight: Floats) -> PackedWeight:
        """See ``Packing.pack``; no weight counts as 0."""
        rows = self.signed(weight.reshape(len(weight), -1).astype(np.float64))
        return PackedWeight(
            signs=np.packbits(rows >= 0, axis=1),
            scale=self.scale(rows).astype(np.float32),
            zeros=np.empty(0, np.int32),
        )

    def unpack(self, packed: PackedWeight, shape: tuple[int, ...]) -> Floats:
        """See ``Packing.unpack``; the weights of a channel have one magnitude."""
        signs = np.unpackbits(packed.signs, axis=1, count=prod(shape[1:])) * np.float32(2) - 1
        return (signs * self.magnitude(packed.scale)[:, None]).reshape(shape)

    def allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        """See ``Packing.allows``; some channels at a time, since floats take far more than bits."""
        step = max(1, _CHECKED_WEIGHTS // max(1, prod(shape[1:])))
        parts = (slice(start, start + step) for start in range(0, shape[0], step))
        return not len(packed.zeros) and all(
            self._allows(PackedWeight(packed.signs[rows], packed.scale[rows], packed.zeros), shape)
            for rows in parts
        )

    def _allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        scale = self.pack(self.unpack(packed, (len(packed.scale), *shape[1:]))).scale
        return np.allclose(scale, packed.scale, rtol=1e-5, atol=np.finfo(np.float32).tiny)

    def signed(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the signs are those of: trained weights (C_out, C_in·k·k), or something of them."""
        return rows

    @abstractmethod
    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scales (C_out,), 0 or more, of what ``signed`` gives."""

    def magnitude(self, scale: Floats) -> Floats:
        """Of weights that are alike but for their signs and have this scale; (C_out,) each."""
        return scale


class Unscaled(Signs):
    """Bare signs: every scale is 1."""

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.scale``."""
        return np.ones(len(rows))


class ChannelMean(Signs):
    """Every output channel under its weights' mean magnitude."""

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.scale``."""
        return np.abs(rows).mean(axis=1)


class LayerMean(Signs):
    """All output channels under the mean magnitude of all weights."""

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.scale``."""
        return np.repeat(np.abs(rows).mean(dtype=np.float64), len(rows))

    def allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        """See ``Packing.allows``: besides, all channels have one scale."""
        alike = np.allclose(packed.scale, packed.scale[:1], rtol=1e-5)
        return alike and super().allows(packed, shape)


@dataclass(frozen=True)
class ScaledChannelMean(ChannelMean):
    """Every output channel under its weights' mean magnitude times a constant."""

    factor: float

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.scale``."""
        return self.factor * super().scale(rows)

    def magnitude(self, scale: Floats) -> Floats:
        """See ``Signs.magnitude``."""
        return (scale / np.float64(self.factor)).astype(np.float32)


def _centred(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows - rows.mean(axis=1, keepdims=True)


class Centred(Unscaled):
    """ReCU's rule: bare signs of what is above a channel's mean (`RectifiedWeightSign`)."""

    def signed(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.signed``."""
        return _centred(rows)

    def allows(self, packed: PackedWeight, shape: tuple[int, ...]) -> bool:
        """See ``Packing.allows``: besides, no channel's weights are all below their mean."""
        return bool(packed.signs.any(axis=1).all()) and super().allows(packed, shape)


# What a scale is at least, squared, in units of the least that there is: with less, all weights
# but two would be lost beside them in float32.
_BARELY_MORE = 1 + 1e-6


class Balanced(Signs):
    """IR-Net's rule: signs of what is above a channel's mean, under a power of two.

    The power is that next to the mean magnitude of the standardized weights
    (`BalancedWeightSign`).
    """

    def signed(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.signed``."""
        return _centred(rows)

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """See ``Signs.scale``; 0 where all weights of a channel are the same."""
        deviation = np.sqrt(np.square(rows).mean(axis=1))
        mean = np.abs(rows).mean(axis=1) / np.maximum(deviation, np.finfo(np.float64).tiny)
        with np.errstate(divide="ignore"):
            return np.exp2(np.rint(np.log2(mean)))

    def unpack(self, packed: PackedWeight, shape: tuple[int, ...]) -> Floats:
        """See ``Packing.unpack``: a weight of mean 0 with these signs and this scale."""
        bits = np.unpackbits(packed.signs, axis=1, count=prod(shape[1:])).astype(bool)
        return np.stack(list(map(_balanced, bits, packed.scale))).reshape(shape)


def _balanced(positive: NDArray[np.bool_], scale: np.float32) -> Floats:
    """Weights (n,) of mean 0 with these signs; mean magnitude ``scale`` times their deviation.

    With a above and b below 0, those are b and these -a, but for one of each that stands out by x:
    then ``4 (ab + x)² = scale² n (abn + 2nx + 2x²)``. The least that any weights have is √(2 / n),
    with x infinite; the most they have with x = 0. A scale beyond is rounded from within.
    """
    count = len(positive)
    above = int(np.count_nonzero(positive))
    product = above * (count - above)
    if scale == 0 or product == 0:
        return np.zeros(count, np.float32)
    weight = np.where(positive, float(count - above), -float(above))
    square = max(float(scale) ** 2 * count, 2 * _BARELY_MORE)
    polynomial = [
        4 - 2 * square,
        8 * product - 2 * square * count,
        product * (4 * product - square * count),
    ]
    excess = max((root.real for root in np.roots(polynomial) if root.imag == 0), default=0.0)
    if excess > 0:
        weight[np.argmax(positive)] += excess
        weight[np.argmin(positive)] -= excess
    return (weight / np.abs(weight).max()).astype(np.float32)
