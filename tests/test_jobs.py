"""Where results go, and what a batch leaves out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bidiffsr.batch.options import FileOptions, Selection
from bidiffsr.batch.plan import Job, Plan, extras_of, plan_jobs
from bidiffsr.batch.run import AlreadyThere, upscale_file
from bidiffsr.batch.sources import find_sources
from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, NumericalError, OutputError
from bidiffsr.images import encode_image, heic, jxl
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.system import files
from bidiffsr.system.files import remove_leftovers, write_atomically
from bidiffsr.system.memory import is_out_of_memory
from bidiffsr.system.process import here, started_at
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread", "folder")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return tiny_upscaler()


def touch(*names: str) -> None:
    """Files with those names; planning does not look inside."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


FILE_OPTIONS = {field.name for field in fields(FileOptions)}


def plan(
    *paths: str, output: str | None = None, recursive: bool = False, **options: object
) -> Plan:
    """With options of both kinds; the scale is 4 where no size is given."""
    asked: dict[str, Any] = {
        name: value for name, value in options.items() if name not in FILE_OPTIONS
    }
    files: dict[str, Any] = {name: options[name] for name in options if name in FILE_OPTIONS}
    if not {"scale", "size", "width", "height"} & set(asked):
        asked["scale"] = 4
    sources = find_sources(paths, recursive=recursive)
    place = None if output is None else Path(output)
    return plan_jobs(sources.pictures, place, UpscaleOptions(**asked), FileOptions(**files))


def names(plan: Plan) -> dict[str, list[str]]:
    return {str(job.source): [str(output) for output in job.outputs] for job in plan.jobs}


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        (None, {}, ["in/a.b.jpg -> in/a.b_x4.jpg"]),
        (None, {"scale": 2.5}, ["in/a.b.jpg -> in/a.b_x2.5.jpg"]),
        (None, {"samples": 2}, ["in/a.b.jpg -> in/a.b_x4_1.jpg", "in/a.b.jpg -> in/a.b_x4_2.jpg"]),
        (None, {"width": 90}, ["in/a.b.jpg -> in/a.b_w90.jpg"]),
        (None, {"height": 90}, ["in/a.b.jpg -> in/a.b_h90.jpg"]),
        (None, {"size": "90x60"}, ["in/a.b.jpg -> in/a.b_w90_h60.jpg"]),
        (None, {"format": "png"}, ["in/a.b.jpg -> in/a.b_x4.png"]),
        (None, {"format": "jpeg"}, ["in/a.b.jpg -> in/a.b_x4.jpg"]),
        ("out", {"name": "{stem}{ext}"}, ["in/a.b.jpg -> out/a.b.jpg"]),
        ("out", {"name": "big {stem}{ext}", "format": "tiff"}, ["in/a.b.jpg -> out/big a.b.tif"]),
        (None, {"name": "{stem}-{scale}x{ext}", "scale": 1.5}, ["in/a.b.jpg -> in/a.b-1.5x.jpg"]),
        (None, {"name": "{stem}@{seed:03}{ext}", "seed": 7}, ["in/a.b.jpg -> in/a.b@007.jpg"]),
        (
            "out",
            {"name": "{sample}-{stem}{ext}", "samples": 2},
            ["in/a.b.jpg -> out/1-a.b.jpg", "in/a.b.jpg -> out/2-a.b.jpg"],
        ),
        (
            "out",
            {"name": "{stem}{ext}", "samples": 2},
            ["in/a.b.jpg -> out/a.b_1.jpg", "in/a.b.jpg -> out/a.b_2.jpg"],
        ),
        ("big.png", {}, ["in/a.b.jpg -> big.png"]),
        ("big.PNG", {}, ["in/a.b.jpg -> big.PNG"]),
        ("out", {}, ["in/a.b.jpg -> out/a.b_x4.jpg"]),
        ("v1.0", {}, ["in/a.b.jpg -> v1.0/a.b_x4.jpg"]),
        ("folder.png", {}, ["in/a.b.jpg -> folder.png/a.b_x4.jpg"]),
    ],
)
def test_names_of_results(output: str | None, options: dict[str, Any], expected: list[str]) -> None:
    touch("in/a.b.jpg", "folder.png/other.jpg")
    found = names(plan("in/a.b.jpg", output=output, **options))
    assert [f"{source} -> {place}" for source, places in found.items() for place in places] == (
        expected
    )


