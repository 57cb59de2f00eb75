"""Methods side by side: crops, scores, figures and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from bidiffsr.cli import main
from bidiffsr.errors import ConfigError, ImageError
from bidiffsr.evaluation import METRICS, bicubic, evaluate
from bidiffsr.evaluation.benchmark import read_pair
from bidiffsr.images.resize import imresize
from bidiffsr.inspection.comparison import Comparison, compare
from bidiffsr.inspection.comparison_figures import comparison_figure, tradeoff_figure
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

Pixels = NDArray[np.uint8]
NIQE = next(metric for metric in METRICS if metric.name == "niqe")


def nearest(low: Pixels, scale: int) -> Pixels:
    return low.repeat(scale, axis=0).repeat(scale, axis=1)


METHODS = {"bicubic": bicubic, "nearest": nearest}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a", (108, 121)), ("b", (116, 104))):
        smooth = random.integers(60, 200, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
        pixels = imresize(smooth, 8)[: size[0], : size[1]]
        pixels[30:60, 50:80] ^= random.integers(0, 64, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def compared(pictures: Path, **changes: Any) -> list[Comparison]:
    pairs = [read_pair(pictures / f"{name}.png", 4) for name in "ab"]
    return [compare(pair, METHODS, 4, 24, **changes) for pair in pairs]


def test_scores_and_pixels_are_the_methods_own(pictures: Path) -> None:
    found = compared(pictures)
    for name, method in METHODS.items():
        for comparison, score in zip(found, evaluate(pictures, method, 4), strict=True):
            assert comparison.name == score.name
            assert comparison.results[name].scores == score.scores
            low = read_pair(pictures / f"{comparison.name}.png", 4).low
            np.testing.assert_array_equal(comparison.results[name].pixels, method(low, 4))
    assert [set(comparison.original.scores) for comparison in found] == [{"niqe"}, {"niqe"}]


def test_the_place_is_where_bicubic_errs_most(pictures: Path) -> None:
    pair = read_pair(pictures / "b.png", 4)
    error = (pair.high.astype(float) - bicubic(pair.low, 4)) ** 2
    sums = {
        (left, top): error[top : top + 24, left : left + 24].sum()
        for top in range(error.shape[0] - 23)
        for left in range(error.shape[1] - 23)
    }
    place = compare(pair, {}, 4, 24).place
    assert (place.left, place.top) == max(sums, key=lambda at: sums[at])
    assert compare(pair, {}, 4, 1000).place.side == 104


def test_a_place_outside_is_refused(pictures: Path) -> None:
    assert compared(pictures, at=(80, 84))[0].place.cut(np.zeros((108, 120, 3), np.uint8)).shape[
        :2
    ] == (
        24,
        24,
    )
    for at in ((97, 0), (0, 85), (-1, 0)):
        with pytest.raises(ConfigError, match=r"a\.png: 120x108 has no square of 24 pixels at"):
            compared(pictures, at=at)


def test_a_method_that_returns_something_else_is_named(pictures: Path) -> None:
    pair = read_pair(pictures / "a.png", 4)
    with pytest.raises(ImageError, match=r"a\.png: the upscaler's picture is 30x27"):
        compare(pair, {"same": lambda low, scale: low}, 4, 24)


def test_the_figure_shows_every_crop_under_its_name(pictures: Path) -> None:
    comparisons = compared(pictures)
    figure = comparison_figure(comparisons, NIQE)
    shown = [np.asarray(image.get_array()) for image in figure.findobj(AxesImage)]
    texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    boxes = [box for box in figure.findobj(Rectangle) if isinstance(box, Rectangle)]
    red = [box for box in boxes if box.get_edgecolor()[:3] == (1.0, 0.0, 0.0)]
    assert len(shown) == 2 * 4
    for comparison in comparisons:
        place = comparison.place
        assert any(
            box.get_xy() == (place.left - 0.5, place.top - 0.5) and box.get_width() == 24
            for box in red
        )
        assert comparison.name in texts
        for pixels in (
            comparison.original.pixels,
            *(r.pixels for r in comparison.results.values()),
        ):
            crop = pixels[place.top :, place.left :][:24, :24]
            assert any(np.array_equal(image, crop) for image in shown)
        for name, result in comparison.results.items():
            psnr, niqe = (result.scores[metric] for metric in ("psnr", "niqe"))
            assert f"{name}\n{psnr:.2f} / {niqe:.2f}" in texts
    assert texts.count("HR\nPSNR (dB) / NIQE") == 2


def test_the_tradeoff_has_each_methods_means(pictures: Path) -> None:
    comparisons = compared(pictures)
    (axis,) = tradeoff_figure(comparisons, NIQE).axes
    points = [tuple(line.get_xydata()[0]) for line in axis.lines[:2]]  # type: ignore[index]
    for point, name in zip(points, METHODS, strict=True):
        scores = [comparison.results[name].scores for comparison in comparisons]
        for value, metric in zip(point, ("niqe", "psnr"), strict=True):
            known = [each[metric] for each in scores]
            assert value == pytest.approx(np.mean([each for each in known if each is not None]))
    originals = [comparison.original.scores["niqe"] for comparison in comparisons]
    assert axis.lines[2].get_xdata()[0] == pytest.approx(np.mean(originals))  # type: ignore[index,arg-type]
    assert [text.get_text() for text in axis.texts] == list(METHODS)


def test_long_names_stay_within_the_tradeoff(pictures: Path) -> None:
    comparisons = compared(pictures)
    long = [
        replace(
            each,
            results={
                f"{name}, {'a long name ' * 3}": result for name, result in each.results.items()
            },
        )
        for each in comparisons
    ]
    figure = tradeoff_figure(long, NIQE)
    figure.draw_without_rendering()
    (axis,) = figure.axes
    inside = axis.get_window_extent()
    for text in axis.texts:
        extent = text.get_window_extent()
        assert inside.x0 <= extent.x0
        assert extent.x1 <= inside.x1


def test_the_command_draws_what_it_can_and_names_the_rest(
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(name).mkdir()
        save_tiny_model(tmp_path / name / "model.safetensors", tail=0.1)
    Path("pictures/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    models = ["-n", "one/model.safetensors", "-n", "Ours=two/model.safetensors"]
    options = ["-o", "figure.svg", "--tradeoff", "plot.png", "--side", "32", "--quality", "fast"]
    assert main(["compare", "pictures", *models, *options]) == 1
    out, error = capsys.readouterr()
    assert out == "figure.svg: 2 compared, 1 left out\n"
    (complaint,) = [line for line in error.splitlines() if "error" in line]
    assert "pictures/broken.png" in complaint
    drawn = Path("figure.svg").read_text()
    for label in ("HR", "bicubic", "one (fast)", "Ours (fast)"):
        assert f"<!-- {label} -->" in drawn
    with Image.open("plot.png") as plot:
        assert plot.format == "PNG"


def test_what_cannot_be_compared_is_said_before_any_work(
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        save_tiny_model(tmp_path / f"{name}.safetensors")
    cases = {
        "pictures -n m=a.safetensors -n m=b.safetensors -o a.png": "--model: m is given twice",
        "pictures -n bicubic -o a.gnp": "a.gnp: expected a name that ends in .png",
        "pictures -n bicubic -o no/a.png": "no/a.png: cannot be written",
        "pictures -n bicubic -o a.png --at 1 2": "--at: given 1 times for 2 pictures",
        "nothing -n bicubic -o a.png": "nothing: no such file or folder",
        "pictures/a.png -n bicubic -o a.png --at 900 2": "has no square of 96 pixels at 900,2",
    }
    for arguments, complaint in cases.items():
        assert main(["compare", *arguments.split()]) in {1, 2}, arguments
        assert complaint in capsys.readouterr().err
    assert not list(tmp_path.glob("a.[!s]*"))
