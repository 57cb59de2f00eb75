"""Which pictures are taken: lists of them, and patterns of names."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiffsr.batch.lists import read_list
from bidiffsr.batch.options import FileOptions, Selection
from bidiffsr.batch.plan import Plan, plan_jobs
from bidiffsr.batch.sources import find_sources
from bidiffsr.cli import main
from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.upscaling.options import UpscaleOptions
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
Capture = pytest.CaptureFixture[str]

paths = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n/"), min_size=1))
PIPE = Path("-")


@pytest.fixture(autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(*given: str, overwrite: bool = False, **chosen: tuple[str, ...]) -> Plan:
    sources = find_sources(given, recursive=True).pictures
    options, files = UpscaleOptions(scale=4), FileOptions(format="png", overwrite=overwrite)
    selection = Selection(include=chosen.get("include", ()), exclude=chosen.get("exclude", ()))
    return plan_jobs(sources, None, options, files, selection)


def pictures(plan: Plan) -> list[str]:
    return [str(job.source) for job in plan.jobs]


@given(paths.filter(len), st.sampled_from([b"\n", b"\r\n", b"\0"]), st.booleans())
def test_lists_are_what_was_listed(names: list[str], end: bytes, ended: bool) -> None:
    data = end.join(name.encode() for name in names) + end * (ended or end == b"\0")
    assert read_list(PIPE, io.BytesIO(data)) == [Path(name) for name in names]


@given(st.lists(st.binary(min_size=1).filter(lambda name: b"\0" not in name), min_size=1))
def test_between_nul_bytes_a_name_may_hold_anything(names: list[bytes]) -> None:
    found = read_list(PIPE, io.BytesIO(b"".join(name + b"\0" for name in names)))
    assert [bytes(path) for path in found] == [
        bytes(Path(name.decode("utf-8", "surrogateescape"))) for name in names
    ]


def test_what_find_lists() -> None:
    touch("in/a.png", "in/new\nline.png", "in/ space .png", "in/deep/größer.png")
    for form in ("-print0", "-print"):
        done = subprocess.run(["find", "in", "-type", "f", form], capture_output=True, check=True)
        Path("list").write_bytes(done.stdout)
        found = read_list(Path("list"), io.BytesIO())
        assert (set(found) == set(Path("in").rglob("*.png"))) is (form == "-print0")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no.txt", "cannot be read"), (".", "cannot be read"), ("empty", "is empty")],
)
def test_what_is_no_list(name: str, reason: str) -> None:
    Path("empty").write_text("\n\n")
    with pytest.raises(ConfigError, match=f"^{name}: {reason}.*expected a list of pictures"):
        read_list(Path(name), io.BytesIO())


ALL = ["in/IMG_1.jpg", "in/IMG_2.JPG", "in/raw/IMG_3.jpg", "in/trip/b.png", "in/trip/raw/c.png"]


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), [0, 1, 2, 3, 4]),
        (("IMG_*",), (), [0, 1, 2]),
        (("*.jpg",), (), [0, 2]),
        (("*.jpg", "*.JPG"), ("raw",), [0, 1]),
        (("trip",), (), [3, 4]),
        ((), ("raw",), [0, 1, 3]),
        ((), ("raw/",), [0, 1, 3]),
        ((), ("trip/raw",), [0, 1, 2, 3]),
        ((), ("trip/*",), [0, 1, 2]),
        (("trip/*.png",), (), [3, 4]),
        (("IMG_[13].jpg",), (), [0, 2]),
        (("*",), ("*.png", "IMG_?.jpg"), [1]),
        ((), ("in",), [0, 1, 2, 3, 4]),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], left: list[int]) -> None:
    touch(*ALL)
    made = plan("in", include=include, exclude=exclude)
    assert pictures(made) == [ALL[number] for number in left]
    assert sorted([*pictures(made), *map(str, made.unmatched)]) == ALL


def test_named_pictures_need_not_match() -> None:
    touch("in/a.png", "in/b.png", "c.png")
    assert pictures(plan("in", "c.png", "in/b.png", exclude=("*",))) == ["c.png", "in/b.png"]


def test_nothing_left_is_said() -> None:
    touch("in/a.png")
    with pytest.raises(ImageError, match="none of 1 pictures match"):
        plan("in", include=("*.jpg",))


def test_results_of_what_is_left_out_are_no_pictures() -> None:
    touch("in/a.png", "in/a_x4.png", "in/b.png")
    assert pictures(plan("in", exclude=("a.*",))) == ["in/b.png"]


def test_what_is_left_out_takes_no_names() -> None:
    touch("in/a.jpg", "in/a.webp")
    (job,) = plan("in", exclude=("*.jpg",)).jobs
    assert (str(job.source), job.error) == ("in/a.webp", None)


def test_the_command_takes_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    for name in ("a.png", "in/b.png", "in/c.png", "d.png"):
        Path(name).parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)).save(
            name
        )
    given = io.TextIOWrapper(io.BytesIO(b"a.png\nmissing.png\nin\n"))
    monkeypatch.setattr("sys.stdin", given)
    assert main(["upscale", "d.png", "--from", "-", "--exclude", "c.*", "-n", model]) == 1
    out, err = capsys.readouterr()
    assert [line.split(" ")[0] for line in out.splitlines()] == ["d.png", "a.png", "in/b.png"]
    assert err.splitlines() == [
        "bidiffsr: left out: 1 picture by --include or --exclude",
        "bidiffsr: error: missing.png: no such file or folder; check the name",
        "bidiffsr: 3 done, 1 failed: missing.png",
    ]
    Path("list").write_text("a.png")  # one alone is done again no more than many
    assert main(["upscale", "--from", "list", "-n", model]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "bidiffsr: 0 done, 1 already there"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [([], "got no list, and no PICTURES"), (["-", "--from", "list"], "got it with a pipe")],
)
def test_lists_that_make_no_sense(arguments: list[str], reason: str, capsys: Capture) -> None:
    assert main(["upscale", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"bidiffsr: error: --from: {reason}")
