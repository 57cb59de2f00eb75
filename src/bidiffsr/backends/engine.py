"""The native 1-bit engine: load a packed model, run it, list and force its kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr import _native
from bidiffsr.backends.options import KERNEL_VARIABLE, BackendOptions, Precision
from bidiffsr.binary.methods import method_for
from bidiffsr.config import BiDiffSRConfig, ModelConfig
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.models.catalog import find_model
from bidiffsr.models.packed import load_packed
from bidiffsr.nn.layout import ConvBlock, network_layers
from bidiffsr.system.buffers import pieces, release
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.files import printable

_LARGEST_SIDE = 2**20


@dataclass(frozen=True)
class KernelInfo:
    """One instruction set that the engine was built for."""

    name: str
    needs: str
    """The CPU features it takes."""
    supported: bool
    """Whether this CPU and operating system have them."""
    bfloat16: bool
    """Whether ``precision="fast"`` differs from ``"exact"``."""


def kernels() -> list[KernelInfo]:
    """Every kernel of this build, the fastest first."""
    return [KernelInfo(**entry) for entry in _native.kernels()]


def chosen_kernel() -> str:
    """The kernel that engines run on: the fastest one, or what BIDIFFSR_KERNEL asks for.

    Raises:
        ConfigError: BIDIFFSR_KERNEL names none that can run here.
    """
    runnable = [kernel.name for kernel in kernels() if kernel.supported]
    asked = os.environ.get(KERNEL_VARIABLE)
    if not asked:
        return runnable[0]
    if asked not in runnable:
        raise ConfigError(
            f"{KERNEL_VARIABLE}={asked}: cannot run here; this CPU has {', '.join(runnable)}"
        )
    return asked


def ceilings(threads: int = 0) -> dict[str, float]:
    """Measure what this CPU can do at best, with ``threads`` threads (0: all CPUs).

    Returns:
        Multiply-accumulates of a loop that counts differing bits (``popcount_tmacs``, 10¹²/s; AVX2
        counts by table), of a float32 loop (``fma_gmacs``, 10⁹/s) and, where the CPU has it, of a
        bfloat16 loop (``bf16_gmacs``); bytes read and written by a copy (``copy_gbs``, 10⁹/s).
    """
    return _native.ceilings(chosen_kernel(), threads)


def binary_conv_rate(channels: int, width: int, threads: int = 0) -> float:
    """Multiply-accumulates per second of the binarized 3×3 convolution by itself.

    From rows of bits to float32 results with α, RPReLU and the shortcut, on one row of ``width``
    pixels for each thread, which stays in cache; ``channels``, a multiple of 8, in and out.
    """
    if channels <= 0 or channels % 8 or width <= 0:
        raise ConfigError(f"channels {channels}, width {width}: expected a multiple of 8, and > 0")
    return _native.binary_conv_rate(chosen_kernel(), threads, channels, width)


def _constants(network: BiDiffSRConfig) -> dict[str, NDArray[np.float32]]:
    """What the engine reads and the network's method does not learn."""
    return {
        f"{layer.name}.{name}": value
        for layer in network_layers(network)
        if isinstance(layer, ConvBlock)
        for name, value in layer.method.constants(layer.channels_in, layer.channels_out).items()
    }


