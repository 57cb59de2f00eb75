"""Upscaling inside of a program: one model, many threads, the same picture for the same seed.

python examples/embed.py FOLDER OUT [SECONDS]
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bidiffsr


class Service:
    """What a program keeps: a model that all of its threads share."""

    def __init__(self, workers: int) -> None:
        # Each picture has a thread of its own here, so the engine need not share one out.
        self._upscaler = bidiffsr.Upscaler.from_pretrained("x4-small", threads=1)
        self._pool = ThreadPoolExecutor(workers)

    def upscale(self, source: Path, target: Path, until: float) -> str:
        """Upscale one file, giving up when `until`, of `time.monotonic`, has passed."""
        try:
            image = bidiffsr.read_image(source)
            for at in self._upscaler.stream(image, quality="fast", seed=7):
                if time.monotonic() > until:
                    return f"{source.name}: gave up after {at.done} of {at.total} runs"
                if at.result is not None:
                    bidiffsr.write_image(target, at.result)
        except bidiffsr.BidiffsrError as error:  # one line, with the mend
            return f"{source.name}: {error}"
        return f"{source.name}: done"

    def upscale_all(self, sources: list[Path], folder: Path, seconds: float) -> list[str]:
        """Upscale files side by side; what befalls one does not stop the others."""
        until = time.monotonic() + seconds
        jobs = [
            self._pool.submit(self.upscale, source, folder / f"{source.stem}.png", until)
            for source in sources
        ]
        lines = [job.result() for job in jobs]
        self._upscaler.release_memory()  # until there is work again
        return lines


def main(folder: str, out: str, seconds: str = "600") -> None:
    """Upscale every file of a folder."""
    Path(out).mkdir(exist_ok=True)
    sources = sorted(path for path in Path(folder).iterdir() if path.is_file())
    for line in Service(workers=2).upscale_all(sources, Path(out), float(seconds)):
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
