"""Trains the runs of a study at equal price, scores them, and writes a table.

python recipes/study.py recipes/study.yml [RUN]... [--show] [--score FOLDER...]

The price of a run is ``iterations``, ``macs``, multiply-accumulates, or ``minutes`` of CPU time
(with one thread, of a core): then a few iterations are timed first, without what compiling takes,
and the run has as many as fit.

``base`` is a training recipe, or the name of a file that holds one; ``runs`` and the files that
``systems`` lists change keys of it. With ``each``, a list of variants by name, every run is there
once for every combination of one variant from each; with ``seeds``, once for each seed from 0.

A run that has been scored is left as it is, one that was stopped goes on. The table,
``scores.md`` in the study's folder, holds every run that has scores. With ``--score``, the models
that there are are scored on benchmark folders, sampled as they ask to be: ``benchmarks_x4.md``,
``.tex`` and ``.csv`` are then the papers' table, means ± deviations over the seeds of training.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bidiffsr import Upscaler
from bidiffsr.cli.app import write_text
from bidiffsr.cli.terminal import exit_code
from bidiffsr.config import ModelConfig, TrainingConfig, load_yaml, parse_config
from bidiffsr.config.overrides import with_overrides
from bidiffsr.evaluation import (
    METRICS,
    Method,
    Score,
    ScoreReport,
    bicubic,
    evaluate,
    render,
    summarize,
)
from bidiffsr.models.packed import check_model
from bidiffsr.nn.counting import LayerCount, count, total
from bidiffsr.system.process import keep_freed_memory
from bidiffsr.tables import TextTable
from bidiffsr.training.checkpoint import STATE_NAME
from bidiffsr.training.cost import iteration_macs, iteration_time
from bidiffsr.training.trainer import MODEL_NAME, train

SCORES_NAME = "scores.json"
TIMED_NAME = "timed.json"

_COLUMNS = ("run", "what", "iterations", "megapixels", "minutes", "Gbit/MP", "GMAC/MP")
_SIDE = 512  # of the picture that costs are counted for
_COUNTED = 256  # the same in the papers

# About what an engine does in a second with two cores, in billions: products of bits, products of
# floats, feature values written and read again. To compare forms by, not to predict a time.
_RATES = {"AVX2": (300, 50, 1.2), "AVX-512": (3500, 600, 2.5)}


class Run(NamedTuple):
    """What a run is beside its study's base."""

    what: str
    changes: dict[str, Any]
    share: float
    """Of the study's price."""
    suffix: str
    """What the variants and the seed add to its name."""
    group: str
    """Its name without the seed."""
    seed: int | None
    """None where the study does not count seeds."""


