"""Trains the runs of a study at equal price, scores them, and writes a table.

python recipes/study.py recipes/study.yml [RUN]... [--show] [--score FOLDER...]

The price of a run is ``iterations``, ``macs``, multiply-accumulates, or ``minutes`` of CPU time
(with one thread, of a core): then a few iterations are timed first, without what compiling takes,
and the run has as many as fit.

``base`` is a training recipe, or the name of a file that holds one; ``runs`` and the files that
``systems`` lists change keys of it. With ``each``, a list of variants by name, every run is there
once for every combination of one variant from each; with ``seeds``, once for each seed from 0.
A run that is ``same: OTHER``, the same network, is not trained where the study has that other run:
its rows are then of the other's models.

A run that has been scored is left as it is, one that was stopped goes on. The table,
``scores.md`` in the study's folder, holds every run that has scores. With ``--score``, the models
that there are are scored on benchmark folders, sampled as they ask to be: ``benchmarks_x4.md``,
``.tex`` and ``.csv`` are then the papers' table, means ± deviations over the seeds of training: one
for each combination of variants and each file of ``systems``, the study's own ``runs`` in all.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
from bidiffsr.nn.counting import count, total
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
    row: str
    """Its name without these."""
    variant: tuple[str, ...]
    """What its variants are."""
    systems: str | None
    """The file that lists it; None for the study itself."""
    same: str | None
    """The name of the run whose models are this one's, too."""
    seed: int | None
    """None where the study does not count seeds."""


class Study:
    """The runs that a YAML file describes."""

    def __init__(self, path: Path) -> None:
        self._where = str(path)
        self._text: Any = load_yaml(path)
        base = self._text["base"]
        self._base: Any = load_yaml(path.parent / base) if isinstance(base, str) else base
        self._listed = list(_runs(self._text, path.parent))
        self._runs = {f"{run.row}{run.suffix}": run for run in self._listed}
        self.output = Path(self._text["output"])
        self.names = list(dict.fromkeys(map(self.trained_as, self._runs)))

    @property
    def known(self) -> set[str]:
        """The names of all runs, those too that are the same as others."""
        return set(self._runs)

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
                source = self.trained_as(f"{value.strip('<>')}{run.suffix}")
                value = str(self.output / source / MODEL_NAME)
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

    def reports(
        self, folders: Sequence[Path], limit: int | None = None
    ) -> Iterator[tuple[int, dict[str, ScoreReport]]]:
        """The models that there are on benchmark folders: by scale, a report under each heading."""
        scales: dict[int, dict[str, list[Run]]] = {}
        for heading, runs in self._tables().items():
            for run in runs:
                model = self._model(run)
                if model.exists():
                    tables = scales.setdefault(check_model(model).scale, {})
                    tables.setdefault(heading, []).append(run)
        for scale, tables in sorted(scales.items()):
            found = (islice(evaluate(folder, bicubic, scale), limit) for folder in folders)
            plain = [score for each in found for score in each]
            yield (
                scale,
                {
                    heading: self._report(runs, plain, scale, folders, limit)
                    for heading, runs in tables.items()
                },
            )

    def _tables(self) -> dict[str, list[Run]]:
        """The runs of each table by its heading, which is empty where there is one table alone."""
        variants = dict.fromkeys(run.variant for run in self._runs.values())
        systems = [Path(file).stem for file in self._text.get("systems", [])] or [None]
        only = len(variants) == len(systems) == 1
        return {
            "" if only else ", ".join([*variant, *filter(None, [file])]): [
                run
                for run in self._listed
                if run.variant == variant and run.systems in (file, None)
            ]
            for variant in variants
            for file in systems
        }

    def _report(
        self,
        runs: Sequence[Run],
        plain: list[Score],
        scale: int,
        folders: Sequence[Path],
        limit: int | None,
    ) -> ScoreReport:
        scores, costs = {"bicubic": plain}, {}
        for run in runs:
            model = self._model(run)
            members = scores.setdefault(run.row, [])
            for folder in folders:
                members += [
                    replace(score, seed=run.seed) for score in _benchmark(model, folder, limit)
                ]
            costs[run.row] = total(count(check_model(model).network, _COUNTED, _COUNTED))
        return render(scores, scale, costs)

    def _model(self, run: Run) -> Path:
        return self.output / self.trained_as(f"{run.row}{run.suffix}") / MODEL_NAME

    def trained_as(self, name: str) -> str:
        """The run that is trained for this one: itself, or the one that it is the same as."""
        same = self._runs[name].same if name in self._runs else None
        return same if same is not None and same in self._runs else name

    def table(self) -> str:
        """All runs that have scores, as a Markdown table."""
        first, *others = (metric.heading for metric in METRICS)
        names = [*_COLUMNS, *(f"ms/MP {name}" for name in _RATES)]
        rows = [
            [label, *[""] * (len(names) - 1), *_cells(scores)]
            for label, scores in self._bicubic.items()
        ]
        names += [f"1 step: {first}", *others, "steps", first, *others]
        for name, run in self._runs.items():
            trained = self.trained_as(name)
            path = self.output / trained / SCORES_NAME
            if path.exists():
                what = {} if name == trained else {"what": run.what}
                rows += _rows(name, json.loads(path.read_text()) | what)
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


