"""What configurations accept can be computed with; what they refuse is one clear line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.config import (
    AngularSchedule,
    LinearSchedule,
    ModelConfig,
    TrainingConfig,
    load_yaml,
    parse_config,
)
from bidiffsr.config.overrides import with_overrides
from bidiffsr.diffusion.formulation import Diffusion
from bidiffsr.diffusion.samplers import SAMPLERS
from bidiffsr.diffusion.schedule import make_schedule
from bidiffsr.errors import ConfigError
from bidiffsr.training.checkpoint import fingerprint
from chains import chain_of

# Anything that YAML can say, and numbers that it can hardly hold.
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 4000).map(lambda power: 10**power)
    | st.sampled_from([-(10**400), 2**31, 2**63])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a\0b", "\ud800", "sr3", "angular", "l2"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted(
    f"{part}{key}"
    for part, kind in {
        "": TrainingConfig,
        "model.": ModelConfig,
        **{f"{name}.": field.annotation for name, field in TrainingConfig.model_fields.items()},
        **{f"model.{name}.": type(value) for name, value in ModelConfig()},
        "model.diffusion.schedule.": LinearSchedule,
    }.items()
    for key in getattr(kind, "model_fields", {})
)


def laid_over(changes: dict[str, Any]) -> dict[str, Any]:
    """A small valid run with some of its keys, or keys that nobody knows, changed."""
    values: dict[str, Any] = {"output": "run", "data": {"folders": ["pictures"]}}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = values
        for name in parents:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        place[last] = value
    return values


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.sampled_from([*KEYS, "unknown", "data.unknown"]), anything, max_size=4))
def test_a_training_configuration_is_accepted_or_refused_in_one_line(
    changes: dict[str, Any],
) -> None:
    try:
        config = parse_config(TrainingConfig, laid_over(changes), "run.yml")
    except ConfigError as error:
        assert str(error).startswith("run.yml: ")
        assert "\n" not in str(error)
    else:
        assert fingerprint(config)
        again = TrainingConfig.model_validate_json(config.model_dump_json())
        assert again == config


@pytest.mark.parametrize(
    "path", ["output", "iterations", "model.network.architecture", "optimizer.learning_rate"]
)
def test_numbers_too_long_to_show_are_refused_in_one_line(path: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yml: ") as error:
        parse_config(TrainingConfig, laid_over({path: 10**5000}), "run.yml")
    assert len(str(error.value)) < 200


@settings(deadline=None)
@given(anything)
def test_whatever_is_no_mapping_is_refused_in_one_line(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"run\.yml: ") as error:
        parse_config(TrainingConfig, values, "run.yml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["day: 2024-13-01", "[" * 20_000, "n: " + "1" * 5000, "n: !!int x", "n: !!binary x", "\0", "{"],
)
def test_what_is_no_yaml_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yml: is not YAML") as error:
        load_yaml(path)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"--key: .* is not YAML") as error:
        with_overrides({}, ["--key", text.removeprefix("n: ").removeprefix("day: ")], "run.yml")


# Diffusion.

betas = (
    st.floats(0, 1)
    | st.floats(-20, 0).map(lambda power: 10**power)
    | st.floats(-20, 0).map(lambda power: 1 - 10**power)
    | st.sampled_from([5e-324, 1e-300, 1e-7, 1 - 1e-6, 1 - 2**-53])
)
timesteps = st.integers(1, 20) | st.integers(1, 3000) | st.sampled_from([17_000, 100_000])
positive = (st.floats(-7, 7) | st.floats(-320, 308)).map(lambda power: 10**power)
schedules = st.fixed_dictionaries(
    {"kind": st.just("linear"), "timesteps": timesteps, "beta_start": betas, "beta_end": betas}
) | st.fixed_dictionaries({"kind": st.just("angular"), "timesteps": st.integers(1, 1000)})
diffusions = st.fixed_dictionaries(
    {
        "schedule": schedules,
        "prediction": st.sampled_from(["epsilon", "v", "sample"]),
        "variable": st.sampled_from(["image", "residual"]),
        "residual_scale": st.just(0.1) | positive,
        "clip": st.none() | st.just(1.0) | positive,
        "input_scaling": st.sampled_from(["none", "signal"]),
    }
)
samplings = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(sorted(SAMPLERS)),
        "steps": st.integers(1, 12),
        "spacing": st.sampled_from(["leading", "trailing"]),
        "eta": st.just(0.0) | st.floats(0, 1),
        "noise_scale": st.floats(0, 2),
    }
)


def accepted(diffusion: dict[str, Any], sampling: dict[str, Any]) -> ModelConfig:
    network = {"timesteps": diffusion["schedule"]["timesteps"]}
    sampling["steps"] = min(sampling["steps"], network["timesteps"])
    values = {"diffusion": diffusion, "sampling": sampling, "network": network}
    try:
        return parse_config(ModelConfig, values, "model")
    except ConfigError as error:
        assert "\n" not in str(error)
        assume(False)
        raise


@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.filter_too_much])
@given(diffusions, samplings, st.integers(0, 2**32 - 1))
def test_what_is_accepted_samples_finite_numbers(
    diffusion: dict[str, Any], sampling: dict[str, Any], seed: int
) -> None:
    """Of a picture of 2 x 2, with a network that says any numbers of ordinary size."""
    config = accepted(diffusion, sampling)
    formulation = Diffusion(config.diffusion)
    schedule, chosen = formulation.schedule, config.sampling
    random = np.random.default_rng(seed)

    def normal(_: Any = None) -> NDArray[np.float32]:
        return random.standard_normal((3, 2, 2), np.float32)

    with np.errstate(over="raise", invalid="raise", divide="raise"):
        chain = chain_of(
            formulation,
            lambda x, timestep: 3 * normal(),
            np.float32(chosen.noise_scale) * normal(),
            schedule.timesteps(chosen.steps, chosen.spacing),
            sampler=chosen.sampler,
            eta=chosen.eta,
            fresh_noise=normal,
        )
        latents = [step.latent for step in chain]
        for latent in latents:
            assert np.isfinite(latent).all()
            assert latent.dtype == np.float32
        condition = random.random((3, 2, 2), np.float32)
        assert np.isfinite(formulation.to_picture(latents[-1], condition)).all()


@settings(deadline=None, max_examples=200)
@given(schedules)
def test_accepted_schedules_lose_signal_strictly(schedule: dict[str, Any]) -> None:
    kind = LinearSchedule if schedule["kind"] == "linear" else AngularSchedule
    try:
        config = parse_config(kind, schedule, "model")
    except ConfigError:
        return
    levels = make_schedule(config)
    assert len(levels) == config.timesteps
    assert (np.diff(levels.signal, prepend=1) < 0).all()
    assert (np.diff(levels.noise) >= 0).all()
    assert levels.noise[0] > 0
    assert levels.signal[-1] > 0 or isinstance(config, AngularSchedule)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ({"timesteps": 100_000}, "schedule: timesteps: 100000 from beta 1e-06 to 0.01 leave no"),
        ({"timesteps": 2, "beta_start": 1 - 2**-53}, "schedule.beta_start: "),
        ({"timesteps": 2, "beta_end": 1e-300}, "schedule.beta_end: "),
        ({"timesteps": 100, "beta_start": 0.9, "beta_end": 0.9}, "leave no signal"),
    ],
)
def test_schedules_that_cannot_be_computed_with_are_refused(
    schedule: dict[str, Any], reason: str
) -> None:
    values = {"diffusion": {"schedule": schedule}, "network": {"timesteps": schedule["timesteps"]}}
    with pytest.raises(ConfigError, match=reason):
        parse_config(ModelConfig, values, "model")


def test_the_published_schedule_is_accepted() -> None:
    levels = make_schedule(LinearSchedule())
    assert math.isclose(levels.signal[-1] ** 2, math.exp(-10.03), rel_tol=0.02)
    assert yaml.safe_load("1.0e-6") == LinearSchedule().beta_start


def test_an_override_has_the_newer_name_and_its_file_the_former() -> None:
    values = {"output": "run", "data": {"folders": ["a"]}, "start_probability": 0.5}
    merged = with_overrides(values, ["--noisiest_probability", "0.9"], "run.yml")
    assert parse_config(TrainingConfig, merged, "run.yml").noisiest_probability == 0.9
    assert parse_config(TrainingConfig, values, "run.yml").noisiest_probability == 0.5
