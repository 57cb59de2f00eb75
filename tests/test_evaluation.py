"""Scoring benchmark folders: the published bicubic rows, folder layouts, and the rendered table."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from bidiffsr.errors import BidiffsrError, ConfigError, ImageError
from bidiffsr.evaluation import Lpips, Score, bicubic, evaluate, niqe, psnr, render, ssim, summarize
from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.images.resize import imresize
from bidiffsr.nn.counting import LayerCount
from bidiffsr.tables import TextTable

Picture = NDArray[np.uint8]

# It has rows of its own in test_lpips.py, and a hundred pictures take it a while.
WITHOUT_LPIPS = [metric for metric in METRICS if metric.name != "lpips"]


def smooth_picture(seed: int, height: int, width: int) -> Picture:
    low = np.random.default_rng(seed).integers(40, 215, (height // 8 + 1, width // 8 + 1, 3))
    return imresize(low.astype(np.uint8), 8)[:height, :width]


def save(path: Path, pixels: NDArray[Any], grey: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Image(np.ascontiguousarray(pixels), grey=grey))
    return path


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A benchmark of two pictures in the official layout, without LR pictures."""
    save(tmp_path / "Toy" / "HR" / "b.png", smooth_picture(1, 53, 62))
    save(tmp_path / "Toy" / "HR" / "a.png", smooth_picture(2, 120, 121))
    return tmp_path / "Toy"


@pytest.mark.parametrize(
    ("set_name", "scale", "decibels", "similarity"),
    [
        ("Set5", 2, 33.67, 0.9303),
        ("Set5", 4, 28.43, 0.8111),
        ("B100", 2, 29.56, 0.843),
        ("B100", 4, 25.96, 0.668),
    ],
)
def test_the_published_bicubic_rows(
    shared: Path, set_name: str, scale: int, decibels: float, similarity: float
) -> None:
    folder = shared / "data" / "benchmark" / set_name
    [mean] = summarize(evaluate(folder, bicubic, scale, WITHOUT_LPIPS))
    assert mean.set == set_name
    assert mean.pictures == mean.scored["niqe"] == {"Set5": 5, "B100": 100}[set_name]
    assert mean["psnr"] == pytest.approx(decibels, abs=0.01)
    assert mean["ssim"] == pytest.approx(similarity, abs=0.001)
    assert mean["niqe"] == pytest.approx(7, abs=3)


def test_made_and_official_low_resolution_give_the_same_scores(shared: Path) -> None:
    with_lr = shared / "golden" / "set5_lr"
    official = list(evaluate(with_lr, bicubic, 4))
    made = list(evaluate(shared / "data" / "benchmark" / "Set5", bicubic, 4))
    for one, other in zip(official, made, strict=True):
        assert replace(one, set="", seconds=0) == replace(other, set="", seconds=0)


def test_scores_are_those_of_the_metrics(toy: Path) -> None:
    inputs: list[Picture] = []

    def brighten(low: Picture, scale: int) -> Picture:
        inputs.append(low)
        return bicubic(low, scale) + np.uint8(5)

    scores = list(evaluate(toy, brighten, 4))
    assert [score.name for score in scores] == ["a", "b"]
    high = smooth_picture(2, 120, 121)[:120, :120]
    np.testing.assert_array_equal(inputs[0], imresize(high, 1 / 4))
    upscaled = bicubic(inputs[0], 4) + np.uint8(5)
    first = scores[0]
    assert first.set == "Toy"
    assert (first["psnr"], first["ssim"]) == (psnr(upscaled, high, 4), ssim(upscaled, high, 4))
    assert first["niqe"] == niqe(upscaled, 4)
    assert first["lpips"] == Lpips()(upscaled, high)
    assert first.megapixels == pytest.approx(120 * 120 / 1e6)
    assert first.seconds > 0
    assert scores[1]["niqe"] is None  # 52x60: not one block


def test_a_flat_result_has_no_niqe(toy: Path) -> None:
    def grey(low: Picture, scale: int) -> Picture:
        return np.full((low.shape[0] * scale, low.shape[1] * scale, 3), 127, np.uint8)

    assert [score["niqe"] for score in evaluate(toy, grey, 2)] == [None, None]


