"""The benchmark of saving and reading beside the network: all ways do the same work."""

from __future__ import annotations

import pytest

from benchmarks import behind
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


def test_all_ways_are_measured() -> None:
    spent = behind.measure(12, 8, tiny_upscaler())
    assert list(spent) == list(behind.WAYS)
    for way in spent.values():
        assert way.files == 12
        assert 0 < way.network_clock < way.clock
        assert 0 < way.network_cpu < way.cpu
        assert 0 < way.idle < 1
        assert 0 < way.beside < 1


def test_a_picture_that_fails_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "_SOURCE", behind._SOURCE.with_name("missing.png"))
    with pytest.raises(ValueError, match=r"missing\.png"):
        behind.measure(1, 8, tiny_upscaler())
