"""Writes the SHA-256 of outputs that no refactoring may change.

    python tests/pinned_outputs.py > tests/golden/outputs.json

The engine runs ``exact`` on its portable kernel and one thread; PyTorch on one thread and, as far
as its libraries let themselves be told, the oldest x86-64 instructions: so the bytes are the same
on every x86-64 machine. Where a change of results is meant, write the file anew and say why.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ENVIRONMENT = {
    "BIDIFFSR_KERNEL": "portable",
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_NUM_THREADS": "1",
}
ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
MODELS = ("x4-detail", "x4-small", "x2-small", "x4-base", "x4-real")


def pictures() -> dict[str, Any]:
    """A piece of the demo picture, and two small ones with alpha and with 16 bits of grey."""
    import numpy as np

    from bidiffsr import read_image

    demo = read_image(ROOT / "examples" / "demo.png").pixels
    small = demo[70:81, 90:107]
    alpha = np.linspace(0, 255, small[..., :1].size).reshape(*small.shape[:2], 1).astype(np.uint8)
    return {
        "demo": np.ascontiguousarray(demo[60:108, 80:144]),
        "alpha": np.concatenate([small, alpha], axis=-1),
        "grey": small[2:11, :9, 1].astype(np.uint16) * 257,
    }


def _model(name: str) -> str:
    from bidiffsr import list_models

    return name if name in list_models() else str(ROOT / "models" / f"{name}.safetensors")


def _digest(result: Any) -> str:
    return hashlib.sha256(result.tobytes() + str((result.shape, result.dtype)).encode()).hexdigest()


def upscaled() -> Iterator[tuple[str, str]]:
    """Of each model: the small pictures at each quality, and the demo's piece whole and tiled."""
    from bidiffsr import Upscaler

    found = pictures()
    for name in MODELS:
        engine = Upscaler.from_pretrained(
            _model(name), backend="engine", precision="exact", threads=1
        )
        for quality in engine.config.qualities:
            for picture in ("alpha", "grey"):
                result = engine(found[picture], quality=quality, seed=7)
                yield f"engine {name} {quality} {picture}", _digest(result)
        if name.endswith("small"):
            for tile in (4096, 96):
                result = engine(found["demo"], quality="fast", seed=3, tile=tile)
                yield f"engine {name} fast demo tile {tile}", _digest(result)
        torch = Upscaler.from_pretrained(_model(name), backend="torch", device="cpu")
        yield f"torch {name} alpha", _digest(torch(found["alpha"], seed=7))
        if name == "x4-real":
            samples = engine(found["grey"], steps=3, samples=2, scale=1.5)
            yield f"engine {name} two samples at 1.5", _digest(samples[1])


def packed() -> Iterator[tuple[str, str]]:
    """What ``bidiffsr pack`` makes of a fixed network."""
    from safetensors.numpy import load_file

    from bidiffsr.cli import main
    from tiny_model import save_tiny_model

    with TemporaryDirectory() as folder:
        trained = save_tiny_model(Path(folder) / "trained.safetensors", tail=1.0)
        weights = load_file(trained)
        yield (
            "weights of the packed",
            hashlib.sha256(
                b"".join(weights[name].tobytes() for name in sorted(weights))
            ).hexdigest(),
        )
        target = Path(folder) / "packed.safetensors"
        with redirect_stdout(sys.stderr):
            code = main(["pack", str(trained), "-o", str(target)])
        if code:
            raise SystemExit(code)
        yield "packed", hashlib.sha256(target.read_bytes()).hexdigest()


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # Libraries read these when they are loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    print(json.dumps({**dict(upscaled()), **dict(packed())}, indent=2))
