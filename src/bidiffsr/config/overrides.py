"""Configuration keys given on the command line, laid over those of a file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from bidiffsr.config.base import FORMER_NAMES, parse_yaml
from bidiffsr.errors import ConfigError


def with_overrides(values: Any, tokens: Sequence[str], where: str) -> Any:
    """Plain data with some of its keys replaced or added.

    Args:
        values: as read from YAML; left as it is.
        tokens: ``--path.to.key value`` or ``--path.to.key=value``, any number of times. A value is
            YAML; several after one key make a list. ``-`` in a key stands for ``_``.
        where: names ``values`` in messages.

    Raises:
        ConfigError: a token is neither, or its path leads through something without keys.
    """
    result = copy.deepcopy(values)
    for key, value in _parse(tokens):
        *parents, last = key.split(".")
        place = result
        for depth, name in enumerate([*parents, last]):
            if not isinstance(place, dict):
                path = ".".join(parents[:depth]) or "the whole file"
                raise ConfigError(f"--{key}: {path} is no mapping in {where}; it has no {name!r}")
            if depth == len(parents):
                place.pop(FORMER_NAMES.get(last), None)  # the same key, as an older file has it
                place[last] = value
            elif place.get(name) is None:
                place[name] = {}
            place = place[name]
    return result


def _parse(tokens: Sequence[str]) -> list[tuple[str, Any]]:
    found: list[tuple[str, list[str]]] = []
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            key, has_value, value = token[2:].partition("=")
            found.append((key.replace("-", "_"), [value] if has_value else []))
        elif found:
            found[-1][1].append(token)
        else:
            raise ConfigError(f"{token!r}: unexpected; expected --key value, such as --batch 8")
    return [(key, _value(key, texts)) for key, texts in found]


def _value(key: str, texts: list[str]) -> Any:
    if not texts:
        raise ConfigError(f"--{key}: has no value; expected --{key} VALUE")
    try:
        values = [parse_yaml(text) for text in texts]
    except ValueError:
        raise ConfigError(f"--{key}: {' '.join(texts)!r} is not YAML") from None
    return values[0] if len(values) == 1 else values
