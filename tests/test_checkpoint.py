"""Weight files: published checkpoints and our own, sound, damaged and hostile."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bidiffsr.binary import BinaryConv2d, ScaledWeightSign
from bidiffsr.config import (
    AngularSchedule,
    BiDiffSRConfig,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    SamplingConfig,
    SR3Config,
)
from bidiffsr.errors import CheckpointError, ConfigError, OutputError
from bidiffsr.models.published import convert_reference, from_reference, reference_network_config
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import BiDiffSRUNet, build_network
from bidiffsr.system.files import write_atomically
from helpers import largest_file, read_golden, relative_l2, scramble, tiny_network_config

State = dict[str, Tensor]

# The published networks' options, as their option files give them.
OPTIONS: dict[str, Any] = {
    "in_channel": 6,
    "out_channel": 3,
    "inner_channel": 64,
    "norm_groups": 16,
    "channel_mults": [1, 2, 4, 8],
    "attn_res": [],
    "res_blocks": 2,
    "dropout": 0.2,
    "image_size": 256,
    "fp_res": [256, 128],
    "total_step": 2000,
    "dynamic_group": 5,
}
NARROW = OPTIONS | {"inner_channel": 8, "norm_groups": 4}
ONE_SHIFT = "downs.1.res_block.block1.conv.TaR.dynamic_move_3.bias"


@pytest.fixture(scope="module")
def narrow(golden: Path) -> Path:
    return golden / "unet_narrow.weights.safetensors"


@pytest.fixture(scope="module")
def weights(narrow: Path) -> State:
    """Under the published names."""
    return load_file(narrow)


@pytest.fixture(scope="module")
def network(narrow: Path) -> BiDiffSRUNet:
    return from_reference(narrow)


@pytest.fixture(scope="module")
def inputs(golden: Path) -> tuple[Tensor, Tensor, Tensor]:
    """A batch that uses three time groups."""
    forward = read_golden(golden / "unet_narrow.forward.safetensors")
    return forward["batch.x"], forward["batch.cond"], torch.tensor([0, 1000, 1999])


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    ours, theirs = found.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name], value), name
    assert not found.training
    assert all(parameter.requires_grad for parameter in found.parameters())


def save_reference(path: Path, state: State, options: Any = NARROW) -> Path:
    save_file(state, path, metadata={"config": json.dumps(options)})
    return path


def assert_one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Published checkpoints.


def test_options_come_from_the_metadata_or_from_the_caller(
    narrow: Path, network: BiDiffSRUNet, weights: State, tmp_path: Path
) -> None:
    with safe_open(narrow, framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == NARROW
    assert_same(from_reference(narrow, NARROW), network)
    assert_same(from_reference(str(narrow)), network)
    wrong = save_reference(tmp_path / "wrong.safetensors", weights, OPTIONS)
    with pytest.raises(CheckpointError):
        from_reference(wrong)
    assert_same(from_reference(wrong, NARROW), network)  # the caller knows better
    save_file(weights, tmp_path / "bare.safetensors")
    assert_same(from_reference(tmp_path / "bare.safetensors", NARROW), network)
    with pytest.raises(ConfigError, match="options"):
        from_reference(tmp_path / "bare.safetensors")


def test_every_tensor_lands_somewhere_of_its_own(network: BiDiffSRUNet, weights: State) -> None:
    ours = np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])
    theirs = np.concatenate([value.numpy().ravel() for value in weights.values()])
    np.testing.assert_array_equal(np.sort(ours), np.sort(theirs.astype(np.float32)))


def zeros_like(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


PUBLISHED_FORMS: dict[str, Callable[[State], Any]] = {
    "params": lambda state: {"params": state},
    "params_ema": lambda state: {"params_ema": state},
    "params_ema preferred": lambda state: {"params": zeros_like(state), "params_ema": state},
    "params_ema preferred, first": lambda state: {"params_ema": state, "params": zeros_like(state)},
    "beside other things": lambda state: {"iter": 7, "params": state, "note": "x"},
    "bare": lambda state: state,
    "module prefix": lambda state: {"params": {f"module.{k}": v for k, v in state.items()}},
    "bare module prefix": lambda state: {f"module.{k}": v for k, v in state.items()},
    "float32": lambda state: {k: v.float() for k, v in state.items()},
    "parameters": lambda state: {"params": {k: nn.Parameter(v) for k, v in state.items()}},
    "shuffled": lambda state: dict(random.Random(0).sample(list(state.items()), len(state))),
}


@pytest.mark.parametrize("form", PUBLISHED_FORMS)
def test_every_published_form_is_the_same_network(
    form: str, weights: State, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    torch.save(PUBLISHED_FORMS[form](weights), tmp_path / "x.pth")
    assert_same(from_reference(tmp_path / "x.pth", NARROW), network)


def test_the_older_pickle_format_is_read(
    weights: State, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    torch.save({"params": weights}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert_same(from_reference(tmp_path / "x.pth", NARROW), network)


@pytest.mark.parametrize(
    ("image_size", "fp_res", "attn_res", "full_precision", "attention"),
    [
        (256, [256, 128], [], 2, ()),
        (256, [], [], 0, ()),
        (256, None, None, 0, ()),
        (256, [256], [128], 1, (1,)),
        (256, [256, 128, 64, 32], [], 4, ()),
        (256, [32, 128, 256, 64], [32, 256], 4, (0, 3)),
        (128, [128], [16], 1, (3,)),
        (128, [256, 128], [], 1, ()),  # 256 names no level
    ],
)
def test_pretended_sizes_become_levels(
    image_size: int,
    fp_res: list[int] | None,
    attn_res: list[int] | None,
    full_precision: int,
    attention: tuple[int, ...],
) -> None:
    sizes = {"image_size": image_size, "fp_res": fp_res, "attn_res": attn_res}
    config = reference_network_config(OPTIONS | sizes, "here")
    assert config.full_precision_up_levels == full_precision
    assert config.attention_levels == attention


def test_published_options_are_our_defaults() -> None:
    assert reference_network_config(OPTIONS, "here") == BiDiffSRConfig()
    assert reference_network_config(OPTIONS | {"type": "BIDiffSRUNet"}, "here") == BiDiffSRConfig()


@pytest.mark.parametrize("fp_res", [[128], [256, 64], [64, 32], [256, 128, 32]])
def test_full_precision_levels_must_be_the_shallowest(fp_res: list[int]) -> None:
    with pytest.raises(ConfigError, match="fp_res") as error:
        reference_network_config(OPTIONS | {"fp_res": fp_res}, "here")
    assert_one_line(error, "here", "256", str(fp_res))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"bogus": 1}, "bogus"),
        ({"in_channel": 3}, "in_channel"),
        ({"out_channel": 6}, "out_channel"),
        ({"inner_channel": 7}, "channels"),
        ({"inner_channel": 8.5}, "inner_channel"),
        ({"inner_channel": "many"}, "inner_channel"),
        ({"inner_channel": 2**40}, "inner_channel"),
        ({"norm_groups": 0}, "norm_groups"),
        ({"norm_groups": 24}, "norm_groups"),
        ({"channel_mults": None}, "channel_mults"),
        ({"channel_mults": []}, "channel_mults"),
        ({"channel_mults": [1] * 100_000}, "channel_mults"),
        ({"channel_mults": [1, 2, 3]}, "multipliers"),
        ({"res_blocks": 0}, "res_blocks"),
        ({"res_blocks": 10**9}, "blocks_per_level"),
        ({"dynamic_group": 0}, "dynamic_group"),
        ({"dynamic_group": 10**9}, "time_groups"),
        ({"total_step": -1}, "total_step"),
        ({"dropout": float("nan")}, "dropout"),
        ({"dropout": 1}, "dropout"),
    ],
)
def test_unfit_options_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        reference_network_config(OPTIONS | change, "here")
    assert_one_line(error, "here", named)


@pytest.mark.parametrize("key", sorted(set(OPTIONS) - {"attn_res", "fp_res", "dropout"}))
def test_absent_options_are_named(key: str) -> None:
    options = {name: value for name, value in OPTIONS.items() if name != key}
    if key in ("in_channel", "out_channel"):  # they can have one value only
        assert reference_network_config(options, "here") == BiDiffSRConfig()
        return
    with pytest.raises(ConfigError) as error:
        reference_network_config(options, "here")
    assert_one_line(error, "here", f"network_g.{key}: missing")


@pytest.mark.parametrize("options", [[], "text", 5, [["inner_channel", 8]]])
def test_options_must_be_a_mapping(options: Any, narrow: Path) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        from_reference(narrow, options)


OPTION_FILE = """\
name: test_BI_DiffSR_DDIM_S50_x2  # as published, paths and data sets left out
model_type: BIDiffSRModel
scale: 2
num_gpu: 1
manual_seed: 10

