"""Every method from a recipe to a picture: a few iterations, the model file, bits, upscaling."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bidiffsr import Engine, Upscaler
from bidiffsr.binary import METHODS, method_for
from bidiffsr.cli import main
from bidiffsr.config import BiDiffSRConfig, TrainingConfig, parse_config
from bidiffsr.errors import CheckpointError
from training_runs import run

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = Path(__file__).parents[1] / "recipes"
STUDY = RECIPES / "methods" / "tiny.yml"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = load(RECIPES / "study.py").Study(STUDY)


def configure(name: str, folder: Path) -> TrainingConfig:
    """The run, on one small picture and for three iterations."""
    values: Any = made.values(name)
    pixels = np.random.default_rng(0).integers(0, 256, (34, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    values |= {"output": str(folder / "run"), "iterations": 3, "batch": 2}
    values["data"] = {"folders": [str(folder)], "crop": 32}
    return parse_config(TrainingConfig, values, str(STUDY))


def test_the_study_has_every_method() -> None:
    networks = [made.values(name)["model"]["network"] for name in made.names]
    assert {network.get("method", "bi-diffsr") for network in networks} == set(METHODS)
    assert yaml.safe_load(STUDY.read_text())["minutes"] < 10


@pytest.mark.parametrize("name", made.names)
def test_every_run_trains_packs_and_upscales(name: str, tmp_path: Path) -> None:
    config = configure(name, tmp_path)
    assert run(config)[-1].iteration == 3
    trained, packed = tmp_path / "run" / "model.safetensors", tmp_path / "packed.safetensors"
    assert main(["pack", str(trained), "-o", str(packed), "--float", "fp32", "--verify"]) == 0
    small = np.random.default_rng(1).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    torch_, ours = (
        Upscaler.from_pretrained(path, backend="torch", device="cpu")(small, steps=2)
        for path in (trained, packed)
    )
    assert np.abs(torch_.astype(int) - ours).max() <= 1
    network = config.model.network
    assert isinstance(network, BiDiffSRConfig)
    if method_for(network).epilogue is None:
        with pytest.raises(CheckpointError, match=rf"network\.method: '{network.method}'"):
            Engine(packed)
        automatic = Upscaler.from_pretrained(packed)(small, steps=2)
        assert np.abs(automatic.astype(int) - ours).max() <= 1
    else:
        engine = Upscaler.from_pretrained(packed, backend="engine")(small, steps=2)
        # Signs next to zero may flip.
        assert np.abs(engine.astype(int) - ours).mean() < 1
