"""The models that ship with the package, by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from bidiffsr.errors import CheckpointError
from bidiffsr.system.files import check_path, printable, reason

_SUFFIX = ".safetensors"


def list_models() -> list[str]:
    """The names of the models that ship with the package."""
    paths = (Path(file.name) for file in _weights().iterdir())
    return sorted(path.stem for path in paths if path.suffix == _SUFFIX)


def default_model(scale: float | None = None, quality: str | None = None) -> str:
    """The name of the model that "default" stands for.

    Args:
        scale: what pictures are upscaled by; None: as much as there is.
        quality: what they are upscaled with; None: the model's own default.
    """
    name = "x4-detail"
    if scale is not None and scale <= 2:
        # What was trained for that is better than a ×4 result made smaller.
        name = "x2-small"
    elif quality == "fast":
        # One step invents nothing, so the model for it is the one that was trained to be exact.
        name = "x4-small"
    return name if name in list_models() else "x4-detail"


def find_model(
    model: str | os.PathLike[str], scale: float | None = None, quality: str | None = None
) -> AbstractContextManager[Path]:
    """The file of a model that ships with the package, by its name, or of another by its path.

    Args:
        model: see ``Upscaler.from_pretrained``.
        scale: what "default" is for; see ``default_model``.
        quality: the same.

    Raises:
        CheckpointError: ``model`` is neither.
    """
    check_path(model, CheckpointError, "model")
    shipped, name = list_models(), os.fspath(model)
    if name == "default":
        name = default_model(scale, quality)
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


def model_digest(path: Path) -> str:
    """The SHA-256 of a model file, 64 hexadecimal digits.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read ({reason(error)})") from None


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Make sure that a model file that is read several times is one and the same.

    Raises:
        CheckpointError: it has been replaced or written to meanwhile.
    """
    before = _state(path)
    yield
    if _state(path) != before:
        raise CheckpointError(f"{printable(path)}: was changed while it was read; try again")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:  # reading it will say why
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def shipped_as(digest: str) -> str | None:
    """The name of the model that ships with the package and has this ``model_digest``."""
    for name in list_models():
        with find_model(name) as path:
            if model_digest(path) == digest:
                return name
    return None


def _weights() -> Traversable:
    return files("bidiffsr.models") / "weights"
