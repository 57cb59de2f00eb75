"""Systems take turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.bench.layers import LayerRow, layer_rows
from bidiffsr.bench.systems import EngineSystem, System, Workload
from bidiffsr.bench.worker import Worker, WorkerError
from bidiffsr.errors import ConfigError
from bidiffsr.models.container import open_model_file

# Seconds after a step in which its threads come to rest.
_PAUSE = 0.03


@dataclass(frozen=True)
class Case:
    """One line of the measurement: a system on a workload with so many threads."""

    system: System
    workload: Workload
    threads: int

    @property
    def label(self) -> str:
        """For progress and messages."""
        return f"{self.system.name}, {self.workload.size}², {self.threads} threads"


@dataclass(frozen=True)
class Row:
    """What was measured of one case."""

    system: str
    model: str
    size: int
    threads: int
    median_ms: float
    fastest_ms: float
    ratio: float
    """Median over rounds of its time relative to the baseline's in the same round. The baseline
    is the first case of the same size and threads."""
    peak_mb: float
    """Peak resident set of a process that does nothing else, from its start on."""
    growth_mb: float
    """The part of it that came after libraries were imported."""
    relative_l2: float
    """Distance of its output to that of the first case with the same workload."""
    agrees: bool
    """Whether that is within the system's tolerance."""
    milliseconds: list[float] = field(repr=False)


@dataclass(frozen=True)
class Skipped:
    """A case that did not run."""

    system: str
    size: int
    threads: int
    reason: str


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    rows: list[Row]
    skipped: list[Skipped]
    layers: dict[str, list[LayerRow]]
    """By the label of the engine's case."""
    ceilings: dict[str, float]


@dataclass(frozen=True)
class MeasurementProgress:
    """After each loading, step, and at the end."""

    done: int
    total: int
    status: str
    result: Result | None = None


@dataclass(frozen=True)
class Times:
    """Statistics of one case's times."""

    median: float
    fastest: float
    ratio: float


def plan(
    model: Path, sizes: Sequence[int], threads: int, folder: Path, systems: Sequence[System]
) -> list[Case]:
    """Every system at every size, and those that scale with fewer threads at the first one.

    Args:
        model: a model file.
        sizes: heights and widths of the output.
        threads: the most that are used.
        folder: where systems keep what they prepare.
        systems: the baseline first.

    Raises:
        CheckpointError: ``model`` is no model file.
        ConfigError: a size that its network cannot have.
    """
    with open_model_file(model) as file:
        config = file.config
    multiple = config.network.size_multiple
    if wrong := [size for size in sizes if size % multiple]:
        raise ConfigError(
            f"--size: {wrong[0]} is not a multiple of {multiple}, as this network needs"
        )
    timestep = config.diffusion.schedule.timesteps // 2
    workloads = [Workload(model, size, timestep, folder) for size in sizes]
    cases = [Case(system, workload, threads) for workload in workloads for system in systems]
    fewer = [1 << power for power in range(threads.bit_length()) if 1 << power < threads]
    return cases + [
        Case(system, workloads[0], count) for count in fewer for system in systems if system.scales
    ]


