"""Checks of what a caller passed as an option; each returns the value as the package uses it."""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from bidiffsr.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Check = Callable[[str, Any], Any]
"""(option's name, value) → the value as a plain Python object.

Raises:
    OptionError: the value cannot be meant.
"""

_Options = TypeVar("_Options", bound="DataclassInstance")

_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def check_options(options: Any, checks: dict[str, Check]) -> None:
    """Check and convert the fields of a frozen dataclass; for its ``__post_init__``."""
    for name, check in checks.items():
        object.__setattr__(options, name, check(name, getattr(options, name)))


def options_of(kind: type[_Options], given: Mapping[str, Any]) -> _Options:
    """The options that keyword arguments ask for.

    Args:
        kind: a dataclass of options.
        given: values by name.

    Raises:
        OptionError: there is no option of a name, or a value cannot be meant.
    """
    names = [field.name for field in fields(kind)]
    for name in given:
        if name not in names:
            raise OptionError(name, f"is no option; expected one of {', '.join(names)}")
    return kind(**given)


def optional(check: Check) -> Check:
    """None too."""
    return lambda name, value: None if value is None else check(name, value)


def whole(least: int, most: float = math.inf) -> Check:
    """An integer, numpy's included, in a range."""
    expected = f"a whole number, {_range(least, most)}"

    def check(name: str, value: Any) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise _unexpected(name, value, expected) from None
        if isinstance(value, bool) or not least <= number <= most:
            raise _unexpected(name, value, expected)
        return number

    return check


def dimensions(most: int) -> Check:
    """Text such as ``1920x1080``: two whole numbers of 1 or more."""
    expected = f"width x height such as 1920x1080, each {_range(1, most)}"

    def check(name: str, value: Any) -> str:
        match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", value) if isinstance(value, str) else None
        sides = [int(side) for side in match.groups()] if match else [0]
        if not all(1 <= side <= most for side in sides):
            raise _unexpected(name, value, expected)
        return "x".join(map(str, sides))

    return check


def positive(name: str, value: Any) -> float:
    """A number above 0, numpy's included."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan
    if not 0 < number < math.inf:
        raise _unexpected(name, value, "a number above 0")
    return number


def one_of(*choices: str) -> Check:
    """One of a few words."""
    *others, last = map(repr, choices)
    expected = f"{', '.join(others)} or {last}"

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _unexpected(name, value, expected)
        return str(value)

    return check


def word_or(word: str, check: Check) -> Check:
    """A word with a meaning of its own, or what ``check`` lets pass."""

    def both(name: str, value: Any) -> Any:
        if isinstance(value, str) and value == word:
            return word
        try:
            return check(name, value)
        except OptionError as error:
            raise OptionError(name, f"{error.complaint}, or {word!r}") from None

    return both


def text(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise _unexpected(name, value, "a name")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that is merely taken for one of them."""
    if not isinstance(value, bool):
        raise _unexpected(name, value, "True or False")
    return value


def amount_of_memory(name: str, value: Any) -> int:
    """A number of bytes, or as text ``2G``, ``800M``, ``1.5GB``; G is 10⁹, and GiB 2³⁰."""
    expected = "an amount such as 2G or 800M, or a number of bytes"
    if not isinstance(value, str):
        try:
            return whole(0)(name, value)
        except OptionError:
            raise _unexpected(name, value, expected) from None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", value.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise _unexpected(name, value, expected)
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]])


def _range(least: int, most: float) -> str:
    return f"{least} or more" if most == math.inf else f"{least} to {most}"


def _unexpected(name: str, value: Any, expected: str) -> OptionError:
    given = repr(value)
    shortened = given if len(given) <= 60 else f"{given[:60]}..."
    return OptionError(name, f"got {shortened}, expected {expected}")
