"""Makes a model file and its card from a training run.

python recipes/release.py models/x4-small.yml BENCHMARK... --pack runs/x4_small/model.safetensors

The YAML file says where the model goes, how it is sampled, where it comes from and what to know.
It is packed, scored on the benchmark folders at every quality, and its card is written beside the
YAML file with the scores, which are kept as ``.json`` too. Without ``--pack`` the model file that
is there is scored.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bidiffsr.cli import main as bidiffsr
from bidiffsr.cli.app import write_text
from bidiffsr.cli.terminal import exit_code
from bidiffsr.config import load_yaml
from bidiffsr.evaluation import METRICS
from bidiffsr.models.container import open_model_file
from bidiffsr.tables import TextTable


def pack(card: dict[str, Any], run: Path) -> None:
    """Write the packed model, described as the card says and by the commit it is made at."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    described = {
        "sampling": card["qualities"][card["default"]],
        "qualities": card["qualities"],
        "provenance": card["provenance"] | {"packed at commit": commit.stdout.strip()},
    }
    tokens = [f"--{key}={json.dumps(value)}" for key, value in described.items()]
    _bidiffsr("pack", str(run), "-o", card["file"], "--overwrite", "--verify", *tokens)


def score(card: dict[str, Any], benchmarks: list[str], path: Path) -> None:
    """Score every quality on the benchmarks."""
    qualities = [token for name in card["qualities"] for token in ("--quality", name)]
    _bidiffsr("eval", *benchmarks, "-n", card["file"], *qualities, "--json", str(path))


def render(card: dict[str, Any], name: str, scores: dict[str, Any]) -> str:
    """The card, Markdown."""
    file = Path(card["file"])
    with open_model_file(file) as model:
        config = model.config
    sets = [each["set"] for each in scores["methods"][0]["sets"]]
    known = {key for method in scores["methods"] for each in method["sets"] for key in each}
    metrics = [metric for metric in METRICS if metric.name in known]
    heads = [" / ".join(metric.heading for metric in metrics), *sets, "s/megapixel"]
    rows = []
    for method in scores["methods"]:
        cells = [
            " / ".join(metric.cell(s.get(metric.name)) for metric in metrics)
            for s in method["sets"]
        ]
        seconds = sum(s["seconds"] for s in method["sets"])
        pixels = sum(s["megapixels"] for s in method["sets"])
        rows.append([_title(card, method["method"]), *cells, f"{seconds / pixels:.2g}"])
    table = TextTable(heads, rows, text=heads).markdown()
    origin = "\n".join(f"- {key}: {value}" for key, value in config.provenance.items())
    network = config.network
    return (
        f"# {name}\n\n{card['summary'].strip()}\n\n"
        f"`{file}`: {file.stat().st_size / 1e6:.2f} MB, ×{config.scale}, BI-DiffSR's U-Net with "
        f"C = {network.channels} and {network.norm_groups} norm groups.\n\n"
        f"## Scores\n\n{table}\n{card['scored'].strip()}\n\n"
        f"## Where it comes from\n\n{origin}\n\n"
        f"## What to know\n\n{card['notes'].strip()}\n"
    )


def _title(card: dict[str, Any], method: str) -> str:
    """Of a row: `eval` calls a model's "name (quality)"."""
    quality = method.partition("(")[2].rstrip(")")
    if not quality:
        return method
    steps = card["qualities"][quality]["steps"]
    default = ", the default" if quality == card["default"] else ""
    return f"`{quality}`, {steps} step{'s' * (steps > 1)}{default}"


def _bidiffsr(*arguments: str) -> None:
    if code := bidiffsr(list(arguments)):
        sys.exit(code)


def main() -> int:
    """Pack if there is something to pack, score, write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("card", type=Path)
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--pack", type=Path, metavar="MODEL", help="of the training run")
    chosen = parser.parse_args()
    card = load_yaml(chosen.card)
    record = chosen.card.with_suffix(".json")
    if chosen.pack is not None:
        pack(card, chosen.pack)
    score(card, chosen.benchmarks, record)
    text = render(card, chosen.card.stem, json.loads(record.read_text()))
    write_text(chosen.card.with_suffix(".md"), text)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