def test_an_output_folder_keeps_the_structure_of_the_given_ones() -> None:
    touch("in/a.png", "in/deep/a.png", "b.png")
    assert names(plan("in", "b.png", output="out", recursive=True)) == {
        "in/a.png": ["out/a_x4.png"],
        "in/deep/a.png": ["out/deep/a_x4.png"],
        "b.png": ["out/b_x4.png"],
    }


def test_planning_changes_nothing(folder: Path) -> None:
    touch("a.png")
    plan("a.png", output="out")
    assert list(folder.iterdir()) == [folder / "a.png"]


def test_results_are_not_upscaled_in_their_turn() -> None:
    touch("in/a.png", "in/a_x4.png", "in/a_x2.5.png", "in/a_x4_3.png", "in/a_x4.jpg", "in/b_x4.png")
    made = plan("in", overwrite=True)
    assert sorted(names(made)) == ["in/a.png", "in/a_x4.jpg", "in/b_x4.png"]
    assert sorted(map(str, made.earlier_results)) == [
        "in/a_x2.5.png",
        "in/a_x4.png",
        "in/a_x4_3.png",
    ]


def test_results_in_a_folder_inside_are_not_upscaled_either() -> None:
    touch("in/a.png", "in/out/a_x4.png")
    made = plan("in", output="in/out", recursive=True)
    assert names(made) == {}
    assert [str(job.source) for job in made.already_there] == ["in/a.png"]
    assert [str(path) for path in made.earlier_results] == ["in/out/a_x4.png"]


def test_results_of_sizes_and_of_templates_are_known_too() -> None:
    touch("in/a.jpg", "in/a_w90.jpg", "in/a_h90.jpg", "in/a_w90_h60.jpg", "in/a-big-3.jpg")
    touch("in/b-big-2_1.png", "in/b.jpg", "in/b-big.png", "in/c.png", "in/c-big-2.jpg")
    template: dict[str, Any] = {"name": "{stem}-big-{scale}{ext}"}
    assert sorted(names(plan("in", **template))) == [
        *("in/a.jpg", "in/b-big-2_1.png", "in/b-big.png", "in/b.jpg", "in/c-big-2.jpg"),
        "in/c.png",
    ]
    # Of a format that was asked for, results may have come from pictures of any.
    assert sorted(names(plan("in", **template, format="png"))) == [
        *("in/a.jpg", "in/b-big.png", "in/b.jpg", "in/c-big-2.jpg", "in/c.png"),
    ]


def test_kept_names_replace_no_picture(upscaler: Upscaler) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/deep/a.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        save(name)
    kept: dict[str, Any] = {"name": "{stem}{ext}", "overwrite": True}
    for options in (kept, kept | {"format": "png"}):
        for output in (None, "in", "in/deep"):
            made = plan("in", output=output, recursive=True, **options)
            assert made.earlier_results == ()
            written = [place for job in made.jobs if not job.error for place in job.outputs]
            assert not {Path("in/a.jpg"), Path("in/a.png"), Path("in/deep/a.jpg")} & set(written)
            assert len(set(written)) == len(written)
            errors = [str(job.error) for job in made.jobs if job.error]
            assert errors
            assert all(
                "itself, which upscaling does not" in each or "both" in each for each in errors
            )


