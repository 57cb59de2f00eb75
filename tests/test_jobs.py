"""Where results go, and what a batch leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bidiffsr.batch.jobs import Job, Plan, find_sources, is_out_of_memory, plan_jobs, upscale_file
from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, NumericalError, OutputError
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return tiny_upscaler()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that paths can be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    """Files with those names; planning does not look inside."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def plan(
    *paths: str, output: str | None = None, recursive: bool = False, **options: object
) -> Plan:
    settings: dict[str, Any] = {"scale": 4.0} | options
    sources = find_sources(paths, recursive=recursive)
    return plan_jobs(sources, None if output is None else Path(output), **settings)


def names(plan: Plan) -> dict[str, list[str]]:
    return {str(job.source): [str(output) for output in job.outputs] for job in plan.jobs}


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        (None, {}, ["in/a.b.jpg -> in/a.b_x4.jpg"]),
        (None, {"scale": 2.5}, ["in/a.b.jpg -> in/a.b_x2.5.jpg"]),
        (None, {"samples": 2}, ["in/a.b.jpg -> in/a.b_x4_1.jpg", "in/a.b.jpg -> in/a.b_x4_2.jpg"]),
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
        (["a.png"], "a.png", 1, OutputError, "is the picture a.png itself"),
        (["a.png", "in"], "out", 1, OutputError, "both a.png and in/a.png"),
        (["in", "a.png"], "in/a.png", 1, ConfigError, "one file for 2 results"),
        (["a.png"], "big.gif", 1, OutputError, "big.gif: suffix"),
        (["nope.png"], None, 1, ImageError, "nope.png"),
    ],
)
def test_what_cannot_be_meant(
    paths: list[str], output: str | None, samples: int, kind: type[BidiffsrError], reason: str
) -> None:
    touch("a.png", "in/a.png")
    with pytest.raises(kind, match=reason):
        plan(*paths, output=output, samples=samples, overwrite=True)


def test_an_input_is_not_replaced_through_a_link() -> None:
    touch("a.png")
    Path("link.png").symlink_to("a.png")
    with pytest.raises(OutputError, match="itself"):
        plan("a.png", output="link.png", overwrite=True)


def save(name: str, height: int = 6, width: int = 5) -> Path:
    ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8)
    write_image(name, Image(ramp.reshape(height, width, 3)), overwrite=True)
    return Path(name)


def test_a_job_saves_each_sample_when_it_is_finished(upscaler: Upscaler) -> None:
    job = Job(save("a.png"), (Path("out/deep/1.png"), Path("out/deep/2.png")))
    seen = []
    for step in upscale_file(upscaler, job):
        seen.append(step.written)
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
        "x.gif": "suffix",
        "there.png/x.png": "folder",
    }.items():
        with pytest.raises(OutputError, match=reason):
            list(upscale_file(never, Job(save("a.png"), (Path(output),))))
    with pytest.raises(OutputError, match="20000 pixels long; WebP holds at most 16383"):
        list(upscale_file(never, Job(save("long.png", 5000, 1), (Path("b.webp"),))))
    with pytest.raises(ConfigError, match="scale"):
        list(upscale_file(never, Job(save("a.png"), (Path("b.png"),)), scale=7))


def test_a_foreign_result_is_not_saved(folder: Path) -> None:
    wild = tiny_upscaler(tail=1e4)
    with pytest.raises(NumericalError, match=r"a.png: .*unsound"):
        list(upscale_file(wild, Job(save("a.png", 16, 16), (Path("b.png"),))))
    assert list(folder.iterdir()) == [folder / "a.png"]
