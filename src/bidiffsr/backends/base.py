"""What runs a network: the native engine, or PyTorch where it is asked for or needed."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bidiffsr.backends.options import BackendOptions
from bidiffsr.binary.methods import method_for
from bidiffsr.config import BiDiffSRConfig, ModelConfig, NetworkConfig
from bidiffsr.errors import ConfigError
from bidiffsr.models.container import open_model_file


class Backend(Protocol):
    """Runs a network."""

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, 3, H, W), (B, 3, H, W), (B,) → (B, 3, H, W), float32.

        Raises:
            MemoryError: there was not enough of it; a smaller call may succeed.
        """
        ...

    def memory(self, height: int, width: int) -> int:
        """Bytes that one ``predict`` of (1, 3, height, width) takes beyond what is loaded."""
        ...

    def release_memory(self) -> None:
        """Give back what is kept for the next ``predict``."""
        ...


class Surroundings(Protocol):
    """What is computed of a picture around the network: the same bytes whoever computes it.

    Pictures are (3, H, W) float32, the values of a row side by side, and may live in files (see
    ``new_buffer``).
    """

    def interpolate(
        self, colour: NDArray[np.float32], factor: int, cond: NDArray[np.float32]
    ) -> None:
        """Fill what the network is conditioned on.

        Args:
            colour: (3, H, W), in [0, 1].
            factor: how much larger it becomes, by OpenCV's cubic interpolation.
            cond: (3, H', W'), at least that large; beyond, it is reflected at the bottom and on the
                right.
        """
        ...

    def back_project(
        self, picture: NDArray[np.float32], source: NDArray[np.float32], factor: int
    ) -> None:
        """Correct an upscaled picture, in place, so that made small it is nearer to its source.

        What the shrunk picture lacks of the source is enlarged and added; the limit of repetition
        is a picture that shrinks to its source.

        Args:
            picture: (3, factor H, factor W) in [0, 1], and so afterwards.
            source: (3, H, W) in [0, 1].
            factor: between the two.

        Source: Irani & Peleg, "Improving resolution by image registration", 1991, with MATLAB's
        imresize for the way down and OpenCV's cubic for the way up.
        """
        ...

    def noise(
        self, seed: int, sample: int, stream: int, rows: slice, width: int, scale: float
    ) -> NDArray[np.float32]:
        """``scale`` times ``normal_noise`` of whole rows: (3, number of rows, width)."""
        ...


class LoadedBackend(Backend, Protocol):
    """One of those that ``BackendOptions`` names."""

    @property
    def surroundings(self) -> Surroundings | None:
        """What it computes beside the network; None: nothing."""
        ...

    @property
    def computation(self) -> dict[str, str]:
        """What its rounding depends on, "name" (see ``BackendOptions.backend``) first."""
        ...


def load_backend(
    path: Path, options: BackendOptions | None = None
) -> tuple[LoadedBackend, ModelConfig]:
    """Read a model file into the backend that the options ask for.

    Raises:
        CheckpointError: the file is missing, damaged, or not for this backend.
        ConfigError: PyTorch is needed and not installed, or cannot have the device; or the device
            is none of the engine's.
    """
    options = options or BackendOptions()
    match options.backend:
        case "engine":
            return _engine(path, options)
        case "torch":
            return _torch(path, options)
        case "auto":
            on_gpu = options.device not in (None, "cpu")
            return (_torch if on_gpu or _is_foreign(path) else _engine)(path, options)


def engine_knows(network: NetworkConfig) -> bool:
    """Whether the engine can run this kind of network and its method."""
    return isinstance(network, BiDiffSRConfig) and method_for(network).epilogue is not None


def _is_foreign(path: Path) -> bool:
    with open_model_file(path) as file:
        return not engine_knows(file.config.network)


def _engine(path: Path, options: BackendOptions) -> tuple[LoadedBackend, ModelConfig]:
    from bidiffsr.backends.engine import Engine

    if options.device not in (None, "cpu"):
        raise ConfigError(
            f"device: {options.device!r} is PyTorch's, and the engine runs on the CPU; "
            "choose the backend 'torch'"
        )
    engine = Engine(path, options.precision, options.threads)
    return engine, engine.config


def _torch(path: Path, options: BackendOptions) -> tuple[LoadedBackend, ModelConfig]:
    try:
        from bidiffsr.backends.pytorch import TorchBackend
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'bidiffsr[torch]'") from None
    try:
        return TorchBackend.load(path, options.device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's ways to refuse a device
        if options.device is None:
            raise
        reason = shorten(str(error), 100)
        raise ConfigError(
            f"device {options.device!r} cannot be used ({reason}); try 'cpu'"
        ) from None
