"""What befalls batches with a journal: kills, full disks, lost pictures, other models, company.

`python tests/faults.py` does each many times and prints what happened.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import kill_runs
from kill_runs import PICTURES, check, contents, half_written, moment, running, save_pictures
from tiny_model import save_tiny_model

_SECONDS = 600.0  # until a run is taken to hang
_MOST_KILLS = (
    12  # of one batch, for where nothing comes of it in the time that an idle machine takes
)


@dataclass
class Run:
    """How a run of the command ended."""

    code: int
    events: list[dict[str, Any]]
    errors: list[str]

    @property
    def made(self) -> list[str]:
        """The pictures that it finished."""
        return [each["picture"] for each in self.events if each["event"] == "finished"]


@dataclass
class Batch:
    """Some pictures, two models, and what an undisturbed run makes with each."""

    folder: Path
    chance: random.Random
    whole: list[dict[str, bytes]] = field(default_factory=list)
    # Of an undisturbed run with a journal: until its model is loaded, and until its end.
    loading: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        save_pictures(self.pictures)
        for number in range(2):
            save_tiny_model(self._kept(number), tail=1.0 + number)
            output = self.folder / f"whole{number}"
            model = self._kept(number)
            kill_runs.run_whole(
                *("upscale", self.pictures, "-o", output, "-n", model, "--threads", 1)
            )
            self.whole.append(contents(output))
        assert self.whole[0].keys() == self.whole[1].keys()
        assert len(self.whole[0]) == PICTURES
        self.put_model(0)
        self._time()

    def _time(self) -> None:
        with ExitStack() as stack:
            started = time.monotonic()
            run = self.start(stack)
            run.wait_until(run.is_loaded)
            self.loading = time.monotonic() - started
            assert run.end().code == 0
            self.seconds = time.monotonic() - started
        self.is_whole()
        self.clear()

    def _kept(self, number: int) -> Path:
        return self.folder / f"model{number}.safetensors"

    @property
    def pictures(self) -> Path:
        """Where the pictures are."""
        return self.folder / "in"

    @property
    def results(self) -> Path:
        """Where the results go."""
        return self.folder / "out"

    @property
    def model(self) -> Path:
        """The model's file."""
        return self.folder / "model.safetensors"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.folder / "journal"

    @property
    def made(self) -> int:
        """How many results there are."""
        return len(contents(self.results))

    def put_model(self, number: int) -> None:
        """Put one of the models in place of the other, at once."""
        fresh = self.folder / "fresh"
        fresh.write_bytes(self._kept(number).read_bytes())
        fresh.replace(self.model)

    def clear(self) -> None:
        """Forget what was made."""
        kept = self.results.iterdir() if self.results.is_dir() else ()
        for path in [*kept, *self.folder.glob("journal*")]:
            path.unlink()

    def start(self, stack: ExitStack, *more: str, prefix: tuple[str, ...] = ()) -> Running:
        """Start a run."""
        out = stack.enter_context((self.folder / f"events{time.monotonic_ns()}").open("w+b"))
        command = ["upscale", self.pictures, "-o", self.results, "-n", self.model]
        options = ["--threads", 1, "--json", "--journal", self.journal, *more]
        process = stack.enter_context(running(*command, *options, stdout=out, prefix=prefix))
        return Running(process, out)

    def run(self, *more: str, prefix: tuple[str, ...] = ()) -> Run:
        """A run from beginning to end."""
        with ExitStack() as stack:
            return self.start(stack, *more, prefix=prefix).end()

    def wait(self, run: Running) -> None:
        """Until a random moment of a run, or its end."""
        until, delay = moment(self.chance, self.results, self.seconds)
        run.wait_until(until, delay)

    def wait_loading(self, run: Running) -> None:
        """Until a random moment of the time in which program and model are loaded."""
        run.wait_until(lambda: True, self.chance.uniform(0, self.loading))

    def wait_made(self, run: Running, count: int) -> None:
        """Until so many results are there, and a random moment of the next one, or the end."""
        each = (self.seconds - self.loading) / PICTURES
        run.wait_until(lambda: self.made >= count, self.chance.uniform(0, each))

    def is_whole(self, number: int = 0) -> None:
        """Make sure that everything is there, as of an undisturbed run, and nothing else."""
        assert contents(self.results) == self.whole[number], "other files than undisturbed"
        assert half_written(self.results) == 0, "a temporary file stayed"


