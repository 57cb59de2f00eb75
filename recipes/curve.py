"""Scores a model at many samplings: its perception-distortion curve, from which qualities come.

python recipes/curve.py MODEL FOLDER [--pictures N] [--output curve] [--steps 1 2 4] [--noise 1 0.9]
    [--mean 0 0.3] [--perception lpips]

writes ``<output>.json`` with every score and ``<output>.png``, PSNR against NIQE, LPIPS or another
metric of which lower is better.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from bidiffsr import Upscaler
from bidiffsr.cli.app import write_text
from bidiffsr.cli.terminal import exit_code
from bidiffsr.config import SamplingConfig, parse_config
from bidiffsr.evaluation import METRICS, Method, bicubic, evaluate, summarize
from bidiffsr.evaluation.benchmark import Benchmark

Point = dict[str, Any]

DISTORTION = METRICS[0]
PERCEPTION = {metric.name: metric for metric in METRICS if metric.lower_is_better}
"""What may be drawn against it."""


def score(folder: Path, method: Method, scale: int, pictures: int | None) -> Point:
    """Means over the folder's first pictures."""
    (mean,) = summarize(islice(evaluate(folder, method, scale), pictures))
    return dict(mean.means)


def score_originals(folder: Path, scale: int, pictures: int | None) -> Point:
    """The originals' means by the metrics that need nothing to compare with."""
    highs = [pair.high for pair in islice(Benchmark.open(folder).pairs(scale), pictures)]
    means: Point = {}
    for metric in METRICS:
        if metric.no_reference:
            scores = [metric.score(high, high, scale) for high in highs]
            found = [score for score in scores if score is not None]
            if found:
                means[metric.name] = sum(found) / len(found)
    return means


def samplings(
    base: SamplingConfig,
    steps: Sequence[int],
    noises: Sequence[float],
    means: Sequence[float],
    etas: Sequence[float],
) -> list[SamplingConfig]:
    """All combinations; one step knows no noise, so it stands there once."""
    several = [
        {"noise_scale": noise, "mean_weight": mean, "eta": eta}
        for noise, mean, eta in product(noises, means, etas)
    ]
    found = [
        {"steps": count} | (more if count > 1 else {}) for count, more in product(steps, several)
    ]
    unique = [one for index, one in enumerate(found) if one not in found[:index]]
    return [parse_config(SamplingConfig, base.model_dump() | one, "sampling") for one in unique]


def curve(chosen: argparse.Namespace) -> list[Point]:
    """Every sampling's scores, with bicubic's and the originals' beside them."""
    folder, pictures = chosen.folder, chosen.pictures
    made = Upscaler.from_pretrained(chosen.model)
    scale = made.config.scale
    points = [{"name": "bicubic"} | score(folder, bicubic, scale, pictures)]
    points.append({"name": "original"} | score_originals(folder, scale, pictures))
    grid = chosen.steps, chosen.noise, chosen.mean, chosen.eta
    for sampling in samplings(made.config.sampling, *grid):
        config = made.config.model_copy(update={"sampling": sampling})
        upscaler = Upscaler(made.backend, config)
        point = {"name": _name(sampling)} | sampling.model_dump()
        point |= score(folder, lambda low, _, upscaler=upscaler: upscaler(low), scale, pictures)
        cells = (f"{metric.heading} {metric.cell(point[metric.name])}" for metric in METRICS)
        print(f"{point['name']}: {', '.join(cells)}", flush=True)
        points.append(point)
    return points


def _name(sampling: SamplingConfig) -> str:
    if sampling.steps == 1:
        return "1 step"
    mean = f", mean {sampling.mean_weight:g}" if sampling.mean_weight else ""
    eta = f", eta {sampling.eta:g}" if sampling.eta else ""
    return f"{sampling.steps} steps, noise {sampling.noise_scale:g}{mean}{eta}"


def _line_name(steps: int, mean: float) -> str:
    return f"{steps} step{'s' * (steps > 1)}" + (f", mean {mean:g}" if mean else "")


def plot(points: Sequence[Point], perception: str, title: str, path: Path) -> None:
    """`DISTORTION` against a metric of `PERCEPTION`: left and up is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    lines: dict[tuple[int, float], list[Point]] = {}
    for point in points:
        if "steps" in point:
            lines.setdefault((point["steps"], point.get("mean_weight", 0.0)), []).append(point)
    for (steps, mean), line in sorted(lines.items()):
        line.sort(key=lambda point: point["noise_scale"])
        values = [point[perception] for point in line]
        heights = [point[DISTORTION.name] for point in line]
        axis.plot(values, heights, "o-", label=_line_name(steps, mean))
        for point in line:
            if steps > 1:
                place = point[perception], point[DISTORTION.name]
                axis.annotate(f" {point['noise_scale']:g}", place, fontsize=8)
    plain, originals = points[0], points[1]
    axis.plot(plain[perception], plain[DISTORTION.name], "ks", label="bicubic")
    if perception in originals:
        label = f"{PERCEPTION[perception].heading} of the originals"
        axis.axvline(originals[perception], color="gray", linestyle=":", label=label)
    axis.set_xlabel(f"{PERCEPTION[perception].heading} (lower is better)")
    axis.set_ylabel(DISTORTION.heading)
    axis.set_title(f"{title}\n(numbers: noise scale)")
    axis.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Score, write, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=None)
    parser.add_argument("--output", type=Path, default=Path("curve"))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 0.9, 0.8])
    parser.add_argument("--mean", type=float, nargs="+", default=[0.0])
    parser.add_argument("--eta", type=float, nargs="+", default=[0.0])
    parser.add_argument("--perception", choices=PERCEPTION, default=next(iter(PERCEPTION)))
    chosen = parser.parse_args()
    points = curve(chosen)
    write_text(chosen.output.with_suffix(".json"), json.dumps(points, indent=1) + "\n")
    title = f"{chosen.model} on {chosen.folder.name}"
    plot(points, chosen.perception, title, chosen.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
