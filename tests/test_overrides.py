"""Configuration keys on the command line."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from bidiffsr.config.overrides import with_overrides
from bidiffsr.errors import ConfigError


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("", {"a": 1, "b": {"c": 2}}),
        ("--a 5", {"a": 5, "b": {"c": 2}}),
        ("--a=5", {"a": 5, "b": {"c": 2}}),
        ("--b.c -5", {"a": 1, "b": {"c": -5}}),
        ("--b.d.e true", {"a": 1, "b": {"c": 2, "d": {"e": True}}}),
        ("--a null", {"a": None, "b": {"c": 2}}),
        ("--a x y", {"a": ["x", "y"], "b": {"c": 2}}),
        ("--a [x,2]", {"a": ["x", 2], "b": {"c": 2}}),
        ("--a '{k: 1}'", {"a": {"k": 1}, "b": {"c": 2}}),
        ("--a-b 1", {"a": 1, "a_b": 1, "b": {"c": 2}}),
        ("--a 1 --a 2", {"a": 2, "b": {"c": 2}}),
        ("--a=--x", {"a": "--x", "b": {"c": 2}}),
    ],
)
def test_values_are_laid_over(tokens: str, expected: Any) -> None:
    values = {"a": 1, "b": {"c": 2}}
    assert with_overrides(values, shlex.split(tokens), "f.yml") == expected
    assert values == {"a": 1, "b": {"c": 2}}


def test_null_in_the_file_is_no_obstacle() -> None:
    assert with_overrides({"b": None}, ["--b.c", "1"], "f.yml") == {"b": {"c": 1}}


@pytest.mark.parametrize(
    ("values", "tokens", "reason"),
    [
        ({"a": 1}, ["--a.b", "2"], "--a.b: a is no mapping in f.yml"),
        ([1], ["--a", "2"], "the whole file is no mapping"),
        ({}, ["--a"], "--a: has no value"),
        ({}, ["--a", "--b", "1"], "--a: has no value"),
        ({}, ["a", "1"], "'a': unexpected"),
        ({}, ["--"], "'--': unexpected"),
        ({}, ["--a", "["], "not YAML"),
    ],
)
def test_nonsense_is_one_clear_line(values: Any, tokens: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        with_overrides(values, tokens, "f.yml")
    assert "\n" not in str(caught.value)
