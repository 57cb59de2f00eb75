"""Time and memory of one sampling step.

The systems take turns, so that whatever else the machine does falls on all of them; medians and
ratios count. Peak memory is measured in a fresh process for each system.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.memory import estimate_memory
from bidiffsr.nn import build_network

Config = BiDiffSRConfig | SR3Config

SYSTEMS: dict[str, Config] = {
    "BI-DiffSR, published (torch eager, float32)": BiDiffSRConfig(),
    "SR3 (torch eager, float32)": SR3Config(),
    "shipped x4 (torch eager, float32)": BiDiffSRConfig(
        channels=32, norm_groups=8, timesteps=4, time_groups=4
    ),
}


@dataclass(frozen=True)
class Measurement:
    """One system at one size."""

    system: str
    size: int
    median_ms: float
    fastest_ms: float
    ratio: float
    """Median relative to the first system's of the same run."""
    peak_mb: float
    """Growth of the resident set from before the network is built to after two steps."""
    estimated_mb: float
    """What `bidiffsr.memory` says a step needs."""


def make_step(config: Config, size: int) -> Callable[[], object]:
    """A function that runs one step of a freshly built network at 3 × size × size."""
    torch.manual_seed(0)
    network = build_network(config).eval()
    picture, timestep = torch.rand(1, 3, size, size), torch.zeros(1, dtype=torch.int64)

    def step() -> object:
        with torch.inference_mode():
            return network(picture, picture, timestep)

    return step


def peak_megabytes(config: Config, size: int) -> float:
    """Growth of the peak resident set of a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure_peak, (config, size))


def _measure_peak(config: Config, size: int) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_step(config, size)
    step()
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def measure(size: int, rounds: int) -> list[Measurement]:
    """Measure every system at one size."""
    peaks = {name: peak_megabytes(config, size) for name, config in SYSTEMS.items()}
    steps = {name: make_step(config, size) for name, config in SYSTEMS.items()}
    times: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = next(iter(medians.values()))
    return [
        Measurement(
            name,
            size,
            medians[name],
            min(times[name]),
            medians[name] / baseline,
            peaks[name],
            estimate_memory(config, size, size) / 1e6,
        )
        for name, config in SYSTEMS.items()
    ]
