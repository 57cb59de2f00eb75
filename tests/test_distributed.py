"""One training run on several processes, as torchrun and Slurm start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from bidiffsr.cli import main
from bidiffsr.errors import TrainingError
from bidiffsr.training.processes import Processes
from helpers import tiny_network_config
from training_runs import state_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in Linux's /proc")

_SECONDS = 300


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Processes(0, 1, 1)),
        ({"RANK": "3"}, Processes(0, 1, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, Processes(1, 2, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}, Processes(5, 8, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Processes(0, 1, 1)),  # a batch script
        (
            {
                "SLURM_PROCID": "2",
                "SLURM_STEP_NUM_TASKS": "6",
                "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
            },
            Processes(2, 6, 3),
        ),
    ],
)
def test_launchers_say_which_process_this_is(
    environment: dict[str, str], expected: Processes
) -> None:
    assert Processes.here(environment) == expected


def test_machines_with_other_numbers_of_processes_are_refused() -> None:
    with pytest.raises(TrainingError, match="WORLD_SIZE: 5 processes, of which 2 are here"):
        Processes.here({"RANK": "0", "WORLD_SIZE": "5", "LOCAL_WORLD_SIZE": "2"})


def test_shares_make_the_batch() -> None:
    shares = [Processes(rank, 3).share(12, 2) for rank in range(3)]
    assert [index for share in shares for index in range(12)[share]] == list(range(12))
    for batch, parts in ((10, 1), (12, 3), (1, 1)):
        with pytest.raises(TrainingError, match=f"batch: {batch} samples for processes: 3"):
            Processes(0, 3).share(batch, parts)


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    Path("pictures").mkdir()
    random = np.random.default_rng(0)
    for name in range(3):
        pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(f"pictures/{name}.png")
    network = tiny_network_config(dropout=0.0)
    values: dict[str, Any] = {
        "output": "run",
        "model": {
            "network": network.model_dump(mode="json"),
            "diffusion": {"schedule": {"kind": "linear", "timesteps": network.timesteps}},
        },
        "data": {"folders": ["pictures"], "crop": 16},
        "validation": {"folders": ["pictures"], "every": 5, "pictures": 1},
        "optimizer": {"learning_rate": 1e-3},
        "batch": 4,
        "iterations": 8,
        "accelerator": "cpu",
        "log_every": 1,
        "checkpoint_every": 3,
    }
    path = Path("run.yml")
    path.write_text(yaml.safe_dump(values))
    return path


def start(run_file: Path, output: str, *overrides: str) -> subprocess.Popen[str]:
    """The run on two processes."""
    return launch("-m", "bidiffsr", "train", str(run_file), "--output", output, *overrides)


def launch(*arguments: str) -> subprocess.Popen[str]:
    """A program of Python's on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def launch_alone(*arguments: str) -> subprocess.Popen[str]:
    """A program of Python's on one process."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code and output; one that hangs is ended, all its processes, and says where."""
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # PYTHONFAULTHANDLER prints the stacks
        time.sleep(1)
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"not ended after {_SECONDS} s:\n{out}\n{err}")
    return process.returncode, out, err


