"""Measures the speed and memory of one sampling step, each system in a process of its own."""

from bidiffsr.bench.layers import LayerRow, layer_rows
from bidiffsr.bench.measure import Entry, Progress, Result, Row, Skipped, measure, plan
from bidiffsr.bench.report import Report, describe_machine
from bidiffsr.bench.systems import INSTALLED, Engine, System, TorchEager, Workload
from bidiffsr.bench.worker import Worker, WorkerError

__all__ = [
    "INSTALLED",
    "Engine",
    "Entry",
    "LayerRow",
    "Progress",
    "Report",
    "Result",
    "Row",
    "Skipped",
    "System",
    "TorchEager",
    "Worker",
    "WorkerError",
    "Workload",
    "describe_machine",
    "layer_rows",
    "measure",
    "plan",
]
