"""Our model files (docs/format.md)."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from bidiffsr.checkpoint.packing import pack
from bidiffsr.checkpoint.tensors import load_into, parse_json, read_tensors
from bidiffsr.config import ModelConfig, parse_config
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.files import write_atomically

METADATA_KEY = "bidiffsr"


def save_model(
    path: Path, network: nn.Module, config: ModelConfig, *, packed: bool = False
) -> None:
    """Write a model file: the weights, and the configuration in its header (docs/format.md).

    The file appears whole or not at all.

    Args:
        path: ends in ``.safetensors``.
        network: of ``config.network``.
        config: what the file says of itself.
        packed: store a binarized weight as its signs, one bit each, and its scales, which is all
            that inference needs; otherwise as the float32 that training goes on from.

    Raises:
        OutputError: the place cannot be written to.
    """
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    if packed:
        state = pack(network, state)
    header = {METADATA_KEY: config.model_dump_json()}
    data = save(state, metadata=header)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def is_model(path: Path) -> bool:
    """Whether ``path`` is one of our model files, sound or not."""
    try:
        with safe_open(path, framework="numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return False


def load_model(path: Path) -> tuple[nn.Module, ModelConfig]:
    """Read a model file written by ``save_model``; the network is in evaluation mode.

    Raises:
        CheckpointError: the file cannot be read, or names the first key that does not fit.
    """
    state, metadata = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: is not a bidiffsr model; a published checkpoint needs `bidiffsr convert`"
        )
    values = parse_json(metadata[METADATA_KEY], f"{path}: header")
    try:
        config = parse_config(ModelConfig, values, f"{path}: header")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return load_into(config.network, state, path), config
