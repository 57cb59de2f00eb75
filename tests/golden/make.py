"""Makes metrics.json and lpips.json again, in the current folder, from metrics_and_resize.npz.

pip install basicsr==1.4.2 lpips==0.1.4, in an environment of their own; then

    python tests/golden/make.py

LPIPS fetches the weights of its backbones from torchvision.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent


def metrics(arrays: Any, pairs: int) -> list[dict[str, Any]]:
    """PSNR and SSIM as BasicSR computes them, which takes BGR."""
    module: Any = import_module("basicsr.metrics.psnr_ssim")
    records = []
    for index in range(pairs):
        first, second = (arrays[f"{index}.{name}"] for name in ("rgb", "distorted_rgb"))
        record: dict[str, Any] = {"i": index, "h": first.shape[0], "w": first.shape[1]}
        for crop in (0, 2, 4):
            for channels in ("rgb", "y"):
                for metric in ("psnr", "ssim"):
                    score = getattr(module, f"calculate_{metric}")
                    record[f"{metric}_crop{crop}_{channels}"] = float(
                        score(
                            first[..., ::-1],
                            second[..., ::-1],
                            crop_border=crop,
                            test_y_channel=channels == "y",
                        )
                    )
        records.append(record)
    return records


def lpips(arrays: Any, pairs: int) -> list[dict[str, Any]]:
    """LPIPS 0.1 as its authors compute it, of whole pictures in [-1, 1]."""
    module: Any = import_module("lpips")
    networks = {net: module.LPIPS(net=net, version="0.1") for net in ("alex", "vgg")}
    records = []
    for index in range(pairs):
        first, second = (
            torch.from_numpy(arrays[f"{index}.{name}"]).permute(2, 0, 1)[None].float() / 127.5 - 1
            for name in ("rgb", "distorted_rgb")
        )
        with torch.no_grad():
            scores = {net: float(network(first, second)) for net, network in networks.items()}
        records.append({"i": index, **scores})
    return records


def main() -> None:
    """Write both files."""
    with np.load(HERE / "metrics_and_resize.npz") as arrays:
        pairs = sum(name.endswith(".distorted_rgb") for name in arrays.files)
        for name, make in (("metrics", metrics), ("lpips", lpips)):
            text = json.dumps(make(arrays, pairs), indent=1)
            Path(f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