def test_pictures_that_a_format_gives_one_name_are_kept_apart() -> None:
    touch("in/a.jpg", "in/a.png")
    first, second = plan("in", output="out", format="webp").jobs
    assert first.error is None
    assert "out/a_x4.webp: would be the result of both in/a.jpg and in/a.png" in str(second.error)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "{stem}_{scale}{ext}", "width": 9}, r"name: has \{scale\}, .* give --scale"),
        ({"name": "{stem}_{width}{ext}"}, r"name: has \{width\}, which is not given"),
        ({"name": "{stem}_{height}{ext}", "width": 9}, r"name: has \{height\}, which is"),
        ({"name": "{stem}{ext}", "output": "a_x4.png"}, "name: got it beside the file a_x4.png"),
        ({"format": "png", "output": "a_x4.png"}, "format: got it beside the file a_x4.png"),
    ],
)
def test_names_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    touch("a.png")
    with pytest.raises(ConfigError, match=f"^{reason}"):
        plan("a.png", **options)


def test_results_may_keep_the_times_of_their_pictures(upscaler: Upscaler) -> None:
    save("a.png")
    os.utime("a.png", ns=(5, 1_234_567_890_123_456_789))
    job = Job(Path("a.png"), (Path("b.png"), Path("c.png")))
    list(upscale_file(upscaler, job, files=FileOptions(keep_times=True)))
    for path in job.outputs:
        assert path.stat().st_mtime_ns == 1_234_567_890_123_456_789
    list(upscale_file(upscaler, Job(Path("a.png"), (Path("d.png"),))))
    assert time.time() - Path("d.png").stat().st_mtime < 100


def test_a_result_named_alone_is_a_picture_like_any_other() -> None:
    touch("in/a.png", "in/a_x4.png")
    assert names(plan("in/a_x4.png")) == {"in/a_x4.png": ["in/a_x4_x4.png"]}


def test_a_batch_leaves_out_what_is_there_unless_told_otherwise() -> None:
    touch("a.png", "b.png", "b_x4.png")
    made = plan("a.png", "b.png")
    assert made.batch
    assert list(names(made)) == ["a.png"]
    assert [str(job.source) for job in made.already_there] == ["b.png"]
    assert list(names(plan("a.png", "b.png", overwrite=True))) == ["a.png", "b.png"]


def test_one_of_two_samples_is_not_all_there() -> None:
    touch("a.png", "b.png", "b_x4_1.png")
    assert list(names(plan("a.png", "b.png", samples=2))) == ["a.png", "b.png"]


def test_a_single_picture_is_no_batch_but_a_folder_of_one_is() -> None:
    touch("in/a.png", "in/a_x4.png")
    single = plan("in/a.png")
    assert not single.batch
    assert list(names(single)) == ["in/a.png"]
    assert plan("in").batch
    assert names(plan("in")) == {}


@pytest.mark.parametrize(
    ("paths", "output", "samples", "kind", "reason"),
    [
        (["a.png", "in"], "big.png", 1, ConfigError, "one file for 2 results"),
        (["a.png"], "big.png", 3, ConfigError, "one file for 3 results"),
        (["in", "a.png"], "in/a.png", 1, ConfigError, "one file for 2 results"),
        (["a.png"], "big.tga", 1, OutputError, "big.tga: suffix"),
        (["a.png"], "new.xyz", 1, OutputError, "new.xyz: suffix"),
        (["a.png"], "deep/new.Jpgg", 1, OutputError, "new.Jpgg: suffix"),
        (["empty"], None, 1, ImageError, "empty: no pictures"),
        (["empty", "empty"], None, 1, ImageError, "empty: no pictures"),
        ([], None, 1, ImageError, "no paths: no pictures"),
    ],
)
def test_what_cannot_be_meant(
    paths: list[str], output: str | None, samples: int, kind: type[BidiffsrError], reason: str
) -> None:
    touch("a.png", "in/a.png")
    Path("empty").mkdir()
    with pytest.raises(kind, match=reason):
        plan(*paths, output=output, samples=samples, overwrite=True)
    assert not Path("new.xyz").exists()


def test_a_folder_that_exists_may_have_any_name() -> None:
    touch("a.png", "out.xyz/b.txt")
    assert names(plan("a.png", output="out.xyz")) == {"a.png": ["out.xyz/a_x4.png"]}


