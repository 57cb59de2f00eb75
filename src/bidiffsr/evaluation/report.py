"""The scores of several methods beside each other: tables, and records for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.evaluation.scores import Score, SetMean, by_seed, by_set, summarize
from bidiffsr.tables import Mark, TextTable

if TYPE_CHECKING:
    from bidiffsr.nn.counting import LayerCount

_TEXT_COLUMNS = ("Method", "Set")
_CSV_COLUMNS = ("method", "scale", "set", "metric", "seed", "value", "pictures")


def render(
    scores: Mapping[str, Iterable[Score]],
    scale: int,
    costs: Mapping[str, LayerCount] | None = None,
) -> ScoreReport:
    """The scores of some methods, ready for tables.

    Args:
        scores: of each method, by its name, in the order of the rows.
        scale: what they were upscaled by.
        costs: of one step at 3×256×256, by name of the method; a method may have none.
    """
    found = {method: tuple(members) for method, members in scores.items()}
    return ScoreReport(scale, found, costs or {})


@dataclass(frozen=True)
class ScoreReport:
    """The scores of some methods, to be shown, pasted or processed further."""

    scale: int
    scores: Mapping[str, Sequence[Score]]
    """By name of the method."""
    costs: Mapping[str, LayerCount] = field(default_factory=dict)
    """Of one step at 3×256×256, by name of the method."""

    def table(self) -> TextTable:
        """All that was measured: a row for each method and set."""
        heads = [metric.heading for metric in METRICS]
        return TextTable(
            [*_TEXT_COLUMNS, "Pictures", *heads, "s/megapixel"],
            list(self._rows()),
            text=_TEXT_COLUMNS,
            title=f"x{self.scale}",
        )

    def paper_table(self) -> TextTable:
        """As in the papers: a row for each method, for each set the metrics that compare pictures.

        Params and OPs are of one step at 3×256×256. The best and the second best of each column are
        marked, equal where they are printed equal.
        """
        metrics = [metric for metric in METRICS if not metric.no_reference]
        means = {
            method: {mean.set: mean for mean in summarize(members)}
            for method, members in self.scores.items()
        }
        sets = list(dict.fromkeys(name for each in means.values() for name in each))
        rows = [[method, *self._cost(method)] for method in means]
        marks: dict[tuple[int, int], Mark] = {}
        for name in sets:
            for metric in metrics:
                found = [each.get(name) for each in means.values()]
                column = len(rows[0])
                for row, (mean, mark) in enumerate(zip(found, _marks(metric, found), strict=True)):
                    rows[row].append("-" if mean is None else _cell(metric, mean))
                    if mark is not None:
                        marks[row, column] = mark
        return TextTable(
            ["Method", "Params (M)", "OPs (G)", *[metric.label for metric in metrics] * len(sets)],
            rows,
            text=("Method",),
            title=f"x{self.scale}",
            spans=[("", 3), *((name, len(metrics)) for name in sets)],
            marks=marks,
        )

    def csv(self) -> str:
        """A row for each method, set, metric and seed: the set's mean, unrounded (RFC 4180).

        The seed is empty where nothing is drawn, the value where there is none. ``pictures`` says
        how many have a score.
        """
        text = io.StringIO()
        writer = csv.writer(text)  # whose lines end in CRLF
        writer.writerow(_CSV_COLUMNS)
        for method, members in self.scores.items():
            for name, scores in by_set(members).items():
                for mean in by_seed(scores):
                    for metric in mean.means:
                        where = (method, self.scale, name, metric, mean.seeds[0])
                        writer.writerow([*where, mean[metric], mean.scored[metric]])
        return text.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """For a program: the means and the scores of every picture, unrounded.

        Strict JSON can hold it: an infinite PSNR is None.
        """
        methods = [
            {
                "method": method,
                **self._cost_as_dict(method),
                "sets": [_mean_as_dict(mean) for mean in summarize(members)],
                "pictures": [_score_as_dict(score) for score in members],
            }
            for method, members in self.scores.items()
        ]
        return {"scale": self.scale, "methods": methods}

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for method, members in self.scores.items():
            for mean in summarize(members):
                yield (
                    method,
                    mean.set,
                    str(mean.pictures),
                    *(_cell(metric, mean) for metric in METRICS),
                    f"{mean.seconds_per_megapixel:.3g}",
                )

    def _cost(self, method: str) -> tuple[str, str]:
        cost = self.costs.get(method)
        return ("-", "-") if cost is None else (f"{cost.params / 1e6:.2f}", f"{cost.ops / 1e9:.2f}")

    def _cost_as_dict(self, method: str) -> dict[str, float]:
        cost = self.costs.get(method)
        return {} if cost is None else {"params": cost.params, "ops": cost.ops}


def _marks(metric: Metric, means: Sequence[SetMean | None]) -> list[Mark | None]:
    """The best and the second best of a column, by what is printed."""
    values = [None if mean is None else mean.means.get(metric.name) for mean in means]
    printed = [None if value is None else round(value, metric.decimals) for value in values]
    known = {value for value in printed if value is not None}
    ranked: list[float | None] = sorted(known, reverse=not metric.lower_is_better)  # type: ignore[assignment]
    names: dict[float | None, Mark] = dict(zip(ranked, ("best", "second"), strict=False))
    return [None if value is None else names.get(value) for value in printed]


def _cell(metric: Metric, mean: SetMean) -> str:
    value, scored = mean.means.get(metric.name), mean.scored.get(metric.name, 0)
    partial = 0 < scored < mean.pictures
    shown = metric.cell(value, mean.deviations.get(metric.name))
    return shown + (f" ({scored} of {mean.pictures})" if partial else "")


def _score_as_dict(score: Score) -> dict[str, Any]:
    scores = {metric: _finite(value) for metric, value in score.scores.items()}
    size = {"seconds": score.seconds, "megapixels": score.megapixels}
    seed = {} if score.seed is None else {"seed": score.seed}
    return {"set": score.set, "name": score.name} | seed | scores | size


def _mean_as_dict(mean: SetMean) -> dict[str, Any]:
    record: dict[str, Any] = {"set": mean.set, "pictures": mean.pictures}
    several = len(mean.seeds) > 1
    if several:
        record["seeds"] = list(mean.seeds)
    for metric in METRICS:
        record[metric.name] = _finite(mean.means.get(metric.name))
        if several:
            record[f"{metric.name}_deviation"] = mean.deviations.get(metric.name)
        if metric.optional:
            record[f"{metric.name}_pictures"] = mean.scored.get(metric.name, 0)
    return record | {"seconds": mean.seconds, "megapixels": mean.megapixels}


def _finite(value: float | None) -> float | None:
    return None if value == math.inf else value