class Engine:
    """A packed BI-DiffSR network on the CPU, without PyTorch; safe to call from many threads.

    Args:
        path: a model file (docs/format.md), or the name of one that ships with the package.
        precision: ``"exact"`` computes everything that is not one bit in float32. ``"fast"`` takes
            larger Winograd tiles, which round a little more, and bfloat16 for the full-precision
            convolutions where the CPU has it; signs are decided in float32 in both.
        threads: how many threads share one call; 0 for one on each CPU this process may use.

    Raises:
        CheckpointError: the file is missing, damaged, or not of this kind of network or of a method
            that the engine does not know.
        ConfigError: ``precision`` or ``threads`` is out of range, or BIDIFFSR_KERNEL cannot be had.
    """

    def __init__(
        self, path: str | os.PathLike[str], precision: Precision = "fast", threads: int = 0
    ) -> None:
        asked = BackendOptions(precision=precision, threads=threads)
        with find_model(path) as file:
            self._path = file.absolute()
            model = load_packed(file)
        network = model.config.network
        assert isinstance(network, BiDiffSRConfig)  # others are not packed
        epilogue = method_for(network).epilogue
        if epilogue is None:
            key = "method" if network.float_help == "none" else "float_help"
            raise CheckpointError(
                f"{printable(path)}: network.{key}: {getattr(network, key)!r} is none that the "
                "engine knows; choose the backend 'torch'"
            )
        self.config: ModelConfig = model.config
        self.precision: Precision = asked.precision
        self._native = _native.make_engine(
            dict(network) | {"method": epilogue},  # a dump leaves out what is as published
            _constants(network) | model.tensors,
            precision == "fast",
            chosen_kernel(),
            asked.threads or usable_cpus(),
        )

    def __reduce__(self) -> tuple[type[Engine], tuple[Path, Precision, int]]:
        """A copy, also in another process, reads the file anew."""
        return type(self), (self._path, self.precision, self.threads)

    @property
    def kernel(self) -> str:
        """The instruction set it runs on, one of ``kernels()``."""
        return self._native.kernel

    @property
    def computation(self) -> dict[str, str]:
        """See ``LoadedBackend``."""
        return {"name": "engine", "precision": self.precision, "kernel": self.kernel}

    @property
    def surroundings(self) -> EngineSurroundings:
        """See ``LoadedBackend``."""
        return EngineSurroundings(self)

    @property
    def threads(self) -> int:
        """How many threads share one call."""
        return self._native.threads

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Run the network once.

        Args:
            x_t: noisy variable, float32 (B, 3, H, W); H, W multiples of
                ``config.network.size_multiple``.
            cond: the upscaled low-resolution picture, float32 (B, 3, H, W) in [0, 1].
            t: integer timesteps (B,), which may differ from sample to sample; those beyond the
                schedule take the parameters of the nearest time group, as published.

        Returns:
            The prediction, float32 (B, 3, H, W).

        Raises:
            ConfigError: the arrays' shapes or types do not fit.
            MemoryError: there is no memory for the feature maps.
        """
        return self._call(self._native.predict, x_t, cond, t)

    def profile(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> dict[str, tuple[float, float]]:
        """As ``predict``, but returns (milliseconds, multiply-accumulates) by layer and size."""
        return self._call(self._native.profile, x_t, cond, t)

    def memory(self, height: int, width: int) -> int:
        """Bytes that a call for one picture of this size takes at its peak.

        Raises:
            ConfigError: the size is none that ``predict`` takes.
        """
        if not 0 < min(height, width) <= max(height, width) <= _LARGEST_SIDE:
            raise ConfigError(f"size {width}x{height}: both must be from 1 to {_LARGEST_SIDE}")
        try:
            return self._native.scratch_bytes(height, width) + 4 * 3 * height * width
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def release_memory(self) -> None:
        """Give the scratch memory back that is kept for the next call of the same size.

        As much is kept as the calls took that ran at once; what calls under way hold is not given
        back. The next call fetches it anew, which takes a little longer.
        """
        self._native.release_memory()

    def _call(self, function: Callable[..., Any], x_t: Any, cond: Any, t: Any) -> Any:
        arrays = [np.asarray(x_t), np.asarray(cond)]
        steps = np.asarray(t)
        shape = arrays[0].shape
        if len(shape) != 4 or shape[1] != 3 or arrays[1].shape != shape:
            raise ConfigError(
                f"x_t and cond have shapes {shape} and {arrays[1].shape}; "
                "expected (B, 3, H, W) twice"
            )
        if not np.issubdtype(steps.dtype, np.integer) or steps.shape != shape[:1]:
            raise ConfigError(
                f"t is {steps.dtype} of shape {steps.shape}; expected {shape[0]} integers"
            )
        if any(not np.issubdtype(array.dtype, np.floating) for array in arrays):
            raise ConfigError(
                f"x_t and cond are {arrays[0].dtype} and {arrays[1].dtype}; expected float32"
            )
        try:
            return function(
                *(np.ascontiguousarray(array, dtype=np.float32) for array in arrays),
                np.ascontiguousarray(steps, dtype=np.int64),
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None


class EngineSurroundings:
    """See ``Surroundings``: on the threads of an engine.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _native(self) -> Any:
        return self._engine._native

    def interpolate(
        self, colour: NDArray[np.float32], factor: int, cond: NDArray[np.float32]
    ) -> None:
        """See ``Surroundings``."""
        for rows in pieces(cond, *cond.shape[1:]):
            self._native.interpolate(colour, factor, cond, rows.start, rows.stop)
            release(cond)

    def back_project(
        self, picture: NDArray[np.float32], source: NDArray[np.float32], factor: int
    ) -> None:
        """See ``Surroundings``."""
        lacking = np.empty(source.shape, np.float32)
        _, height, width = source.shape
        for rows in pieces(picture, height, width * factor**2):
            self._native.find_lacking(picture, source, factor, lacking, rows.start, rows.stop)
            release(picture)
        for rows in pieces(picture, *picture.shape[1:]):
            self._native.add_lacking(picture, lacking, factor, rows.start, rows.stop)
            release(picture)

    def noise(
        self, seed: int, sample: int, stream: int, rows: slice, width: int, scale: float
    ) -> NDArray[np.float32]:
        """See ``Surroundings``."""
        drawn = np.empty((3, rows.stop - rows.start, width), np.float32)
        self._native.draw_noise(seed, sample, stream, rows.start, scale, drawn)
        return drawn