network_g:
  type: BIDiffSRUNet
  in_channel: 6
  out_channel: 3
  inner_channel: 8
  norm_groups: 4
  channel_mults: [1, 2, 4, 8]
  attn_res: []
  res_blocks: 2
  dropout: 0.2
  image_size: 256
  fp_res: [256, 128]
  total_step: 2000
  dynamic_group: 5 # K

beta_schedule:
  scheduler_type: DDIM
  schedule: linear
  n_timestep: 2000
  linear_start: !!float 1e-6
  linear_end: !!float 1e-2
  prediction_type: epsilon
  num_inference_steps: 50
  guidance_scale: 7.5
  is_guidance: False

path:
  pretrain_network_g: experiments/pretrained_models/BI_DiffSR_x2.pth
  strict_load_g: true
  resume_state: params
"""


def write_options(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = OPTION_FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "options.yml").write_text(text, encoding="utf-8")
    return tmp_path / "options.yml"


def test_a_published_option_file_is_converted(
    weights: State, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    torch.save({"params": weights}, tmp_path / "BI_DiffSR_x2.pth")
    found, config = convert_reference(tmp_path / "BI_DiffSR_x2.pth", write_options(tmp_path))
    assert_same(found, network)
    assert config.network == network.config == found.config
    assert config.diffusion == DiffusionConfig(
        schedule=LinearSchedule(timesteps=2000, beta_start=1e-6, beta_end=1e-2),
        prediction="epsilon",
        variable="image",
        clip=1.0,
        input_scaling="none",
    )
    assert config.sampling == SamplingConfig(sampler="ddim", steps=50, spacing="leading", eta=0)
    assert config.scale == 2
    assert "BI_DiffSR_x2.pth" in config.provenance.values()
    save_model(tmp_path / "converted.safetensors", found, config)
    assert load_model(tmp_path / "converted.safetensors")[1] == config


def test_other_option_files_are_converted(narrow: Path, tmp_path: Path) -> None:
    changes = [
        ("scale: 2\n", "scale: 4\n"),
        ("n_timestep: 2000", "n_timestep: 1000"),
        ("total_step: 2000", "total_step: 1000"),
        ("start: !!float 1e-6", "start: 1.0e-4"),
        ("end: !!float 1e-2", "end: 0.02"),
        ("num_inference_steps: 50", "num_inference_steps: 7"),
        ("prediction_type: epsilon", "prediction_type: v_prediction"),
    ]
    _, config = convert_reference(narrow, write_options(tmp_path, *changes))
    expected = LinearSchedule(timesteps=1000, beta_start=1e-4, beta_end=0.02)
    assert config.diffusion.schedule == expected
    assert config.diffusion.prediction == "v"
    assert config.sampling.steps == 7
    assert config.scale == 4
    assert isinstance(config.network, BiDiffSRConfig)
    assert config.network.timesteps == 1000


def test_a_self_describing_file_needs_no_option_file(golden: Path) -> None:
    _, config = convert_reference(golden / "unet_shallow_attn.weights.safetensors", None)
    assert config.diffusion.schedule.timesteps == 1000
    assert isinstance(config.network, BiDiffSRConfig)
    assert config.network.attention_levels == (1,)
    assert config.network.time_groups == 3


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("schedule: linear", "schedule: cosine", "cosine"),
        ("prediction_type: epsilon", "prediction_type: rectified", "rectified"),
        ("n_timestep: 2000", "n_timestep: 1000", "timesteps"),
        ("n_timestep: 2000", "n_timestep: soon", "n_timestep"),
        ("start: !!float 1e-6", "start: 0", "beta_start"),
        ("end: !!float 1e-2", "end: 2", "beta_end"),
        ("num_inference_steps: 50", "num_inference_steps: 0", "steps"),
        ("num_inference_steps: 50", "num_inference_steps: 2001", "steps"),
        ("scale: 2\n", "scale: 99\n", "scale"),
        ("network_g:", "network_of_mine:", "network_g"),
        ("fp_res: [256, 128]", "fp_res: [128]", "fp_res"),
        ("dynamic_group", "dynamic_grupo", "dynamic_grupo"),
        ("K\n", "K\n  - \n", "YAML"),
        ("dropout: 0.2", "dropout: !!python/object/apply:os.getpid []", "YAML"),
    ],
)
def test_unfit_option_files_are_refused(
    old: str, new: str, named: str, narrow: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        convert_reference(narrow, write_options(tmp_path, (old, new)))
    assert_one_line(error)


def test_an_option_file_must_exist(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yml"):
        convert_reference(narrow, tmp_path / "absent.yml")


# Damaged and hostile checkpoints.


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "folder"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for read in (lambda path: from_reference(path, NARROW), load_model):
        with pytest.raises(CheckpointError, match=name) as error:
            read(tmp_path / name)
        assert_one_line(error)


def cuts(size: int, count: int) -> list[int]:
    """Where a file is cut: around its beginning and end, and at random between."""
    edges = [0, 1, 2, 7, 8, 9, 16, 100, size // 2, size - 100, size - 2, size - 1]
    return edges + [random.Random(size).randrange(size) for _ in range(count)]


@pytest.mark.parametrize(("suffix", "count"), [("pth", 40), ("safetensors", 40), ("old.pth", 8)])
def test_a_truncated_file_is_refused(
    suffix: str, count: int, weights: State, tmp_path: Path
) -> None:
    whole = tmp_path / f"whole.{suffix}"
    if suffix == "safetensors":
        save_reference(whole, weights)
    else:
        torch.save(weights, whole, _use_new_zipfile_serialization=suffix == "pth")
    data = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for size in cuts(len(data), count):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="cut") as error:
            from_reference(path, NARROW)
        assert_one_line(error)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_random_bytes_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"noise.{suffix}"
    for seed in range(100):
        noise = random.Random(seed)
        path.write_bytes(noise.randbytes(noise.choice([1, 8, 50, 3000])))
        for read in (lambda path: from_reference(path, NARROW), load_model):
            with pytest.raises(CheckpointError, match="noise") as error:
                read(path)
            assert_one_line(error)


class Runs:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.folder,))


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
@pytest.mark.parametrize("hidden", ["alone", "among the weights"])
def test_a_pickle_runs_nothing(form: str, hidden: str, weights: State, tmp_path: Path) -> None:
    trap = tmp_path / "it ran"
    content: Any = Runs(trap) if hidden == "alone" else {"params": weights, "x": Runs(trap)}
    path = tmp_path / "hostile.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as error:
        from_reference(path, NARROW)
    assert_one_line(error, "hostile.pth")
    assert not trap.exists()
    if form == "pickle":  # the trap does work
        pickle.loads(path.read_bytes())
        assert trap.exists()


@pytest.mark.parametrize(
    "content",
    [[], {}, {"params": {}}, torch.zeros(3), 5, {"a": 1}, {1: torch.zeros(1)}, {"params": [1, 2]}],
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as error:
        from_reference(tmp_path / "other.pth", NARROW)
    assert_one_line(error, "other.pth")


def reference_with(state: State, key: str, value: Tensor | None) -> State:
    """A copy with ``key`` replaced, or removed where ``value`` is None."""
    changed = {name: old for name, old in state.items() if name != key}
    return changed if value is None else changed | {key: value}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("downs.0.weight", None),
        ("downs.0.weight", torch.zeros(8, 6, 3)),
        ("downs.0.weight", torch.zeros(8, 6, 3, 5)),
        ("downs.0.weight", torch.zeros(())),
        ("final_conv.block.3.bias", torch.zeros(4)),
        ("downs.1.res_block.block1.conv.binary_conv.weight", torch.zeros(8, 8, 1, 1)),
        ("timestep_level_mlp.1.weight", torch.zeros(8, 32)),
        (ONE_SHIFT, None),
        (ONE_SHIFT, torch.zeros(1, 9, 1, 1)),
        (ONE_SHIFT, torch.zeros(0)),
        ("downs.4.unheard.of", torch.zeros(1)),
    ],
)
def test_the_key_that_does_not_fit_is_named(
    key: str, value: Tensor | None, suffix: str, weights: State, tmp_path: Path
) -> None:
    state = reference_with(weights, key, value)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pth":
        torch.save({"params": state}, path)
    else:
        save_reference(path, state)
    with pytest.raises(CheckpointError) as error:
        from_reference(path, NARROW)
    assert_one_line(error, path.name, key)


def test_the_first_of_many_keys_is_named(weights: State, tmp_path: Path) -> None:
    state = {k: v for k, v in weights.items() if not k.startswith(("ups.3.", "downs.2.", "final"))}
    with pytest.raises(CheckpointError, match=r": downs\.2\.") as error:
        from_reference(save_reference(tmp_path / "x.safetensors", state))
    assert_one_line(error)


@pytest.mark.parametrize("key", ["downs.0.weight", "final_conv.block.3.bias", ONE_SHIFT])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused(
    key: str, number: float, weights: State, tmp_path: Path
) -> None:
    value = weights[key].clone()
    value.view(-1)[-1] = number
    path = save_reference(tmp_path / "x.safetensors", reference_with(weights, key, value))
    with pytest.raises(CheckpointError, match="NaN or infinity") as error:
        from_reference(path)
    assert_one_line(error)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_weights_must_be_floats(dtype: torch.dtype, weights: State, tmp_path: Path) -> None:
    value = torch.zeros(8, 6, 3, 3, dtype=dtype)
    torch.save(reference_with(weights, "downs.0.weight", value), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=str(dtype).removeprefix("torch.")) as error:
        from_reference(tmp_path / "x.pth", NARROW)
    assert_one_line(error)


DEEP = 200_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{'a': 1}",
        '{"a": 1} x',
        "\x00",
        "[" * DEEP,
        '{"a":' * DEEP,
        "[" * DEEP + "]" * DEEP,
    ],
)
def test_metadata_must_be_json(text: str, weights: State, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "x.safetensors", metadata={"config": text, "bidiffsr": text})
    for read in (from_reference, load_model):
        with pytest.raises(CheckpointError, match="JSON") as error:
            read(tmp_path / "x.safetensors")
        assert_one_line(error, "x.safetensors")


@pytest.mark.parametrize("text", ["null", "5", '"text"', "[]", "NaN", "1e999", "{}"])
def test_metadata_must_be_a_description(text: str, weights: State, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "x.safetensors", metadata={"config": text, "bidiffsr": text})
    for read in (from_reference, load_model):
        with pytest.raises((CheckpointError, ConfigError)) as error:
            read(tmp_path / "x.safetensors")
        assert_one_line(error, "x.safetensors")


# Our own model files.


def model_of(network: BiDiffSRUNet) -> ModelConfig:
    schedule = LinearSchedule(timesteps=network.config.timesteps)
    return ModelConfig(
        network=network.config,
        diffusion=DiffusionConfig(schedule=schedule, prediction="v"),
        sampling=SamplingConfig(steps=3),
        scale=3,
        provenance={"data": "nothing, \u00e4\u00f6\u00fc", "licence": 'he said "none"'},
    )


@contextmanager
def little_memory(megabytes: int) -> Iterator[None]:
    """Fails where the process grew by more than this."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < megabytes * 1024


