"""Every row and ablation from a recipe to a picture: iterations, model file, bits, upscaling."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from bidiffsr import Engine, Upscaler
from bidiffsr.binary import METHODS, method_for
from bidiffsr.cli import main
from bidiffsr.config import BiDiffSRConfig, SR3Config, TrainingConfig, parse_config
from bidiffsr.errors import CheckpointError
from bidiffsr.nn import build_network
from bidiffsr.nn.counting import count, total
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


study = load(RECIPES / "study.py")
made = study.Study(STUDY)


def parsed(name: str) -> TrainingConfig:
    """The run, its iterations left open: they are a matter of time."""
    return parse_config(TrainingConfig, made.values(name), str(STUDY))


def configure(name: str, folder: Path) -> TrainingConfig:
    """The run, on one small picture and for three iterations."""
    values: Any = made.values(name)
    pixels = np.random.default_rng(0).integers(0, 256, (34, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    values |= {"output": str(folder / "run"), "iterations": 3, "batch": 2}
    values["data"] = {"folders": [str(folder)], "crop": 32}
    return parse_config(TrainingConfig, values, str(STUDY))


def test_the_study_has_every_method_and_ablation() -> None:
    networks = [parsed(name).model.network for name in made.names]
    ours = [network for network in networks if isinstance(network, BiDiffSRConfig)]
    assert len(ours) == len(networks) - 1  # SR3
    assert {network.method for network in ours} == set(METHODS)
    assert {network.fusion for network in ours} == {"cs", "split", "concat", "add"}
    assert {network.resampling for network in ours} == {"consistent", "strided"}
    whole = {what_computes(network) for network in networks}
    assert len(whole) == len(networks)
    assert yaml.safe_load(STUDY.read_text())["minutes"] < 10


def test_runs_that_are_called_the_same_are_one_network() -> None:
    called = {name: made.trained_as(name) for name in made.known}
    assert {name for name, trained in called.items() if name != trained} == {"cs"}
    one, other = (parsed(name) for name in ("cs", called["cs"]))
    assert one.model.network != other.model.network
    assert what_computes(one.model.network) == what_computes(other.model.network)
    assert one.model_dump(exclude={"model": {"network"}, "output": True}) == other.model_dump(
        exclude={"model": {"network"}, "output": True}
    )


def what_computes(network: BiDiffSRConfig | SR3Config) -> tuple[str, ...]:
    """A network's layers: their kinds, what they are made with, and the shapes they learn."""
    with torch.device("meta"):
        module = build_network(network)
    layers = [
        f"{name}: {type(layer).__name__} {sorted(_plain(layer).items())}"
        for name, layer in module.named_modules()
        if name  # the whole holds its configuration
    ]
    shapes = [f"{name}: {tuple(value.shape)}" for name, value in module.state_dict().items()]
    return *layers, *shapes


def _plain(layer: nn.Module) -> dict[str, str]:
    own = {name: value for name, value in vars(layer).items() if not name.startswith("_")}
    return {name: repr(value) for name, value in own.items() if name != "training"}


@pytest.mark.parametrize("file", ["published", "published_ablations", "small"])
def test_every_run_of_the_larger_studies_is_valid_and_costs_the_same(file: str) -> None:
    path = RECIPES / "methods" / f"{file}.yml"
    larger = study.Study(path)
    (iterations,) = {larger.config(name).iterations for name in larger.names}
    assert iterations == yaml.safe_load(path.read_text())["iterations"]
    names = [name.removesuffix("-x2") for name in larger.names if name.endswith("-x2")]
    known = {"published": "rows", "published_ablations": "ablations"}
    if file in known:
        systems = yaml.safe_load((path.parent / f"{known[file]}.yml").read_text())
        assert set(names) - {"sr3"} == set(systems)
    else:
        assert set(names) == set(made.names)


def test_the_comparison_has_every_system_in_both_chains_with_three_seeds() -> None:
    comparison = study.Study(RECIPES / "methods" / "comparison.yml")
    configs = {
        name: parse_config(TrainingConfig, comparison.values(name), name)
        for name in comparison.names
    }
    systems = set(made.names)
    assert set(configs) == {
        f"{name}-{chain}-seed{seed}"
        for name in systems
        for chain in ("published", "short")
        for seed in range(3)
    }
    for name, config in configs.items():
        assert config.seed == int(name[-1])
        timesteps = config.model.diffusion.schedule.timesteps
        assert timesteps == (2000 if "-published-" in name else 4)
        assert config.model.network.size_multiple == 8  # patch 4, two levels


# Section 4.1 of the paper; Params (M) and OPs (G) of its Table 2, those of K = 1 and 2 its Table 1.
@pytest.mark.parametrize(
    ("file", "name", "scale", "crop", "iterations", "params", "ops"),
    [
        ("published", "bi-diffsr-x2", 2, 128, 1_000_000, 4.58, 36.67),
        ("published", "bi-diffsr-x4", 4, 256, 1_000_000, 4.58, 36.67),
        ("published", "sr3-x2", 2, 128, 1_000_000, 55.41, 176.41),
        ("published_ablations", "bi-diffsr-x2", 2, 128, 500_000, 4.58, 36.67),
        ("published_ablations", "cs-x2", 2, 128, 500_000, 4.30, 36.67),
        ("published_ablations", "k2-x2", 2, 128, 500_000, 4.37, 36.67),
    ],
)
def test_published_settings_are_the_papers(
    file: str, name: str, scale: int, crop: int, iterations: int, params: float, ops: float
) -> None:
    config = study.Study(RECIPES / "methods" / f"{file}.yml").config(name)
    assert (config.model.scale, config.data.crop, config.iterations) == (scale, crop, iterations)
    assert (config.batch, config.loss, config.timestep_per_batch) == (16, "l1", True)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.betas, optimizer.ema_decay) == (1e-4, (0.9, 0.99), 0)
    assert optimizer.final_learning_rate is None
    assert config.model.sampling.steps == 50
    assert config.model.diffusion.schedule.timesteps == 2000
    assert config.model.network.dropout == 0.2
    cost = total(count(config.model.network, 256, 256))
    assert round(cost.params / 1e6, 2) == params
    assert round(cost.ops / 1e9, 2) == ops


def test_sr3_trains_and_upscales_and_has_nothing_to_pack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure("sr3", tmp_path)
    assert isinstance(config.model.network, SR3Config)
    assert run(config)[-1].iteration == 3
    trained = tmp_path / "run" / "model.safetensors"
    small = np.random.default_rng(1).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    assert Upscaler.from_pretrained(trained)(small, steps=2).shape == (52, 36, 3)
    assert main(["pack", str(trained), "-o", str(tmp_path / "packed.safetensors")]) == 1
    assert "only BI-DiffSR networks are packed" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in made.names if name != "sr3"])
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
