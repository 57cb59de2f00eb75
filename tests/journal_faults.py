"""What befalls batches with a journal: kills, full disks, lost pictures, other models, company.

Alone, `python tests/journal_faults.py [tries] [fault ...]` does each so many times and prints a
table of what happened; it ends with 1 at the first thing that is not as it has to be.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kill_runs
from kill_runs import PICTURES, check, contents, half_written, moment, running, save_pictures
from tiny_model import save_tiny_model

_SECONDS = 600.0  # until a run is taken to hang


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
    seconds: float = 0.0
    whole: list[dict[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        save_pictures(self.pictures)
        for number in range(2):
            self.put_model(number)
            output = self.folder / f"whole{number}"
            command = ["upscale", self.pictures, "-o", output, "-n", self.model, "--threads", 1]
            self.seconds = kill_runs.run_whole(*command)
            self.whole.append(contents(output))
        assert self.whole[0].keys() == self.whole[1].keys()
        assert len(self.whole[0]) == PICTURES
        self.put_model(0)

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

    def put_model(self, number: int) -> None:
        """Put one of the models in place of the other, at once."""
        save_tiny_model(self.model, tail=1.0 + number)

    def clear(self) -> None:
        """Forget what was made."""
        kept = self.results.iterdir() if self.results.is_dir() else ()
        for path in [*kept, *self.folder.glob("journal*")]:
            path.unlink()

    def start(
        self, stack: ExitStack, *more: str, prefix: tuple[str, ...] = ()
    ) -> Callable[[], Run]:
        """Start a run; what is returned waits for its end."""
        out = stack.enter_context((self.folder / f"events{time.monotonic_ns()}").open("w+b"))
        command = ["upscale", self.pictures, "-o", self.results, "-n", self.model]
        options = ["--threads", 1, "--json", "--journal", self.journal, *more]
        process = stack.enter_context(running(*command, *options, stdout=out, prefix=prefix))

        def end(kill: bool = False) -> Run:
            if kill:
                process.kill()
            _, err = process.communicate(timeout=_SECONDS)
            out.seek(0)
            lines = [line for line in out.read().splitlines(keepends=True) if line.endswith(b"\n")]
            assert b"Traceback" not in err, err.decode()
            return Run(process.returncode, [*map(json.loads, lines)], err.decode().splitlines())

        end.process = process  # type: ignore[attr-defined]
        return end

    def run(self, *more: str, prefix: tuple[str, ...] = ()) -> Run:
        """A run from beginning to end."""
        with ExitStack() as stack:
            return self.start(stack, *more, prefix=prefix)()

    def wait(self, end: Callable[[], Run]) -> None:
        """Until a random moment of a run, or its end."""
        until, delay = moment(self.chance, self.results, self.seconds)
        process = end.process  # type: ignore[attr-defined]
        deadline = time.monotonic() + _SECONDS
        while not until() and process.poll() is None:
            assert time.monotonic() < deadline, "the run hangs"
            time.sleep(0.0005)
        time.sleep(delay)

    def is_whole(self, number: int = 0) -> None:
        """Make sure that everything is there, as of an undisturbed run, and nothing else."""
        assert contents(self.results) == self.whole[number], "other files than undisturbed"
        assert half_written(self.results) == 0, "a temporary file stayed"


def killed(batch: Batch, found: Counter[str]) -> None:
    """`SIGKILL` at random moments of one job, until it is done."""
    made: list[str] = []
    while True:
        with ExitStack() as stack:
            end = batch.start(stack)
            batch.wait(end)
            run = end(kill=True)  # type: ignore[call-arg]
        check(contents(batch.results), batch.whole[0], "after a kill")
        made += run.made
        if run.code == 0:
            break
        assert run.code == -signal.SIGKILL, run.errors
        found["kills"] += 1
        found["temporary files left by kills"] += half_written(batch.results) > 0
        if len(contents(batch.results)) == PICTURES:
            made += batch.run().made
            break
    batch.is_whole()
    # A kill may come between a result's new name and its event.
    assert len(made) == len(set(made)), "a finished picture was made again"


def full_disk(batch: Batch, found: Counter[str]) -> None:
    """A disk that is full (no file may grow beyond a limit), then has room."""
    limit = batch.chance.choice([batch.chance.randint(1, 40_000), batch.chance.randint(1, 300_000)])
    run = batch.run(prefix=("prlimit", f"--fsize={limit}"))
    check(contents(batch.results), batch.whole[0], "on a full disk")
    assert half_written(batch.results) == 0, "a temporary file stayed"
    errors = [line for line in run.errors if line.startswith("bidiffsr: error: ")]
    # Beside them only the line that counts.
    assert run.code == (1 if errors else 0), run
    assert len(run.errors) - len(errors) <= 1, run.errors
    found["the journal's error ended it" if "journal: " in "".join(errors) else "others"] += 1
    found["results before"] += len(run.made)
    assert batch.run().code == 0
    batch.is_whole()


def vanishing(batch: Batch, found: Counter[str]) -> None:
    """A picture that vanishes at a random moment."""
    lost = batch.chance.choice(sorted(batch.pictures.iterdir()))
    data = lost.read_bytes()
    with ExitStack() as stack:
        end = batch.start(stack)
        batch.wait(end)
        lost.unlink()
        run = end()
    lost.write_bytes(data)
    failed = [each["picture"] for each in run.events if each["event"] == "failed"]
    assert failed in ([], [str(lost)]), run
    assert run.code == len(failed), run
    planned = run.events[0]["pictures"]
    assert len(run.made) == planned - len(failed)
    when = "before it was planned" if planned < PICTURES else "when it was read already"
    found["in time to fail" if failed else when] += 1
    assert len(batch.run().made) == PICTURES - len(run.made)
    batch.is_whole()


def swapped(batch: Batch, found: Counter[str]) -> None:
    """Another model put under the model's name at a random moment."""
    with ExitStack() as stack:
        end = batch.start(stack)
        batch.wait(end)
        batch.put_model(1)
        run = end()
    if run.code == 1 and "was changed while it was read" in run.errors[0]:
        found["while it was loaded, which is refused"] += 1
        batch.put_model(0)
        return
    assert run.code == 0, run
    first = 1 if contents(batch.results) == batch.whole[1] else 0
    batch.is_whole(first)
    found["when it was loaded already" if first == 0 else "before it was loaded"] += 1
    run = batch.run()
    assert (run.code, run.made) == ((1, []) if first == 0 else (0, [])), run
    batch.is_whole(first)
    assert batch.run("--overwrite").code == 0
    batch.is_whole(1)
    batch.put_model(0)