@dataclass
class Running:
    """A run that has been started."""

    process: subprocess.Popen[bytes]
    out: IO[bytes]

    def is_loaded(self) -> bool:
        """Whether it has said what it is going to do, which it does with its model loaded."""
        return os.fstat(self.out.fileno()).st_size > 0

    def wait_until(self, until: Callable[[], bool], delay: float = 0.0) -> None:
        """Until so many seconds after something has come about, or the run's end."""
        deadline = time.monotonic() + _SECONDS
        while not until() and self.process.poll() is None:
            assert time.monotonic() < deadline, "the run hangs"
            time.sleep(0.0005)
        time.sleep(delay)

    def end(self, kill: bool = False) -> Run:
        """Wait for its end."""
        if kill:
            self.process.kill()
        _, err = self.process.communicate(timeout=_SECONDS)
        self.out.seek(0)
        lines = [line for line in self.out.read().splitlines(keepends=True) if line[-1:] == b"\n"]
        assert b"Traceback" not in err, err.decode()
        return Run(self.process.returncode, [*map(json.loads, lines)], err.decode().splitlines())


def killed(batch: Batch, found: Counter[str], turn: int) -> int:
    """`SIGKILL` at random moments of batches with a journal, each again until it is done."""
    made: list[str] = []
    kills = 0
    while True:
        with ExitStack() as stack:
            run = batch.start(stack)
            batch.wait(run)
            ended = run.end(kill=True)
        check(contents(batch.results), batch.whole[0], "after a kill")
        made += ended.made
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.errors
        kills += 1
        found["before the first result"] += batch.made == 0
        found["between the first and the last"] += 0 < batch.made < PICTURES
        found["after the last"] += batch.made == PICTURES
        found["left a temporary file"] += half_written(batch.results) > 0
        if batch.made == PICTURES or kills == _MOST_KILLS:
            made += batch.run().made
            break
    batch.is_whole()
    # A kill may come between a result's new name and its event.
    assert len(made) == len(set(made)), "a finished picture was made again"
    found["batches until done"] += 1
    return kills


