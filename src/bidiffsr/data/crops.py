"""Training crops: pictures in folders, low-resolution partners made on the fly.

Each sample is a pure function of (seed, index), so a run that stops and goes on sees the very
samples an uninterrupted one sees, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bidiffsr.config import DegradationConfig
from bidiffsr.data.degradation import REACH, degrade
from bidiffsr.data.store import Pair, PictureStore, Written
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import high_resolution_folder, low_resolution
from bidiffsr.images.codec import read_image
from bidiffsr.images.find import find_images
from bidiffsr.images.image import from_float, to_float
from bidiffsr.images.resize import cubic_upscale, mod_crop

# Low-resolution pixels around a crop that the four-tap upscaling reads.
_MARGIN = 3


class TrainingCrops(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (picture, condition), both (3, crop, crop) float32 in [0, 1].

    The low-resolution picture is MATLAB's antialiased bicubic of the whole picture, 8-bit, or the
    one that the official layout has (`bidiffsr.evaluation.benchmark`); the condition is OpenCV's
    bicubic upscale of it. Crops lie on the low-resolution grid; each is flipped and turned by a
    quarter at random.

    Args:
        folders: of pictures, or that contain HR.
        scale: the factor between the two resolutions.
        crop: side in high-resolution pixels, a multiple of ``scale``.
        seed: of all random choices.
        length: how many samples there are before the index ends.
        exclude: file names that are left out; each must be there.
        degradation: of the low-resolution crop before it is upscaled; None for none.
        cache: keep decoded pictures in memory.
        store: a file that keeps them instead (`bidiffsr.data.store`); None for none.
        written: where that file is written, is told how many pictures it holds, and of how many.

    Raises:
        ConfigError: no usable pictures, or a crop that does not fit.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        scale: int,
        crop: int,
        seed: int,
        length: int,
        exclude: Sequence[str] = (),
        degradation: DegradationConfig | None = None,
        cache: bool = True,
        store: Path | None = None,
        written: Written | None = None,
    ) -> None:
        if crop % scale:
            raise ConfigError(f"data.crop: {crop} must be a multiple of the scale, {scale}")
        self.paths = _without(find_images(map(high_resolution_folder, folders)), exclude)
        self.scale = scale
        self.crop = crop
        self.seed = seed
        self.length = length
        self.degradation = degradation
        self.cache = cache
        self.store = store
        if store is not None:
            # Now, once, and not by each worker.
            told = () if written is None else (written,)
            PictureStore(store, self.paths, scale, self._read_pair, *told)

    def __len__(self) -> int:
        """The number of samples."""
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The sample ``index``, always the same for the same seed."""
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, index]))
        number = int(random.integers(len(self.paths)))
        high, low = self._pair(number)
        if min(high.shape[:2]) < self.crop:
            height, width = high.shape[:2]
            raise ConfigError(
                f"{self.paths[number]}: {width}x{height} is smaller than the crop of {self.crop}; "
                "remove it or choose a smaller data.crop"
            )
        side = self.crop // self.scale
        top, left = (int(random.integers(size - side + 1)) for size in low.shape[:2])
        flip, turns = int(random.integers(2)), int(random.integers(4))
        cond = self._condition(low, top, left, side, random)
        high = high[top * self.scale :, left * self.scale :][: self.crop, : self.crop]
        return _to_tensor(to_float(high), flip, turns), _to_tensor(cond, flip, turns)

    def _condition(
        self,
        low: NDArray[np.uint8],
        top: int,
        left: int,
        side: int,
        random: np.random.Generator,
    ) -> NDArray[np.float32]:
        """The upscaled crop, its border computed from the neighbours the whole picture has."""
        margin = _MARGIN if self.degradation is None else _MARGIN + REACH
        above, before = min(top, margin), min(left, margin)
        window = low[
            top - above : top + side + margin,
            left - before : left + side + margin,
        ]
        if self.degradation is not None:
            window = degrade(window, self.degradation, random)
        upscaled = cubic_upscale(to_float(window), self.scale)
        return upscaled[above * self.scale :, before * self.scale :][: self.crop, : self.crop]

    @cached_property
    def _pair(self) -> Callable[[int], Pair]:
        if self.store is not None:
            return PictureStore(self.store, self.paths, self.scale, self._read_pair).__getitem__
        return lru_cache(maxsize=None if self.cache else 1)(self._read_pair)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which fill caches of their own."""
        return {name: value for name, value in vars(self).items() if name != "_pair"}

    def _read_pair(self, number: int) -> Pair:
        path = self.paths[number]
        high = from_float(to_float(read_image(path).pixels))  # 16 bits become 8
        high = np.ascontiguousarray(mod_crop(high, self.scale))
        return high, low_resolution(path, high, self.scale)


def _without(paths: list[Path], exclude: Sequence[str]) -> list[Path]:
    absent = sorted(set(exclude) - {path.name for path in paths})
    if absent:
        raise ConfigError(f"data.exclude: {absent[0]} is in none of the folders; correct its name")
    kept = [path for path in paths if path.name not in exclude]
    if not kept:
        raise ConfigError("data.exclude: leaves no picture to train on")
    return kept


def _to_tensor(image: NDArray[np.float32], flip: int, turns: int) -> Tensor:
    oriented = np.rot90(image[:, ::-1] if flip else image, turns)
    return torch.from_numpy(np.ascontiguousarray(oriented.transpose(2, 0, 1)))
