"""The mean of several samples, and how far they are apart."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job, plan_jobs
from bidiffsr.batch.run import AlreadyThere, upscale_file
from bidiffsr.batch.sources import find_sources
from bidiffsr.cli import main
from bidiffsr.errors import ConfigError, MemoryEstimateError
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Header, Image
from bidiffsr.upscaling.draws import (
    KEPT_BYTES,
    Draws,
    brightest,
    colour_map,
    deviation_image,
    uncertainty_image,
)
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import save_tiny_model, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [
    *("a_x4_1.jpg", "a_x4_2.jpg", "a_x4_3.jpg"),
    *("a_x4_mean.jpg", "a_x4_uncertainty.png", "a_x4_deviation.png"),
]
BOTH = FileOptions(mean=True, uncertainty=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_image("a.jpg", picture())
    return tmp_path


def picture() -> Image:
    pixels = np.random.default_rng(0).integers(60, 200, (8, 10, 3), np.uint8)
    return Image(pixels)


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return tiny_upscaler(tail=1.0, sees_noise=True)


def job(files: FileOptions = BOTH, samples: int = 3) -> Job:
    options = UpscaleOptions(scale=4, samples=samples)
    (found,) = plan_jobs(find_sources(["a.jpg"]).pictures, None, options, files).jobs
    return found


@given(st.integers(2, 6), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_is_the_mean_and_deviation_that_numpy_finds(
    count: int, dtype: Any, seed: int, close: bool
) -> None:
    most = np.iinfo(dtype).max
    least = most - 3 if close else 0  # where squares would lose all digits
    values = np.random.default_rng(seed).integers(least, most, (count, 5, 7, 3), dtype, True)
    draws = Draws()
    for each in values:
        draws.add(Image(each, dpi=(1, 2)))
    exact = values.astype(np.float64)
    mean = draws.mean()
    assert mean.dpi == (1, 2)
    assert mean.pixels.dtype == dtype
    np.testing.assert_allclose(mean.pixels, exact.mean(axis=0), atol=0.5 + 0.01 * most / 255)
    expected = np.sqrt(exact.var(axis=0, ddof=1).mean(axis=2)) / most
    np.testing.assert_allclose(draws.deviation(), expected, rtol=2e-3, atol=1e-7)
    data = deviation_image(draws.deviation())
    assert data.grey
    np.testing.assert_allclose(data.pixels[..., 0], expected * 65535, atol=0.6)


def test_one_sample_has_no_deviation() -> None:
    draws = Draws()
    for _ in range(2):
        with pytest.raises(ConfigError, match="expected 2 or more"):
            draws.deviation()
        draws.add(picture())
    draws.deviation()


def test_colours_rise_evenly_in_brightness_as_published() -> None:
    colours = colour_map(256)
    assert colours[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(colours[-1], 1)
    # Green 2011: brightness is 0.30 R + 0.59 G + 0.11 B, and the level itself where no colour is
    # cut off at 0 or 1.
    bright = colours @ [0.30, 0.59, 0.11]
    np.testing.assert_allclose(bright, np.linspace(0, 1, 256), atol=0.03)
    whole = ((colours > 0) & (colours < 1)).all(axis=1)
    np.testing.assert_allclose(bright[whole], np.linspace(0, 1, 256)[whole], atol=2e-4)
    assert (np.diff(bright) > 0).all()
    assert whole.sum() > 150
    assert colours.std(axis=1).max() > 0.1


def test_a_single_uncertain_pixel_is_seen() -> None:
    deviation = np.zeros((100, 100), np.float32)
    deviation[3, 4] = 0.1
    white = brightest(deviation)
    assert uncertainty_image(deviation, white).pixels[3, 4].tolist() == [255, 255, 255]


def test_the_whole_range_of_colours_is_used() -> None:
    deviation = np.linspace(0, 0.2, 300, dtype=np.float32).reshape(1, 300)
    pixels = uncertainty_image(deviation, 0.2).pixels[0]
    assert pixels[0].tolist() == [0, 0, 0]
    assert pixels[-1].tolist() == [255, 255, 255]
    assert (uncertainty_image(np.zeros((2, 2), np.float32), 0.0).pixels == 0).all()


def test_files_hold_what_the_samples_say(folder: Path, upscaler: Upscaler) -> None:
    files = FileOptions(mean=True, uncertainty=True, format="png", keep_times=True)
    os.utime("a.jpg", ns=(5, 10**18))
    made = job(files)
    progress = list(upscale_file(upscaler, made, UpscaleOptions(scale=4), files))
    assert [path for at in progress for path in at.saved] == list(made.files)
    assert {path.stat().st_mtime_ns for path in made.files} == {10**18}
    values = np.stack([np.asarray(PIL.Image.open(path)) for path in made.outputs]).astype(float)
    mean = np.asarray(PIL.Image.open("a_x4_mean.png"))
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=0.51)
    expected = np.sqrt(values.var(axis=0, ddof=1).mean(axis=2))
    assert expected.max() > 1
    with PIL.Image.open("a_x4_deviation.png") as data:
        assert data.mode == "I;16"
        np.testing.assert_allclose(np.asarray(data) / 257, expected, atol=0.01)
    with PIL.Image.open("a_x4_uncertainty.png") as seen:
        assert (seen.mode, seen.size) == ("RGB", (40, 32))
        bright = np.asarray(seen) @ [0.30, 0.59, 0.11]
    white = np.sort(expected.ravel())[round(0.995 * (expected.size - 1))]
    shown = 255 * np.minimum(expected / white, 1)
    np.testing.assert_allclose(bright, shown, atol=9)
    notes = [note for at in progress for note in at.notes]
    (note,) = notes
    found = re.fullmatch(
        r"a_x4_uncertainty.png: white is a standard deviation of ([\d.]+) of 255 or more", note
    )
    assert found is not None
    assert abs(float(found[1]) - white) < 0.3


def test_they_are_the_same_from_the_disk_and_after_an_interruption(
    folder: Path, upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job()
    assert [str(path) for path in made.files] == NAMES
    list(upscale_file(upscaler, made, files=BOTH))
    whole = {path: path.read_bytes() for path in made.files}
    with pytest.raises(AlreadyThere):
        list(upscale_file(upscaler, made, files=BOTH))
    for gone in ([2, 3, 4, 5], [1], [4]):
        for index in gone:
            made.files[index].unlink()
        saved = [path for at in upscale_file(upscaler, made, files=BOTH) for path in at.saved]
        assert saved == [made.files[index] for index in gone]
        assert {path: path.read_bytes() for path in made.files} == whole
    for path in made.files:
        path.unlink()
    monkeypatch.setattr(
        "bidiffsr.batch.run.Draws", lambda _: Draws(folder)
    )  # which then are files without names
    list(upscale_file(upscaler, made, files=BOTH))
    assert {path: path.read_bytes() for path in made.files} == whole
    assert sorted(path.name for path in folder.iterdir()) == sorted(["a.jpg", *NAMES])


def test_a_batch_leaves_them_out_and_makes_what_is_missing(folder: Path) -> None:
    model = str(save_tiny_model(folder / "m.safetensors", tail=0.5))
    (folder / "in").mkdir()
    (folder / "a.jpg").rename(folder / "in" / "a.jpg")
    command = ["upscale", "in", "-n", model, "--samples", "3", "--mean", "--uncertainty"]
    assert main(command) == 0
    assert sorted(path.name for path in (folder / "in").iterdir()) == sorted(["a.jpg", *NAMES])
    before = {path: path.read_bytes() for path in (folder / "in").iterdir()}
    assert main(command) == 0
    # And at another scale they are no pictures, though some are PNG.
    assert main([*command, "-s", "2"]) == 0
    names = {path.name for path in (folder / "in").iterdir()}
    assert names == {"a.jpg", *NAMES, *(name.replace("x4", "x2") for name in NAMES)}
    assert before.items() <= {path: path.read_bytes() for path in (folder / "in").iterdir()}.items()


@pytest.mark.parametrize(("kind", "suffix"), [("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tif")])
def test_what_is_data_is_png_whatever_the_format_of_the_samples(
    folder: Path, kind: Any, suffix: str
) -> None:
    found = job(FileOptions(mean=True, uncertainty=True, format=kind)).files
    assert [path.name for path in found[2:]] == [
        *(f"a_x4_3.{suffix}", f"a_x4_mean.{suffix}"),
        *("a_x4_uncertainty.png", "a_x4_deviation.png"),
    ]


def test_templates_name_them_too(folder: Path) -> None:
    found = job(FileOptions(mean=True, uncertainty=True, name="{sample:02}-{stem}{ext}")).files
    assert [path.name for path in found] == [
        *("01-a.jpg", "02-a.jpg", "03-a.jpg"),
        *("mean-a.jpg", "uncertainty-a.png", "deviation-a.png"),
    ]


def test_nothing_is_overwritten_and_memory_is_counted(folder: Path, upscaler: Upscaler) -> None:
    header = Header(1000, 1000, has_alpha=False, sample_bytes=1)
    asked = UpscaleOptions(scale=4, samples=2)
    passes, sampling = upscaler._passes(header, asked), upscaler.config.sampling
    plain, kept = (
        upscaler._plans(passes, sampling, asked, kept=kept, disk=False)[0].needed
        for kept in (0, KEPT_BYTES)
    )
    assert kept - plain == KEPT_BYTES * 16_000_000
    with pytest.raises(MemoryEstimateError):
        upscaler.check_memory(header, UpscaleOptions(max_memory=1), kept=KEPT_BYTES)
    read_image("a.jpg")