@pytest.mark.parametrize(
    "network",
    [
        {"channels": 2**14, "multipliers": [1], "blocks_per_level": 16},  # 2 TB if it were made
        {"channels": 128, "multipliers": [1, 2, 4, 8, 16, 32, 64, 128], "time_groups": 1000},
        {"channels": 2**40},
        {"channels": 2**70},
        {"multipliers": [1] * 100_000},
        {"multipliers": [1, 2**60]},
        {"blocks_per_level": 10**12},
        {"time_groups": 10**12},
    ],
)
def test_a_huge_network_is_refused_unbuilt(network: dict[str, Any], tmp_path: Path) -> None:
    values = ModelConfig().model_dump(mode="json")
    values["network"] |= network
    header = {"bidiffsr": json.dumps(values)}
    save_file({"stem.weight": torch.zeros(64, 6, 3, 3)}, tmp_path / "x.safetensors", header)
    with little_memory(megabytes=200), pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "x.safetensors")
    assert_one_line(error, "x.safetensors")


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_file_gives_back_what_was_saved(
    packed: bool, network: BiDiffSRUNet, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(network), packed=packed)
    found, config = load_model(path)
    assert config == model_of(network)
    with torch.no_grad():
        result, expected = found(*inputs), network(*inputs)
    if packed:
        assert relative_l2(result, expected) < 2e-6
    else:
        assert_same(found, network)
        assert torch.equal(result, expected)


