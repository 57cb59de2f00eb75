"""`bidiffsr data prepare`: pairs of sub-images, whatever befalls the pictures and the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.cli import main
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.data.prepare import NOTES_NAME, SubImages
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import Benchmark
from bidiffsr.images.resize import imresize

pytestmark = pytest.mark.usefixtures("folder")

Pixels = NDArray[np.uint8]
Capture = pytest.CaptureFixture[str]


def save(path: str, height: int = 40, width: int = 56, seed: int = 0) -> Pixels:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return pixels


def read(path: Path | str) -> Pixels:
    return np.asarray(PIL.Image.open(path))


def run(*arguments: str) -> int:
    return main(["data", "prepare", *arguments, "-o", "out", "--jobs", "1"])


def contents(root: str = "out") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(root).rglob("*.png"))}


@given(
    scale=st.integers(2, 8),
    side=st.integers(1, 12),
    step=st.none() | st.integers(1, 15),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_sub_images_cover_the_picture_on_the_low_resolution_grid(
    scale: int, side: int, step: int | None, size: tuple[int, int]
) -> None:
    cut = SubImages(scale, scale * side, None if step is None else scale * step)
    corners = cut.corners(*(scale * length for length in size))
    if min(size) < side:
        assert corners == []
        return
    seen = np.zeros(size, int)
    for top, left in corners:
        assert top % scale == left % scale == 0
        part = seen[top // scale :, left // scale :][:side, :side]
        assert part.shape == (side, side)
        part += 1
    if step is None or step <= side:
        assert seen.all()
    assert seen[0, 0] and seen[-1, -1]
    assert len(set(corners)) == len(corners)


def test_pairs_are_parts_of_the_whole_pictures() -> None:
    high = save("in/a.png", 43, 57)  # no multiples of the scale
    assert run("in", "--side", "24", "--step", "16") == 0
    high = high[:40, :56]
    low = imresize(high, 1 / 4)
    corners = [(top, left) for top in (0, 16) for left in (0, 16, 32)]
    assert len(contents()) == 2 * len(corners)
    for number, (top, left) in enumerate(corners, 1):
        pair = read(f"out/HR/a_s{number:03}.png"), read(f"out/LR_bicubic/X4/a_s{number:03}x4.png")
        np.testing.assert_array_equal(pair[0], high[top : top + 24, left : left + 24])
        np.testing.assert_array_equal(pair[1], low[top // 4 :, left // 4 :][:6, :6])


def test_what_is_made_is_a_benchmark_and_training_data() -> None:
    high = save("in/HR/a.png", 40, 40)
    save("in/LR_bicubic/X4/ax4.png", 10, 10, seed=1)  # not what would be made
    assert run("in") == 0
    low = read("in/LR_bicubic/X4/ax4.png")
    (pair,) = Benchmark.open("out").pairs(4)
    np.testing.assert_array_equal(pair.high, high)
    np.testing.assert_array_equal(pair.low, low)
    for place in ("out", "out/HR"):
        crops = TrainingCrops([Path(place)], scale=4, crop=40, seed=0, length=1)
        np.testing.assert_array_equal(crops._pair(0)[0], high)
        np.testing.assert_array_equal(crops._pair(0)[1], low)


def test_what_is_done_is_not_done_again_and_what_changed_is(capsys: Capture) -> None:
    for seed, name in enumerate("abc"):
        save(f"in/{name}.png", seed=seed)
    assert run("in", "--side", "16") == 0
    before = contents()
    times = {path: Path(path).stat().st_mtime_ns for path in before}
    assert run("in", "--side", "16") == 0
    assert "0 done, 3 already there" in capsys.readouterr().err
    assert {path: Path(path).stat().st_mtime_ns for path in before} == times
    Path("out/HR/b_s002.png").unlink()
    changed = save("in/c.png", seed=9)
    assert run("in", "--side", "16") == 0
    assert "2 done, 1 already there" in capsys.readouterr().err
    after = contents()
    assert {path for path in before if before[path] != after[path]} == {
        path for path in before if Path(path).name.startswith("c_")
    }
    np.testing.assert_array_equal(read("out/HR/c_s001.png"), changed[:16, :16])
    notes = Path("out", NOTES_NAME)
    notes.write_bytes(notes.read_bytes()[:-30])  # as a killed process may leave it
    assert run("in", "--side", "16") == 0
    assert "1 done, 2 already there" in capsys.readouterr().err
    assert run("in", "--side", "16") == 0
    assert "0 done, 3 already there" in capsys.readouterr().err
    assert contents() == after


@pytest.mark.parametrize("skip", [False, True])
def test_pictures_that_cannot_be_used_are_named(skip: bool, capsys: Capture) -> None:
    save("in/HR/good.png")
    save("in/HR/tiny.png", 12, 90)
    save("in/HR/mismatched.png")
    save("in/LR_bicubic/X4/mismatchedx4.png", 9, 14)
    Path("in/HR/damaged.png").write_bytes(Path("in/HR/good.png").read_bytes()[:999])
    Path("in/HR/text.png").write_text("no picture")
    PIL.Image.fromarray(np.zeros((40, 40), np.uint16)).save("in/HR/deep.png")
    save("more/good.png")
    Path("in/HR/gone.png").symlink_to("nowhere.png")
    Path("in/HR/loop.png").symlink_to("loop.png")
    flags = ["--skip-bad"] if skip else []
    assert run("in", "more", "--side", "16", *flags) == (0 if skip else 1)
    *lines, last = capsys.readouterr().err.splitlines()
    assert all(line.startswith("bidiffsr: error: ") is not skip for line in lines)
    for name, complaint in {
        "HR/tiny.png": "88x12 is smaller than a sub-image of 16",
        "mismatchedx4.png": "picture is 14x9; expected 14x10",
        "HR/damaged.png": "damaged or cut short",
        "HR/text.png": "not a picture of a known kind",
        "HR/deep.png": "expected uint8",
        "HR/gone.png": "no such file",
        "HR/loop.png": "cannot be read (Too many levels of symbolic links)",
        "more/good.png": "has the name of in/HR/good.png",
    }.items():
        assert sum(name in line and complaint in line for line in lines) == 1, (name, lines)
    assert len(lines) == 8
    assert last == f"bidiffsr: 1 done, 8 {'left out' if skip else 'failed'}; 12 pairs in out"
    assert {Path(path).stem[:4] for path in contents()} == {"good"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["in", "--side", "18"], "side: got 18, expected a multiple of the scale, 4"),
        (["in", "--side", "0"], "side: got 0"),
        (["in", "--side", "16", "--step", "-4"], "step: got -4"),
        (["in", "--step", "16"], "give a side too"),
        (["nowhere"], "nowhere: no such folder"),
        (["out"], "out: holds pictures to prepare"),
        (["in", "--side", "24"], "prepared.jsonl: the pairs there were made with"),
        (["in", "--side", "16", "--scale", "2"], "prepared.jsonl: the pairs there were made with"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], reason: str, capsys: Capture
) -> None:
    save("in/a.png")
    assert run("in", "--side", "16") == 0
    before = contents()
    capsys.readouterr()
    assert run(*arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("bidiffsr: error: ")
    assert reason in err
    assert err.count("\n") == 1
    assert contents() == before
    assert [path.name for path in Path("out/LR_bicubic").iterdir()] == ["X4"]


def test_wrong_numbers_of_sub_images_are_refused_from_python_too() -> None:
    for wrong in ({"scale": 1}, {"scale": 4, "side": 6}, {"scale": 4, "side": 8, "step": 2}):
        with pytest.raises(ConfigError, match=f"^{list(wrong)[-1]}: got"):
            SubImages(**wrong)


def test_a_killed_run_goes_on() -> None:
    for seed in range(4):
        save(f"in/{seed}.png", 160, 160, seed)
    assert run("in", "--side", "16") == 0
    undisturbed = contents()
    Path("out").rename("undisturbed")
    command = [sys.executable, "-m", "bidiffsr", "data", "prepare", "in", "-o", "out"]
    command += ["--side", "16", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(Path().glob("out/HR/*.png"))) < 150:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(contents()) < len(undisturbed)
    assert run("in", "--side", "16") == 0
    assert contents() == undisturbed
    assert not list(Path("out").rglob(".bidiffsr-*"))
