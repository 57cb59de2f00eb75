"""What several test files share."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from bidiffsr.config import BiDiffSRConfig

# The tensors of these tests are so small that a second thread only adds waiting.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"
"""For what is known before any fixture runs: the names of parametrized tests."""


def relative_l2(value: Any, expected: Any) -> float:
    """|value - expected| / |expected|, over all elements and in float64."""
    value, expected = (np.asarray(array, dtype=np.float64) for array in (value, expected))
    assert value.shape == expected.shape
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


GOLDEN_MODELS = ("unet_narrow", "unet_shallow_attn")


def golden_outputs() -> list[tuple[str, str]]:
    """(model, key) of every output of the published code's networks."""
    return [
        (model, key)
        for model in GOLDEN_MODELS
        for key in golden_keys(f"{model}.forward.safetensors")
        if ".out." in key
    ]


def golden_keys(name: str) -> list[str]:
    """The tensors of one golden file."""
    with safe_open(GOLDEN / name, framework="numpy") as file:
        return sorted(file.keys())


def read_golden(path: Path) -> dict[str, Tensor]:
    """One golden file, float32 as it is used."""
    tensors = load_file(path)
    return {
        name: value if value.dtype == torch.int64 else value.float()
        for name, value in tensors.items()
    }


def tiny_network_config(**changes: Any) -> BiDiffSRConfig:
    """Two levels of four channels, one block each, the shallower up level in full precision."""
    values: dict[str, Any] = {
        "channels": 4,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "norm_groups": 2,
        "full_precision_up_levels": 1,
        "timesteps": 100,
        "time_groups": 5,
    }
    return BiDiffSRConfig.model_validate(values | changes)


def scramble(network: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter at random: fresh biases are all 0 and fresh slopes all equal."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.2 * noise)
    return network


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let files grow beyond this, as it does when a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