def relative_l2(value: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """|value - expected| / |expected|, infinite where shapes differ or numbers are missing."""
    if value.shape != expected.shape or not np.isfinite(value).all():
        return float("inf")
    difference = np.linalg.norm(value.astype(np.float64) - expected)
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def take_turns(
    steps: Sequence[Callable[[], float]], rounds: int, pause: float = _PAUSE
) -> Iterator[tuple[int, float]]:
    """Run every step once a round and yield (index, milliseconds) after each.

    Every round begins with another one, so that none always follows the same.
    """
    for number in range(rounds):
        for offset in range(len(steps)):
            index = (number + offset) % len(steps)
            milliseconds = steps[index]()
            time.sleep(pause)
            yield index, milliseconds


def summarize(times: Sequence[float], baseline: Sequence[float]) -> Times:
    """Median, minimum, and the median of the ratios within each round."""
    ratios = [mine / its for mine, its in zip(times, baseline, strict=True)]
    return Times(statistics.median(times), min(times), statistics.median(ratios))


def measure(cases: Sequence[Case], rounds: int) -> Iterator[MeasurementProgress]:
    """Measure all cases; those of one size take turns, all sizes one after the other.

    What cannot run is left out and listed with its reason. The last item has the result.

    Args:
        cases: the first of a workload is the reference for the others' outputs, and the first
            of a size and thread count is what their times are compared with.
        rounds: timed steps of each case; two more go before.
    """
    rows, skipped = [], []
    layers: dict[str, list[LayerRow]] = {}
    ceilings: dict[str, float] = {}
    sizes = list(dict.fromkeys(case.workload.size for case in cases))
    total = len(cases) * (rounds + 1)
    done = 0
    for size in sizes:
        chosen = [case for case in cases if case.workload.size == size]
        with ExitStack() as stack:
            group = _Group(stack)
            for case in chosen:
                done += 1
                yield MeasurementProgress(done, total, f"loading {case.label}")
                group.load(case)
            for index, _ in take_turns(group.steps, 1):
                yield MeasurementProgress(done, total, f"warming up {group.cases[index].label}")
            for index, milliseconds in take_turns(group.steps, rounds):
                done += 1
                group.times[index].append(milliseconds)
                status = f"{group.cases[index].system.name} {milliseconds:.0f} ms"
                yield MeasurementProgress(done, total, status)
            done += rounds * (len(chosen) - len(group.cases))
            rows += group.rows()
            skipped += group.skipped
            ceilings = ceilings or group.ceilings()
            layers |= group.layers(ceilings)
    yield MeasurementProgress(total, total, "", Result(rows, skipped, layers, ceilings))


class _Group:
    """The workers of one size."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.cases: list[Case] = []
        self.workers: list[Worker] = []
        self.times: list[list[float]] = []
        self.distances: list[float] = []
        self.skipped: list[Skipped] = []
        self._references: dict[Workload, NDArray[np.float32]] = {}

    def load(self, case: Case) -> None:
        """Start a worker and have it compute once; on failure note the reason."""
        reason = case.system.unavailable()
        if reason is None:
            try:
                self._start(case)
            except WorkerError as error:
                reason = str(error)
        if reason is not None:
            name, size = case.system.name, case.workload.size
            self.skipped.append(Skipped(name, size, case.threads, reason))

    def _start(self, case: Case) -> None:
        if case.system.prepares:
            with Worker(case.threads) as preparing:
                preparing.call("prepare", case.system, case.workload)
        with ExitStack() as unless_ready:
            worker = unless_ready.enter_context(Worker(case.threads))
            worker.call("load", case.system, case.workload, case.threads)
            output = worker.call("output")
            self._stack.push(unless_ready.pop_all())
        expected = self._references.setdefault(case.workload, output)
        self.cases.append(case)
        self.workers.append(worker)
        self.times.append([])
        self.distances.append(relative_l2(output, expected))

    @property
    def steps(self) -> list[Callable[[], float]]:
        return [lambda worker=worker: worker.call("step") for worker in self.workers]

    def rows(self) -> list[Row]:
        """Everything but the profiles."""
        baselines: dict[int, list[float]] = {}
        rows = []
        for index, case in enumerate(self.cases):
            times = self.times[index]
            baseline = baselines.setdefault(case.threads, times)
            summary = summarize(times, baseline)
            peak, growth = self.workers[index].call("memory")
            distance = self.distances[index]
            rows.append(
                Row(
                    system=case.system.name,
                    model=case.workload.model.stem,
                    size=case.workload.size,
                    threads=case.threads,
                    median_ms=summary.median,
                    fastest_ms=summary.fastest,
                    ratio=summary.ratio,
                    peak_mb=peak,
                    growth_mb=growth,
                    relative_l2=distance,
                    agrees=distance <= case.system.tolerance,
                    milliseconds=times,
                )
            )
        return rows

    def ceilings(self) -> dict[str, float]:
        """What the CPU can do, from a worker that holds an engine."""
        for case, worker in self._engines():
            return _if_it_can(worker, "ceilings", case.threads)
        return {}

    def layers(self, ceilings: Mapping[str, float]) -> dict[str, list[LayerRow]]:
        """The engines' profiles."""
        return {
            case.label: layer_rows(profile, ceilings, fast=case.system.precision == "fast")
            for case, worker in self._engines()
            if (profile := _if_it_can(worker, "profile"))
        }

    def _engines(self) -> list[tuple[Any, Worker]]:
        """Those with the most threads, which the ceilings are measured with."""
        most = max((case.threads for case in self.cases), default=0)
        return [
            (case, worker)
            for case, worker in zip(self.cases, self.workers, strict=True)
            if isinstance(case.system, EngineSystem) and case.threads == most
        ]


def _if_it_can(worker: Worker, function: str, *arguments: object) -> dict[str, Any]:
    """A dictionary that is nice to have."""
    try:
        return worker.call(function, *arguments)
    except WorkerError:
        return {}
