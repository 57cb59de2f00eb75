"""Runs killed at random moments: what is finished is whole, and the next run makes the rest.

Alone, `python tests/kill_runs.py [upscalings] [trainings]` kills so many of each and prints what
was there afterwards; it ends with 1 at the first thing that is not as if nobody had been killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import yaml

from bidiffsr.images import Image, write_image
from helpers import tiny_network_config
from tiny_model import save_tiny_model

PICTURES = 8
ITERATIONS = 40
TEMPORARY = ".bidiffsr-*.tmp"
_SECONDS = 600.0  # until a run is taken to hang


@contextmanager
def running(
    *arguments: object, stdout: int | IO[bytes] = subprocess.DEVNULL, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own, on one thread."""
    command = [*prefix, sys.executable, "-m", "bidiffsr", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=stdout, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run_whole(*arguments: object) -> float:
    """Run the command to its end; the seconds it took."""
    started = time.monotonic()
    with running(*arguments) as process:
        _, err = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0, err.decode()
    return time.monotonic() - started


def run_killed(*arguments: object, until: Callable[[], bool], delay: float) -> bool:
    """Kill the command ``delay`` seconds after something has come about; False: it was faster."""
    with running(*arguments) as process:
        deadline = time.monotonic() + _SECONDS
        while not until() and process.poll() is None:
            assert time.monotonic() < deadline, "the run hangs"
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err.decode()
        return process.returncode != 0


def contents(folder: Path) -> dict[str, bytes]:
    """The finished files of a folder."""
    return {
        path.name: path.read_bytes()
        for path in (folder.iterdir() if folder.is_dir() else ())
        if not path.match(TEMPORARY)
    }


def half_written(folder: Path) -> int:
    """How many files with temporary names there are."""
    return len(list(folder.glob(TEMPORARY)))


def save_pictures(folder: Path) -> None:
    """The pictures of a batch."""
    folder.mkdir()
    for index in range(PICTURES):
        pixels = np.random.default_rng(index).integers(0, 256, (30 + 7 * index, 50, 3), np.uint8)
        smooth = (pixels // 4 + 96).astype(np.uint8)
        write_image(folder / f"{index}.{('png', 'jpg', 'tif', 'webp')[index % 4]}", Image(smooth))


def kill_upscalings(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Kill batches of small pictures; what was there after the kills.

    A third of the kills come at any moment from the start of the process on; a third once some
    number of results is there, where pictures are read and worked on; a third while one is written.

    Raises:
        AssertionError: a file was not what an undisturbed run makes, or was lost.
    """
    chance = random.Random(seed)
    pictures, results = folder / "in", folder / "out"
    model = save_tiny_model(folder / "model.safetensors", tail=1.0)
    save_pictures(pictures)
    sources = contents(pictures)

    def command(output: Path) -> list[object]:
        return ["upscale", pictures, "-o", output, "-n", model, "--threads", 1]

    seconds = run_whole(*command(folder / "whole"))
    whole = contents(folder / "whole")
    assert len(whole) == PICTURES
    found: Counter[str] = Counter()
    for _ in range(count):
        until, delay = moment(chance, results, seconds)
        killed = run_killed(*command(results), until=until, delay=delay)
        there = contents(results)
        check(there, whole, "after a kill")
        found["killed" if killed else "were faster"] += 1
        found["left some results"] += 0 < len(there) < PICTURES
        found["left a temporary file"] += half_written(results) > 0
        run_whole(*command(results))
        assert half_written(results) == 0, "a temporary file stayed"
        assert contents(results) == whole, "the next run made other files"
        for path in results.iterdir():
            path.unlink()
    assert contents(pictures) == sources, "a picture was changed"
    return found


def moment(
    chance: random.Random, results: Path, seconds: float
) -> tuple[Callable[[], bool], float]:
    """What a kill waits for, and how long it then waits; what is there already does not count."""
    there, left = _finished(results), set(results.glob(TEMPORARY))
    number = chance.randrange(there, PICTURES) if there < PICTURES else there
    match chance.randrange(3):
        case 0:
            return lambda: True, chance.uniform(0, seconds)
        case 1:
            return lambda: _finished(results) >= number, chance.uniform(0, 0.05)
        case _:

            def is_writing() -> bool:
                return _finished(results) >= number and not left.issuperset(results.glob(TEMPORARY))

            return is_writing, chance.uniform(0, 0.002)


def _finished(folder: Path) -> int:
    """How many results there are; quick, for what is asked all the time."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sum(path.suffix != ".tmp" for path in paths)


def check(there: Mapping[str, bytes], whole: Mapping[str, bytes], when: str) -> None:
    """Make sure that all that is there is what an undisturbed run makes."""
    for name, data in there.items():
        assert data == whole[name], f"{name}: not what an undisturbed run makes, {when}"


def training(folder: Path, output: Path) -> Path:
    """The configuration of a tiny run, in a file."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (41, 50, 3), np.uint8)
    write_image(pictures / "0.png", Image(pixels), overwrite=True)
    network = tiny_network_config(channels=8, norm_groups=4, timesteps=8, dropout=0.2)
    values: dict[str, Any] = {
        "output": str(output),
        "model": {
            "network": network.model_dump(mode="json"),
            "diffusion": {
                "schedule": {"kind": "angular", "timesteps": 8},
                "prediction": "v",
                "variable": "residual",
            },
            "sampling": {"steps": 2},
        },
        "data": {"folders": [str(pictures)], "crop": 32},
        "optimizer": {"warmup": 3, "ema_decay": 0.7},
        "iterations": ITERATIONS,
        "batch": 2,
        "seed": 5,
        "checkpoint_every": 3,
        "log_every": 1,
        "accelerator": "cpu",
    }
    path = folder / f"{output.name}.yml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def records(folder: Path) -> list[dict[str, Any]]:
    """Iteration and loss of each whole line of a run's log."""
    path = folder / "log.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{"iteration": each["iteration"], "loss": each["loss"]} for each in found]


def kill_trainings(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Kill one training again and again, each time some iterations after it went on.

    Raises:
        AssertionError: it does not end with the weights and the log of an undisturbed run.
    """
    chance = random.Random(seed)
    whole, output = folder / "whole", folder / "run"
    run_whole("train", training(folder, whole))
    config = training(folder, output)
    found: Counter[str] = Counter()
    for index in range(count):
        # So that the last kill still finds something to do.
        target = max(1, (index * (ITERATIONS - 4)) // count + chance.randint(0, 3))
        killed = run_killed(
            *("train", config),
            until=lambda n=target: len(records(output)) >= n,
            delay=chance.uniform(0, 0.1),
        )
        found["killed" if killed else "were faster"] += 1
        found["left a temporary file"] += half_written(output) > 0
    run_whole("train", config)
    assert half_written(output) == 0, "a temporary file stayed"
    model = "model.safetensors"
    assert (output / model).read_bytes() == (whole / model).read_bytes(), "other weights"
    assert records(output) == records(whole), "another log"
    return found


def main(upscalings: int = 60, trainings: int = 12) -> None:
    """Print what was there after the kills."""
    for kill, count in ((kill_upscalings, upscalings), (kill_trainings, trainings)):
        with TemporaryDirectory() as folder:
            found = kill(Path(folder), count)
        print(f"{kill.__name__.split('_')[1]}: {count} tries, {dict(found)}; all as undisturbed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
