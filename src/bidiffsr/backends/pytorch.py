"""Runs a network in PyTorch behind the one interface that upscaling knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bidiffsr.config import BiDiffSRConfig, ModelConfig, SR3Config
from bidiffsr.models.trained import load_model
from bidiffsr.system.memory import is_out_of_memory

# Measured growth of the peak resident set over one step (`make bench`): full-size feature maps of
# `channels` float32 values, and what does not grow with the picture.
_FEATURE_MAPS = {"bidiffsr": 18, "sr3": 28}
_FIXED_BYTES = 50_000_000
# Pictures of three channels beside them: what comes in, joined and cut into patches, and goes out.
_PICTURES = 3 * 8


class TorchBackend:
    """A network on a torch device, numpy in and out.

    Args:
        network: ``forward(x_t, cond, t)``; it is used as it is, in evaluation mode.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        config = network.config
        if not isinstance(config, BiDiffSRConfig | SR3Config):
            raise TypeError(f"{type(network).__name__} is no network of ours: it has no config")
        self._config = config
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> tuple[TorchBackend, ModelConfig]:
        """Read a model file; by default onto a GPU where there is one.

        Raises:
            CheckpointError: the file is damaged or does not fit its own configuration.
        """
        network, config = load_model(path)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(network, chosen), config

    @property
    def surroundings(self) -> None:
        """See ``LoadedBackend``."""

    @property
    def computation(self) -> dict[str, str]:
        """See ``LoadedBackend``; not all of it, for PyTorch's rounding has more causes."""
        return {"name": "torch", "version": str(torch.__version__), "device": self.device.type}

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, 3, H, W), (B, 3, H, W), (B,) → (B, 3, H, W), float32.

        Raises:
            MemoryError: as PyTorch says in its own way.
        """
        try:
            with torch.inference_mode():
                arguments = [torch.from_numpy(array).to(self.device) for array in (x_t, cond, t)]
                return self.network(*arguments).float().cpu().numpy()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise

    def memory(self, height: int, width: int) -> int:
        """Bytes of the machine's memory that ``predict`` of (1, 3, height, width) takes.

        A GPU's own memory does not count: where that runs out, ``predict`` says so.
        """
        on_cpu = self.device.type == "cpu"
        return estimate_memory(self._config, height, width) if on_cpu else 0

    def release_memory(self) -> None:
        """See ``Backend.release_memory``: what PyTorch keeps of a GPU's."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def estimate_memory(config: BiDiffSRConfig | SR3Config, height: int, width: int) -> int:
    """Bytes one step takes on the CPU for an output of ``height`` × ``width`` pixels."""
    features = height * width * _FEATURE_MAPS[config.architecture] * config.channels
    features //= config.patch**2
    return _FIXED_BYTES + 4 * (features + height * width * _PICTURES)
