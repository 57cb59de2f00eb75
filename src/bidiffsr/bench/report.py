"""What was measured, as tables for a terminal, as Markdown and as plain data."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bidiffsr.bench.measure import Result, Row
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.tables import TextTable

_PACKAGES = ("bidiffsr", "numpy", "torch", "openvino", "nncf")


@dataclass(frozen=True)
class SpeedReport:
    """A result and where it came from."""

    result: Result
    machine: dict[str, Any]
    """What ``describe_machine`` said before measuring, and how it was measured."""

    def tables(self) -> list[TextTable]:
        """Those that have rows: steps, layers of each engine, threads, ceilings, left out."""
        tables = [
            _steps(self.result.rows),
            *(_layers(label, rows) for label, rows in self.result.layers.items()),
            _scaling(self.result.rows),
            _table(
                "ceilings of this CPU",
                ("loop", "measured"),
                [(name, _number(value)) for name, value in self.result.ceilings.items()],
            ),
            _table(
                "left out",
                ("system", "size", "threads", "reason"),
                [
                    (one.system, str(one.size), str(one.threads), one.reason)
                    for one in self.result.skipped
                ],
            ),
        ]
        return [table for table in tables if table.rows]

    def markdown(self) -> str:
        """All tables, and the machine below."""
        facts = "".join(f"- {key}: {value}\n" for key, value in self.machine.items())
        tables = [f"{table.title}\n\n{table.markdown()}" for table in self.tables()]
        return "\n".join([*tables, facts])

    def as_dict(self) -> dict[str, Any]:
        """Everything, the time of each single step included."""
        layers = {
            label: [
                asdict(row) | {"rate": row.rate, "ceiling_share": row.ceiling_share} for row in rows
            ]
            for label, rows in self.result.layers.items()
        }
        return {"machine": self.machine, **asdict(self.result), "layers": layers}


def describe_machine() -> dict[str, Any]:
    """The CPU, how busy it is now, and versions; best asked before a measurement."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cpus": usable_cpus(),
        "load average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    """A table whose first column alone is text."""
    return TextTable(columns, rows, text=columns[:1], title=title)


def _steps(rows: Sequence[Row]) -> TextTable:
    columns = ("system", "model", "size", "threads", "median ms", "fastest ms", "ratio")
    columns += ("peak MB", "growth MB", "relative L2")
    return _table(
        "one step; ratio to the first system of the same size and threads",
        columns,
        [
            (
                row.system,
                row.model,
                f"{row.size}²",
                str(row.threads),
                *map(_number, (row.median_ms, row.fastest_ms)),
                f"{row.ratio:.3f}",
                *(f"{number:.0f}" for number in (row.peak_mb, row.growth_mb)),
                f"{row.relative_l2:.1e}" + ("" if row.agrees else " DIFFERS"),
            )
            for row in rows
        ],
    )


def _layers(label: str, rows: Sequence[Any]) -> TextTable:
    return _table(
        f"layers of {label}",
        ("kind", "ms", "share", "GMAC", "GMAC/s", "of the ceiling"),
        [
            (
                row.kind,
                f"{row.milliseconds:.2f}",
                f"{100 * row.share:.0f} %",
                f"{row.macs / 1e9:.2f}" if row.macs else "",
                f"{row.rate / 1e9:.0f}" if row.rate else "",
                f"{100 * row.ceiling_share:.0f} %" if row.ceiling_share else "",
            )
            for row in rows
        ],
    )


def _scaling(rows: Sequence[Row]) -> TextTable:
    """Systems that ran with several thread counts, at the size they did."""
    counts = sorted({row.threads for row in rows})
    found: dict[tuple[str, str, int], dict[int, float]] = {}
    for row in rows:
        found.setdefault((row.system, row.model, row.size), {})[row.threads] = row.median_ms
    lines = []
    for (system, model, size), medians in found.items():
        if len(medians) > 1:
            first, last = medians[min(medians)], medians[max(medians)]
            shown = [_number(medians[count]) if count in medians else "" for count in counts]
            lines.append((system, model, f"{size}²", *shown, f"{first / last:.2f}"))
    columns = ("median ms", "model", "size", *(f"{count} threads" for count in counts), "speed-up")
    return _table("threads", columns, lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
