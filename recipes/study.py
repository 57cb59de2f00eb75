"""Trains the runs of a study at equal price, scores them, and writes a table.

python recipes/study.py recipes/study.yml [RUN]...

The price of a run is either ``macs``, multiply-accumulates, or ``minutes`` of CPU time (with one
thread, of a core): then a few iterations are timed first, without what compiling takes, and the
run has as many as fit.

A run that has been scored is left as it is, one that was stopped goes on. The table,
``scores.md`` in the study's folder, holds every run that has scores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from bidiffsr import Upscaler
from bidiffsr.cli.app import write_text
from bidiffsr.cli.terminal import exit_code
from bidiffsr.config import TrainingConfig, load_yaml, parse_config
from bidiffsr.config.overrides import with_overrides
from bidiffsr.evaluation import METRICS, Method, bicubic, evaluate, summarize
from bidiffsr.nn.counting import count, total
from bidiffsr.tables import TextTable
from bidiffsr.training.checkpoint import STATE_NAME
from bidiffsr.training.cost import iteration_macs, iteration_time
from bidiffsr.training.trainer import MODEL_NAME, train

SCORES_NAME = "scores.json"
TIMED_NAME = "timed.json"

_COLUMNS = ("run", "what", "iterations", "megapixels", "minutes", "Gbit/MP", "GMAC/MP")
_SIDE = 512  # of the picture that costs are counted for

# About what an engine does in a second with two cores, in billions: products of bits, products of
# floats, feature values written and read again. To compare forms by, not to predict a time.
_RATES = {"AVX2": (300, 50, 1.2), "AVX-512": (3500, 600, 2.5)}


class Study:
    """The runs that a YAML file describes."""

    def __init__(self, path: Path) -> None:
        self._where = str(path)
        self._text: Any = load_yaml(path)
        self.output = Path(self._text["output"])
        self.names: list[str] = list(self._text["runs"])

    def run(self, name: str) -> None:
        """Train and score one run, if that is not done."""
        folder = self.output / name
        if (folder / SCORES_NAME).exists():
            return
        config = self._config(name)
        started = time.perf_counter()
        with closing(train(config)) as iterations:
            for progress in iterations:
                if progress.loss is not None:
                    print(f"{name}: {progress.iteration}/{config.iterations} {progress.loss:.4f}")
        result = {
            "what": self._text["runs"][name]["what"],
            "iterations": config.iterations,
            "seconds": time.perf_counter() - started,
            "megapixels": config.iterations * config.batch * config.data.crop**2 / 1e6,
            "cost": _cost(config),
            **self._scores(folder / MODEL_NAME, config.model.sampling.steps),
        }
        write_text(folder / SCORES_NAME, json.dumps(result, indent=2) + "\n")
        (folder / STATE_NAME).unlink()  # large, and never needed again

    def values(self, name: str) -> Any:
        """The run's keys as plain data, its iterations left open."""
        run = self._text["runs"][name]
        tokens = [f"--output={self.output / name}", "--iterations=1"]
        for key, value in run.get("change", {}).items():
            if isinstance(value, str) and value.startswith("<"):
                value = str(self.output / value.strip("<>") / MODEL_NAME)
            tokens.append(f"--{key}={json.dumps(value)}")
        return with_overrides(self._text["base"], tokens, self._where)

    def _config(self, name: str) -> TrainingConfig:
        """The run's configuration, its iterations as many as the price allows."""
        run, values = self._text["runs"][name], self.values(name)
        until = values.pop("binarize_weights_from", values.pop("real_weights_until", 0))
        config = parse_config(TrainingConfig, values, self._where)
        share = run.get("share", 1)
        if "minutes" in self._text:
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

    def _scores(self, model: Path, steps: int) -> dict[str, Any]:
        upscaler = Upscaler.from_pretrained(model)
        counts: list[int] = [1, *self._text.get("steps", [4, 8, steps])]
        return {
            str(used): self._score(lambda low, _, used=used: upscaler(low, steps=used))
            for used in sorted(set(counts))
            if used <= steps
        }

    def _score(self, method: Method) -> dict[str, float | None]:
        scale = self._text["base"]["model"]["scale"]
        scores = evaluate(Path(self._text["validation"]), method, scale)
        (mean,) = summarize(islice(scores, self._text["pictures"]))
        return dict(mean.means)

    @cached_property
    def _bicubic(self) -> dict[str, float | None]:
        return self._score(bicubic)

    def table(self) -> str:
        """All runs that have scores, as a Markdown table."""
        first, *others = (metric.heading for metric in METRICS)
        names = [*_COLUMNS, *(f"ms/MP {name}" for name in _RATES)]
        rows = [["bicubic", *[""] * (len(names) - 1), *_cells(self._bicubic)]]
        names += [f"1 step: {first}", *others, "steps", first, *others]
        for name in self.names:
            path = self.output / name / SCORES_NAME
            if path.exists():
                rows += _rows(name, json.loads(path.read_text()))
        rows = [row + [""] * (len(names) - len(row)) for row in rows]
        return TextTable(names, rows, text=_COLUMNS[:2]).markdown()


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
    arguments = parser.parse_args()
    study = Study(arguments.study)
    if unknown := set(arguments.runs) - set(study.names):
        parser.error(f"{', '.join(sorted(unknown))}: not in {arguments.study}")
    for name in arguments.runs or study.names:
        study.run(name)
        write_text(study.output / "scores.md", study.table())
    print(study.table())
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