@pytest.mark.parametrize(
    "network_config",
    [
        SR3Config(channels=8, multipliers=(1, 2), blocks_per_level=1, norm_groups=4),
        tiny_network_config(method="full-precision"),
        tiny_network_config(resampling="strided", fusion="concat", multipliers=(1, 3)),
        tiny_network_config(timestep_aware_activation=False, attention_levels=(0,)),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_network_survives_a_file(
    network_config: BiDiffSRConfig | SR3Config, packed: bool, tmp_path: Path
) -> None:
    network = scramble(build_network(network_config)).eval()
    timesteps = getattr(network_config, "timesteps", 100)
    schedule = AngularSchedule(timesteps=timesteps)
    config = ModelConfig(
        network=network_config,
        diffusion=DiffusionConfig(schedule=schedule, prediction="sample", clip=None),
    )
    save_model(tmp_path / "x.safetensors", network, config, packed=packed)
    found, loaded = load_model(tmp_path / "x.safetensors")
    assert loaded == config
    arguments = (torch.randn(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.tensor([1, 99]))
    with torch.no_grad():
        assert relative_l2(found(*arguments), network(*arguments)) < 2e-6


def binary_convs(network: nn.Module) -> dict[str, BinaryConv2d]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, BinaryConv2d) and module.is_binary
    }


@pytest.fixture
def with_zeros(narrow: Path) -> BiDiffSRUNet:
    """Some weights exactly 0, and one whole filter."""
    network = from_reference(narrow)
    convs = list(binary_convs(network).values())
    with torch.no_grad():
        convs[0].weight.view(-1)[[0, 7, 8, 100, -1]] = 0
        convs[1].weight[2] = 0
        convs[2].weight.view(-1)[3] = -0.0
    return network


def test_packing_keeps_scales_signs_and_zeros(with_zeros: BiDiffSRUNet, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    save_model(path, with_zeros, model_of(with_zeros), packed=True)
    found, _ = load_model(path)
    binarize = ScaledWeightSign()
    for name, conv in binary_convs(with_zeros).items():
        weight = found.get_parameter(f"{name}.weight")
        assert torch.equal(weight.sign(), conv.weight.sign()), name
        torch.testing.assert_close(binarize(weight), binarize(conv.weight), rtol=1e-6, atol=0)
    save_model(tmp_path / "again.safetensors", found, model_of(with_zeros), packed=True)
    again, _ = load_model(tmp_path / "again.safetensors")
    for name in binary_convs(with_zeros):
        weight = again.get_parameter(f"{name}.weight")
        assert torch.equal(weight.sign(), with_zeros.get_parameter(f"{name}.weight").sign())


def test_packed_tensors_are_as_documented(with_zeros: BiDiffSRUNet, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    save_model(path, with_zeros, model_of(with_zeros), packed=True)
    tensors = load_file(path)
    for name, conv in binary_convs(with_zeros).items():
        weight = conv.weight.detach().numpy().reshape(len(conv.weight), -1)
        bits = np.packbits(weight >= 0, axis=1, bitorder="big")
        np.testing.assert_array_equal(tensors.pop(f"{name}.weight.signs").numpy(), bits)
        scale = tensors.pop(f"{name}.weight.scale").numpy()
        np.testing.assert_allclose(scale, np.abs(weight).mean(axis=1), rtol=1e-6)
        zeros = tensors.pop(f"{name}.weight.zeros", torch.empty(0)).numpy()
        np.testing.assert_array_equal(zeros, np.flatnonzero(weight.ravel() == 0))
    for name, value in tensors.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, with_zeros.get_parameter(name))


def test_packing_takes_one_bit_a_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = BiDiffSRUNet(BiDiffSRConfig())
    save_model(tmp_path / "packed.safetensors", network, ModelConfig(), packed=True)
    size = (tmp_path / "packed.safetensors").stat().st_size
    binary = 48_211_968
    others = sum(parameter.numel() for parameter in network.parameters()) - binary
    scales = sum(len(conv.weight) for conv in binary_convs(network).values())
    assert size < binary / 8 + 4 * (others + scales) + 100_000
    assert size < 4 * (binary + others) / 11  # than the float form


# A packed file's tensors of one conv (8 → 8 channels, 3×3), and what may be wrong with them.
PACKED = "down.0.blocks.0.conv1.conv.weight"
UNFIT: dict[str, tuple[str, Callable[[Tensor], Tensor | None]]] = {
    "no signs": ("signs", lambda signs: None),
    "narrow signs": ("signs", lambda signs: signs[:, :-1]),
    "wide signs": ("signs", lambda signs: torch.cat([signs, signs], dim=1)),
    "few signs": ("signs", lambda signs: signs[1:]),
    "flat signs": ("signs", lambda signs: signs.flatten()),
    "one sign": ("signs", lambda signs: torch.zeros((), dtype=torch.uint8)),
    "signed signs": ("signs", lambda signs: signs.to(torch.int8)),
    "wide words": ("signs", lambda signs: signs.to(torch.int64)),
    "float signs": ("signs", lambda signs: signs.float()),
    "no scale": ("scale", lambda scale: None),
    "short scale": ("scale", lambda scale: scale[1:]),
    "column scale": ("scale", lambda scale: scale[:, None]),
    "half scale": ("scale", lambda scale: scale.half()),
    "double scale": ("scale", lambda scale: scale.double()),
    "whole scale": ("scale", lambda scale: scale.to(torch.int32)),
    "NaN scale": ("scale", lambda scale: scale * float("nan")),
    "infinite scale": ("scale", lambda scale: scale * float("inf")),
    "zeros beyond": ("zeros", lambda _: torch.tensor([576], dtype=torch.int32)),
    "zeros far beyond": ("zeros", lambda _: torch.tensor([2**31 - 1], dtype=torch.int32)),
    "zeros before": ("zeros", lambda _: torch.tensor([3, -1], dtype=torch.int32)),
    "float zeros": ("zeros", lambda _: torch.tensor([1.0])),
    "NaN zeros": ("zeros", lambda _: torch.tensor([float("nan")])),
    "bool zeros": ("zeros", lambda _: torch.tensor([True])),
    "long zeros": ("zeros", lambda _: torch.tensor([1])),
    "zeros in rows": ("zeros", lambda _: torch.zeros(1, 1, dtype=torch.int32)),
    "strange": ("strange", lambda _: torch.zeros(1)),
}


@pytest.fixture(scope="module")
def packed_file(network: BiDiffSRUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "packed.safetensors"
    save_model(path, network, model_of(network), packed=True)
    return path


@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_packed_tensor_is_named(what: str, packed_file: Path, tmp_path: Path) -> None:
    part, change = UNFIT[what]
    tensors = load_file(packed_file)
    value = change(tensors.pop(f"{PACKED}.{part}", torch.empty(0)))
    if value is not None:
        tensors[f"{PACKED}.{part}"] = value.contiguous()
    with safe_open(packed_file, framework="pt") as file:
        save_file(tensors, tmp_path / "unfit.safetensors", file.metadata())
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "unfit.safetensors")
    assert_one_line(error, "unfit.safetensors", PACKED)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"channels": 16},
        {"channels": 64, "norm_groups": 16},
        {"time_groups": 2},
        {"full_precision_up_levels": 0},
        {"full_precision_up_levels": 4},
        {"blocks_per_level": 1},
        {"blocks_per_level": 3},
        {"multipliers": [1, 2, 4]},
        {"attention_levels": [0]},
        {"fusion": "concat"},
        {"method": "full-precision"},
        {"timestep_aware_redistribution": False},
    ],
)
def test_a_file_that_says_it_is_another_network_is_refused(
    change: dict[str, Any], packed: bool, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(network), packed=packed)
    values = model_of(network).model_dump(mode="json")
    values["network"] |= change
    save_file(load_file(path), path, {"bidiffsr": json.dumps(values)})
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    assert_one_line(error, "model.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stem.weight", None),
        ("stem.weight", torch.zeros(8, 6, 3)),
        ("stem.weight", torch.zeros(8, 6, 3, 3, dtype=torch.int64)),
        ("stem.weight", torch.full((8, 6, 3, 3), float("nan"))),
        ("tail.bias", torch.tensor([0.0, float("inf"), 0.0])),
        ("up.3.fusions.2.conv2.conv.bias", None),
        ("down.0.blocks.0.conv1.shift.bias", torch.zeros(8)),
        ("unheard.of", torch.zeros(1)),
    ],
)
def test_an_unfit_tensor_is_named(
    key: str, value: Tensor | None, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(network))
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(reference_with(load_file(path), key, value), path, header)
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    assert_one_line(error, "model.safetensors", key)


