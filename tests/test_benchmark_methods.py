"""The table of methods: counts beside times, a row each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import methods
from bidiffsr.binary import METHODS
from bidiffsr.config import BiDiffSRConfig


def test_counts_are_the_published_ones_and_ratios_those_of_rounds() -> None:
    networks = {name: BiDiffSRConfig(method=name) for name in ("bi-diffsr", "bnn")}
    times = {"bi-diffsr": [300.0, 200, 400], "bnn": [270.0, 190, 300]}
    assert methods.table_of(networks, times, 256).rows == [
        ("bi-diffsr", "4.58", "36.67", "300", "200", "1.00"),
        ("bnn", "4.23", "36.67", "270", "190", "0.90"),
    ]


def test_each_method_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("bi-diffsr", "xnor-net")
    monkeypatch.setattr(methods, "METHODS", {name: METHODS[name] for name in chosen})
    output = tmp_path / "table.md"
    methods.main(["--small", "--size", "16", "--rounds", "1", "--output", str(output)])
    written, shown = output.read_text(encoding="utf-8"), capsys.readouterr().out
    for name in chosen:
        assert f"| {name} |" in written
        assert name in shown
    assert "- command: python -m benchmarks.methods --small" in written
