"""Results made small again, against the pictures they were made from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bidiffsr.cli import main
from bidiffsr.evaluation import psnr
from bidiffsr.images import Image, imresize, read_image, to_float
from bidiffsr.upscaling.consistency import Consistency, consistency

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("one_thread")


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_it_is_psnr_of_the_shrunk_result(dtype: Any) -> None:
    large, small = noise(24, 36, 3, dtype=dtype), noise(6, 9, 3, dtype=dtype, seed=1)
    found = consistency(Image(small), Image(large))
    shrunk = np.clip(imresize(to_float(large), 0.25), 0, 1)
    errors = shrunk.astype(float) - small / np.iinfo(dtype).max
    assert found.psnr == pytest.approx(10 * math.log10(1 / np.mean(errors**2)), abs=1e-4)
    assert found.largest == pytest.approx(np.abs(errors).max(), abs=1e-6)
    assert found.count == small.size
    if dtype == np.uint8:  # nearly that of rounded samples
        rounded = np.round(shrunk * 255).astype(np.uint8)
        assert found.psnr == pytest.approx(psnr(rounded, small, 0, y=False), abs=0.05)


def test_nothing_is_counted_where_nothing_is_seen() -> None:
    alpha = np.zeros((4, 4), np.uint8)
    large = Image(noise(16, 16, 3), np.zeros((16, 16), np.uint8))
    found = consistency(Image(noise(4, 4, 3), alpha), large)
    assert (found.squares, found.largest, found.psnr) == (0, 0, math.inf)
    assert found.as_dict() == {"psnr": None, "max_difference": 0}


def test_many_rows_are_as_one() -> None:
    small = noise(700, 500, 3)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    errors = np.clip(imresize(to_float(large), 0.5), 0, 1).astype(float) - small / 255
    found = consistency(Image(small), Image(large))
    assert found.squares == pytest.approx((errors**2).sum(), rel=1e-5)


def test_pages_count_by_their_pixels() -> None:
    both = Consistency(1.0, 10, 0.5) + Consistency(3.0, 30, 0.75)
    assert (both.psnr, both.largest) == (10.0, 0.75)


def results(capsys: Capture) -> dict[str, Any]:
    """What was said of each result, by its name."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(each["path"]).name: each for line in lines for each in line.get("results", [])}


def test_a_batch_says_it_of_every_result(model: str, folder: Path, capsys: Capture) -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        PIL.Image.fromarray(noise(6, 8, 3)).save(f"in/{name}.png")
    Path("in/c.png").write_bytes(Path("in/a.png").read_bytes()[:90])
    assert main(["upscale", "in", "-o", "out", "-n", model, "--json"]) == 1
    found = results(capsys)
    assert sorted(found) == ["a_x4.png", "b_x4.png"]
    for name, result in found.items():
        made = read_image(result["path"])
        expected = consistency(read_image(f"in/{name[0]}.png"), made)
        assert result["consistency"]["psnr"] == pytest.approx(expected.psnr, abs=1e-6)
        assert result["consistency"]["max_difference"] == pytest.approx(expected.largest)


def test_samples_their_mean_and_pages(model: str, folder: Path, capsys: Capture) -> None:
    PIL.Image.fromarray(noise(6, 8, 3)).save("a.png")
    extra = ["--samples", "2", "--mean", "--uncertainty", "--json"]
    assert main(["upscale", "a.png", "-n", model, *extra]) == 0
    compared = {name: result["consistency"] for name, result in results(capsys).items()}
    assert {name for name, found in compared.items() if found is None} == {
        "a_x4_uncertainty.png",
        "a_x4_deviation.png",
    }
    assert {name for name, found in compared.items() if found} == {
        "a_x4_1.png",
        "a_x4_2.png",
        "a_x4_mean.png",
    }
    frames = [PIL.Image.fromarray(noise(6, 8, 3, seed=seed)) for seed in range(2)]
    frames[0].save("b.tif", save_all=True, append_images=frames[1:])
    assert main(["upscale", "b.tif", "-n", model, "--pages", "all", "--json"]) == 0
    (result,) = results(capsys).values()
    assert 10 < result["consistency"]["psnr"] < 60
