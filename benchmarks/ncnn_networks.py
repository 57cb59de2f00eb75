"""Full-precision networks of other packages, run by ncnn on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.images.image import from_float, to_float

Pixels = NDArray[np.uint8]
Upscale = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Ncnn:
    """A network of another package, run by ncnn."""

    name: str
    package: str
    model: str

    def load(self, threads: int) -> Upscale | str:
        """A function of (H, W, 3) uint8, RGB, or why there is none."""
        package = find_spec(self.package)  # not imported: that takes a graphics driver
        if package is None or package.origin is None or find_spec("ncnn") is None:
            return "not installed; pip install 'bidiffsr[peers]'"
        ncnn: Any = import_module("ncnn")
        stem = Path(package.origin).parent / "models" / self.model
        layers = [line.split() for line in stem.with_suffix(".param").read_text().splitlines()[2:]]
        source, result = layers[0][4], layers[-1][4 + int(layers[-1][2])]
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for load, suffix in ((net.load_param, ".param"), (net.load_model, ".bin")):
            if load(str(stem.with_suffix(suffix))):
                return f"{stem}{suffix} cannot be loaded"

        def upscale(low: Pixels) -> Pixels:
            with net.create_extractor() as extractor:
                planes = np.ascontiguousarray(to_float(low).transpose(2, 0, 1))
                extractor.input(source, ncnn.Mat(planes))
                _, found = extractor.extract(result)
                return from_float(np.array(found).transpose(1, 2, 0))

        return upscale