class Study:
    """The runs that a YAML file describes."""

    def __init__(self, path: Path) -> None:
        self._where = str(path)
        self._text: Any = load_yaml(path)
        base = self._text["base"]
        self._base: Any = load_yaml(path.parent / base) if isinstance(base, str) else base
        self._runs = dict(_runs(self._text, path.parent))
        self.output = Path(self._text["output"])
        self.names: list[str] = list(self._runs)

    def run(self, name: str) -> None:
        """Train and score one run, if that is not done."""
        folder = self.output / name
        if (folder / SCORES_NAME).exists():
            return
        config = self.config(name)
        started = time.perf_counter()
        with closing(train(config)) as iterations:
            for progress in iterations:
                if progress.loss is not None:
                    print(f"{name}: {progress.iteration}/{config.iterations} {progress.loss:.4f}")
        result = {
            "what": self._runs[name].what,
            "iterations": config.iterations,
            "seconds": time.perf_counter() - started,
            "megapixels": config.iterations * config.batch * config.data.crop**2 / 1e6,
            "cost": _cost(config),
            **self._scores(folder / MODEL_NAME, config.model),
        }
        write_text(folder / SCORES_NAME, json.dumps(result, indent=2) + "\n")
        (folder / STATE_NAME).unlink()  # large, and never needed again

    def values(self, name: str) -> Any:
        """The run's keys as plain data, its iterations left open."""
        run = self._runs[name]
        tokens = [f"--output={self.output / name}", "--iterations=1"]
        for key, value in run.changes.items():
            if isinstance(value, str) and value.startswith("<"):
                value = str(self.output / f"{value.strip('<>')}{run.suffix}" / MODEL_NAME)
            tokens.append(f"--{key}={json.dumps(value)}")
        return with_overrides(self._base, tokens, self._where)

    def config(self, name: str) -> TrainingConfig:
        """The run's configuration, its iterations as many as the price allows."""
        share, values = self._runs[name].share, self.values(name)
        until = values.pop("binarize_weights_from", values.pop("real_weights_until", 0))
        config = parse_config(TrainingConfig, values, self._where)
        if "iterations" in self._text:
            iterations = round(self._text["iterations"] * share)
        elif "minutes" in self._text:
            iterations = self._affordable(config, 60 * float(self._text["minutes"]) * share)
        else:
            iterations = round(float(self._text["macs"]) * share / iteration_macs(config))
        values |= {"iterations": iterations, "binarize_weights_from": round(until * iterations)}
        return parse_config(TrainingConfig, values, self._where)

    def _affordable(self, config: TrainingConfig, seconds: float) -> int:
        """Iterations for so much CPU time; timed once, so that a stopped run can go on."""
        known = config.output / TIMED_NAME
        if not known.exists():
            iterations = round(seconds / iteration_time(config).cpu_seconds)
            known.parent.mkdir(parents=True, exist_ok=True)
            write_text(known, json.dumps({"iterations": iterations}) + "\n")
        return json.loads(known.read_text())["iterations"]

    def _scores(self, path: Path, model: ModelConfig) -> dict[str, Any]:
        upscaler, steps = Upscaler.from_pretrained(path), model.sampling.steps
        counts: list[int] = [1, *self._text.get("steps", [4, 8, steps])]
        return {
            str(used): self._score(lambda low, _, used=used: upscaler(low, steps=used), model.scale)
            for used in sorted(set(counts))
            if used <= steps
        }

    def _score(self, method: Method, scale: int) -> dict[str, float | None]:
        scores = evaluate(Path(self._text["validation"]), method, scale)
        (mean,) = summarize(islice(scores, self._text.get("pictures")))
        return dict(mean.means)

    @cached_property
    def _bicubic(self) -> dict[str, dict[str, float | None]]:
        """By the name of its row, one for each scale."""
        models = (self.values(name).get("model", {}) for name in self.names)
        scales = sorted({model.get("scale", ModelConfig().scale) for model in models})
        labels = ["bicubic"] if len(scales) == 1 else [f"bicubic-x{scale}" for scale in scales]
        return {
            label: self._score(bicubic, scale) for label, scale in zip(labels, scales, strict=True)
        }

    def reports(self, folders: Sequence[Path], limit: int | None = None) -> Iterator[ScoreReport]:
        """The models that there are on benchmark folders, a report for each scale."""
        scales: dict[int, dict[str, list[Score]]] = {}
        costs: dict[str, LayerCount] = {}
        for name, run in self._runs.items():
            model = self.output / name / MODEL_NAME
            if not model.exists():
                continue
            config = check_model(model)
            if config.scale not in scales:
                plain = (evaluate(folder, bicubic, config.scale) for folder in folders)
                scores = [score for each in plain for score in islice(each, limit)]
                scales[config.scale] = {"bicubic": scores}
            members = scales[config.scale].setdefault(run.group, [])
            for folder in folders:
                members += [
                    replace(score, seed=run.seed) for score in _benchmark(model, folder, limit)
                ]
            costs[run.group] = total(count(config.network, _COUNTED, _COUNTED))
        for scale, scores in scales.items():
            yield render(scores, scale, costs)

    def table(self) -> str:
        """All runs that have scores, as a Markdown table."""
        first, *others = (metric.heading for metric in METRICS)
        names = [*_COLUMNS, *(f"ms/MP {name}" for name in _RATES)]
        rows = [
            [label, *[""] * (len(names) - 1), *_cells(scores)]
            for label, scores in self._bicubic.items()
        ]
        names += [f"1 step: {first}", *others, "steps", first, *others]
        for name in self.names:
            path = self.output / name / SCORES_NAME
            if path.exists():
                rows += _rows(name, json.loads(path.read_text()))
        rows = [row + [""] * (len(names) - len(row)) for row in rows]
        return TextTable(names, rows, text=_COLUMNS[:2]).markdown()


def _benchmark(model: Path, folder: Path, limit: int | None) -> list[Score]:
    """Of one model on one folder; kept beside the model."""
    kept = model.parent / f"{folder.name}-{limit or 'all'}.json"
    if not kept.exists():
        upscaler = Upscaler.from_pretrained(model)
        scores = evaluate(folder, lambda low, _: upscaler(low), upscaler.config.scale)
        found = [asdict(score) for score in islice(scores, limit)]
        write_text(kept, json.dumps(found, indent=1) + "\n")
    return [Score(**values) for values in json.loads(kept.read_text())]