@pytest.mark.parametrize(
    "change",
    [
        {"unheard": 1},
        {"scale": 0},
        {"scale": 1e9},
        {"network": {"architecture": "other"}},
        {"diffusion": {"schedule": {"kind": "angular", "timesteps": 8}}},  # unlike the network's
        {"sampling": {"steps": 0}},
        {"sampling": {"eta": 2}},
        {"qualities": None},
        {"qualities": ["fast"]},
        {"qualities": {"superb": {}}},
        {"qualities": {"fast": None}},
        {"qualities": {"fast": {"steps": 0}}},
        {"qualities": {"best": {"steps": 10**6}}},
        {"provenance": {"a": {"b": 1}}},
        {"provenance": None},
    ],
)
def test_an_unfit_header_is_refused(
    change: dict[str, Any], packed_file: Path, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    values = model_of(network).model_dump(mode="json") | change
    header = {"bidiffsr": json.dumps(values)}
    save_file(load_file(packed_file), tmp_path / "x.safetensors", header)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "x.safetensors")
    assert_one_line(error, "x.safetensors", "header")


def test_a_published_checkpoint_is_no_model_file(narrow: Path) -> None:
    with pytest.raises(CheckpointError, match="convert") as error:
        load_model(narrow)
    assert_one_line(error)