def full_disk(batch: Batch, found: Counter[str], turn: int) -> int:
    """A disk that is full (no file may grow beyond a random limit), then has room."""
    by_size = sorted(batch.whole[0], key=lambda name: len(batch.whole[0][name]))
    largest = len(batch.whole[0][by_size[-1]])
    missing, limits = PICTURES, (1, largest)
    if (
        turn % 2
    ):  # so little is left to do that the journal has room, but the largest result has not
        assert batch.run().code == 0
        for name in (by_size[-1], batch.chance.choice(by_size[:-1])):
            (batch.results / name).unlink()
        missing, limits = 2, (largest * 2 // 3, largest - 1)
    run = batch.run(prefix=("prlimit", f"--fsize={batch.chance.randint(*limits)}"))
    check(contents(batch.results), batch.whole[0], "on a full disk")
    assert half_written(batch.results) == 0, "a temporary file stayed"
    errors = [line for line in run.errors if line.startswith("bidiffsr: error: ")]
    # Beside them only the line that counts.
    assert run.code == (1 if errors else 0), run
    assert len(run.errors) - len(errors) <= 1, run.errors
    at_journal = [line for line in errors if f"{batch.journal}: " in line]
    if at_journal:
        assert at_journal == errors[-1:], errors
        found["the journal had no room, and its line ended the batch"] += 1
    else:
        assert len(errors) == missing - len(run.made), run
        found["some results had no room, one line each, and the others were made"] += bool(errors)
        found["all had room"] += not errors
    assert batch.run().code == 0
    batch.is_whole()
    return 1


def vanishing(batch: Batch, found: Counter[str], turn: int) -> int:
    """A picture that vanishes at a random moment."""
    pictures = sorted(batch.pictures.iterdir())
    with ExitStack() as stack:
        run = batch.start(stack)
        if turn % 2:
            batch.wait(run)
            lost = batch.chance.choice(pictures[batch.made + 1 :] or pictures[-1:])
        else:
            batch.wait_made(run, batch.chance.randrange(1, PICTURES))
            lost = batch.chance.choice(pictures[: batch.made])
        data = lost.read_bytes()
        lost.unlink()
        ended = run.end()
    lost.write_bytes(data)
    failed = [each["picture"] for each in ended.events if each["event"] == "failed"]
    assert failed in ([], [str(lost)]), ended
    assert ended.code == len(failed), ended
    planned = ended.events[0]["pictures"]
    assert len(ended.made) == planned - len(failed)
    if failed:
        found["before it was read: one line, and the others were made"] += 1
    elif planned < PICTURES:
        found["before it was planned: it was not missed"] += 1
    else:
        found["when it was read already: its result was made"] += 1
    assert len(batch.run().made) == PICTURES - len(ended.made)
    batch.is_whole()
    return 1


def swapped(batch: Batch, found: Counter[str], turn: int) -> int:
    """Another model put under the model's name at a random moment."""
    with ExitStack() as stack:
        run = batch.start(stack)
        if turn % 2:
            batch.wait_loading(run)
        else:
            run.wait_until(run.is_loaded)
            batch.wait_made(run, batch.chance.randrange(PICTURES))
        batch.put_model(1)
        ended = run.end()
    if ended.code == 1 and "was changed while it was read" in ended.errors[0]:
        found["while it was loaded: refused"] += 1
        batch.put_model(0)
        return 1
    assert ended.code == 0, ended
    first = 1 if contents(batch.results) == batch.whole[1] else 0
    batch.is_whole(first)
    if first == 0:
        found[
            "when it was loaded: all results are of the first, and the next run refuses them"
        ] += 1
    else:
        found["before it was loaded: all results are of the other"] += 1
    ended = batch.run()
    assert (ended.code, ended.made) == ((1, []) if first == 0 else (0, [])), ended
    batch.is_whole(first)
    assert batch.run("--overwrite").code == 0
    batch.is_whole(1)
    batch.put_model(0)
    return 1


def shared(batch: Batch, found: Counter[str], turn: int) -> int:
    """Two processes on one batch, one of them killed at a random moment."""
    with ExitStack() as stack:
        one, other = (batch.start(stack) for _ in range(2))
        if turn % 4 == 3:
            batch.wait_loading(one)
        else:
            batch.wait(one)
        first = one.end(kill=True)
        second = other.end()
    assert second.code == 0, second
    batch.is_whole()
    made = first.made + second.made
    assert len(made) == len(set(made)), "a picture was made by both"
    both = bool(first.made) and bool(second.made)
    found["both made some"] += both
    found["the other made all"] += not first.made
    found["the one that was to be killed made all"] += not second.made
    waited = any(each["event"] == "waiting" for each in second.events)
    found["the other waited for a picture of the killed one"] += waited
    return 1


FAULTS = (killed, full_disk, vanishing, swapped, shared)


def try_fault(
    fault: Callable[[Batch, Counter[str], int], int], folder: Path, tries: int, seed: int = 0
) -> tuple[int, Counter[str]]:
    """Do one of the faults, again and again from the beginning; how often, and what happened.

    Raises:
        AssertionError: something was not as it has to be.
    """
    batch, found = Batch(folder, random.Random(seed)), Counter[str]()
    count = turn = 0
    while count < tries:
        count += fault(batch, found, turn)
        turn += 1
        batch.clear()
    return count, found