def _runs(text: Any, folder: Path) -> Iterator[tuple[str, Run]]:
    """All runs of a study by name, a run's own changes over those of its variants."""
    listed: dict[str, Any] = {}
    for file in text.get("systems", []):
        listed |= load_yaml(folder / file)
    listed |= text.get("runs", {})
    seeds = range(text["seeds"]) if "seeds" in text else [None]
    for name, run in listed.items():
        for chosen in product(*(variants.items() for variants in text.get("each", []))):
            parts = [*(variant for _, variant in chosen), run]
            changes = [part.get("change", {}) for part in parts]
            variants = "".join(f"-{variant}" for variant, _ in chosen)
            for seed in seeds:
                own = {} if seed is None else {"seed": seed}
                suffix = variants if seed is None else f"{variants}-seed{seed}"
                yield (
                    f"{name}{suffix}",
                    Run(
                        what=", ".join([run["what"], *(variant["what"] for _, variant in chosen)]),
                        changes={key: value for each in changes for key, value in each.items()}
                        | own,
                        share=prod(part.get("share", 1) for part in parts),
                        suffix=suffix,
                        group=f"{name}{variants}",
                        seed=seed,
                    ),
                )


def _cost(config: TrainingConfig) -> dict[str, float]:
    """What one step of the network takes for a megapixel of its output, in billions."""
    layers = count(config.model.network, _SIDE, _SIDE)
    amounts = {
        "bits": total(layers).binary_macs,
        "floats": total(layers).macs,
        # What surrounds a convolution is done while its values are at hand.
        "features": sum(layer.elements for layer in layers if "conv" in layer.kind),
    }
    return {name: amount / 1e3 / _SIDE**2 for name, amount in amounts.items()}


def _milliseconds(cost: dict[str, float], rates: tuple[float, ...]) -> float:
    amounts = (cost["bits"], cost["floats"], cost["features"])
    return 1000 * sum(amount / rate for amount, rate in zip(amounts, rates, strict=True))


def _rows(name: str, result: dict[str, Any]) -> list[list[str]]:
    """A row for each number of steps beside one, which the first of them has too."""
    runs = {int(steps): scores for steps, scores in result.items() if steps.isdigit()}
    minutes = f"{result['seconds'] / 60:.1f}"
    numbers = [str(result["iterations"]), _megapixels(result), minutes, *_prices(result)]
    left = [name, result["what"], *numbers, *_cells(runs[1])]
    rows = []
    for steps in sorted(runs.keys() - {1}) or [1]:
        rows.append([*left, str(steps), *_cells(runs[steps])])
        left = [""] * len(left)
    return rows


# A run that was scored before these were kept has none of them.


def _megapixels(result: dict[str, Any]) -> str:
    return f"{result['megapixels']:.0f}" if "megapixels" in result else ""


def _prices(result: dict[str, Any]) -> list[str]:
    if "cost" not in result:
        return [""] * (2 + len(_RATES))
    cost = result["cost"]
    times = (f"{_milliseconds(cost, rates):.0f}" for rates in _RATES.values())
    return [f"{cost['bits']:.1f}", f"{cost['floats']:.1f}", *times]


def _cells(scores: dict[str, float | None]) -> list[str]:
    # A run that was scored before a metric came has none of it.
    return [metric.cell(scores.get(metric.name)) for metric in METRICS]


def main() -> int:
    """Run the study, or the runs of it that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("runs", nargs="*", help="all, where none is named")
    parser.add_argument("--show", action="store_true", help="print the recipes, train nothing")
    parser.add_argument("--score", nargs="+", type=Path, metavar="FOLDER", help="train nothing")
    parser.add_argument("--limit", type=int, help="score so many pictures of each folder")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does; without it a third of the time goes into page faults
    study = Study(arguments.study)
    if unknown := set(arguments.runs) - set(study.names):
        parser.error(f"{', '.join(sorted(unknown))}: not in {arguments.study}")
    if arguments.score:
        for report in study.reports(arguments.score, arguments.limit):
            tables = (report.paper_table(), report.table())
            text = "\n".join(table.markdown() for table in tables)
            write_text(study.output / f"benchmarks_x{report.scale}.md", text)
            latex = report.paper_table().latex()
            write_text(study.output / f"benchmarks_x{report.scale}.tex", latex)
            write_text(study.output / f"benchmarks_x{report.scale}.csv", report.csv())
            print(text)
        return 0
    names = arguments.runs or study.names
    if arguments.show:
        shown = [study.config(name).model_dump(mode="json") for name in names]
        print(yaml.safe_dump_all(shown, sort_keys=False), end="")
        return 0
    for name in names:
        study.run(name)
        write_text(study.output / "scores.md", study.table())
    print(study.table())
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