def test_loading_does_not_follow_the_file(network: BiDiffSRUNet, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(network))
    found, _ = load_model(path)
    with path.open("r+b") as file:  # tensors that were mapped would change with it
        size = path.stat().st_size
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    assert_same(found, network)


# Files that appear whole or not at all.


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("other")])
@pytest.mark.parametrize("begun", [False, True])
def test_a_failed_write_leaves_everything_as_it_was(
    error: Exception, begun: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        if begun:
            temporary.write_text("half of the n")
        raise error

    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_everything_as_it_was(tmp_path: Path) -> None:
    def interrupt(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", interrupt)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with largest_file(100_000), pytest.raises(OutputError) as error:
        write_atomically(path, lambda temporary: temporary.write_bytes(bytes(200_000)))
    assert_one_line(error, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_did_not_fit_the_disk_is_not_there(
    network: BiDiffSRUNet, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(network))
    old = path.read_bytes()
    other = scramble(build_network(network.config))
    with largest_file(100_000), pytest.raises(OutputError) as error:
        save_model(path, other, model_of(network))
    assert_one_line(error, str(path))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_is_replaced_whole(network: BiDiffSRUNet, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(10_000_000))
    save_model(path, network, model_of(network), packed=True)
    assert path.stat().st_size < 1_000_000
    assert load_model(path)[1] == model_of(network)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["folder", "absent/model.safetensors"])
def test_a_place_that_cannot_be_written_is_named(
    place: str, network: BiDiffSRUNet, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as error:
        save_model(tmp_path / place, network, model_of(network))
    assert_one_line(error, str(tmp_path / place))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_file_may_be_read_by_whoever_may_read_others(
    network: BiDiffSRUNet, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("x")
    save_model(tmp_path / "model.safetensors", network, model_of(network))
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