# What befalls one file.


def errors(plan: Plan) -> dict[str, str]:
    return {str(job.source): str(job.error) for job in plan.jobs if job.error is not None}


LONG = "x" * 250 + ".png"


@pytest.mark.parametrize(
    ("paths", "output", "culprit", "reason"),
    [
        (["a.png", "nope.png", "in"], None, "nope.png", "nope.png: no such file"),
        (["nope/a.png", "a.png"], None, "nope/a.png", "nope/a.png: no such file"),
        (["a.png/b.png", "a.png"], None, "a.png/b.png", "Not a directory"),
        (["y" * 300, "a.png"], None, "y" * 300, "File name too long"),
        (["loop.png", "a.png"], None, "loop.png", "loop.png: cannot be read (Too many levels"),
        (["broken.png", "a.png"], None, "broken.png", "broken.png: no such file"),
        (["a.png", "in"], "out", "in/a.png", "both a.png and in/a.png"),
        (["in", "a.png"], "out", "a.png", "both in/a.png and a.png"),
        (["a.png", "a_x4.jpg"], "linked", "a.png", "is the picture a_x4.jpg itself"),
    ],
)
def test_one_file_does_not_stop_the_others(
    paths: list[str], output: str | None, culprit: str, reason: str
) -> None:
    touch("a.png", "in/a.png", "a_x4.jpg")
    Path("loop.png").symlink_to("loop.png")
    Path("broken.png").symlink_to("nowhere.png")
    Path("linked").mkdir()
    Path("linked/a_x4.png").symlink_to("../a_x4.jpg")
    made = plan(*paths, output=output, overwrite=True)
    assert list(errors(made)) == [culprit]
    assert reason in errors(made)[culprit]
    assert len(made.jobs) == len(paths)
    assert made.batch


def test_a_single_picture_is_not_replaced() -> None:
    touch("a.png")
    Path("link.png").symlink_to("a.png")
    for output in ("a.png", "link.png"):
        assert "is the picture a.png itself" in errors(plan("a.png", output=output))["a.png"]


def test_broken_links_in_a_folder_fail_alone(upscaler: Upscaler) -> None:
    save("in/a.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/broken.png").symlink_to("nowhere.png")
    reasons = {}
    for job in plan("in").jobs:
        try:
            list(upscale_file(upscaler, job))
        except ImageError as error:
            reasons[job.source.name] = str(error)
    assert reasons.keys() == {"loop.png", "broken.png"}
    assert all(reason.startswith(f"in/{name}: ") for name, reason in reasons.items())
    assert Path("in/a_x4.png").exists()


def test_a_folder_that_cannot_be_listed_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("in/a.png", "in/locked/b.png", "in/z.png")
    scan = os.scandir

    def locked(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    made = plan("in", recursive=True)
    assert errors(made) == {"in/locked": "in/locked: cannot be listed (Permission denied)"}
    assert [job.source.name for job in made.jobs if job.error is None] == ["a.png", "z.png"]


def test_a_result_whose_name_is_too_long_fails_at_its_turn(upscaler: Upscaler) -> None:
    save("a.png")
    Path("a.png").rename(LONG)
    save("b.png")
    long, other = plan(LONG, "b.png").jobs
    with pytest.raises(OutputError, match="File name too long"):
        list(upscale_file(upscaler, long))
    assert list(upscale_file(upscaler, other))[-1].result is not None


@pytest.mark.parametrize("content", [b"no picture", b"", None])
def test_a_bad_picture_is_named_not_its_result(content: bytes | None, upscaler: Upscaler) -> None:
    source = Path("notes")
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ImageError, match=r"^notes: "):
        list(upscale_file(upscaler, Job(source, (Path("out/notes_x4"),))))
    assert not Path("out").exists()


