"""Scores while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bidiffsr.config import ValidationConfig
from bidiffsr.evaluation import bicubic, evaluate
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.images.resize import imresize
from bidiffsr.training.validation import Validation
from tiny_model import tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("side", "metrics"),
    [
        (24, {"psnr", "ssim"}),
        (48, {"psnr", "ssim", "lpips"}),
        (104, {"psnr", "ssim", "niqe", "lpips"}),
    ],
)
def test_every_metric_that_is_defined_has_its_name_in_the_log(
    side: int, metrics: set[str], tmp_path: Path
) -> None:
    (tmp_path / "kodak24").mkdir()
    low = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    write_image(tmp_path / "kodak24" / "a.png", Image(imresize(low, 4)))
    config = ValidationConfig(folders=(tmp_path / "kodak24",))
    network = tiny_network()  # whose results are bicubic
    scores = Validation(config, tiny_config(), tmp_path / "run").run(network, 7)
    assert scores.keys() == {f"kodak24/{metric}" for metric in metrics}
    [expected] = evaluate(tmp_path / "kodak24", bicubic, 4)
    for metric in metrics:
        assert scores[f"kodak24/{metric}"] == pytest.approx(expected[metric], rel=0.1)
    grid = read_image(tmp_path / "run" / "samples" / "kodak24-0000007.png")
    assert grid.pixels.shape[2] == 3