def test_pictures_too_small_for_lpips_have_none(tmp_path: Path) -> None:
    save(tmp_path / "Small" / "a.png", smooth_picture(1, 30, 62))
    save(tmp_path / "Small" / "b.png", smooth_picture(1, 32, 62))
    scores = list(evaluate(tmp_path / "Small", bicubic, 2))
    assert [score["lpips"] is None for score in scores] == [True, False]
    [mean] = summarize(scores)
    assert mean.scored == {"psnr": 2, "ssim": 2, "niqe": 0, "lpips": 1}
    assert mean["lpips"] == scores[1]["lpips"]


def test_a_metric_is_what_it_says_of_itself(toy: Path) -> None:
    def rows(made: Picture, original: Picture, scale: int) -> float:
        return len(made) + len(original) / 2 + scale

    metric = Metric("rows", "Rows", 1, rows)
    scores = list(evaluate(toy, bicubic, 4, [metric]))
    assert [score.scores for score in scores] == [{"rows": 184.0}, {"rows": 82.0}]
    assert [metric.cell(value) for value in (82.25, 0, None)] == ["82.2", "0.0", "-"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_says_which_way_is_better_and_what_it_looks_at(metric: Metric) -> None:
    original = read_image(Path(__file__).parents[1] / "examples" / "demo.png").pixels
    noise = np.random.default_rng(0).normal(0, 40, original.shape)
    noisy = np.clip(original + noise, 0, 255).astype(np.uint8)
    good, bad = metric.score(original, original, 4), metric.score(noisy, original, 4)
    assert good is not None
    assert bad is not None
    assert (good < bad) is metric.lower_is_better
    assert (metric.score(noisy, noisy, 4) == bad) is metric.no_reference


def test_a_metric_that_is_not_optional_refuses_the_picture(toy: Path) -> None:
    def never(*_: Any) -> float:
        raise ImageError("not this one")

    with pytest.raises(ImageError, match=r"a\.png: not this one"):
        list(evaluate(toy, bicubic, 4, [Metric("m", "M", 1, never)]))
    scores = evaluate(toy, bicubic, 4, [Metric("m", "M", 1, never, optional=True)])
    assert [score["m"] for score in scores] == [None, None]


@pytest.mark.parametrize("spelling", ["Toy", "Toy/", "Toy/HR", "./Toy/HR/../"])
def test_the_set_is_named_by_its_folder(
    toy: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(toy.parent)
    assert {score.set for score in evaluate(spelling, bicubic, 2)} == {"Toy"}


def test_relative_folders(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    assert {score.set for score in evaluate(".", bicubic, 2)} == {"Toy"}
    assert {score.set for score in evaluate("HR", bicubic, 2)} == {"Toy"}
    monkeypatch.chdir(toy / "HR")
    assert {score.set for score in evaluate(os.curdir, bicubic, 2)} == {"Toy"}


def test_plain_folders_and_grey_pictures_and_several_sets(toy: Path, tmp_path: Path) -> None:
    grey = np.repeat(smooth_picture(3, 40, 44)[..., :1], 3, axis=2)
    save(tmp_path / "Plain" / "grey.png", grey, grey=True)
    (tmp_path / "Plain" / "notes.txt").write_text("not a picture")
    (tmp_path / "Plain" / ".hidden.png").write_bytes(b"not one either")
    scores = list(evaluate([tmp_path / "Plain", str(toy)], bicubic, 2))
    assert [(score.set, score.name) for score in scores] == [
        ("Plain", "grey"),
        ("Toy", "a"),
        ("Toy", "b"),
    ]


@pytest.mark.parametrize("start", ["Toy", "Toy/HR"])
@pytest.mark.parametrize("pattern", ["{}x2.png", "{}_LRBI_x2.png"])
def test_official_low_resolution_is_used_where_it_is(toy: Path, start: str, pattern: str) -> None:
    marked = np.full((60, 60, 3), 77, np.uint8)
    save(toy / "LR_bicubic" / "X2" / pattern.format("a"), marked)
    seen = []

    def remember(low: Picture, scale: int) -> Picture:
        seen.append(low)
        return bicubic(low, scale)

    list(evaluate(toy.parent / start, remember, 2))
    np.testing.assert_array_equal(seen[0], marked)
    np.testing.assert_array_equal(seen[1], imresize(smooth_picture(1, 52, 62), 1 / 2))
    seen.clear()
    list(evaluate(toy.parent / start, remember, 3))  # of another scale there is none
    assert seen[0].shape == (40, 40, 3)


def test_one_picture_at_a_time(toy: Path) -> None:
    calls = []

    def count(low: Picture, scale: int) -> Picture:
        calls.append(scale)
        return bicubic(low, scale)

    scores = evaluate(toy, count, 2)
    assert calls == []
    next(scores)
    assert calls == [2]


@pytest.mark.parametrize(
    ("directories", "scale", "error", "says"),
    [
        ("Nowhere", 2, ImageError, "Nowhere: no such folder; expected"),
        (["Toy", "Nowhere"], 2, ImageError, "no such folder"),
        ("Toy/HR/a.png", 2, ImageError, "not a folder"),
        ("Empty", 2, ImageError, "Empty: no pictures"),
        ("EmptyHR", 2, ImageError, "HR: no pictures"),
        ([], 2, ConfigError, "no benchmark folder"),
        ("Toy", 1, ConfigError, "scale is 1;"),
        ("Toy", 2.0, ConfigError, "scale"),
        ("Toy", True, ConfigError, "scale"),
        ("Toy", "2", ConfigError, "scale"),
    ],
)
def test_refuses_at_once(
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    directories: Any,
    scale: Any,
    error: type[BidiffsrError],
    says: str,
) -> None:
    monkeypatch.chdir(toy.parent)
    Path("Empty").mkdir()
    Path("EmptyHR", "HR").mkdir(parents=True)
    with pytest.raises(error, match=says) as raised:
        evaluate(directories, bicubic, scale)
    assert "\n" not in str(raised.value)


def refuses(folder: Path, says: str, upscaler: Any = bicubic) -> None:
    with pytest.raises(ImageError, match=says) as raised:
        list(evaluate(folder, upscaler, 2))
    assert "\n" not in str(raised.value)


def test_names_the_picture_it_cannot_use(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "p.png", smooth_picture(0, 32, 32).astype(np.uint16) * 257)
    refuses(tmp_path / "deep", r"p\.png: picture is uint16; expected uint8")
    save(tmp_path / "dot" / "p.png", smooth_picture(0, 1, 32))
    refuses(tmp_path / "dot", r"p\.png: .*cannot be cropped")
    save(tmp_path / "small" / "p.png", smooth_picture(0, 14, 32))
    refuses(tmp_path / "small", r"p\.png: SSIM needs at least 11x11")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "p.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    refuses(tmp_path / "broken", r"p\.png")
    save(tmp_path / "other" / "HR" / "p.png", smooth_picture(0, 32, 40))
    save(tmp_path / "other" / "LR_bicubic" / "X2" / "px2.png", smooth_picture(0, 16, 21))
    refuses(tmp_path / "other", r"px2\.png: picture is 21x16; expected 20x16")


@pytest.mark.parametrize(
    ("upscaler", "says"),
    [
        (lambda low, scale: low, "the upscaler's picture is 60x60; expected 120x120"),
        (lambda low, scale: None, "a.png: the upscaler's picture must be a numpy array"),
        (lambda low, scale: bicubic(low, scale) / 255, "must be uint8, not float64"),
        (lambda low, scale: bicubic(low, scale)[..., 0], "must have shape"),
    ],
)
def test_refuses_what_is_no_upscaler(toy: Path, upscaler: Any, says: str) -> None:
    refuses(toy, says, upscaler)


def test_errors_of_the_upscaler_pass_through(toy: Path) -> None:
    def fail(low: Picture, scale: int) -> Picture:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(evaluate(toy, fail, 2))


def score(set_name: str, name: str, decibels: float, natural: float | None) -> Score:
    scores = {"psnr": decibels, "ssim": 0.5, "niqe": natural, "lpips": 0.25}
    return Score(set_name, name, scores, seconds=1.0, megapixels=0.5)


SCORES = [
    score("Set5", "baby", 30.0, 4.0),
    score("B100", "1", 20.0, None),
    score("Set5", "bird", 34.0, None),
]


def test_means_per_set() -> None:
    first, second = summarize(iter(SCORES))
    assert (first.set, first.pictures) == ("Set5", 2)
    assert first.means == {"psnr": 32.0, "ssim": 0.5, "niqe": 4.0, "lpips": 0.25}
    assert first.scored == {"psnr": 2, "ssim": 2, "niqe": 1, "lpips": 2}
    assert (first.seconds, first.megapixels, first.seconds_per_megapixel) == (2.0, 1.0, 2.0)
    assert (second.set, second["niqe"], second.scored["niqe"]) == ("B100", None, 0)
    assert summarize([]) == []


def test_markdown() -> None:
    assert render({"Bicubic": iter(SCORES), "a|b": SCORES[1:2]}, 4).table().markdown() == (
        "| Method | Set | Pictures | PSNR (dB) | SSIM | NIQE | LPIPS | s/megapixel |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| Bicubic | Set5 | 2 | 32.00 | 0.5000 | 4.00 (1 of 2) | 0.2500 | 2 |\n"
        "| Bicubic | B100 | 1 | 20.00 | 0.5000 | - | 0.2500 | 2 |\n"
        "| a\\|b | B100 | 1 | 20.00 | 0.5000 | - | 0.2500 | 2 |\n"
    )


def drawn(seed: int | None, *decibels: float, lpips: float | None = 0.25) -> list[Score]:
    """A set of so many pictures, scored with this seed."""
    return [
        Score("Set5", str(i), {"psnr": value, "lpips": lpips}, seconds=1, megapixels=1, seed=seed)
        for i, value in enumerate(decibels)
    ]


def test_seeds_are_averaged_and_deviate_as_the_mean_of_the_set_does() -> None:
    seeds = {3: (30.0, 20.0), 1: (31.0, 22.0), 2: (29.0, 27.0)}
    [mean] = summarize(score for seed, values in seeds.items() for score in drawn(seed, *values))
    assert (mean.pictures, mean.seeds, mean.scored["psnr"]) == (2, (3, 1, 2), 2)
    assert mean["psnr"] == pytest.approx(np.mean(list(seeds.values())))
    per_seed = [np.mean(values) for values in seeds.values()]
    assert mean.deviations["psnr"] == pytest.approx(np.std(per_seed, ddof=1))
    assert mean.deviations["lpips"] == 0
    assert (mean.seconds, mean.megapixels) == (6, 6)


def test_a_single_seed_and_perfect_pictures_have_no_deviation() -> None:
    [one] = summarize(drawn(0, 30.0, 20.0))
    assert (one.seeds, one.deviations) == ((0,), {"psnr": None, "lpips": None})
    perfect = [*drawn(0, math.inf), *drawn(1, math.inf), *drawn(2, 30.0, lpips=None)]
    [mean] = summarize(perfect)
    assert (mean["psnr"], mean.deviations["psnr"]) == (math.inf, None)
    assert (mean["lpips"], mean.deviations["lpips"], mean.scored["lpips"]) == (0.25, 0, 0)


COUNTED = LayerCount("total", "", 0, 34_000_000, 32_000_000, 1_000_000_000, 64_000_000_000)
SEVERAL = {
    "Bicubic": [*drawn(None, 28.0, lpips=None), *SCORES[1:2]],
    "x4_low 50%|[a]": [*drawn(0, 30.0), *drawn(1, 31.0)],
    "mine": drawn(0, 30.504),
    "worse": drawn(0, 29.0, lpips=0.5),
}


def test_the_papers_layout() -> None:
    """Params = 2 M + 32 M / 32 and OPs = 1 G + 64 G / 64; a tie is in what is printed."""
    table = render(SEVERAL, 4, {"mine": COUNTED}).paper_table()
    assert table.markdown() == (
        "| Method | Params (M) | OPs (G) | Set5 PSNR | Set5 SSIM | Set5 LPIPS "
        "| B100 PSNR | B100 SSIM | B100 LPIPS |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| Bicubic | - | - | 28.00 | - | - | **20.00** | **0.5000** | **0.2500** |\n"
        "| x4_low 50%\\|[a] | - | - | **30.50 ± 0.71** | - | **0.2500 ± 0.0000** | - | - | - |\n"
        "| mine | 3.00 | 2.00 | **30.50** | - | **0.2500** | - | - | - |\n"
        "| worse | - | - | <ins>29.00</ins> | - | <ins>0.5000</ins> | - | - | - |\n"
    )


def test_latex() -> None:
    table = render(SEVERAL, 4, {"mine": COUNTED}).paper_table()
    assert table.latex() == (
        r"""\begin{tabular}{lrrrrrrrr}
\toprule
 &  &  & \multicolumn{3}{c}{Set5} & \multicolumn{3}{c}{B100} \\
\cmidrule(lr){4-6} \cmidrule(lr){7-9}
Method & Params (M) & OPs (G) & PSNR & SSIM & LPIPS & PSNR & SSIM & LPIPS \\
\midrule
Bicubic & - & - & 28.00 & - & - & \textbf{20.00} & \textbf{0.5000} & \textbf{0.2500} \\
x4\_low 50\%\textbar{}{[}a] & - & - & \textbf{30.50 $\pm$ 0.71} & - """
        r"""& \textbf{0.2500 $\pm$ 0.0000} & - & - & - \\
mine & 3.00 & 2.00 & \textbf{30.50} & - & \textbf{0.2500} & - & - & - \\
worse & - & - & \underline{29.00} & - & \underline{0.5000} & - & - & - \\
\bottomrule
\end{tabular}
"""
    )


def test_latex_takes_any_name() -> None:
    awkward = "\\a{b}&c~d^e#f$g_h%i<j>k\nl"
    latex = TextTable([awkward], [["[1"], ["*2"]], text=(awkward,)).latex().splitlines()
    assert latex[:2] == [r"\begin{tabular}{l}", r"\toprule"]
    assert latex[2] == (
        r"\textbackslash{}a\{b\}\&c\textasciitilde{}d\textasciicircum{}e\#f\$g\_h\%i"
        r"\textless{}j\textgreater{}k l \\"
    )
    assert latex[4:6] == [r"{[}1 \\", r"{*}2 \\"]  # no option of the line break before it


def test_csv_holds_every_value_as_it_is() -> None:
    awkward = {'"a", b\nc': [*drawn(3, 30.1, 1 / 3), *drawn(1, math.inf, 2.0, lpips=None)]}
    text = render(SEVERAL | awkward, 4).csv()
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == ["method", "scale", "set", "metric", "seed", "value", "pictures"]
    assert rows[1] == ["Bicubic", "4", "Set5", "psnr", "", "28.0", "1"]
    assert rows[-4:] == [
        ['"a", b\nc', "4", "Set5", "psnr", "3", repr((30.1 + 1 / 3) / 2), "2"],
        ['"a", b\nc', "4", "Set5", "lpips", "3", "0.25", "2"],
        ['"a", b\nc', "4", "Set5", "psnr", "1", "inf", "2"],
        ['"a", b\nc', "4", "Set5", "lpips", "1", "", "0"],
    ]
    assert text.count("\r\n") == len(rows)
    assert text.endswith("\r\n")


def test_json_of_several_seeds() -> None:
    [_, method, *_] = render(SEVERAL, 4, {"x4_low 50%|[a]": COUNTED}).as_dict()["methods"]
    assert (method["params"], method["ops"]) == (3e6, 2e9)
    [mean] = method["sets"]
    assert (mean["seeds"], mean["psnr"]) == ([0, 1], 30.5)
    assert mean["psnr_deviation"] == pytest.approx(0.5**0.5)
    assert [picture["seed"] for picture in method["pictures"]] == [0, 1]


def test_terminal_table() -> None:
    console = Console(width=120, file=io.StringIO())
    with console.capture() as capture:
        console.print(render({"[bold]mine[/bold]": SCORES}, 4).table().rich())
    shown = capture.get()
    for text in ("x4", "[bold]mine[/bold]", "Set5", "32.00", "0.5000", "4.00 (1 of 2)"):
        assert text in shown


def test_dictionary_is_strict_json() -> None:
    perfect = [*SCORES, score("Set5", "woman", math.inf, 6.0)]
    found = json.loads(json.dumps(render({"Mine": perfect}, 2).as_dict(), allow_nan=False))
    assert found["scale"] == 2
    [method] = found["methods"]
    assert method["method"] == "Mine"
    assert [mean["psnr"] for mean in method["sets"]] == [None, 20.0]
    assert method["sets"][0] == {
        "set": "Set5",
        "pictures": 3,
        "psnr": None,
        "ssim": 0.5,
        "niqe": 5.0,
        "niqe_pictures": 2,
        "lpips": 0.25,
        "lpips_pictures": 3,
        "seconds": 3.0,
        "megapixels": 1.5,
    }
    assert method["pictures"][0] == {
        "set": "Set5",
        "name": "baby",
        "psnr": 30.0,
        "ssim": 0.5,
        "niqe": 4.0,
        "lpips": 0.25,
        "seconds": 1.0,
        "megapixels": 0.5,
    }


def test_nothing_scored_renders_empty() -> None:
    report = render({}, 2)
    assert report.as_dict() == {"scale": 2, "methods": []}
    assert report.table().markdown().count("\n") == 2
