"""Trains the runs of a study at equal price, scores them, and writes a table.

python recipes/study.py recipes/study.yml [RUN]...

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
from bidiffsr.config import TrainingConfig, load_yaml, parse_config
from bidiffsr.evaluation import METRICS, bicubic, evaluate, summarize
from bidiffsr.evaluation import Upscaler as Method
from bidiffsr.overrides import with_overrides
from bidiffsr.terminal import exit_code
from bidiffsr.training.cost import iteration_macs
from bidiffsr.training.trainer import MODEL_NAME, STATE_NAME, train

SCORES_NAME = "scores.json"


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
            **self._scores(folder / MODEL_NAME, config.model.sampling.steps),
        }
        write_text(folder / SCORES_NAME, json.dumps(result, indent=2) + "\n")
        (folder / STATE_NAME).unlink()  # large, and never needed again

    def _config(self, name: str) -> TrainingConfig:
        """The run's configuration, its iterations as many as the price allows."""
        run = self._text["runs"][name]
        tokens = [f"--output={self.output / name}", "--iterations=1"]
        for key, value in run.get("change", {}).items():
            if isinstance(value, str) and value.startswith("<"):
                value = str(self.output / value.strip("<>") / MODEL_NAME)
            tokens.append(f"--{key}={json.dumps(value)}")
        values = with_overrides(self._text["base"], tokens, self._where)
        until = values.pop("real_weights_until", 0)
        config = parse_config(TrainingConfig, values, self._where)
        budget = float(self._text["macs"]) * run.get("share", 1)
        iterations = round(budget / iteration_macs(config))
        values |= {"iterations": iterations, "real_weights_until": round(until * iterations)}
        return parse_config(TrainingConfig, values, self._where)

    def _scores(self, model: Path, steps: int) -> dict[str, Any]:
        upscaler = Upscaler.from_pretrained(model)
        return {
            str(used): self._score(lambda low, _, used=used: upscaler(low, steps=used))
            for used in sorted({1, 4, 8, steps})
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
        names = ["run", "what", "iterations", "minutes", f"1 step: {first}", *others]
        names += ["steps", first, *others]
        rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        rows.append(f"| bicubic | | | | {_cells(self._bicubic)} |{' |' * (1 + len(METRICS))}")
        for name in self.names:
            path = self.output / name / SCORES_NAME
            if path.exists():
                rows += _rows(name, json.loads(path.read_text()))
        return "\n".join(rows) + "\n"


def _rows(name: str, result: dict[str, Any]) -> list[str]:
    runs = {int(steps): scores for steps, scores in result.items() if steps.isdigit()}
    first = f"{result['what']} | {result['iterations']} | {result['seconds'] / 60:.1f}"
    lines = []
    for steps in sorted(runs.keys() - {1}) or [1]:
        left = f"{name} | {first} | {_cells(runs[1])}" if not lines else " |" * (3 + len(METRICS))
        lines.append(f"| {left} | {steps} | {_cells(runs[steps])} |")
    return lines


def _cells(scores: dict[str, float | None]) -> str:
    # A run that was scored before a metric came has none of it.
    return " | ".join(metric.cell(scores.get(metric.name)) for metric in METRICS)


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
