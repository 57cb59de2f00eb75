"""A dry run says what the run does, and does none of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest

from bidiffsr.batch.needs import foresee
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.run import upscale_file
from bidiffsr.cli import main
from bidiffsr.images.codec import write_image
from bidiffsr.images.image import Image
from bidiffsr.upscaling import trial
from bidiffsr.upscaling.options import UpscaleOptions
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread", "folder")
Capture = pytest.CaptureFixture[str]


def save(*names: str, height: int = 5, width: int = 6) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(name)


def tree() -> dict[Path, tuple[int, bytes]]:
    """All that lies in the current folder."""
    return {
        path: (path.stat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in (Path(), *Path().rglob("*"))
    }


def refused() -> None:
    save("in/a.png", "in/twin.png", "in/twin.PNG")
    Path("in/text.png").write_text("no picture at all")
    Path("in/empty.png").touch()
    Path("in/short.png").write_bytes(Path("in/a.png").read_bytes()[:40])
    Path("in/folder_x4.png").mkdir()
    save("in/folder.png")


def partly_done() -> None:
    save("in/a.png", "in/a_x4.png", "in/b.png", "in/deep/c.png", "d.png", "d_x4_1.png")


def too_long() -> None:
    save("in/a.png", "in/b.webp", height=1, width=4096)


def blocked() -> None:
    save("in/a.png")
    Path("out").write_text("a file where the folder should be")


@pytest.mark.parametrize(
    ("lay_out", "arguments"),
    [
        (refused, ["in", "missing.png"]),
        (refused, ["in", "-o", "not/there/yet"]),
        (refused, ["in/text.png"]),
        (partly_done, ["in"]),
        (partly_done, ["in", "d.png", "-r", "--samples", "2"]),
        (partly_done, ["in", "-r", "--overwrite", "-o", "in"]),
        (partly_done, ["in/a.png"]),
        (partly_done, ["in", "-r", "-o", "out", "--shard", "1/2"]),
        (partly_done, ["in/b.png", "-o", "not/there/b.jpg", "--width", "10"]),
        (partly_done, ["in", "--width", "10000"]),
        (partly_done, ["in", "--max-pixels", "20"]),
        (partly_done, ["in", "--max-memory", "1M"]),
        (too_long, ["in", "-o", "out"]),
        (blocked, ["in", "-o", "out/deep"]),
    ],
)
def test_it_says_what_the_run_says(
    lay_out: Callable[[], None], arguments: list[str], model: str, capsys: Capture
) -> None:
    lay_out()
    before = tree()
    foreseen = main(["upscale", *arguments, "-n", model, "--dry-run"])
    planned = said(capsys)
    assert tree() == before
    assert foreseen == main(["upscale", *arguments, "-n", model])
    assert planned == said(capsys)


def said(capsys: Capture) -> tuple[list[str], list[str]]:
    """What is said, as both say it."""
    out, err = capsys.readouterr()
    results = [
        re.sub(r", [\d.]+ s\)$|, in place of what is there\)$", ")", line)
        for line in out.splitlines()
    ]
    lines = [
        re.sub(r"^bidiffsr: (\d+) would be made", r"bidiffsr: \1 done", line)
        for line in err.splitlines()
        if not line.startswith("bidiffsr: needed: ")
    ]
    # The system's words, and how much memory is free at the moment.
    return results, [
        re.sub(r"(cannot be made a folder|and [\d.]+ GB) .*", r"\1", line) for line in lines
    ]


def test_what_would_be_replaced_is_said(model: str, capsys: Capture) -> None:
    save("in/a.png", "in/b.png", "out/a_x4.png")
    assert main(["upscale", "in", "-o", "out", "-n", model, "--dry-run", "--overwrite"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "in/a.png -> out/a_x4.png (24x20, in place of what is there)",
        "in/b.png -> out/b_x4.png (24x20)",
    ]


def test_the_results_are_counted(model: str, capsys: Capture) -> None:
    save("in/a.png", "in/b.png")
    wide = np.zeros((5, 6, 3), np.uint16)
    write_image("in/c.png", Image(wide, alpha=wide[:, :, 0]))
    assert main(["upscale", "in", "-n", model, "--dry-run"]) == 0
    *_, needed = capsys.readouterr().err.splitlines()
    pixels = 24 * 20
    total = 2 * pixels * 3 + pixels * 4 * 2
    assert re.fullmatch(
        r"bidiffsr: needed: less than a minute on this computer, [\d.]+ MB of memory at a time, "
        rf"{total / 1000:.3g} kB for the results before they are compressed",
        needed,
    )


@pytest.mark.parametrize(
    ("more", "samples"),
    [
        ([], 2),  # of a.png, and of b.png
        (["--samples", "3"], 6),
        (["--samples", "3", "--mean"], 6),
    ],
)
def test_the_time_is_that_of_all_samples(
    more: list[str],
    samples: int,
    model: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = 6
    monkeypatch.setattr(trial, "seconds_per_pixel", lambda *_: hours * 3600 / (24 * 20))
    save("in/a.png", "in/b.png")
    assert main(["upscale", "in", "-n", model, "--dry-run", *more]) == 0
    *_, needed = capsys.readouterr().err.splitlines()
    assert f"needed: about {_shown(samples * hours)} on this computer" in needed
    assert main(["upscale", "in", "-n", model, *more]) == 0
    Path("in/a_x4.png" if not more else "in/a_x4_1.png").unlink()
    capsys.readouterr()
    assert main(["upscale", "in", "-n", model, "--dry-run", *more]) == 0
    *_, needed = capsys.readouterr().err.splitlines()
    assert f"needed: about {hours} hours on this computer" in needed


def _shown(hours: int) -> str:
    return f"{hours} hours" if hours < 24 else f"{hours / 24:.1f} days"


def test_a_trial_is_timed_when_it_is_warm_and_as_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, dict[str, object]]] = []

    def upscale(picture: np.ndarray, **keywords: object) -> np.ndarray:
        asked.append((len(picture), keywords))
        return picture.repeat(4, axis=0).repeat(4, axis=1)

    clock = iter([0.0, 9.0, 10.0, 12.0])  # the first, which is slow, and the second
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    options = UpscaleOptions(width=7, samples=3, quality="fast", ensemble=True)
    seconds = trial.seconds_per_pixel(cast("Any", upscale), options)
    assert [side for side, _ in asked] == [32, 128]
    assert seconds == pytest.approx(2 / (4 * 128) ** 2)
    for _, keywords in asked:
        assert keywords["quality"] == "fast"
        assert keywords["ensemble"] is True
        assert keywords["width"] is None
        assert keywords["samples"] == 1


@pytest.mark.parametrize("scale", [4, 9])
def test_working_files_are_foreseen(
    scale: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where little is allowed, files take no more than foreseen, and not much less."""
    save("a.png", height=40, width=30)
    job, upscaler = Job(Path("a.png"), (Path("b.png"),)), tiny_upscaler()
    options = UpscaleOptions(scale=scale, steps=1, tile=64)
    plenty = foresee(upscaler, job, options, FileOptions()).room
    assert plenty.disk == 0
    limit = plenty.memory - 1
    monkeypatch.setattr("bidiffsr.upscaling.upscaler.memory_limit", lambda *_: limit)
    room = foresee(upscaler, job, options, FileOptions()).room
    assert room.memory <= limit
    sizes = [unnamed_files(folder) for _ in upscale_file(upscaler, job, options)]
    assert 0.4 * room.disk <= max(sizes) <= room.disk


def unnamed_files(folder: Path) -> int:
    """Bytes of this process's open files in a folder that have no names there."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            where = str(entry.readlink())
            if where.startswith(str(folder)) and where.endswith("(deleted)"):
                found += entry.stat().st_size
    return found