def test_what_is_left_out_is_known() -> None:
    touch("in/a.png", "in/b.psd", "in/c.JP2", "in/notes.txt", "in/.d.psd", "in/deep/e.png")
    found = find_sources(["in"])
    assert [str(source.path) for source in found.pictures] == ["in/a.png"]
    assert sorted(map(str, found.unread)) == ["in/b.psd", "in/c.JP2"]
    assert list(map(str, found.folders)) == ["in/deep"]
    found = find_sources(["in"], recursive=True)
    assert [str(source.path) for source in found.pictures] == ["in/a.png", "in/deep/e.png"]
    assert found.folders == []


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra that reads a format is installed."""
    for module in ("pillow_heif", "OpenImageIO"):
        monkeypatch.setitem(sys.modules, module, None)
    for format_ in (heic, jxl):
        monkeypatch.setattr(format_, "_in_libvips", lambda what: False)


@pytest.mark.usefixtures("bare")
def test_what_nothing_installed_reads_is_left_out_of_folders() -> None:
    touch(
        "in/a.png", "in/b.HEIC", "in/c.jxl", "in/c_x4.jxl", "in/d.exr", "in/e.heif", "in/e_x4.png"
    )
    made = plan("in", format="png")
    assert list(names(made)) == ["in/a.png"]
    assert list(map(str, made.earlier_results)) == ["in/c_x4.jxl", "in/e_x4.png"]
    assert [path.name for path in made.uninstalled] == ["b.HEIC", "c.jxl", "d.exr", "e.heif"]
    assert extras_of(made.uninstalled) == [
        "1 EXR file (pip install 'bidiffsr[exr]')",
        "2 HEIC files (pip install 'bidiffsr[heif]')",
        "1 JXL file (pip install 'bidiffsr[jxl]')",
    ]
    wanted = Selection(exclude=("*.heif", "?.jxl"))
    pictures = find_sources(["in"]).pictures
    some = plan_jobs(pictures, options=UpscaleOptions(scale=4), selection=wanted)
    assert [path.name for path in some.uninstalled] == ["b.HEIC", "d.exr"]


@pytest.mark.usefixtures("bare")
def test_one_that_is_named_is_an_error_at_its_turn(upscaler: Upscaler) -> None:
    touch("in/a.png")
    Path("in/b.exr").write_bytes(encode_image(Image(np.zeros((4, 4, 3), np.uint8)), ".exr"))
    made = plan("in", "in/b.exr")
    assert made.uninstalled == ()
    (job,) = (job for job in made.jobs if job.source.name == "b.exr")
    with pytest.raises(ImageError, match=r"^in/b\.exr: is OpenEXR, .*'bidiffsr\[exr\]'"):
        list(upscale_file(upscaler, job))


@pytest.mark.usefixtures("bare")
def test_a_folder_of_nothing_else_is_an_error_that_says_what_to_install() -> None:
    touch("in/b.exr", "in/c.exr")
    with pytest.raises(ImageError, match=r"^in: nothing .* 2 EXR files \(pip .*\[exr\]'\)$"):
        plan("in")


def test_each_picture_counts_once(folder: Path) -> None:
    touch("in/a.png")
    found = find_sources(["in", "in/a.png", "in", str(folder / "in")])
    assert [(str(source.path), source.folder) for source in found.pictures] == [("in/a.png", None)]


@pytest.mark.parametrize(
    "result",
    [
        *("in/large/p_x4.png", "in/large/p_x2_1.png", "in/large/trip/q_x4.png"),
        *("in/trip/large/q_x1.5.png", "in/a/b/p_x4.png", "in/trip/q_x4.png"),
    ],
)
def test_results_in_any_folder_below_are_not_upscaled_again(result: str) -> None:
    touch("in/p.png", "in/trip/q.png", result)
    for output in (None, "in/large", "elsewhere"):
        made = plan("in", output=output, recursive=True, scale=3)
        assert list(names(made)) == ["in/p.png", "in/trip/q.png"]
        assert list(map(str, made.earlier_results)) == [result]


@pytest.mark.parametrize(
    "picture", ["in/large/r_x4.png", "in/large/p_x4.jpg", "in/large/p_x.png", "in/large/p.png"]
)
def test_other_pictures_below_are_upscaled(picture: str) -> None:
    touch("in/p.png", "in/trip/r.png", picture)
    assert picture in names(plan("in", output="out", recursive=True))


# Two runs, and what a killed one leaves.


def test_a_result_that_appears_meanwhile_is_already_there(upscaler: Upscaler) -> None:
    first, second = plan(str(save("a.png")), str(save("b.png"))).jobs
    list(upscale_file(upscaler, first))  # by another run
    with pytest.raises(AlreadyThere, match=r"a_x4\.png: exists already; .*--overwrite"):
        list(upscale_file(upscaler, first))
    running = upscale_file(upscaler, second)
    next(running)
    Path("b_x4.png").write_text("by another run")
    with pytest.raises(AlreadyThere, match=r"b_x4\.png: exists already; .*--overwrite"):
        list(running)
    assert Path("b_x4.png").read_text() == "by another run"
    list(upscale_file(upscaler, second, files=FileOptions(overwrite=True)))
    assert read_image("b_x4.png").width == 20


@pytest.mark.parametrize("there", [{0}, {1}, {0, 2}, {1, 2}])
def test_samples_that_an_interrupted_run_made_are_kept(there: set[int], upscaler: Upscaler) -> None:
    picture = save("a.png")
    whole = Job(picture, tuple(Path(f"whole_{i}.png") for i in range(3)))
    list(upscale_file(upscaler, whole))
    job = Job(picture, tuple(Path(f"{i}.png") for i in range(3)))
    for sample in there:
        job.outputs[sample].write_text("made before")
    seen = [at.sample for at in upscale_file(upscaler, job) if at.result is not None]
    assert seen == sorted({0, 1, 2} - there)
    for sample, output in enumerate(job.outputs):
        kept = output.read_bytes() == b"made before"
        assert kept is (sample in there)
        assert kept or output.read_bytes() == whole.outputs[sample].read_bytes()


WRITES_AND_WAITS = """
import sys, time
from bidiffsr.system.files import write_atomically

