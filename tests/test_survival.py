"""Some of what `make survive` tries: damaged model files, and runs killed at random moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import faults
import fuzz_models
import journal_faults
import kill_runs
import uploads
from bidiffsr.backends.engine import Engine
from bidiffsr.errors import NumericalError
from bidiffsr.upscaling.upscaler import Upscaler

QUICK = 36  # of each change some


@pytest.mark.parametrize("number", range(QUICK))
def test_a_damaged_model_is_refused_or_runs_as_pytorch_says(number: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    [(_, data)] = fuzz_models.damaged(1, number)
    path.write_bytes(data)
    assert fuzz_models.verdict(path) in {"refused", "runs", "runs, unstable"}


def test_a_wrong_engine_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(fuzz_models.whole("packed, fp32"))
    assert fuzz_models.verdict(path) == "runs"
    predict = Engine.predict

    def wrong(self: Engine, *arrays: Any) -> Any:
        return predict(self, *arrays) * 1.02

    monkeypatch.setattr(Engine, "predict", wrong)
    with pytest.raises(AssertionError, match="differs from PyTorch"):
        fuzz_models.verdict(path)


def test_a_result_that_is_no_picture_counts_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsound(*_: Any, **__: Any) -> Any:
        raise NumericalError("holds NaN")

    path = tmp_path / "model.safetensors"
    path.write_bytes(fuzz_models.whole("floats"))
    monkeypatch.setattr(Upscaler, "__call__", unsound)
    assert fuzz_models.verdict(path) == "unsound"


def test_a_crash_or_a_hang_of_a_batch_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run

    def crash(command: list[str], **settings: Any) -> Any:
        code = f"import os; print(7, end='\\t', flush=True); os.kill(os.getpid(), {signal.SIGSEGV})"
        return run([sys.executable, "-c", code], **settings)

    monkeypatch.setattr(fuzz_models.subprocess, "run", crash)
    assert fuzz_models.main(1) == 1
    assert "FAULT at file 7 (code -11)" in capfd.readouterr().err

    def hang(command: list[str], **settings: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 1, output=b"7\t")

    monkeypatch.setattr(fuzz_models.subprocess, "run", hang)
    assert fuzz_models.main(1) == 1


def test_killed_upscalings_go_on(tmp_path: Path) -> None:
    assert kill_runs.kill_upscalings(tmp_path, 3)["killed"] > 0


@pytest.mark.parametrize("fault", [journal_faults.vanishing, journal_faults.shared])
def test_batches_with_a_journal_survive(fault: Any, tmp_path: Path) -> None:
    tries, found = journal_faults.try_fault(fault, tmp_path, 1)
    assert tries == 1
    assert found.total() > 0


def test_the_table_counts_kills_and_says_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(batch: Any, found: Any, turn: int) -> int:
        """A kill at `random` moments."""
        found[f"in turn {turn}"] += 1
        found["never"] += 0
        return 3

    class NoBatch:
        def __init__(self, *_: Any) -> None: ...

        def clear(self) -> None: ...

    monkeypatch.setattr(journal_faults, "Batch", NoBatch)
    monkeypatch.setattr(journal_faults, "FAULTS", (killed,))
    monkeypatch.setattr(journal_faults, "killed", killed)
    monkeypatch.setattr(faults.importlib.util, "find_spec", lambda _: None)
    faults.main(["5", "1", "killed", "ray_workers"])
    _, _, kills, ray = capsys.readouterr().out.splitlines()
    assert kills == "| A kill at `random` moments | 6 | 1 in turn 0; 1 in turn 1 |"
    assert "| 0 | skipped: Ray is not installed" in ray


def test_a_server_that_keeps_growing_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter((100_000_000, 100_000_000 + 2 * uploads.MAX_HELD + 200_000_000))

    async def nobody(url: str) -> tuple[list[bytes], int]:
        return [], 1

    monkeypatch.setattr(uploads, "_peak", lambda _: next(peaks))
    monkeypatch.setattr(uploads, "_everybody", nobody)
    monkeypatch.setattr(uploads, "CHECKED", ())
    with pytest.raises(AssertionError, match="peak rose from 100 to 556 MB"):
        uploads.upload_at_once()


def test_a_picture_made_twice_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = journal_faults.Run

    def twice(code: int, events: list[Any], errors: list[str]) -> journal_faults.Run:
        return run(code, events * 2, errors)

    monkeypatch.setattr(journal_faults, "Run", twice)
    with pytest.raises(AssertionError, match="was made by both"):
        journal_faults.try_fault(journal_faults.shared, tmp_path, 1)


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    assert kill_runs.kill_trainings(tmp_path, 1)["killed"] == 1


def test_a_half_written_result_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> bool:
        whole = sorted((tmp_path / "whole").iterdir())[0]
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / whole.name).write_bytes(whole.read_bytes()[:-1])
        return True

    monkeypatch.setattr(kill_runs, "run_killed", cut)
    with pytest.raises(AssertionError, match="not what an undisturbed run makes"):
        kill_runs.kill_upscalings(tmp_path, 1)


def test_a_temporary_file_that_stays_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(*_: Any, **__: Any) -> bool:
        # Of a process that runs: this one.
        from bidiffsr.system.process import here, started_at

        name = f".bidiffsr-{here()}-{os.getpid()}-{started_at(os.getpid())}-00.tmp"
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
        return True

    monkeypatch.setattr(kill_runs, "run_killed", leaves)
    with pytest.raises(AssertionError, match="a temporary file stayed"):
        kill_runs.kill_upscalings(tmp_path, 1)
