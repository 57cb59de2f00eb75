"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.JpegImagePlugin
import pytest
import torch
import yaml

import bidiffsr
from bidiffsr.cli import main
from bidiffsr.cli.terminal import print_result
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.models.catalog import model_digest
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import build_network
from bidiffsr.training import trainer
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import save_tiny_model, tiny_config

SOURCE = Path(bidiffsr.__file__).parents[1]
Capture = pytest.CaptureFixture[str]


pytestmark = pytest.mark.usefixtures("one_thread", "folder")


def save(name: str, height: int = 5, width: int = 6) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([255 * x // width, 255 * y // height, 99 + 0 * x], axis=2)
    write_image(name, Image(ramps.astype(np.uint8)))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


def test_a_photo(model: str, capsys: Capture) -> None:
    save("photo.jpg")
    assert main(["upscale", "photo.jpg", "-n", model]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("photo.jpg -> photo_x4.jpg (24x20, ")
    assert out.count("\n") == 1
    assert err == ""
    assert read_image("photo_x4.jpg").pixels.shape == (20, 24, 3)


def test_every_option_reaches_the_work(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save("photo.png")
    seen: list[dict[str, Any]] = []
    stream = Upscaler.stream

    def spy(self: Upscaler, image: Image, **settings: Any) -> Any:
        seen.append({name: value for name, value in settings.items() if name != "under_way"})
        return stream(self, image, **settings)

    monkeypatch.setattr(Upscaler, "stream", spy)
    options = "--scale 2.5 --quality best --steps 1 --seed 7 --samples 2 --tile 96"
    options += " --max-memory 2G --device cpu"
    assert main(["upscale", "photo.png", "-n", model, *options.split(), "-o", "out"]) == 0
    settings = {"scale": 2.5, "quality": "best", "steps": 1, "seed": 7, "samples": 2, "tile": 96}
    assert seen == [
        settings
        | {"size": None, "width": None, "height": None, "ensemble": False}
        | {"max_memory": 2_000_000_000, "scratch": Path("out"), "only": [0, 1], "kept": 0}
    ]
    for name in ("photo_x2.5_1.png", "photo_x2.5_2.png"):
        assert read_image(Path("out", name)).pixels.shape == (13, 15, 3)


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        ("--size 31x17", "photo_w31_h17.jpg", (17, 31)),
        ("--width 12 --format png", "photo_w12.png", (10, 12)),
        ("--height 70", "photo_h70.jpg", (70, 84)),
        ("--height 3 --name {stem}-{height:04}{ext}", "photo-0003.jpg", (3, 4)),
    ],
)
def test_exact_sizes_names_and_formats(
    model: str, options: str, name: str, shape: tuple[int, int]
) -> None:
    save("photo.jpg")
    assert main(["upscale", "photo.jpg", "-n", model, *options.split()]) == 0
    with PIL.Image.open(name) as made:
        assert made.size == shape[::-1]
        assert made.format == ("PNG" if name.endswith("png") else "JPEG")


def test_subsampling_reaches_the_file(model: str) -> None:
    save("photo.jpg", 30, 30)
    for given, expected in (("4:4:4", (1, 1)), ("4:2:0", (2, 2))):
        command = ["upscale", "photo.jpg", "-n", model, "--overwrite", "--subsampling", given]
        assert main(command) == 0
        with PIL.JpegImagePlugin.JpegImageFile("photo_x4.jpg") as made:
            assert made.layer[0][1:3] == expected  # of luma, in the file's first component


def test_file_quality_reaches_the_file(model: str) -> None:
    save("photo.jpg", 30, 30)
    for quality in ("10", "95"):
        command = ["upscale", "photo.jpg", "-n", model, "-o", f"{quality}.jpg"]
        assert main([*command, "--file-quality", quality]) == 0
    assert Path("10.jpg").stat().st_size < Path("95.jpg").stat().st_size / 2


def test_a_result_that_exists_stays_unless_told_otherwise(model: str, capsys: Capture) -> None:
    save("photo.png")
    Path("photo_x4.png").write_text("precious")
    assert main(["upscale", "photo.png", "-n", model]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bidiffsr: error: photo_x4.png: exists already")
    assert Path("photo_x4.png").read_text() == "precious"
    assert main(["upscale", "photo.png", "-n", model, "--overwrite"]) == 0
    assert read_image("photo_x4.png").width == 24


def test_a_folder_goes_on_past_bad_pictures_and_can_be_given_again(
    model: str, capsys: Capture
) -> None:
    save("in/a.png")
    save("in/z.png")
    Path("in/bad.png").write_text("no picture")
    assert main(["upscale", "in", "-n", model]) == 1
    out, err = capsys.readouterr()
    assert [line.split(" (")[0] for line in out.splitlines()] == [
        "in/a.png -> in/a_x4.png",
        "in/z.png -> in/z_x4.png",
    ]
    error, summary = err.splitlines()
    assert error.startswith("bidiffsr: error: in/bad.png: not a picture")
    assert summary == "bidiffsr: 2 done, 1 failed: in/bad.png"

    Path("in/bad.png").unlink()
    save("in/new.png")
    assert main(["upscale", "in", "-n", model]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("in/new.png -> in/new_x4.png")
    assert out.count("\n") == 1
    assert "in/a_x4.png: already there" in err
    assert "in/a_x4.png: left out" in err
    assert err.splitlines()[-1] == "bidiffsr: 1 done, 2 already there, 2 left out"
    assert sorted(path.name for path in Path("in").iterdir()) == [
        *("a.png", "a_x4.png", "new.png", "new_x4.png", "z.png", "z_x4.png")
    ]


def test_reasons_that_are_far_up_are_said_again_at_the_end(model: str, capsys: Capture) -> None:
    Path("in").mkdir()
    for index in range(22):
        Path(f"in/bad{index:02}.png").write_text("no picture")
        save(f"in/c{index:02}.png", 2, 2)
    assert main(["upscale", "in", "-n", model]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors, summary, said_again = lines[:22], lines[22], lines[23:]
    assert summary == "bidiffsr: 22 done, 22 failed:"
    for index, (error, again) in enumerate(zip(errors[:20], said_again[:20], strict=True)):
        assert again.startswith(f"bidiffsr:   in/bad{index:02}.png: not a picture")
        assert again.removeprefix("bidiffsr:   ") == error.removeprefix("bidiffsr: error: ")
    assert said_again[20:] == [
        "bidiffsr:   and 2 more; the line of each begins with 'bidiffsr: error:', or use --json"
    ]


def test_a_reason_without_a_name_gets_one(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any, **__: Any) -> Any:
        raise MemoryError

    save("in/a.png")
    save("in/b.png")
    monkeypatch.setattr(Upscaler, "stream", too_much)
    assert main(["upscale", "in", "-n", model]) == 1
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("bidiffsr: error: in/a.png: the memory ran out")
    assert second.startswith("bidiffsr: error: in/b.png: the memory ran out")


def test_whatever_befalls_a_file_the_others_are_done(model: str, capsys: Capture) -> None:
    save("in/a.png")
    save("in/z.png")
    save("other/a.png")
    Path("in/loop.png").symlink_to("loop.png")
    command = ["upscale", "nope.png", "in", "other", "-n", model, "-o", "out"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert [line.split(" (")[0] for line in out.splitlines()] == [
        "in/a.png -> out/a_x4.png",
        "in/z.png -> out/z_x4.png",
    ]
    missing, loop, twice, summary = err.splitlines()
    assert missing.startswith("bidiffsr: error: nope.png: no such file")
    assert loop.startswith("bidiffsr: error: in/loop.png: cannot be read (Too many levels")
    assert twice.startswith("bidiffsr: error: out/a_x4.png: would be the result of both")
    assert summary == "bidiffsr: 2 done, 3 failed: nope.png, in/loop.png, other/a.png"


def test_a_bug_in_one_file_stops_no_other(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Upscaler.stream

    def fails_once(self: Upscaler, image: Image, **settings: Any) -> Any:
        if image.width == 6:
            raise ZeroDivisionError
        return stream(self, image, **settings)

    save("in/a.png")
    save("in/z.png", width=7)
    monkeypatch.setattr(Upscaler, "stream", fails_once)
    assert main(["upscale", "in", "-n", model]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("in/z.png -> in/z_x4.png")
    assert "fails_once" in err  # the traceback
    assert "bidiffsr: error: in/a.png: ZeroDivisionError, which is a bug" in err
    assert err.splitlines()[-1] == "bidiffsr: 1 done, 1 failed: in/a.png"


def test_two_runs_over_one_folder(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run makes, while this one works, the result under way and the next one."""
    stream = Upscaler.stream

    def beside_another(self: Upscaler, image: Image, **settings: Any) -> Any:
        for name in ("in/a_x4.png", "in/b_x4.png"):
            if not Path(name).exists():
                save(name)
        return stream(self, image, **settings)

    for name in "abc":
        save(f"in/{name}.png")
    monkeypatch.setattr(Upscaler, "stream", beside_another)
    assert main(["upscale", "in", "-n", model]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("in/c.png -> in/c_x4.png")
    assert err.splitlines()[-1] == "bidiffsr: 1 done, 2 already there"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["b.psd"], "1 picture of a kind that is not read (.psd)"),
        (["b.jp2", "c.PSD"], "2 pictures of kinds that are not read (.jp2 .psd)"),
        (["b.CR3", "c.dng", "d.dng"], "3 pictures of kinds that are not read (.cr3 .dng)"),
        (["b.svg", "c.hdr", "d.ico"], "3 pictures of kinds that are not read (.hdr .ico .svg)"),
        (["deep/b.png"], "1 folder inside (--recursive looks there)"),
        (["x/b.png", "y/b.png", "c.psd"], "1 picture of a kind that is not read (.psd), "),
    ],
)
def test_what_is_left_out_is_said(
    names: list[str], reason: str, model: str, capsys: Capture
) -> None:
    save("in/a.png")
    for name in names:
        Path("in", name).parent.mkdir(exist_ok=True)
        Path("in", name).touch()
    assert main(["upscale", "in", "-n", model]) == 0
    left_out, summary = capsys.readouterr().err.splitlines()
    assert left_out.startswith(f"bidiffsr: left out: {reason}")
    assert summary == "bidiffsr: 1 done"


@pytest.mark.parametrize("dry", [False, True])
def test_pictures_whose_extra_is_not_installed_are_left_out_of_folders(
    dry: bool, model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    save("in/a.png")
    for name in ("in/b.exr", "in/c.exr"):
        save(name)
    asked = ["-n", model, *(["--dry-run"] if dry else [])]
    assert main(["upscale", "in", *asked]) == 0
    (left_out, *_) = capsys.readouterr().err.splitlines()
    assert left_out == "bidiffsr: left out: 2 EXR files (pip install 'bidiffsr[exr]')"
    assert main(["upscale", "in", "in/b.exr", *asked, "--overwrite"]) == 1
    assert "in/b.exr: is OpenEXR, which" in capsys.readouterr().err


def test_the_folder_of_results_is_not_missed(model: str, capsys: Capture) -> None:
    save("in/a.png")
    for _ in range(2):
        assert main(["upscale", "in", "-o", "in/large", "-n", model]) == 0
    assert "left out: " not in capsys.readouterr().err


def test_recursive(model: str) -> None:
    save("in/a.png")
    save("in/deep/b.png")
    assert main(["upscale", "in", "-n", model, "-o", "flat"]) == 0
    assert not Path("flat/deep").exists()
    assert main(["upscale", "in", "-n", model, "-o", "all", "--recursive"]) == 0
    assert Path("all/deep/b_x4.png").exists()


def test_names_cannot_forge_output(model: str, capsys: Capture) -> None:
    save("[red]\x1b[2J\nx.png")
    assert main(["upscale", "[red]\x1b[2J\nx.png", "-n", model]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("[red]\\x1b[2J x.png -> [red]\\x1b[2J x_x4.png (24x20, ")


def test_names_outside_the_terminals_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written := io.BytesIO(), "ascii"))
    print_result("größer.png")
    assert written.getvalue() == b"gr\\xf6\\xdfer.png\n"


def test_bars_leave_stdout_alone(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    save("in/[red]a.png")
    save("in/b.png")
    assert main(["upscale", "in", "-n", model]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out
    assert "all pictures" in err
    plain = re.sub(r"\x1b\[[\d;]*m", "", err)
    assert re.search(r"\d elapsed, [-\d:]+ left", plain)  # no number that could be either
    assert "[red]a.png" in err


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("upscale nope.png", "nope.png: no such file"),
        ("upscale . ", ".: no pictures"),
        ("upscale a.png -n nope.safetensors", "nope.safetensors: no such file"),
        ("upscale a.png -n x5-small", "x5-small: no such file, and bidiffsr ships no model of"),
        ("inspect x5-small", "choose one of default, "),
        ("upscale a.png -n MODEL --quality balanced", "quality: got 'balanced', this model names"),
        ("upscale a.png -n a.png", "a.png"),
        ("upscale a.png -n MODEL -s 17", "scale: got 17"),
        ("upscale a.png -n MODEL --size 97x9", "a.png: is 6 pixels wide, and the result would be"),
        ("upscale a.png -n MODEL --steps 3", "steps: got 3"),
        ("upscale a.png -n MODEL --device abacus", "'abacus' cannot be used"),
        ("upscale a.png -n MODEL -o b.tga", "b.tga: suffix '.tga'"),
        ("upscale a.png a.png -n MODEL -o b.png --samples 2", "b.png: is one file for 2 results"),
        ("upscale unnamed -n MODEL", "unnamed_x4: suffix ''"),
        ("eval nope -n bicubic", "nope: no such folder"),
        ("eval pictures -n MODEL -s 17", "scale: got 17"),
        ("eval pictures -n MODEL --quality fast --quality balanced", "MODEL: quality: got 'bal"),
        ("eval pictures --json nope/a.json", "nope/a.json: cannot be written"),
        ("eval pictures --latex nope/a.tex", "nope/a.tex: cannot be written"),
        ("eval pictures --csv nope/a.csv", "nope/a.csv: cannot be written"),
        ("train nope.yml", "nope.yml: cannot be read"),
        ("convert nope.pth -o a.safetensors", "nope.pth: no such file"),
        ("convert nope.pth -o a.pt", "a.pt: expected a name that ends in .safetensors"),
        ("convert nope.pth -o there.safetensors", "there.safetensors: exists already"),
        ("pack nope.safetensors -o a.safetensors", "nope.safetensors: no such file"),
        ("pack MODEL -o a.pt", "a.pt: expected a name that ends in .safetensors"),
        ("pack MODEL -o there.safetensors", "there.safetensors: exists already"),
        ("pack MODEL -o a.safetensors --sampling.steps 0", "sampling.steps"),
        ("pack MODEL -o a.safetensors --qualities.fast.steps 3", "qualities.fast.steps: 3 of 2"),
        ("pack MODEL -o a.safetensors --qualities.superb.steps 1", "qualities.superb"),
        ("pack MODEL -o a.safetensors --network.channels 16", "--network: cannot be changed"),
        ("inspect nope.safetensors", "nope.safetensors: no such file"),
        ("inspect MODEL --size 3", "--size: 3 is not a multiple of 2"),
        ("upscale a.png -n MODEL --tile 3", "tile: got 3, expected 64"),
        ("upscale a.png nope.png -n MODEL -o new.xyz", "new.xyz: suffix '.xyz'"),
        ("upscale notes -n MODEL", "notes: not a picture of a known kind"),
        ("upscale a.png -n MODEL --max-memory 1M", "a.png: an output of 24x24 pixels needs"),
    ],
)
def test_trouble_is_one_line(command: str, reason: str, model: str, capsys: Capture) -> None:
    if command != "upscale . ":
        save("a.png")
    save("pictures/b.png", 32, 32)
    Path("unnamed").write_bytes(Path("pictures/b.png").read_bytes())
    Path("there.safetensors").touch()
    Path("notes").write_text("no picture")
    assert main(command.replace("MODEL", model).split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bidiffsr: error: ")
    assert reason.replace("MODEL", model) in err
    assert err.count("\n") == 1


WHOLE_NUMBERS = [
    *(
        f"upscale a.png --{name}"
        for name in ["tile", "steps", "seed", "samples", "threads", "max-pixels"]
    ),
    "upscale a.png --file-quality",
    *("eval . --seed", "eval . --limit", "eval . --scale", "inspect --size", "bench --size"),
]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("upscale", "PICTURES"),
        ("upscal a.png", "upscale"),
        ("upscale a.png --overwrit", "--overwrite"),
        ("upscale a.png --samples 0", "--samples: got 0, expected a whole number, 1 to"),
        ("upscale a.png --max-memory much", "--max-memory: got 'much'"),
        *(
            (f"{command} {value}", f"{command.split()[-1]}: got {value}, expected a whole number")
            for command in WHOLE_NUMBERS
            for value in ("64.5", "64.0", "1.", "-.5")
        ),
        ("upscale a.png --size 5", "--size: got '5', expected width x height such as 1920x1080"),
        ("upscale a.png --size 5x5 -s 2", "--size: got it beside scale, expected one of them"),
        ("upscale a.png --name big", "--name: got 'big', expected a file's name that has {stem}"),
        ("upscale a.png --mean", "--mean: got it with one sample, expected --samples 2"),
        ("upscale - -o b.png --uncertainty", "--uncertainty: got it with one sample, expected"),
        ("upscale a.png --threads 2000", "--threads: got 2000"),
        ("upscale a.png --scale nan", "--scale: got nan"),
        ("upscale a.png --quality 95", "--quality"),
        ("upscale a.png --quality Fast", "--quality"),
        ("upscale a.png --file-quality 101", "--file-quality"),
        ("eval . --quality fast --quality good", "--quality"),
        ("upscale a.png --seed -1", "--seed"),
        ("upscale a.png --scale four", "--scale"),
        ("upscale a.png --tile big", "--tile"),
        ("eval", "FOLDERS"),
        ("convert a.pth", "--output"),
        ("pack a.pth", "--output"),
        ("pack a.safetensors -o b.safetensors --float int8", "--float"),
        ("train", "CONFIG"),
    ],
)
def test_mistyped_commands(command: str, reason: str, capsys: Capture) -> None:
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bidiffsr: error: ")
    assert reason in err
    assert err.count("\n") == 1


def test_disk_trouble_is_one_line(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    save("a.png")
    monkeypatch.setattr(os, "fsync", full)
    assert main(["upscale", "a.png", "-n", model]) == 1
    assert "a_x4.png: cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(folder.iterdir()) == [folder / "a.png"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "memory ran out"),
        (ModuleNotFoundError("no", name="torch"), "pip install 'bidiffsr[torch]'"),
        (ModuleNotFoundError("no", name="lightning_fabric"), "pip install 'bidiffsr[train]'"),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
    ],
)
def test_foreseeable_errors_from_below_are_one_line(
    error: Exception, reason: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    save("a.png")
    monkeypatch.setattr(Upscaler, "from_pretrained", fail)
    assert main(["upscale", "a.png"]) == 1
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    save("a.png")
    monkeypatch.setattr(Upscaler, "from_pretrained", fail)
    with pytest.raises(ZeroDivisionError):
        main(["upscale", "a.png"])


def test_help_and_mistakes_need_no_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from bidiffsr.cli import main\n"
        "for command in ('', '--help', '--version', 'upscale', 'upscale --help', 'train --help'):\n"
        "    main(command.split())\n"
        "print(sorted({'torch', 'PIL', 'pyvips', 'numpy', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "bidiffsr upscale photo.jpg" in done.stdout


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "bidiffsr"]
    options = {"env": environment(), "capture_output": True, "text": True, "check": False}
    version = subprocess.run([*command, "--version"], **options)
    assert (version.returncode, version.stdout) == (0, bidiffsr.__version__ + "\n")
    wrong = subprocess.run([*command, "upscale", "nope.png"], **options)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "bidiffsr: error: nope.png: no such file or folder; check the name\n"


INTERRUPTED_WHILE_WRITING = """
import os, sys, time
from bidiffsr.cli import main

def slow(descriptor):
    print("half-written", flush=True)
    for _ in range(600):  # a signal just before a sleep begins does not end it
        time.sleep(0.1)

os.fsync = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_killed_while_writing(number: signal.Signals, code: int, model: str, folder: Path) -> None:
    save("in/a.png")
    save("in/b.png")
    Path("in/a_x4.png").write_text("precious")
    command = ["upscale", "in", "-n", model, "--overwrite"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_WHILE_WRITING, *command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-written\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert Path("in/a_x4.png").read_text() == "precious"
    assert not Path("in/b_x4.png").exists()
    if number == signal.SIGKILL:  # which leaves no time to tidy up; what is left is hidden
        left = [path for path in Path("in").iterdir() if path.name.startswith(".bidiffsr-")]
        assert len(left) == 1
        assert main(command) == 0
        assert sorted(path.name for path in Path("in").iterdir()) == [
            *("a.png", "a_x4.png", "b.png", "b_x4.png")
        ]
    else:
        assert err.splitlines()[-1] == (
            "bidiffsr: stopped; what was finished is kept, nothing is half-written"
        )
        assert "Traceback" not in err
        assert len(list(Path("in").iterdir())) == 3


def test_ctrl_c_between_steps(
    model: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    stream = Upscaler.stream

    def interrupted(self: Upscaler, image: Image, **settings: Any) -> Any:
        yield next(iter(stream(self, image, **settings)))
        raise KeyboardInterrupt

    save("a.png")
    monkeypatch.setattr(Upscaler, "stream", interrupted)
    assert main(["upscale", "a.png", "-n", model]) == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert list(folder.iterdir()) == [folder / "a.png"]


def test_eval_scores_bicubic_and_every_model(model: str, capsys: Capture) -> None:
    save("set/a.png", 64, 64)
    save("set/b.png", 64, 64)
    files = ["--json", "scores.json", "--markdown", "table.md"]
    assert main(["eval", "set", "-n", model, "-n", "bicubic", "--limit", "1", *files]) == 0
    out, _ = capsys.readouterr()
    assert "PSNR" in out
    name = Path(model).stem
    assert name in out
    assert model not in out
    report = json.loads(Path("scores.json").read_text())
    assert report["scale"] == 4
    assert [method["method"] for method in report["methods"]] == ["bicubic", name]
    for method in report["methods"]:
        assert [picture["name"] for picture in method["pictures"]] == ["a"]
    papers, printed = Path("table.md").read_text().split("\n\n")
    assert papers.splitlines()[2].startswith("| bicubic | - | - |")
    assert papers.splitlines()[3].startswith(f"| {name} | 0.0")
    assert len(printed.splitlines()) == 4
    assert printed.splitlines()[2].startswith("| bicubic | set | 1 |")


def test_eval_draws_with_every_seed(folder: Path, capsys: Capture) -> None:
    save("set/a.png", 64, 64)
    model = str(save_tiny_model(folder / "wild.safetensors", tail=1.0))
    options = "--seed 4 --seed 2 --seed 4 --csv scores.csv --latex table.tex --json scores.json"
    assert main(["eval", "set", "-n", model, *options.split()]) == 0
    bicubic, wild = json.loads(Path("scores.json").read_text())["methods"]
    assert [picture.get("seed") for picture in bicubic["pictures"]] == [None]
    assert [picture["seed"] for picture in wild["pictures"]] == [4, 2]
    [mean] = wild["sets"]
    assert mean["psnr_deviation"] == pytest.approx(
        np.std([picture["psnr"] for picture in wild["pictures"]], ddof=1)
    )
    rows = [line.split(",") for line in Path("scores.csv").read_text().splitlines()]
    assert [row[4] for row in rows if row[:4] == ["wild", "4", "set", "psnr"]] == ["4", "2"]
    assert (
        f"{mean['psnr']:.2f} $\\pm$ {mean['psnr_deviation']:.2f}" in Path("table.tex").read_text()
    )
    assert " ± " in capsys.readouterr().out


def test_eval_has_a_row_for_each_model_and_quality(
    model: str, folder: Path, capsys: Capture
) -> None:
    save("set/a.png", 32, 32)
    other = str(save_tiny_model(folder / "other.safetensors", scale=2))
    command = ["eval", "set", "-n", model, "-n", other, "-n", model, "--json", "scores.json"]
    qualities = ["--quality", "best", "--quality", "fast", "--quality", "best"]
    assert main([*command, *qualities]) == 0
    names = [Path(model).stem, "other"]
    assert f"{names[0]} (best)" in capsys.readouterr().out
    report = json.loads(Path("scores.json").read_text())
    assert report["scale"] == 2  # which both can
    rows = [f"{name} ({quality})" for name in names for quality in ("best", "fast")]
    assert [method["method"] for method in report["methods"]] == ["bicubic", *rows]


def test_a_label_makes_one_row_of_its_files(folder: Path, capsys: Capture) -> None:
    save("set/a.png", 64, 64)
    for number in range(3):
        (folder / f"run={number}").mkdir()
        save_tiny_model(folder / f"run={number}" / "model.safetensors", tail=0.5 * number)
    files = [f"run={number}/model.safetensors" for number in range(3)]
    tables = "--json scores.json --csv scores.csv --latex table.tex --markdown table.md"
    together = ["-n", f"BI-DiffSR={files[0]}", "-n", f"BI-DiffSR={files[1]}"]
    assert main(["eval", "set", *together, "-n", files[2], *tables.split()]) == 0
    _, ours, other = json.loads(Path("scores.json").read_text())["methods"]
    assert (ours["method"], other["method"]) == ("BI-DiffSR", "run=2")  # not a label, but a folder
    assert [picture["seed"] for picture in ours["pictures"]] == [0, 1]
    scores = [picture["psnr"] for picture in ours["pictures"]]
    assert scores[0] != scores[1]
    (mean,) = ours["sets"]
    assert mean["psnr"] == pytest.approx(np.mean(scores))
    assert mean["psnr_deviation"] == pytest.approx(np.std(scores, ddof=1))
    for table in ("scores.csv", "table.tex", "table.md"):
        text = Path(table).read_text()
        assert "BI-DiffSR" in text
        assert "safetensors" not in text
    alone = ["eval", "set", "--json", "alone.json", "-n", files[0], "-n", files[1]]
    assert main(alone) == 0
    methods = json.loads(Path("alone.json").read_text())["methods"][1:]
    assert [method["method"] for method in methods] == ["run=0", "run=1"]
    assert [method["sets"][0]["psnr"] for method in methods] == scores


def test_names_that_are_not_clear_are_whole_paths(folder: Path, capsys: Capture) -> None:
    save("set/a.png", 32, 32)
    for place in ("one/run", "two/run"):
        (folder / place).mkdir(parents=True)
        save_tiny_model(folder / place / "model.safetensors")
    files = [f"{place}/run/model.safetensors" for place in ("one", "two")]
    assert main(["eval", "set", "-n", files[0], "-n", files[1], "--json", "scores.json"]) == 0
    methods = json.loads(Path("scores.json").read_text())["methods"][1:]
    assert [method["method"] for method in methods] == files


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("-n =a.safetensors", "--model: got '=a.safetensors', expected FILE or LABEL=FILE"),
        ("-n mine=", "--model: got 'mine=', expected FILE or LABEL=FILE"),
        ("-n bicubic=a.safetensors", "expected FILE or LABEL=FILE"),
        ("-n mine=nope.safetensors", "nope.safetensors: no such file"),
        ("-n m=a.safetensors -n m=b.safetensors --seed 0 --seed 1", "--seed: given 2 times, and m"),
        ("-n m=a.safetensors -n m=c.safetensors", "the files of m hold different networks"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(
    options: str, complaint: str, folder: Path, capsys: Capture
) -> None:
    save("set/a.png", 32, 32)
    for name in "ab":
        save_tiny_model(folder / f"{name}.safetensors")
    config = tiny_config()
    other = config.network.model_copy(update={"method": "bnn"})
    changed = config.model_copy(update={"network": other})
    save_model(folder / "c.safetensors", build_network(other), changed)
    assert main(["eval", "set", *options.split()]) in (1, 2)
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_eval_scores_what_was_asked_for(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save("set/a.png", 32, 32)
    seen: list[dict[str, Any]] = []
    call = Upscaler.__call__

    def spy(self: Upscaler, image: Any, **settings: Any) -> Any:
        seen.append(settings)
        return call(self, image, **settings)

    monkeypatch.setattr(Upscaler, "__call__", spy)
    options = "--quality best --quality fast --steps 1 --seed 3 -s 2 --ensemble"
    assert main(["eval", "set", "-n", model, *options.split()]) == 0
    common = asdict(UpscaleOptions(scale=2, steps=1, seed=3, ensemble=True))
    assert seen == [common | {"quality": "best"}, common | {"quality": "fast"}]


@pytest.mark.parametrize(
    ("options", "name"), [("", "x4-detail"), ("-s 2", "x2-small"), ("--quality fast", "x4-small")]
)
def test_the_default_model_is_for_the_scale_and_quality_that_are_asked_for(
    options: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (folder / "weights").mkdir()
    shipped = {
        model_digest(
            save_tiny_model(folder / "weights" / f"{each}.safetensors", int(each[1]), tail=tail)
        ): each
        for each, tail in (("x2-small", 0.0), ("x4-detail", 0.0), ("x4-small", 0.1))
    }
    monkeypatch.setattr("bidiffsr.models.catalog.files", lambda _: folder)
    seen: list[str] = []
    stream = Upscaler.stream

    def spy(self: Upscaler, image: Image, **settings: Any) -> Any:
        assert self.origin is not None
        seen.append(shipped[self.origin.model])
        return stream(self, image, **settings)

    monkeypatch.setattr(Upscaler, "stream", spy)
    save("set/a.png", 32, 32)
    scale = int(name[1])
    assert main(["eval", "set", *options.split()]) == 0
    assert f"x{scale}" in capsys.readouterr().out
    assert main(["upscale", "set/a.png", *options.split()]) == 0
    assert read_image(f"set/a_x{scale}.png").width == 32 * scale
    assert seen == [name, name]


def test_eval_checks_every_model_before_it_scores(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    save("set/a.png", 64, 64)
    monkeypatch.setattr("bidiffsr.evaluation.evaluate", None)
    assert main(["eval", "set", "-n", model, "--scale", "17"]) == 1
    assert "scale: got 17" in capsys.readouterr().err


def test_eval_of_bicubic_alone_loads_no_model(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    save("set/a.png", 64, 64)
    monkeypatch.setattr(Upscaler, "from_pretrained", None)
    assert main(["eval", "set", "-n", "bicubic", "--scale", "2"]) == 0
    assert "x2" in capsys.readouterr().out


@pytest.fixture
def run_file() -> Path:
    """A training run of a second."""
    save("pictures/a.png", 16, 16)
    path = Path("run.yml")
    values = {
        "output": "run",
        "model": tiny_config().model_dump(mode="json"),
        "data": {"folders": ["pictures"], "crop": 16},
        "batch": 1,
        "iterations": 4,
        "accelerator": "cpu",
    }
    path.write_text(yaml.safe_dump(values))
    return path


def test_train(run_file: Path, capsys: Capture) -> None:
    overrides = "--iterations 3 --log_every=1 --optimizer.learning_rate 1e-3"
    assert main(["train", str(run_file), *overrides.split()]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("iteration 1 of 3  loss ")
    assert out.splitlines()[-1] == "run/model.safetensors: trained for 3 iterations"
    assert err == ""
    lines = Path("run/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [1e-3] * 3
    _, config = load_model(Path("run/model.safetensors"))
    assert config == tiny_config()
    assert main(["train", str(run_file), *overrides.split()]) == 0
    assert "run: holds all 3 iterations already" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_train_stops_after_the_running_iteration_and_goes_on(
    number: signal.Signals, run_file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations_of = trainer.train
    kept_alive = []  # or else the generator would be closed, by and by, even if nobody does it

    def interrupted(config: Any, **settings: Any) -> Any:
        for progress in (iterations := iterations_of(config, **settings)):
            if progress.iteration == 2:
                os.kill(os.getpid(), number)
            try:
                yield progress
            except GeneratorExit:
                iterations.close()  # type: ignore[attr-defined]
                raise

    def kept(config: Any, **settings: Any) -> Any:
        kept_alive.append(interrupted(config, **settings))
        return kept_alive[-1]

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", kept)
        assert main(["train", str(run_file)]) == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    err = capsys.readouterr().err
    assert "stopped after iteration 2 of 4, saved in run; the same command goes on" in err
    assert torch.load("run/state.pt", weights_only=True)["iteration"] == 2
    assert main(["train", str(run_file)]) == 0
    assert "trained for 4 iterations" in capsys.readouterr().out


def test_train_stops_when_its_minutes_are_over(run_file: Path, capsys: Capture) -> None:
    assert main(["train", str(run_file), "--minutes", "1e-9"]) == 0
    assert "stopped after iteration 1 of 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ("--optimizer.learnin_rate 1", "run.yml: optimizer.learnin_rate"),
        ("--batch many", "run.yml: batch"),
        ("--batch", "--batch: has no value"),
        ("--iterations.x 3", "iterations is no mapping in run.yml"),
        ("--data.folders nowhere", "data.folders"),
        ("--data.folders [nowhere]", "nowhere: no such file or folder"),
    ],
)
def test_train_refuses_nonsense(
    overrides: str, reason: str, run_file: Path, capsys: Capture
) -> None:
    assert main(["train", str(run_file), *overrides.split()]) == 1
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1


def test_convert(golden: Path, capsys: Capture) -> None:
    checkpoint = str(golden / "unet_narrow.weights.safetensors")
    assert main(["convert", checkpoint, "-o", "whole.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("whole.safetensors: ")
    _, config = load_model(Path("whole.safetensors"))
    assert main(["convert", checkpoint, "-o", "whole.safetensors"]) == 1
    before = Path("whole.safetensors").read_bytes()
    assert main(["convert", checkpoint, "-o", "whole.safetensors", "--overwrite"]) == 0
    assert Path("whole.safetensors").read_bytes() == before
    command = ["convert", "whole.safetensors", "-o", "other.safetensors", "--sampling.steps", "7"]
    assert main(command) == 0
    _, changed = load_model(Path("other.safetensors"))
    assert changed.sampling.steps == 7
    assert changed.model_copy(update={"sampling": config.sampling}) == config


def test_pack(golden: Path, capsys: Capture) -> None:
    checkpoint = str(golden / "unet_narrow.weights.safetensors")
    assert main(["convert", checkpoint, "-o", "whole.safetensors"]) == 0
    whole, config = load_model(Path("whole.safetensors"))
    capsys.readouterr()
    assert main(["pack", checkpoint, "-o", "packed.safetensors"]) == 0
    size = Path("packed.safetensors").stat().st_size
    assert capsys.readouterr().out == f"packed.safetensors: {size / 1000:.3g} kB\n"
    packed, same = load_model(Path("packed.safetensors"))
    assert config == same
    assert list(packed.state_dict()) == list(whole.state_dict())
    assert size < 0.3 * Path("whole.safetensors").stat().st_size
    assert main(["pack", "whole.safetensors", "-o", "again.safetensors"]) == 0
    assert Path("again.safetensors").read_bytes() == Path("packed.safetensors").read_bytes()
    assert main(["pack", "whole.safetensors", "-o", "again.safetensors"]) == 1
    command = "pack whole.safetensors -o again.safetensors --overwrite --float fp32 --scale 2"
    assert main(command.split()) == 0
    exact, changed = load_model(Path("again.safetensors"))
    assert changed == config.model_copy(update={"scale": 2})
    assert torch.equal(exact.get_parameter("stem.weight"), whole.get_parameter("stem.weight"))
    assert not torch.equal(packed.get_parameter("stem.weight"), whole.get_parameter("stem.weight"))


def test_a_packed_file_is_packed_in_place_without_pytorch(model: str) -> None:
    Path("m.safetensors").write_bytes(Path(model).read_bytes())
    program = (
        "import sys; from bidiffsr.cli import main\n"
        "command = 'pack m.safetensors -o m.safetensors --overwrite --sampling.steps 1'\n"
        "code = main(command.split())\n"
        "print(code, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert result.stdout.splitlines()[-1] == "0 False"
    assert load_model(Path("m.safetensors"))[1].sampling.steps == 1


@pytest.mark.parametrize("kind", ["ours", "published"])
def test_pack_verifies(kind: str, golden: Path, capsys: Capture) -> None:
    checkpoint = str(golden / "unet_narrow.weights.safetensors")
    if kind == "ours":
        assert main(["convert", checkpoint, "-o", "whole.safetensors"]) == 0
        checkpoint = "whole.safetensors"
    capsys.readouterr()
    assert main(["pack", checkpoint, "-o", "packed.safetensors", "--verify"]) == 0
    rounded, engine = capsys.readouterr().out.splitlines()[1:]
    assert rounded.startswith("PyTorch, packed file against checkpoint: relative L2 difference")
    assert 1e-4 < float(rounded.split()[-1]) < 0.1
    assert engine.startswith("engine against PyTorch, packed file: relative L2 difference")
    assert float(engine.split()[-1]) < 1e-4


def test_inspect_a_file(model: str, capsys: Capture) -> None:
    assert main(["inspect", model, "--size", "16"]) == 0
    out, _ = capsys.readouterr()
    size = Path(model).stat().st_size / 1000
    assert out.splitlines()[0] == f"{model}: {size:.3g} kB"
    described = out.split("one step for 16x16")[0].split("\n", 1)[1]
    assert yaml.safe_load(described) == tiny_config().model_dump(mode="json")
    assert "binary conv 3x3" in out


def test_inspect_the_published_networks(capsys: Capture) -> None:
    assert main(["inspect", "bidiffsr"]) == 0
    total = capsys.readouterr().out.splitlines()[-2]
    assert "4.58 M" in total
    assert "36.7 G" in total
    assert main(["inspect", "sr3", "--size", "64"]) == 0
    assert "55.4 M" in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize("where", [["a.png", "--ray", "local"], ["s3://b/a.png"], ["no://b/a.png"]])
def test_without_its_extra_one_line_says_what_to_install(where: list[str], model: str) -> None:
    save("a.png")
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'pyarrow', 'fsspec']))\n"
        f"from bidiffsr.cli import main; sys.exit(main(['upscale', *{where!r}, '-n', {model!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"bidiffsr: error: \w+ is not installed; pip install 'bidiffsr\[ray\]'\n", done.stderr
    )


def test_a_batch_on_a_disk_loads_nothing_of_clusters(model: str) -> None:
    save("in/a.png")
    program = (
        "import sys; from bidiffsr.cli import main\n"
        f"main(['upscale', 'in', '-n', {model!r}])\n"
        "sys.exit(str({'ray', 'pyarrow', 'fsspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines() == ["bidiffsr: 1 done", "set()"]
