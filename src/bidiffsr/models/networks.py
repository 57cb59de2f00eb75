"""The public ways from a file to a PyTorch network; a wrong path is named without PyTorch, too."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.system.files import StrPath, check_path, printable

if TYPE_CHECKING:
    from torch import nn

    from bidiffsr.config import ModelConfig
    from bidiffsr.nn import BiDiffSRUNet


def load_model(path: StrPath) -> tuple[nn.Module, ModelConfig]:
    """Read a model file, packed or not, into a PyTorch network.

    A packed weight becomes one that packs to the same, such as plus or minus its channel's scale.

    Args:
        path: the file.

    Returns:
        The network, float32 and in evaluation mode, and what the file says of itself.

    Raises:
        CheckpointError: the file cannot be read, or names the first key that does not fit.
        ConfigError: PyTorch is not installed.
    """
    check_exists(path)
    return _part("bidiffsr.models.trained", extra="torch").load_model(Path(path))


def from_reference(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> BiDiffSRUNet:
    """Build our network from a checkpoint of the published code.

    Args:
        path: ``.pth`` (a state dict, or a dict with ``params_ema`` or ``params``; keys may start
            with ``module.``) or ``.safetensors`` with the same names.
        options: the published option file's ``network_g`` mapping; by default the JSON in the
            safetensors metadata key ``config``.

    Returns:
        The network in evaluation mode, float32: ``forward(x_t, cond, t)``.

    Raises:
        CheckpointError: the file cannot be read, or names the first key that does not fit.
        ConfigError: ``options`` are missing or wrong, or PyTorch is not installed.
    """
    check_exists(path)
    return _part("bidiffsr.models.published", extra="train").from_reference(path, options)


def check_exists(path: StrPath) -> None:
    """Make sure that there is a file before anything is loaded to read it with.

    Raises:
        CheckpointError: there is none.
    """
    check_path(path, CheckpointError)
    try:
        missing = not Path(path).exists()
    except (OSError, ValueError):
        missing = False  # reading it will say why
    if missing:
        raise CheckpointError(f"{printable(path)}: no such file; check the path")


def _part(module: str, *, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; pip install 'bidiffsr[{extra}]'"
        ) from None
