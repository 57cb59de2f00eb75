"""The benchmark: its turns and statistics, its processes, its command, and OpenVINO's graphs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bidiffsr.bench import (
    INSTALLED,
    Case,
    Result,
    SpeedReport,
    TorchEager,
    Worker,
    WorkerError,
    Workload,
    layer_rows,
    measure,
    plan,
)
from bidiffsr.bench.measure import relative_l2, summarize, take_turns
from bidiffsr.bench.models import save_random_model
from bidiffsr.bench.worker import Host
from bidiffsr.cli import main
from bidiffsr.config import BiDiffSRConfig, ModelConfig, SR3Config
from bidiffsr.errors import CheckpointError, ConfigError
from bidiffsr.models.published import convert_reference
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import BiDiffSRUNet, SR3UNet, build_network
from fake_systems import Adder, Fake
from helpers import scramble
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    return Workload(tmp_path / "model.safetensors", 8, 1, tmp_path)


def result_of(cases: list[Case], rounds: int = 3) -> Result:
    *steps, last = measure(cases, rounds)
    assert all(step.result is None for step in steps)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert last.done == last.total
    assert last.result is not None
    return last.result


def test_each_round_begins_with_another_system() -> None:
    steps: list[Callable[[], float]] = [lambda index=index: 10.0 * index for index in range(3)]
    turns = list(take_turns(steps, 4, pause=0))
    assert [index for index, _ in turns] == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert all(milliseconds == 10.0 * index for index, milliseconds in turns)


def test_ratios_are_taken_within_a_round() -> None:
    # The machine became ten times slower in the second and third round; the ratio stayed 1/2.
    summary = summarize([1.0, 10.0, 12.0], [2.0, 20.0, 24.0])
    assert (summary.median, summary.fastest, summary.ratio) == (10.0, 1.0, 0.5)


def test_distance() -> None:
    ones = np.ones((1, 3, 2, 2), np.float32)
    assert relative_l2(ones * 1.25, ones) == 0.25
    assert relative_l2(ones[:, :2], ones) == float("inf")
    assert relative_l2(np.full_like(ones, np.nan), ones) == float("inf")


def test_systems_are_compared_with_the_first(workload: Workload) -> None:
    systems = [Fake("base"), Fake("same"), Fake("other", offset=5.0)]
    result = result_of([Case(system, workload, 1) for system in systems])
    assert [row.system for row in result.rows] == ["base", "same", "other"]
    assert [row.agrees for row in result.rows] == [True, True, False]
    assert [row.relative_l2 for row in result.rows[:2]] == [0.0, 0.0]
    assert all(len(row.milliseconds) == 3 and row.peak_mb > 10 for row in result.rows)
    assert result.rows[0].ratio == 1.0
    text = SpeedReport(result, {}).markdown()
    assert "DIFFERS" in text and "| same | model | 8² | 1 |" in text


def test_what_cannot_run_is_listed_with_its_reason(workload: Workload) -> None:
    systems = [
        Fake("absent", absent="nothing is installed"),
        Fake("works"),
        Fake("fails", trouble="raise"),
        Fake("dies", trouble="die"),
    ]
    result = result_of([Case(system, workload, 1) for system in systems], rounds=1)
    assert [row.system for row in result.rows] == ["works"]
    assert {one.system: one.reason for one in result.skipped} == {
        "absent": "nothing is installed",
        "fails": "ValueError: it does not work",
        "dies": "its process ended with code 7",
    }


def test_baselines_are_of_the_same_size_and_threads(workload: Workload) -> None:
    larger = replace(workload, size=16)
    cases = [
        Case(Fake(label, float(size)), where, threads)
        for size, where in ((8, workload), (16, larger))
        for threads in (1, 2)
        for label in ("first", "second")
    ]
    result = result_of(cases, rounds=1)
    assert [row.ratio for row in result.rows if row.system == "first"] == [1.0] * 4
    # Each workload has its own reference, whatever the threads.
    assert all(row.agrees for row in result.rows)
    scaling = next(table for table in SpeedReport(result, {}).tables() if table.title == "threads")
    assert len(scaling.rows) == 4


def test_plan_adds_fewer_threads_where_it_is_worth_it(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    cases = plan(model, [8, 16], 5, tmp_path, [TorchEager(), Fake("fake")])
    found = [(case.system.name, case.workload.size, case.threads) for case in cases]
    eager = TorchEager().name
    assert found == [
        *((name, size, 5) for size in (8, 16) for name in (eager, "fake")),
        *((eager, 8, threads) for threads in (1, 2, 4)),
    ]
    assert {case.workload.timestep for case in cases} == {1}


def test_plan_refuses(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    with pytest.raises(ConfigError, match="--size: 9 is not a multiple of 2"):
        plan(model, [8, 9], 1, tmp_path, INSTALLED)
    with pytest.raises(CheckpointError, match="no such file"):
        plan(tmp_path / "none.safetensors", [8], 1, tmp_path, INSTALLED)


def test_layer_rows() -> None:
    profile = {"binary 3x3": (2.0, 4e9), "float 3x3": (6.0, 1.2e9), "norm": (2.0, 0.0)}
    ceilings = {"popcount_tmacs": 4.0, "fma_gmacs": 400.0, "bf16_gmacs": 800.0}
    rows = {row.kind: row for row in layer_rows(profile, ceilings, fast=True)}
    assert list(rows) == ["float 3x3", "binary 3x3", "norm"]
    assert (rows["float 3x3"].share, rows["float 3x3"].rate) == (0.6, 2e11)
    assert rows["float 3x3"].ceiling_share == 0.25
    assert rows["binary 3x3"].ceiling_share == 0.5
    assert rows["norm"].rate is None
    exact = {row.kind: row for row in layer_rows(profile, ceilings, fast=False)}
    assert exact["float 3x3"].ceiling_share == 0.5
    assert layer_rows(profile, {}, fast=True)[0].ceiling_share is None


def test_profiles_are_medians() -> None:
    class Profiled(Adder):
        counts = iter([3.0, 1.0, 8.0])

        def profile(self, *_: object) -> dict[str, tuple[float, float]]:
            return {"binary 3x3": (next(self.counts), 5.0)}

    host: Any = Host()
    host._predictor, host._inputs = Profiled(0.0), ()
    assert host.profile(3) == {"binary 3x3": (3.0, 5.0)}


def test_a_waiting_worker_costs_nothing(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors")
    with Worker(2) as worker:
        worker.call("load", TorchEager(), Workload(model, 64, 1, tmp_path), 2)
        worker.call("step")
        time.sleep(0.05)
        before = cpu_seconds(worker)
        time.sleep(0.3)
        assert cpu_seconds(worker) - before <= 0.02
    with pytest.raises(WorkerError, match="its process ended"):
        worker.call("step")


def cpu_seconds(worker: Worker) -> float:
    path = Path(f"/proc/{worker._process.pid}/stat")
    if not path.exists():
        pytest.skip("needs /proc")
    fields = path.read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_random_models_exercise_every_parameter(tmp_path: Path) -> None:
    config = ModelConfig(network=BiDiffSRConfig(channels=16, norm_groups=8))
    path = tmp_path / "random.safetensors"
    save_random_model(path, config)
    network, loaded = load_model(path)
    assert loaded == config
    for name, parameter in network.named_parameters():
        assert parameter.std() > 0, name
        assert parameter.dim() != 4 or (parameter != 0).all(), name


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors", tail=1.0)
    data, text = tmp_path / "bench.json", tmp_path / "bench.md"
    arguments = ["--size", "16", "--rounds", "2", "--threads", "1"]
    arguments += ["--json", str(data), "--markdown", str(text)]
    assert main(["bench", str(model), *arguments]) == 0
    report = json.loads(data.read_text("utf-8"))
    names = [row["system"] for row in report["rows"]]
    assert names[0] == TorchEager().name
    assert set(names) | {one["system"] for one in report["skipped"]} == {
        system.name for system in INSTALLED
    }
    for row in report["rows"]:
        assert (row["size"], row["threads"], len(row["milliseconds"])) == (16, 1, 2)
        assert row["agrees"] and row["fastest_ms"] <= row["median_ms"]
    assert report["machine"]["rounds"] == 2
    engines = [name for name in names if name.startswith("bidiffsr engine")]
    assert len(report["layers"]) == len(engines)
    assert bool(report["ceilings"]) == bool(engines)
    assert TorchEager().name in text.read_text("utf-8")
    assert TorchEager().name in capsys.readouterr().out


def test_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--size", "10"]) == 1
    assert "--size: 10 is not a multiple of 4" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "none.safetensors")]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The rivals, which are no part of the package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    import importlib

    return importlib.import_module("benchmarks.systems.openvino_systems")


GRAPHS: list[tuple[Any, bool]] = [
    (BiDiffSRConfig(channels=16, norm_groups=8), True),
    (BiDiffSRConfig(channels=16, norm_groups=4, full_precision_up_levels=4), True),
    (BiDiffSRConfig(channels=16, norm_groups=8, attention_levels=(1,)), False),
    (SR3Config(channels=16, norm_groups=8), False),
]


@pytest.mark.parametrize(("config", "binary"), GRAPHS)
@pytest.mark.parametrize("timestep", [0, 1999])
def test_openvino_computes_what_torch_does(
    config: Any, binary: bool, timestep: int, systems: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO, a test oracle only, is not installed")
    network = move_weights(scramble(build_network(config))).eval()
    system = systems.OpenVINO("graph", "f32", binary=binary)
    whole = ModelConfig(network=config)
    value, expected = both(network, whole, system, timestep, tmp_path)
    assert relative_l2(value, expected) < 1e-4


@pytest.mark.parametrize("name", ["unet_narrow", "unet_shallow_attn"])
def test_openvino_on_golden_networks(
    name: str, systems: ModuleType, golden: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO, a test oracle only, is not installed")
    network, config = convert_reference(golden / f"{name}.weights.safetensors", None)
    move_weights(network)
    system = systems.OpenVINO("graph", "f32", binary=True)
    value, expected = both(network, config, system, 500, tmp_path)
    assert relative_l2(value, expected) < 1e-4


def test_int8_is_near(systems: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO, a test oracle only, is not installed")
    pytest.importorskip("nncf", reason="nncf is not installed")
    config = SR3Config(channels=16, norm_groups=8, multipliers=(1, 2), blocks_per_level=1)
    network = build_network(config).eval()
    system = systems.OpenVINO("graph", "f32", int8=True)
    value, expected = both(network, ModelConfig(network=config), system, 1000, tmp_path)
    assert 1e-4 < relative_l2(value, expected) < 0.2


def both(
    network: nn.Module, config: ModelConfig, system: Any, timestep: int, folder: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the system makes of a network, and what PyTorch does."""
    workload = Workload(folder / "model.safetensors", 32, timestep, folder)
    save_model(workload.model, network, config)
    system.prepare(workload)
    inputs = workload.inputs()
    value = system.load(workload, 1).predict(*inputs)
    assert isinstance(network, BiDiffSRUNet | SR3UNet)
    with torch.inference_mode():
        expected = network(*map(torch.from_numpy, inputs))
    return value, expected.numpy()


def move_weights(network: nn.Module) -> nn.Module:
    """No weight of exactly 0, which has no sign."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[parameter == 0] = 1e-6
    return network
