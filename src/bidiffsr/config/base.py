"""What all configurations share: frozen, validated, and closed to unknown keys.

Every class refuses unknown keys, so a misspelt option is an error and never a silent default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import pydantic_core
import yaml
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
)

from bidiffsr.errors import ConfigError

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NaturalInt = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Timesteps = Annotated[int, Field(gt=0, le=100_000)]


def _check_path(path: Path) -> Path:
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{str(path)!r} can be no file's name")
    return path


FilePath = Annotated[Path, AfterValidator(_check_path)]


class Config(BaseModel):
    """Base of all configurations: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Incidental:
    """Marks a field of training that does not change the weights: it may differ on going on."""


FORMER_NAMES: dict[str, str] = {}
"""What fields were called, by what they are called now."""


def renamed(name: str, before: str) -> Any:
    """For a field that was called ``before``: files may still say so; fingerprints always do."""
    FORMER_NAMES[name] = before
    return Field(validation_alias=AliasChoices(name, before), serialization_alias=before)


def equals(default: object) -> Callable[[Any], bool]:
    """For ``exclude_if``: a key that came later is written only where it says something new."""
    return lambda value: value == default


def tagged(key: str, default: str, other: str) -> Discriminator:
    """Chooses a member of a union by ``key``, which may be left out for the ``default``."""

    def choose(value: Any) -> Any:
        named = value.get(key, default) if isinstance(value, dict) else getattr(value, key, default)
        return named if isinstance(named, str) else ""  # which is no tag

    return Discriminator(
        choose,
        custom_error_type="tag",
        custom_error_message=f"{key} must be '{default}' or '{other}'",
    )


_TAGS = {"bidiffsr", "sr3", "linear", "angular"}

ConfigType = TypeVar("ConfigType", bound=Config)


def parse_config(
    kind: type[ConfigType], values: Any, where: str, section: str | None = None
) -> ConfigType:
    """Validate plain data as ``kind``.

    Args:
        kind: the configuration.
        values: plain data.
        where: names the file or other source in messages.
        section: the key under which ``values`` stand there, if they are a part of it.

    Raises:
        ConfigError: naming ``where`` and the first key that does not fit.
    """
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        # A misspelt key is named before the one that is missing for it.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        parts = [section] if section else []
        parts += [_one_line(str(part)) for part in first["loc"] if part not in _TAGS]
        key = ".".join(parts) or "configuration"
        raise ConfigError(f"{where}: {key}: {_reason(first)}") from None


def _one_line(key: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in key)


def _reason(error: pydantic_core.ErrorDetails) -> str:
    shortened = _shown(error["input"])
    match error["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "unknown key; correct or remove it"
        case "model_type" | "model_attributes_type":
            return f"expected a mapping, got {shortened}"
        case "value_error" | "tag":
            return error["msg"].removeprefix("Value error, ")
        case _:
            return f"{error['msg']}, got {shortened}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or too deep
        return f"{type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else f"{text[:60]}..."


def load_yaml(path: Path) -> Any:
    """Read one YAML document as plain data.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None


def parse_yaml(text: str) -> Any:
    """One YAML document as plain data.

    Raises:
        ValueError: it is none; the message is one line.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    # Beside its own errors, ValueError for a date such as 2024-13-01, and others for other scalars.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split())) from None
