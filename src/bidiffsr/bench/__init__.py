"""Measures the speed and memory of one sampling step, each system in a process of its own."""

from bidiffsr.bench.layers import LayerRow, layer_rows
from bidiffsr.bench.measure import Case, MeasurementProgress, Result, Row, Skipped, measure, plan
from bidiffsr.bench.report import SpeedReport, describe_machine
from bidiffsr.bench.systems import INSTALLED, EngineSystem, System, TorchEager, Workload
from bidiffsr.bench.worker import Worker, WorkerError

__all__ = [
    "INSTALLED",
    "Case",
    "EngineSystem",
    "LayerRow",
    "MeasurementProgress",
    "Result",
    "Row",
    "Skipped",
    "SpeedReport",
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
