"""Measure what it brings to save and to read pictures while the network is at another.

python -m benchmarks.behind [PICTURES [SIDE]]

Batches of pictures are upscaled into PNG files in turns: one after the other, with checking,
comparing and saving behind, and with reading ahead as well, on one thread. Beside the clock's time
the CPU's is given, which other work on the machine does not change much.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import commit
from bidiffsr.batch.events import Failed
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.stream import upscale_jobs
from bidiffsr.images import Image, read_image, write_image
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

_BATCH = 10  # pictures of a turn
WAYS = {
    "one after the other": {"behind": False, "ahead": False},
    "saved behind": {"behind": True, "ahead": False},
    "saved behind, read ahead": {"behind": True, "ahead": True},
}
_SOURCE = Path(__file__).parents[1] / "examples" / "macaw.png"


@dataclass
class Spent:
    """Seconds, and the files that they went to."""

    files: int = 0
    clock: float = 0.0
    cpu: float = 0.0
    network_clock: float = 0.0
    network_cpu: float = 0.0

    @property
    def idle(self) -> float:
        """The share of the clock's time in which the network did nothing."""
        return 1 - self.network_clock / self.clock

    @property
    def beside(self) -> float:
        """The share of the CPU's time that went to anything but the network."""
        return 1 - self.network_cpu / self.cpu


class Watched:
    """A backend whose time is counted."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.spent = Spent()
        predict = upscaler.backend.predict

        def counted(*arguments: Any) -> Any:
            clock, cpu = time.perf_counter(), time.thread_time()
            try:
                return predict(*arguments)
            finally:
                self.spent.network_clock += time.perf_counter() - clock
                self.spent.network_cpu += time.thread_time() - cpu

        upscaler.backend.predict = counted  # type: ignore[method-assign]


def pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Parts of a photo, each another and none of them empty."""
    photo = read_image(_SOURCE).pixels
    missing = [(0, max(0, 2 * side - most)) for most in photo.shape[:2]]
    photo = np.pad(photo, [*missing, (0, 0)], mode="reflect")
    found = []
    for number, chance in enumerate(np.random.default_rng(0).spawn(count)):
        top, left = (int(chance.integers(0, most - side + 1)) for most in photo.shape[:2])
        pixels = photo[top : top + side, left : left + side]
        noisy = pixels + chance.normal(0, 3, pixels.shape)
        found.append(folder / f"{number}.png")
        write_image(found[-1], Image(np.clip(noisy, 0, 255).astype(np.uint8)))
        os.utime(found[-1], (0, 0))  # what was changed a moment ago is not read ahead
    return found


def measure(count: int, side: int, upscaler: Upscaler | None = None) -> dict[str, Spent]:
    """What each of the `WAYS` spends."""
    upscaler = upscaler or Upscaler.from_pretrained(threads=1)
    watched, spent = Watched(upscaler), {way: Spent() for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        sources = pictures(Path(name), count, side)
        for start in range(-_BATCH, count, _BATCH):
            warming_up = start < 0
            batch = sources[:1] if warming_up else sources[start : start + _BATCH]
            first = start // _BATCH % len(WAYS)
            for way in [*WAYS, *WAYS][first : first + len(WAYS)]:
                jobs = [Job(path, (path.with_suffix(f".{way}.png"),)) for path in batch]
                watched.spent = Spent() if warming_up else spent[way]
                _upscale(upscaler, jobs, watched.spent, **WAYS[way])
                for job in jobs:
                    job.outputs[0].unlink()
    return spent


def _upscale(upscaler: Upscaler, jobs: list[Job], spent: Spent, **way: bool) -> None:
    clock, cpu = time.perf_counter(), time.process_time()
    asked = UpscaleOptions(), FileOptions()
    for event in upscale_jobs(upscaler, jobs, *asked, compare=True, **way):
        if isinstance(event, Failed):
            raise event.error
    spent.clock += time.perf_counter() - clock
    spent.cpu += time.process_time() - cpu
    spent.files += len(jobs)


def main() -> int:
    """Measure, and print a table."""
    count, side = (int(text) for text in (*sys.argv[1:], *("500", "300")[len(sys.argv) - 1 :]))
    spent = measure(count, side)
    print(f"{count} pictures of {side}x{side}, in turns; {usable_cpus()} CPU; commit {commit()}")
    print("| pictures | files/s | network idle | CPU s/file | of it beside the network |")
    print("|---|---:|---:|---:|---:|")
    for name, way in spent.items():
        print(
            f"| {name} | {way.files / way.clock:.3f} "
            f"| {way.idle:.1%} | {way.cpu / way.files:.3f} | {way.beside:.1%} |"
        )
    first, *others = spent
    for name in others:
        ratio = spent[first].clock / spent[first].files * spent[name].files / spent[name].clock
        print(f"files/s, {name} : {first} = {ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