def write(path):
    path.write_text("half")
    print(path.name, flush=True)
    time.sleep(600)

write_atomically("result.png", write)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not() -> None:
    command = [sys.executable, "-c", WRITES_AND_WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        remove_leftovers(".")
        assert Path(name).exists()
        process.kill()
        process.wait()
        remove_leftovers(".")
        assert not Path(name).exists()
    assert not Path("result.png").exists()


@pytest.mark.parametrize(
    ("where", "process", "started", "age", "stays"),
    [
        ("HERE", os.getpid(), "START", 0, True),
        ("HERE", os.getpid(), "START", 10**6, True),
        ("HERE", os.getpid(), "1", 0, False),  # the number is used again
        ("HERE", 2**22 + 1, "START", 0, False),
        ("0123abcd", 2**22 + 1, "1", 0, True),  # another machine's
        ("0123abcd", 2**22 + 1, "1", 10**6, False),
    ],
)
def test_whose_leftovers_are_removed(
    where: str, process: int, started: str, age: int, stays: bool
) -> None:
    start = started.replace("START", str(started_at(os.getpid())))
    path = Path(f".bidiffsr-{where.replace('HERE', here())}-{process}-{start}-00ff.tmp")
    path.touch()
    os.utime(path, (time.time() - age, time.time() - age))
    remove_leftovers(".")
    assert path.exists() is stays


def test_leftovers_of_older_versions_and_other_files() -> None:
    old, new, other = Path(".bidiffsr-00ff.tmp"), Path(".bidiffsr-11ff.tmp"), Path(".bidiffsr.yml")
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    remove_leftovers(".")
    assert not old.exists()
    assert new.exists()
    assert other.exists()
    remove_leftovers("nowhere")


def test_a_temporary_name_says_who_writes() -> None:
    seen: list[Path] = []

    def write(path: Path) -> None:
        path.touch()
        remove_leftovers(".")
        seen.append(path)
        assert path.exists()

    write_atomically("a.png", write)
    assert files._TEMPORARY.fullmatch(seen[0].name)


# One job.


def save(name: str, height: int = 6, width: int = 5) -> Path:
    ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_image(name, Image(ramp.reshape(height, width, 3)), overwrite=True)
    return Path(name)


def test_a_job_saves_each_sample_when_it_is_finished(upscaler: Upscaler) -> None:
    job = Job(save("a.png"), (Path("out/deep/1.png"), Path("out/deep/2.png")))
    seen = []
    for progress in upscale_file(upscaler, job):
        seen.append(job.outputs[progress.sample] if progress.result is not None else None)
        assert [path.exists() for path in job.outputs] == [path in seen for path in job.outputs]
    assert seen == [None, job.outputs[0], None, job.outputs[1]]
    assert read_image("out/deep/2.png").pixels.shape == (24, 20, 3)


class Failing(Upscaler):
    """Starts and does not finish."""

    def __init__(self, error: BaseException) -> None:
        ready = tiny_upscaler()
        super().__init__(ready.backend, ready.config)
        self.error = error

    def stream(self, *arguments: object, **settings: object) -> Iterator[object]:  # type: ignore[override]
        raise self.error
        yield


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NumericalError("unsound"), "a.png: unsound"),
        (ConfigError("wrong"), "a.png: wrong"),
        (MemoryError(), "a.png: the memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "memory ran out"),
    ],
)
def test_errors_name_the_file(error: Exception, reason: str, folder: Path) -> None:
    with pytest.raises(BidiffsrError, match=reason):
        list(upscale_file(Failing(error), Job(save("a.png"), (Path("b.png"),))))
    assert list(folder.iterdir()) == [folder / "a.png"]


