"""Networks with random weights, and what a measurement says of where it came from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bidiffsr.bench import Worker
from bidiffsr.config import BiDiffSRConfig, ModelConfig, SR3Config

SMALL: dict[str, Any] = {
    "channels": 16,
    "norm_groups": 8,
    "multipliers": (1, 2),
    "blocks_per_level": 1,
}
"""What makes a network tiny, to try a benchmark."""


def write_random_models(networks: Mapping[Path, BiDiffSRConfig | SR3Config]) -> None:
    """Write a model file each, in a process of its own, which needs PyTorch."""
    with Worker(1) as worker:
        for path, network in networks.items():
            worker.call("random_model", path, ModelConfig(network=network))


def commit() -> str:
    """The commit of the working tree, marked where it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
