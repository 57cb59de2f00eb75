"""The models that ship with the package, by name."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from bidiffsr.errors import CheckpointError
from bidiffsr.system.files import printable

_SUFFIX = ".safetensors"


def list_models() -> list[str]:
    """The names of the models that ship with the package."""
    paths = (Path(file.name) for file in _weights().iterdir())
    return sorted(path.stem for path in paths if path.suffix == _SUFFIX)


def default_model(scale: float | None = None) -> str:
    """The name of the model that "default" stands for at this scale; None: as much as there is."""
    # Up to ×2, what was trained for that is better than a ×4 result made smaller.
    doubles = scale is not None and scale <= 2 and "x2-small" in list_models()
    return "x2-small" if doubles else "x4-small"


def find_model(
    model: str | os.PathLike[str], scale: float | None = None
) -> AbstractContextManager[Path]:
    """The file of a model that ships with the package, by its name, or of another by its path.

    Args:
        model: see ``Upscaler.from_pretrained``.
        scale: what "default" is for; None: as much as there is.

    Raises:
        CheckpointError: ``model`` is neither.
    """
    shipped, name = list_models(), os.fspath(model)
    if name == "default":
        name = default_model(scale)
    if name in shipped:
        return as_file(_weights() / f"{name}{_SUFFIX}")
    try:
        missing = not Path(model).is_file()
    except OSError:
        missing = False  # reading it will say why
    if missing:
        names = ", ".join(["default", *shipped])
        raise CheckpointError(
            f"{printable(model)}: no such file, and bidiffsr ships no model of this name; "
            f"check the path, or choose one of {names}"
        )
    return nullcontext(Path(model))


def _weights() -> Traversable:
    return files("bidiffsr.models") / "weights"
