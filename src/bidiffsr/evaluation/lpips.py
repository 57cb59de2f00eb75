"""LPIPS: how far apart two pictures look, by the features of a network; lower is better.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018; version 0.1 with AlexNet, as in the tables of the papers.
`lpips_alexnet.safetensors` beside this module holds AlexNet's convolutions, trained on ImageNet,
and the authors' weights of its features. It is in the repository and, for its size, not in the
wheel.

Feature maps are float32 (height, width, channels). Whole ones are kept of one layer at a time, at
most 60 bytes for each pixel of a large picture; what is larger is made for some rows at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import CheckpointError, ImageError
from bidiffsr.evaluation.pixels import Uint8Array, check_same_form
from bidiffsr.models.container import TensorFile, open_tensor_file
from bidiffsr.system.files import StrPath

Float32Array: TypeAlias = NDArray[np.float32]

WEIGHTS = Path(__file__).with_name("lpips_alexnet.safetensors")
"""Where the weights are, if they are."""
FETCH = f"take src/bidiffsr/evaluation/{WEIGHTS.name} from bidiffsr's repository"
"""How to get them."""

_SMALLEST = 31  # pixels; of 30, the second pooling would have nothing left to pool
_BAND = 2**22  # float32 values of patches or features that are made at once

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
"""With `SHIFT`: what maps -1..1 to what networks were trained on with ImageNet, by channel."""


@dataclass(frozen=True)
class _Shape:
    """One convolution of AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick")."""

    channels_in: int
    channels: int
    kernel: int
    padding: int
    stride: int = 1
    pooled: bool = False
    """Whether the features before it are max-pooled first, 3x3 with stride 2."""


_ALEXNET = (
    _Shape(3, 64, kernel=11, padding=2, stride=4),
    _Shape(64, 192, kernel=5, padding=2, pooled=True),
    _Shape(192, 384, kernel=3, padding=1, pooled=True),
    _Shape(384, 256, kernel=3, padding=1),
    _Shape(256, 256, kernel=3, padding=1),
)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution with its weights, and what its features count."""

    shape: _Shape
    matrix: Float32Array
    """(kernel * kernel * channels in, channels)."""
    bias: Float32Array
    head: Float32Array
    """(channels,), none below 0."""


class Lpips:
    """The metric: a function of two pictures. Any number of threads may call it.

    Args:
        path: a safetensors file with `conv{i}.weight`, `conv{i}.bias` and `lin{i}.weight` for i
            from 0 to 4, of floats, in PyTorch's order of axes.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """

    def __init__(self, path: StrPath = WEIGHTS) -> None:
        with open_tensor_file(path) as file:
            self._where = file.where
            self._layers = _read_layers(file)

    def __call__(self, a: Uint8Array, b: Uint8Array) -> float:
        """Compare whole pictures; which of them comes first makes no difference.

        Args:
            a: uint8 (height, width, 3), RGB, at least 31x31.
            b: like `a`, of the same size.

        Returns:
            The distance, ≥ 0, rarely above 1; 0 for identical pictures.

        Raises:
            ImageError: a dtype, shape or size other than stated.
            CheckpointError: the weights are none that make sense.
        """
        check_same_form(a, b)
        if min(a.shape[:2]) < _SMALLEST:
            raise ImageError(
                f"LPIPS needs at least {_SMALLEST}x{_SMALLEST} pixels, "
                f"not {a.shape[1]}x{a.shape[0]}"
            )
        one, other = _normalized(a), _normalized(b)
        total = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for layer in self._layers:
                one = _features(one, layer)
                other = _features(other, layer)
                total += _distance(one, other, layer.head)
        if not np.isfinite(total):
            raise CheckpointError(f"{self._where}: its weights give no finite distance; {FETCH}")
        return total


@functools.cache
def installed() -> Lpips | None:
    """The metric with the weights that are kept beside this module; None where they are not.

    Raises:
        CheckpointError: they are damaged.
    """
    return Lpips() if WEIGHTS.exists() else None


def _read_layers(file: TensorFile) -> list[_Layer]:
    layers = []
    for index, shape in enumerate(_ALEXNET):
        kernel = (shape.channels, shape.channels_in, shape.kernel, shape.kernel)
        weight = _read(file, f"conv{index}.weight", kernel)
        head = _read(file, f"lin{index}.weight", (shape.channels,))
        if (head < 0).any():
            raise CheckpointError(f"{file.where}: lin{index}.weight: has numbers below 0; {FETCH}")
        layers.append(
            _Layer(
                shape=shape,
                matrix=np.ascontiguousarray(
                    weight.transpose(2, 3, 1, 0).reshape(-1, shape.channels)
                ),
                bias=_read(file, f"conv{index}.bias", (shape.channels,)),
                head=head,
            )
        )
    return layers


def _read(file: TensorFile, name: str, shape: tuple[int, ...]) -> Float32Array:
    return file.read_floats(name, shape, whole="LPIPS weights of AlexNet", mend=FETCH)


def _normalized(image: Uint8Array) -> Float32Array:
    centred = image.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return (centred - SHIFT) / SCALE


def _features(before: Float32Array, layer: _Layer) -> Float32Array:
    """Pool where the layer does, convolve, and cut off below 0."""
    shape = layer.shape
    if shape.pooled:
        before = _max_pooled(before)
    padding = (shape.padding, shape.padding)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(before, (padding, padding, (0, 0))), (shape.kernel, shape.kernel), axis=(0, 1)
    )
    # The pixels of one row of a patch lie one behind the other with their channels.
    patches = windows[:: shape.stride, :: shape.stride].transpose(0, 1, 3, 4, 2)
    height, width = patches.shape[:2]
    features = np.empty((height, width, shape.channels), np.float32)
    for rows in _bands(height, width * len(layer.matrix)):
        band = features[rows].reshape(-1, shape.channels)
        np.matmul(patches[rows].reshape(len(band), -1), layer.matrix, out=band)
        band += layer.bias
        np.maximum(band, 0, out=band)
    return features


def _max_pooled(features: Float32Array) -> Float32Array:
    """3x3, stride 2, where the window lies wholly inside."""
    for _axis in range(2):
        rows = (len(features) - 1) // 2
        parts = (features[start : start + 2 * rows - 1 : 2] for start in range(3))
        features = functools.reduce(np.maximum, parts).swapaxes(0, 1)
    return features


def _distance(one: Float32Array, other: Float32Array, head: Float32Array) -> float:
    """Zhang et al. 2018, eq. 1, for one layer; `head` holds the squares of its w."""
    height, width, channels = one.shape
    total = 0.0
    for rows in _bands(height, width * channels):
        difference = _unit(one[rows]) - _unit(other[rows])
        total += float(np.sum(np.square(difference) @ head, dtype=np.float64))
    return total / (height * width)


def _unit(features: Float32Array) -> Float32Array:
    """Each position's features divided by their norm."""
    norm = np.sqrt(np.einsum("hwc,hwc->hw", features, features))
    return features / (norm[..., None] + np.float32(1e-10))


def _bands(height: int, row: int) -> Iterator[slice]:
    """Slices of as many rows as `_BAND` allows, of `row` values each; at least one."""
    step = max(_BAND // row, 1)
    return (slice(start, start + step) for start in range(0, height, step))
