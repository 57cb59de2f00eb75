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
from bidiffsr.data.notes import Note, Notes
from bidiffsr.data.prepare import SubImages, count_pairs, prepare
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
    notes = Path("out/prepared_X4.jsonl")
    notes.write_bytes(notes.read_bytes()[:-30])  # as a killed process may leave it
    assert run("in", "--side", "16") == 0
    assert "1 done, 2 already there" in capsys.readouterr().err
    assert run("in", "--side", "16") == 0
    assert "0 done, 3 already there" in capsys.readouterr().err
    assert contents() == after


def test_what_was_made_of_a_picture_that_changed_goes_with_it(capsys: Capture) -> None:
    save("in/a.png", 48, 48)
    save("in/b.png", 16, 16)
    assert run("in", "--side", "16") == 0
    mine = Path("out/HR/a_s999.png")  # no note says that it was made
    mine.write_bytes(Path("in/b.png").read_bytes())
    assert "10 pairs in out" in capsys.readouterr().err
    small = save("in/a.png", 16, 32, seed=7)
    assert run("in", "--side", "16") == 0
    assert "1 done, 1 already there; 3 pairs in out" in capsys.readouterr().err
    names = ["a_s001", "a_s002", "b_s001"]
    assert sorted(path.stem for path in Path("out/HR").iterdir()) == [
        *names[:2],
        "a_s999",
        "b_s001",
    ]
    low = sorted(path.stem for path in Path("out/LR_bicubic/X4").iterdir())
    assert low == [f"{name}x4" for name in names]
    np.testing.assert_array_equal(read("out/HR/a_s002.png"), small[:, 16:])
    save("in/a.png", 8, 90)  # too small
    assert run("in", "--side", "16") == 1
    assert "1 already there, 1 failed; 1 pair in out" in capsys.readouterr().err
    assert sorted(path.stem for path in Path("out/HR").iterdir()) == ["a_s999", "b_s001"]


def test_what_a_killed_run_had_begun_is_known() -> None:
    for seed, (scale, side) in enumerate(((4, 16), (4, None))):
        output, cut = Path(f"out{seed}"), SubImages(scale, side)
        save("in/a.png", 48, 48)
        notes = Notes(output, scale, side, None)
        begun = Note.of(Path("in/a.png"), 48, 48, 9 if side else 1, done=False)
        notes.place.add(begun)
        for file in (file for pair in notes.place.files(begun) for file in pair):
            file.write_bytes(b"half done")
        save("in/a.png", 16, 32, seed=7)
        (done,) = prepare([Path("in/a.png")], output, cut, jobs=1)
        assert done.pairs == count_pairs(output, cut) == (2 if side else 1)
        assert len(contents(str(output))) == 2 * done.pairs


def test_pairs_of_pictures_that_are_gone_are_named_and_removed_when_told_to(
    capsys: Capture,
) -> None:
    for name in "ab":
        save(f"in/{name}.png", 48, 48)
    save("more/c.png", 16, 16)
    assert run("in", "--side", "16") == 0
    assert run("in", "--side", "16", "--scale", "2") == 0
    Path("in/a.png").unlink()
    before = contents()
    capsys.readouterr()
    assert run("more", "--side", "16") == 0
    gone, last = capsys.readouterr().err.splitlines()
    where = Path("in/a.png").resolve()
    assert gone == (
        "bidiffsr: 9 pairs of 1 picture no longer there would be trained on, too: "
        f"{where}; --prune removes them"
    )
    assert last == "bidiffsr: 1 done; 19 pairs in out"
    assert before.items() <= contents().items()
    assert run("more", "--side", "16", "--prune") == 0
    gone, last = capsys.readouterr().err.splitlines()
    assert gone == f"bidiffsr: 9 pairs of 1 picture no longer there removed: {where}"
    assert last.endswith("10 pairs in out")
    assert {Path(path).name[0] for path in contents()} == {"b", "c"}
    assert run("more", "--side", "16", "--prune") == 0
    assert "no longer there" not in capsys.readouterr().err


@pytest.mark.parametrize("side", [None, "16"])
@pytest.mark.parametrize("scales", [("4", "2"), ("2", "4")])
def test_scales_share_a_folder_and_its_high_resolution_files(
    scales: tuple[str, str], side: str | None, capsys: Capture
) -> None:
    high = save("in/a.png", 40, 56)
    cut = [] if side is None else ["--side", side, "--step", "12"]
    assert run("in", "--scale", scales[0], *cut) == 0
    before = {path: Path(path).stat().st_mtime_ns for path in contents()}
    assert run("in", "--scale", scales[1], *cut) == 0
    assert {path: Path(path).stat().st_mtime_ns for path in before} == before
    for scale in (2, 4):
        low = imresize(high, 1 / scale)
        corners = (SubImages(4, 16, 12) if side else SubImages(4)).corners(40, 56)
        pairs = list(Benchmark.open("out").pairs(scale))
        assert len(pairs) == len(corners)
        for pair, (top, left) in zip(pairs, corners, strict=True):
            height, width = pair.high.shape[:2]
            np.testing.assert_array_equal(pair.high, high[top : top + height, left : left + width])
            part = low[top // scale :, left // scale :][: height // scale, : width // scale]
            np.testing.assert_array_equal(pair.low, part)
    capsys.readouterr()
    for scale in scales:
        assert run("in", "--scale", scale, *cut) == 0
        assert "0 done, 1 already there" in capsys.readouterr().err


def test_scales_of_a_picture_that_changed_do_not_mix(capsys: Capture) -> None:
    save("in/a.png", 40, 40)
    for scale in "24":
        assert run("in", "--side", "16", "--scale", scale) == 0
    save("in/a.png", 16, 32, seed=1)
    assert run("in", "--side", "16", "--scale", "2") == 0
    assert (
        len(list(Path("out/HR").iterdir())) == len(list(Path("out/LR_bicubic/X2").iterdir())) == 2
    )
    assert not list(Path("out/LR_bicubic/X4").iterdir())
    capsys.readouterr()
    assert run("in", "--side", "16", "--scale", "4") == 0
    assert "1 done; 2 pairs in out" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [[], ["--side", "16"]])
def test_a_picture_of_which_scales_use_other_parts_is_refused(
    cut: list[str], capsys: Capture
) -> None:
    save("in/a.png", 43, 57)
    save("in/fits.png", 40, 56)
    assert run("in", "--scale", "2", *cut) == 0
    before = contents()
    capsys.readouterr()
    assert run("in", "--scale", "4", *cut) == 1
    line, last = capsys.readouterr().err.splitlines()
    assert line == (
        "bidiffsr: error: in/a.png: its pairs for scale 2 are of 56x42 pixels, those for scale 4 "
        "would be of 56x40; choose another folder, or a new one for scale 4 first"
    )
    assert "1 done, 1 failed" in last
    assert before.items() <= contents().items()
    assert all("fits" in path for path in contents().keys() - before.keys())
    Path("out").rename("old")
    for scale in "42":
        assert run("in", "--scale", scale, *cut) == 0
    high = [path.stem for path in Path("out/HR").iterdir()]
    assert {path.stem for path in Path("out/LR_bicubic/X2").iterdir()} == {f"{x}x2" for x in high}


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
        (["in", "--side", "24"], "prepared_X4.jsonl: the pairs there were made with"),
        (["in", "--side", "24", "--scale", "2"], "prepared_X4.jsonl: the pairs there were made"),
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
    assert subprocess.run(command, check=False).returncode == 0
    assert contents() == undisturbed
    assert not list(Path("out").rglob(".bidiffsr-*"))