def test_bugs_are_not_dressed_up() -> None:
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        error = RuntimeError("the sizes of tensors differ")
        list(upscale_file(Failing(error), Job(save("a.png"), (Path("b.png"),))))
    assert not is_out_of_memory(RuntimeError("no"))


def test_what_can_be_known_is_said_before_the_work(upscaler: Upscaler) -> None:
    never = Failing(AssertionError("work was begun"))
    save("there.png")
    for output, reason in {
        "there.png": "exists already",
        "x.tga": "suffix",
        "there.png/x.png": "folder",
    }.items():
        with pytest.raises(OutputError, match=reason):
            list(upscale_file(never, Job(save("a.png"), (Path(output),))))
    with pytest.raises(OutputError, match="20000 pixels long; WebP holds at most 16383"):
        list(upscale_file(never, Job(save("long.png", 5000, 1), (Path("b.webp"),))))
    with pytest.raises(ConfigError, match="scale"):
        list(upscale_file(never, Job(save("a.png"), (Path("b.png"),)), UpscaleOptions(scale=17)))
    with pytest.raises(ImageError, match="at most 29 pixels"):
        list(
            upscale_file(
                never, Job(save("a.png"), (Path("b.png"),)), files=FileOptions(max_pixels=29)
            )
        )


def test_a_foreign_result_is_not_saved(folder: Path) -> None:
    wild = tiny_upscaler(tail=1e4)
    with pytest.raises(NumericalError, match=r"a.png: .*unsound"):
        list(upscale_file(wild, Job(save("a.png", 16, 16), (Path("b.png"),))))
    assert list(folder.iterdir()) == [folder / "a.png"]


def test_a_writer_removes_what_killed_ones_left(folder: Path) -> None:
    # A start time that no process of this number has, so one that runs no more.
    dead = folder / f".bidiffsr-{here()}-{os.getpid()}-1-00.tmp"
    alive = folder / f".bidiffsr-{here()}-{os.getpid()}-{started_at(os.getpid())}-00.tmp"
    for path in (dead, alive):
        path.touch()
    write_atomically("a.txt", lambda temporary: temporary.write_text("whole"))
    assert sorted(path.name for path in folder.iterdir()) == sorted([alive.name, "a.txt"])