def shared(batch: Batch, found: Counter[str]) -> None:
    """Two processes on one job, one of them killed at a random moment."""
    with ExitStack() as stack:
        ends = [batch.start(stack) for _ in range(2)]
        batch.wait(ends[0])
        first = ends[0](kill=True)  # type: ignore[call-arg]
        second = ends[1]()
    assert second.code == 0, second
    batch.is_whole()
    made = first.made + second.made
    assert len(made) == len(set(made)), "a picture was made by both"
    found["made by the killed one"] += len(first.made)
    found["made by the other"] += len(second.made)
    found["waited for"] += sum(each["event"] == "waiting" for each in second.events)


FAULTS = (killed, full_disk, vanishing, swapped, shared)


def try_fault(
    fault: Callable[[Batch, Counter[str]], None], folder: Path, tries: int, seed: int = 0
) -> Counter[str]:
    """Do one of the faults, again and again from the beginning; what happened.

    Raises:
        AssertionError: something was not as it has to be.
    """
    batch, found = Batch(folder, random.Random(seed)), Counter[str]()
    for _ in range(tries):
        fault(batch, found)
        batch.clear()
    return found


def main(arguments: Sequence[str]) -> None:
    """Print the table, a row as soon as it is known."""
    tries = int(arguments[0]) if arguments else 10
    named = arguments[1:] or [fault.__name__ for fault in FAULTS]
    print("| What befalls a batch of eight pictures with a journal | Tries | What happened |")
    print("|---|---:|---|")
    for fault in (fault for fault in FAULTS if fault.__name__ in named):
        with TemporaryDirectory() as folder:
            found = try_fault(fault, Path(folder), tries)
        happened = ", ".join(f"{what} {number}" for what, number in found.items())
        print(f"| {(fault.__doc__ or '').removesuffix('.')} | {tries} | {happened} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
