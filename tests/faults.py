"""The table of faults: what befalls a batch, the server and a cluster, and what happened.

`python tests/faults.py [kills] [tries] [fault ...]` prints it as Markdown, a row as soon as it is
known, and ends with a traceback at the first thing that is not as it has to be.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import journal_faults
import uploads

_RAY = Path(__file__).with_name("test_ray.py")
# In the test's own words.
_RAY_KILLS = 4


def ray_workers() -> str | None:
    """Run the test of killed workers; None where Ray is not installed.

    Raises:
        CalledProcessError: it fails.
    """
    if importlib.util.find_spec("ray") is None:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(_RAY)]
    done = subprocess.run([*command, "-k", "killed_workers"], capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
    done.check_returncode()
    return "nothing was lost or made twice; the picture that killed two is named"


def _of_a_batch(fault: Callable[..., int], tries: int) -> tuple[str, int, str]:
    with TemporaryDirectory() as folder:
        count, found = journal_faults.try_fault(fault, Path(folder), tries)
    happened = "; ".join(f"{number} {what}" for what, number in found.items() if number)
    return (fault.__doc__ or "").removesuffix("."), count, happened


def rows(kills: int, tries: int, named: Sequence[str] = ()) -> Iterator[tuple[str, int, str]]:
    """What befalls it, how often, and what happened.

    Args:
        kills: of batches, at least.
        tries: of the other faults of batches.
        named: the faults; all if empty.

    Raises:
        AssertionError: something was not as it has to be.
    """
    for fault in journal_faults.FAULTS:
        if not named or fault.__name__ in named:
            yield _of_a_batch(fault, kills if fault is journal_faults.killed else tries)
    if not named or "uploaded" in named:
        what = f"Pictures uploaded to `bidiffsr serve` at once, {uploads.LARGE} of them large"
        yield what, uploads.COUNT, str(uploads.upload_at_once())
    if not named or "ray_workers" in named:
        what = "Ray workers killed: amid a picture, behind its result, twice at one picture"
        happened = ray_workers()
        if happened is None:
            yield what, 0, "skipped: Ray is not installed (`make test-ray` installs it)"
        else:
            yield what, _RAY_KILLS, happened


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    numbers = [int(argument) for argument in arguments if argument.isdecimal()]
    kills, tries = (*numbers, *(50, 10)[len(numbers) :])
    print("| What befalls it | Tries | What happened |")
    print("|---|---:|---|", flush=True)
    for what, count, happened in rows(kills, tries, arguments[len(numbers) :]):
        print(f"| {what} | {count} | {happened} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