def _runs(text: Any, folder: Path) -> Iterator[Run]:
    """All runs of a study, one that several files list once for each of these.

    A run's own changes go over those of its variants.
    """
    files: dict[str | None, Any] = {
        Path(file).stem: load_yaml(folder / file) for file in text.get("systems", [])
    }
    listed = [
        (name, run, file)
        for file, runs in (files | {None: text.get("runs", {})}).items()
        for name, run in runs.items()
    ]
    last = {name: run for name, run, _ in listed}
    seeds = range(text["seeds"]) if "seeds" in text else [None]
    for name, _, file in listed:
        run = last[name]
        for chosen in product(*(variants.items() for variants in text.get("each", []))):
            parts = [*(variant for _, variant in chosen), run]
            changes = [part.get("change", {}) for part in parts]
            variants = "".join(f"-{variant}" for variant, _ in chosen)
            whats = tuple(variant["what"] for _, variant in chosen)
            for seed in seeds:
                own = {} if seed is None else {"seed": seed}
                suffix = variants if seed is None else f"{variants}-seed{seed}"
                yield Run(
                    what=", ".join([run["what"], *whats]),
                    changes={key: value for each in changes for key, value in each.items()} | own,
                    share=prod(part.get("share", 1) for part in parts),
                    suffix=suffix,
                    row=name,
                    variant=whats,
                    systems=file,
                    same=f"{run['same']}{suffix}" if "same" in run else None,
                    seed=seed,
                )


def write_reports(output: Path, scale: int, reports: Mapping[str, ScoreReport]) -> str:
    """The tables of a scale, under their headings, into a study's folder; returns the Markdown."""
    markdown, latex, rows = [], [], []
    for heading, report in reports.items():
        tables = (report.paper_table(), report.table())
        title = f"## {heading}\n\n" if heading else ""
        markdown.append(title + "\n".join(table.markdown() for table in tables))
        comment = f"% {heading}\n" if heading else ""
        latex.append(comment + report.paper_table().latex())
        columns, *values = csv.reader(report.csv().splitlines())
        if heading:
            columns, values = ["table", *columns], [[heading, *value] for value in values]
        rows += [*([] if rows else [columns]), *values]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    for ending, content in (
        ("md", "\n".join(markdown)),
        ("tex", "\n".join(latex)),
        ("csv", text.getvalue()),
    ):
        write_text(output / f"benchmarks_x{scale}.{ending}", content)
    return "\n".join(markdown)


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
    if unknown := set(arguments.runs) - study.known:
        parser.error(f"{', '.join(sorted(unknown))}: not in {arguments.study}")
    if arguments.score:
        for scale, reports in study.reports(arguments.score, arguments.limit):
            print(write_reports(study.output, scale, reports))
        return 0
    names = list(map(study.trained_as, arguments.runs)) or study.names
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
