"""Runs a network in PyTorch behind the one interface that upscaling knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bidiffsr.checkpoint import load_model
from bidiffsr.config import ModelConfig


class TorchBackend:
    """A network on a torch device, numpy in and out.

    Args:
        network: ``forward(x_t, cond, t)``; it is used as it is, in evaluation mode.
        device: where it runs.
    """

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
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

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, 3, H, W), (B, 3, H, W), (B,) → (B, 3, H, W), float32."""
        with torch.inference_mode():
            arguments = [torch.from_numpy(array).to(self.device) for array in (x_t, cond, t)]
            return self.network(*arguments).float().cpu().numpy()
