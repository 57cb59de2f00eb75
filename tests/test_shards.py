"""Parts of a batch: every picture is in one of them, and stays there."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidiffsr.batch.options import FileOptions, Selection
from bidiffsr.batch.plan import Plan, plan_jobs
from bidiffsr.batch.shards import Shard
from bidiffsr.batch.sources import Source, find_sources
from bidiffsr.cli import main
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.upscaling.options import UpscaleOptions
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path("no such folder")
BY_FOUR = UpscaleOptions(scale=4)
parts = st.lists(st.text("ab.é ", min_size=1, max_size=4).filter(lambda part: part[0] != "."))
names = st.sets(parts.filter(len).map(lambda some: Path(*some, "p.jpg")), min_size=1)


def split(sources: list[Source], count: int, *, overwrite: bool = False) -> list[Plan]:
    shards = [Selection(shard=f"{number}/{count}") for number in range(1, count + 1)]
    files = FileOptions(overwrite=overwrite)
    return [plan_jobs(sources, None, BY_FOUR, files, shard) for shard in shards]


def pictures(plan: Plan) -> list[Path]:
    return [job.source for job in plan.jobs]


@given(names, st.integers(1, 9))
def test_every_picture_is_in_one_shard(some: set[Path], count: int) -> None:
    sources = [Source(FOLDER / name, FOLDER) for name in sorted(some)]
    planned = [picture for plan in split(sources, count) for picture in pictures(plan)]
    assert sorted(planned) == [source.path for source in sources]


@given(names, names, st.integers(1, 9))
def test_pictures_that_are_added_move_no_others(
    some: set[Path], more: set[Path], count: int
) -> None:
    before = split([Source(FOLDER / name, FOLDER) for name in some], count)
    # Nor does it matter where the folder is.
    after = split([Source("elsewhere" / name, Path("elsewhere")) for name in some | more], count)
    for plan, later in zip(before, after, strict=True):
        kept = {path.relative_to("elsewhere") for path in pictures(later)} & some
        assert kept == {path.relative_to(FOLDER) for path in pictures(plan)}


@pytest.mark.parametrize(
    ("name", "digest"),  # printf %s NAME | b2sum -l 64
    [
        ("a.jpg", 0xFE47F0026E12A789),
        ("trip/b.png", 0x123F776858509F74),
        ("größer.webp", 0x4064F3D4722F7091),
    ],
)
def test_the_hash_is_the_same_everywhere(name: str, digest: int) -> None:
    for count in (1, 2, 7, 1000):
        assert Shard(digest % count + 1, count).has(PurePath(name))


def test_shards_are_of_even_size() -> None:
    """Each of 16 has 625 of 10,000, give or take four standard deviations of a binomial."""
    sizes = [
        sum(shard.has(PurePath(f"IMG_{number:05}.jpg")) for number in range(10_000))
        for shard in (Shard(number, 16) for number in range(1, 17))
    ]
    assert all(abs(size - 625) < 4 * (10_000 / 16 * 15 / 16) ** 0.5 for size in sizes)


@pytest.mark.parametrize("overwrite", [False, True])
def test_together_they_are_the_whole(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With earlier results, what is there, what is missing, and two pictures of one result."""
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    for number in range(20):
        Path(f"in/deep/{number}.png").touch()
        Path(f"in/deep/{number + 7}_x4.png").touch()
    for name in ("twin.jpg", "twin.jpeg", "alone_x4.png"):
        Path("in", name).touch()
    sources = find_sources(["in", "missing.png"], recursive=True).pictures
    whole = plan_jobs(sources, None, BY_FOUR, FileOptions(overwrite=overwrite))
    assert whole.earlier_results
    assert overwrite or whole.already_there
    for count in (1, 2, 5, 50):
        plans = split(sources, count, overwrite=overwrite)
        for kind in ("jobs", "already_there", "earlier_results"):
            made = [str(item) for plan in plans for item in getattr(plan, kind)]
            assert sorted(made) == sorted(map(str, getattr(whole, kind)))


@pytest.mark.parametrize("text", ["0/4", "5/4", "0/0", "1", "1/", "/2", "-1/2", "1/2/3", "a/b"])
def test_what_is_no_shard_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upscale", "in", f"--shard={text}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bidiffsr: error: --shard: got '{text}', expected part/parts such as")


def test_a_job_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four machines, one of which runs twice; results lie among the pictures."""
    monkeypatch.chdir(tmp_path)
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    names = [f"in/{number}.png" for number in range(6)]
    Path("in").mkdir()
    for name in names:
        write_image(name, Image(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)))
    done, there = 0, 0
    for number in (3, 1, 3, 4, 2):
        assert main(["upscale", "in", "-n", model, "--shard", f"{number}/4"]) == 0
        out, err = capsys.readouterr()
        done += len(out.splitlines())
        there += err.count("already there, not made again")
    assert done == len(names)
    third = Selection(shard="3/4").part
    assert there == sum(third.has(PurePath(name).relative_to("in")) for name in names)
    for name in names:
        assert read_image(name.replace(".png", "_x4.png")).pixels.shape == (20, 24, 3)