def log_of(output: str) -> list[dict[str, Any]]:
    path = Path(output, "log.jsonl")
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_for(iteration: int, output: str, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < limit:
        if any(line["iteration"] >= iteration for line in log_of(output)):
            return
        time.sleep(0.005)
    pytest.fail(f"never came to iteration {iteration}: {finish(process)}")


def worker(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The process of a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            environment = path.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in environment:
            return int(path.name)
    pytest.fail(f"no process has rank {rank}")


def assert_same_weights(one: str, other: str, *, tolerance: float = 0.0) -> None:
    states = [state_of(Path(output)) for output in (one, other)]
    assert states[0]["iteration"] == states[1]["iteration"]
    for part in ("network", "average"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(value, states[1][part][name], rtol=0, atol=tolerance)


def test_two_processes_train_as_one_does(run_file: Path) -> None:
    slowly = ["--optimizer.learning_rate", "1e-4"]  # or signs turn with the order of summation
    for output, parts in (("one", "1"), ("parts", "2")):
        command = ["train", str(run_file), "--output", output, "--accumulate", parts]
        assert main([*command, *slowly]) == 0
    code, out, err = finish(start(run_file, "two", *slowly))
    assert code == 0, err
    assert out.splitlines()[-1] == "two/model.safetensors: trained for 8 iterations"
    assert out.count("trained for") == 1
    losses = {
        output: [line["loss"] for line in log_of(output) if "loss" in line]
        for output in ("one", "parts", "two")
    }
    assert len(losses["one"]) == 8
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-4)
    assert losses["parts"] == pytest.approx(losses["one"], rel=1e-4)
    assert len(set(losses["one"])) == 8
    files = sorted(path.name for path in Path("one").iterdir())
    assert sorted(path.name for path in Path("two").iterdir()) == files
    scores = [[line for line in log_of(output) if "loss" not in line] for output in ("one", "two")]
    assert [line["iteration"] for line in scores[0]] == [line["iteration"] for line in scores[1]]


_COUNT_DECODED = """
import sys
from pathlib import Path

from bidiffsr.data import store
from bidiffsr.training.processes import Processes

rank = Processes.here().rank
whole = store._write


def write(path, of, read, written):
    with Path(f"written-{rank}").open("a") as file:
        file.write("once\\n")
    whole(path, of, read, written)


store._write = write
for name in sys.argv[2:]:
    if name == "--apart":  # each process has a disk of its own
        opened = store._open
        store._open = lambda path, of: opened(path.with_name(f"{path.name}-{rank}"), of)
        atomically = store.write_atomically
        store.write_atomically = lambda path, write: atomically(
            path.with_name(f"{path.name}-{rank}"), write
        )
from bidiffsr.cli import main

sys.exit(main(["train", sys.argv[1], "--data.store", "pictures.bin", "--iterations", "2"]))
"""


_RECORD_DRAWS = """
import sys

import torch
from bidiffsr.cli import main
from bidiffsr.training.processes import Processes
from bidiffsr.training.trainer import Trainer

rank, drawn = Processes.here().rank, []
gradients = Trainer._gradients


def record(self, pictures, conditions, timesteps, noise):
    with torch.random.fork_rng():
        dropped = torch.nn.functional.dropout(torch.ones(256), 0.5)
    drawn.append([each.clone() for each in (pictures, timesteps, noise, dropped)])
    return gradients(self, pictures, conditions, timesteps, noise)


Trainer._gradients = record
code = main(["train", sys.argv[1], *sys.argv[3:]])
torch.save(drawn, f"{sys.argv[2]}-{rank}.pt")
sys.exit(code)
"""


def test_processes_draw_what_one_would_and_dropout_of_their_own(run_file: Path) -> None:
    """Crops, timesteps and noise are each one's part of the batch, not the same part."""
    Path("program.py").write_text(_RECORD_DRAWS)
    options = ["--iterations", "3", "--validation.folders", "[]", "--batch", "8"]
    for name, start_it in (("two", launch), ("one", launch_alone)):
        run = ["program.py", str(run_file), name, "--output", name, *options]
        code, _, err = finish(start_it(*run))
        assert code == 0, err
    (whole, *parts) = (torch.load(f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for of_all, *shares in zip(whole, *parts, strict=True):
        for everything, first, second in list(zip(of_all, *shares, strict=True))[:3]:
            assert torch.equal(torch.cat([first, second]), everything)
            assert not torch.equal(first, second)
        assert not torch.equal(shares[0][3], shares[1][3])
    dropped = [each[3] for part in parts for each in part]
    assert len({mask.numpy().tobytes() for mask in dropped}) == 6


@pytest.mark.parametrize("apart", [False, True])
def test_the_store_of_pictures_is_written_once_on_each_disk(run_file: Path, apart: bool) -> None:
    Path("program.py").write_text(_COUNT_DECODED)
    arguments = ["program.py", str(run_file), *(["--apart"] if apart else [])]
    code, out, err = finish(launch(*arguments))
    assert code == 0, err
    assert out.splitlines()[-1] == "run/model.safetensors: trained for 2 iterations"
    assert err.count("bidiffsr: storing 3 pictures in pictures.bin") == 1
    written = {path.name: path.read_text() for path in Path().glob("written-*")}
    ranks = [0, 1] if apart else [0]
    assert written == {f"written-{rank}": "once\n" for rank in ranks}
    stores = [f"pictures.bin-{rank}" for rank in ranks] if apart else ["pictures.bin"]
    assert sorted(path.name for path in Path().glob("pictures.bin*")) == stores


@pytest.mark.parametrize("rank", [0, 1])
def test_after_one_of_two_was_killed_the_run_goes_on(rank: int, run_file: Path) -> None:
    code, _, err = finish(start(run_file, "undisturbed"))
    assert code == 0, err
    process = start(run_file, "run", "--iterations", "8")
    wait_for(4, "run", process)
    os.kill(worker(rank, process), signal.SIGKILL)
    code, _, _ = finish(process)
    assert code != 0
    assert state_of(Path("run"))["iteration"] in (3, 6)
    code, _, err = finish(start(run_file, "run"))
    assert code == 0, err
    assert_same_weights("run", "undisturbed")
    logged = [line["iteration"] for line in log_of("run") if "loss" in line]
    assert logged == list(range(1, 9))


def test_all_stop_and_save_when_one_is_told_to(run_file: Path) -> None:
    process = start(run_file, "run", "--iterations", "400")
    wait_for(3, "run", process)
    os.kill(worker(1, process), signal.SIGTERM)
    finish(process)
    reached = state_of(Path("run"))["iteration"]
    assert 3 <= reached < 400
    assert log_of("run")[-1]["iteration"] == reached


_SAY_WHEN_PYTHON_IS_SHUT_DOWN = """
import atexit
from bidiffsr.cli import program

atexit.register(print, "shut down", flush=True)
program()
"""


def test_processes_that_trained_together_end_without_python_being_shut_down(
    run_file: Path,
) -> None:
    Path("program.py").write_text(_SAY_WHEN_PYTHON_IS_SHUT_DOWN)
    arguments = ["program.py", "train", str(run_file), "--iterations", "1"]
    code, out, err = finish(launch(*arguments))
    assert code == 0, err
    assert out.splitlines()[-1] == "run/model.safetensors: trained for 1 iterations"
    assert "shut down" not in out
    alone = subprocess.run(
        [sys.executable, *arguments, "--output", "alone"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.splitlines()[-1] == "shut down"


def test_a_batch_that_cannot_be_shared_is_refused(run_file: Path) -> None:
    code, _, err = finish(start(run_file, "run", "--batch", "3"))
    assert code != 0
    assert "error: batch: 3 samples for processes: 2, accumulate: 1" in err
    assert not Path("run").exists()
