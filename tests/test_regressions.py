# ruff: noqa: F811 (fixtures of the training tests are used by their names)
"""What once went wrong: hostile files, mistyped options, kills at bad moments."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from bidiffsr.config import AngularSchedule, DiffusionConfig, LinearSchedule, ModelConfig, SR3Config
from bidiffsr.data.crops import TrainingCrops
from bidiffsr.diffusion.samplers import SAMPLERS, transitions
from bidiffsr.diffusion.schedule import make_schedule
from bidiffsr.errors import BidiffsrError, CheckpointError, ConfigError, OutputError, TrainingError
from bidiffsr.models.published import convert_reference, from_reference, reference_network_config
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import build_network
from bidiffsr.training import trainer
from helpers import read_golden, tiny_network_config
from test_checkpoint import (
    NARROW,
    ONE_SHIFT,
    OPTIONS,
    PACKED,
    model_of,
    reference_with,
    save_reference,
    write_options,
)
from test_training import configure, pictures, run, state_of, whole  # noqa: F401


@pytest.fixture(scope="module")
def narrow() -> Path:
    return Path(__file__).parent / "golden" / "unet_narrow.weights.safetensors"


@pytest.fixture(scope="module")
def weights(narrow):
    return load_file(narrow)


@pytest.fixture(scope="module")
def network(narrow):
    return from_reference(narrow)


@pytest.mark.parametrize("kind", ["sparse", "float8", "meta"])
@pytest.mark.parametrize("key", ["downs.0.weight", ONE_SHIFT])
def test_strange_tensors_are_checkpoint_errors(kind, key, weights, tmp_path):
    v = weights[key].float()
    v = {
        "sparse": v.to_sparse,
        "float8": lambda: v.to(torch.float8_e4m3fn),
        "meta": lambda: v.to("meta"),
    }[kind]()
    torch.save(reference_with(weights, key, v), tmp_path / "x.pth")
    with pytest.raises(CheckpointError):
        from_reference(tmp_path / "x.pth", NARROW)


def test_float8_safetensors(weights, tmp_path):
    state = reference_with(
        weights, "downs.0.weight", weights["downs.0.weight"].to(torch.float8_e4m3fn)
    )
    with pytest.raises(CheckpointError):
        from_reference(save_reference(tmp_path / "x.safetensors", state))


def test_message_names_the_files_key(weights, tmp_path):
    state = reference_with(weights, "downs.0.weight", torch.full((8, 6, 3, 3), float("nan")))
    with pytest.raises(CheckpointError, match=r"downs\.0\.weight"):
        from_reference(save_reference(tmp_path / "x.safetensors", state))


def test_message_expects_the_right_shape(weights, tmp_path):
    state = reference_with(weights, "downs.0.weight", torch.zeros(8, 6, 3))
    with pytest.raises(CheckpointError, match=r"\[8, 6, 3, 3\]"):
        from_reference(save_reference(tmp_path / "x.safetensors", state))


def test_an_integer_among_stacked_vectors_is_refused(weights, tmp_path):
    state = reference_with(weights, ONE_SHIFT, torch.ones(1, 8, 1, 1, dtype=torch.int32))
    with pytest.raises(CheckpointError):
        from_reference(save_reference(tmp_path / "x.safetensors", state))


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": None},
        {"image_size": [256]},
        {"fp_res": 256},
        {"fp_res": "256"},
        {"attn_res": 64},
        {1: 2, "bogus": 3},
    ],
)
def test_mistyped_options(change):
    with pytest.raises(ConfigError):
        reference_network_config(OPTIONS | change, "here")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "beta_schedule:\n  scheduler_type: DDIM",
            "beta_schedule: []\nother:\n  scheduler_type: DDIM",
        ),
        (
            "beta_schedule:\n  scheduler_type: DDIM",
            "beta_schedule: text\nother:\n  scheduler_type: DDIM",
        ),
        ("prediction_type: epsilon", "prediction_type: [epsilon]"),
    ],
)
def test_mistyped_option_files(old, new, narrow, tmp_path):
    with pytest.raises(ConfigError):
        convert_reference(narrow, write_options(tmp_path, (old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("is_guidance: False", "is_guidance: True"),
        ("scheduler_type: DDIM", "scheduler_type: DDPM"),
        ("type: BIDiffSRUNet", "type: SR3UNet"),
        ("num_inference_steps", "num_inference_stesp"),
    ],
)
def test_options_without_effect_are_refused(old, new, narrow, tmp_path):
    with pytest.raises(ConfigError):
        convert_reference(narrow, write_options(tmp_path, (old, new)))


def test_huge_json_number(weights, tmp_path):
    save_file(
        weights, tmp_path / "x.safetensors", metadata={"config": "9" * 5000, "bidiffsr": "9" * 5000}
    )
    for read in (from_reference, load_model):
        with pytest.raises(CheckpointError):
            read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "sr3",
    [
        {"channels": 2**40},
        {"channels": 2**70},
        {"channels": 2**30, "multipliers": [2**20]},
        {"multipliers": [1] * 2000},
    ],
)
def test_huge_sr3(sr3, tmp_path):
    values = ModelConfig().model_dump(mode="json")
    values["network"] = {"architecture": "sr3"} | sr3
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"bidiffsr": json.dumps(values)})
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="header"):
        load_model(tmp_path / "x.safetensors")
    assert time.process_time() - begin < 1


def test_sr3_without_levels():
    with pytest.raises(ValidationError):
        SR3Config(multipliers=())


@pytest.mark.parametrize("resampling", ["strided", "consistent"])
def test_first_multiplier(resampling):
    with pytest.raises(ValidationError, match="must begin with 1"):
        tiny_network_config(multipliers=(2, 4), resampling=resampling)


def test_timesteps_are_bounded():
    with pytest.raises(ValidationError):
        ModelConfig.model_validate(
            {
                "network": {"architecture": "bidiffsr", "timesteps": 10**12},
                "diffusion": {"schedule": {"kind": "linear", "timesteps": 10**12}},
            }
        )


def hostile(network, tmp_path, change):
    path = tmp_path / "p.safetensors"
    save_model(path, network, model_of(network), packed=True)
    tensors = load_file(path)
    header = {"bidiffsr": model_of(network).model_dump_json()}
    change(tensors)
    save_file(tensors, path, header)
    return path


def negative(t):
    t[PACKED + ".scale"] = -t[PACKED + ".scale"]


def both(t):
    t[PACKED] = torch.zeros(8, 8, 3, 3)


def full_precision_as_signs(t):
    t.pop("tail.bias")
    t["tail.bias.signs"] = torch.zeros(3, 1, dtype=torch.uint8)
    t["tail.bias.scale"] = torch.ones(3)


def complex_zeros(t):
    t[PACKED + ".zeros"] = torch.zeros(1, dtype=torch.complex64)


@pytest.mark.parametrize("change", [negative, both, full_precision_as_signs, complex_zeros])
def test_hostile_packed(change, network, tmp_path):
    with pytest.raises(CheckpointError):
        load_model(hostile(network, tmp_path, change))


@pytest.mark.parametrize("part", ["network", "average", "optimizer", "iteration"])
def test_state_without_a_part(part, whole, pictures, tmp_path):
    state = state_of(whole)
    state.pop(part)
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(TrainingError):
        run(configure(tmp_path, pictures))


def test_state_with_a_flipped_bit(whole, pictures, tmp_path):
    data = bytearray((whole / "state.pt").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(TrainingError):
        run(configure(tmp_path, pictures))


def test_killed_between_the_two_last_files(pictures, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*a, **k):
        raise Killed

    config = configure(tmp_path / "run", pictures, iterations=2, checkpoint_every=10)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_model", killed)
        with pytest.raises(Killed):
            run(config)
    run(config)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_training_with_workers_after_libvips_was_used(pictures, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_training import configure, run
from bidiffsr.images.codec import read_image, write_image

def main():
    folder = Path({str(pictures)!r})
    write_image({str(tmp_path / "x.png")!r}, read_image(folder / "0.png"))
    data = {{"folders": [folder], "crop": 32, "workers": 2}}
    run(configure(Path({str(tmp_path / "run")!r}), folder, data=data, iterations=2))
    print("done")

if __name__ == "__main__":
    main()
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.strip() == "done", done.stderr[-800:]


def test_spawned_workers(pictures):
    from torch.utils.data import DataLoader

    crops = TrainingCrops([pictures], scale=4, crop=32, seed=3, length=4)
    assert (
        len(
            list(DataLoader(crops, batch_size=None, num_workers=1, multiprocessing_context="spawn"))
        )
        == 4
    )


def test_no_nan_is_saved(pictures, tmp_path):
    config = configure(
        tmp_path / "run",
        pictures,
        optimizer={"learning_rate": 1e30, "clip_norm": None},
        log_every=7,
        checkpoint_every=1,
    )
    with pytest.raises(TrainingError):
        run(config)
    if (tmp_path / "run" / "state.pt").exists():
        assert all(v.isfinite().all() for v in state_of(tmp_path / "run")["network"].values())


def test_crop_that_does_not_suit_the_network(pictures, tmp_path):
    model = configure(tmp_path, pictures).model.model_dump()
    model["network"]["multipliers"] = (1, 2, 4, 8)
    with pytest.raises((BidiffsrError, ValidationError)):
        run(
            configure(
                tmp_path / "run", pictures, model=model, data={"folders": [pictures], "crop": 20}
            )
        )


def test_epsilon_needs_signal():
    with pytest.raises(ValidationError):
        DiffusionConfig(schedule=AngularSchedule(timesteps=4), prediction="epsilon")


def test_eta_needs_noise():
    schedule, x = make_schedule(AngularSchedule(timesteps=4)), np.zeros(3)
    with pytest.raises(ConfigError, match="fresh_noise"):
        SAMPLERS["ddim"].update(x, x, lambda: x, transitions(schedule, [3, 1])[0], eta=1.0)


def test_schedule_is_as_close_as_float32_can_be():
    golden = (
        read_golden(Path(__file__).parent / "golden" / "unet_narrow.ddim10.safetensors")[
            "alphas_cumprod"
        ]
        .double()
        .numpy()
    )
    schedule = make_schedule(LinearSchedule())
    np.testing.assert_allclose(schedule.signal**2, golden, rtol=3e-7)


def test_workers_and_cache_do_not_change_the_weights(pictures, tmp_path):
    """Nor does it that they change between two halves of a run."""
    whole = configure(tmp_path / "whole", pictures)
    run(whole)
    run(configure(tmp_path / "halves", pictures), 2)
    data = {"folders": [pictures], "crop": whole.data.crop, "cache": False, "workers": 1}
    run(configure(tmp_path / "halves", pictures, data=data))
    weights, expected = (state_of(tmp_path / folder)["network"] for folder in ("halves", "whole"))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_resuming_does_not_need_the_first_model(pictures, tmp_path):
    config = configure(tmp_path / "run", pictures)
    save_model(tmp_path / "f.safetensors", build_network(config.model.network), config.model)
    config = configure(tmp_path / "run", pictures, initialize_from=tmp_path / "f.safetensors")
    run(config, 2)
    (tmp_path / "f.safetensors").unlink()
    run(config)


def test_a_file_in_place_of_a_folder_is_output_error(network, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        save_model(tmp_path / "file" / "m.safetensors", network, model_of(network))
