"""The engine as a library: kernels, threads, and what it refuses."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bidiffsr.backends.engine import Engine, binary_conv_rate, ceilings, chosen_kernel, kernels
from bidiffsr.errors import ConfigError
from bidiffsr.models.catalog import find_model
from bidiffsr.nn.counting import count
from engine_cases import (
    KERNELS,
    every_kernel,
    load_engine,
    network_config,
    random_inputs,
    random_network,
    save_packed,
    shipped_inputs,
)

CONFIG = network_config(attention_levels=(1,), channels=6, norm_groups=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny packed model."""
    path = tmp_path_factory.mktemp("engine") / "model.safetensors"
    return save_packed(path, random_network(CONFIG))


@pytest.fixture
def engine(model: Path) -> Engine:
    return load_engine(model, KERNELS[0])


@pytest.fixture(scope="module")
def shipped() -> Iterator[Path]:
    with find_model("default") as path:
        yield path


# Kernels.


def test_kernels_are_listed_the_portable_one_last() -> None:
    found = kernels()
    assert found[-1].name == "portable"
    assert found[-1].supported
    assert not found[-1].bfloat16
    assert len({kernel.name for kernel in found}) == len(found)
    assert all(kernel.needs for kernel in found)


def test_the_fastest_kernel_is_chosen(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.delenv("BIDIFFSR_KERNEL", raising=False)
    assert chosen_kernel() == Engine(model).kernel == KERNELS[0]
    monkeypatch.setenv("BIDIFFSR_KERNEL", "")
    assert chosen_kernel() == KERNELS[0]


@every_kernel
def test_a_forced_kernel_is_used(kernel: str, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setenv("BIDIFFSR_KERNEL", kernel)
    assert chosen_kernel() == Engine(model).kernel == kernel


@pytest.mark.parametrize("name", ["vax", "AVX2", " portable", "portable,avx2"])
def test_an_unknown_kernel_is_refused_with_those_there_are(
    name: str, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setenv("BIDIFFSR_KERNEL", name)
    with pytest.raises(ConfigError) as caught:
        Engine(model)
    message = str(caught.value)
    assert f"BIDIFFSR_KERNEL={name}" in message
    assert ", ".join(KERNELS) in message
    assert "\n" not in message


def test_kernels_that_cannot_run_here_are_refused(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    for kernel in kernels():
        if not kernel.supported:
            monkeypatch.setenv("BIDIFFSR_KERNEL", kernel.name)
            with pytest.raises(ConfigError, match="cannot run here"):
                Engine(model)


# The same bytes, whoever computes them.


@every_kernel
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_threads_batches_and_repetition_do_not_change_a_byte(
    precision: Any, kernel: str, model: Path
) -> None:
    # Enough rows for several bands a thread, whose edges differ with the number of threads.
    inputs = random_inputs(CONFIG, (46, 20), batch=3)
    engine = load_engine(model, kernel, precision)
    expected = engine.predict(*inputs).tobytes()
    assert engine.predict(*inputs).tobytes() == expected
    noisy, cond, timesteps = inputs
    alone = [
        engine.predict(noisy[i : i + 1], cond[i : i + 1], timesteps[i : i + 1]) for i in range(3)
    ]
    assert b"".join(output.tobytes() for output in alone) == expected
    for threads in (2, 3):
        engine = load_engine(model, kernel, precision, threads)
        assert engine.threads == threads
        for _ in range(3):
            assert engine.predict(*inputs).tobytes() == expected


@every_kernel
def test_calls_from_many_threads_do_not_disturb_each_other(kernel: str, model: Path) -> None:
    engine = load_engine(model, kernel, threads=2)
    sizes = [(8, 8), (30, 6), (2, 40), (16, 24), (8, 8), (30, 6)]
    cases = [random_inputs(CONFIG, size, batch=2, seed=i) for i, size in enumerate(sizes)]
    expected = [engine.predict(*inputs).tobytes() for inputs in cases]

    def work(worker: int) -> bool:
        order = [(worker + i) % len(cases) for i in range(4 * len(cases))]
        return all(engine.predict(*cases[i]).tobytes() == expected[i] for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@every_kernel
def test_arguments_are_left_alone_and_may_lie_anyhow(kernel: str, model: Path) -> None:
    engine = load_engine(model, kernel)
    inputs = random_inputs(CONFIG, (8, 12), batch=2)
    copies = [array.copy() for array in inputs]
    expected = engine.predict(*inputs)
    for array, copied in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, copied)
    assert expected.shape == inputs[0].shape
    assert expected.dtype == np.float32
    assert expected.flags.writeable
    noisy, cond, timesteps = inputs
    turned = np.ascontiguousarray(noisy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    doubled = np.repeat(cond, 2, axis=3)[..., ::2]
    backwards = np.ascontiguousarray(timesteps[::-1])[::-1].astype(np.int32)
    found = engine.predict(turned, doubled.astype(np.float64), backwards)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)


def test_other_python_threads_run_during_a_call(shipped: Path) -> None:
    engine = Engine(shipped, threads=1)
    inputs = shipped_inputs(192, batch=4)
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks[0] += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        before, start = ticks[0], time.perf_counter()
        engine.predict(*inputs)
        during, seconds = ticks[0] - before, time.perf_counter() - start
    finally:
        stop.set()
        ticker.join()
    # Holding the interpreter would leave it one or two, at the beginning and the end.
    assert during > 5, f"{during} in {seconds} s"


# What cannot be computed is refused.


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


def steps(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


GOOD = zeros(1, 3, 4, 4)
WIDE = np.broadcast_to(zeros(1, 1, 1, 1), (1, 3, 2, 2**21))
WRONG: dict[str, tuple[Any, Any, Any]] = {
    "odd height": (zeros(1, 3, 3, 4), zeros(1, 3, 3, 4), steps(0)),
    "odd width": (zeros(1, 3, 4, 5), zeros(1, 3, 4, 5), steps(0)),
    "no rows": (zeros(1, 3, 0, 4), zeros(1, 3, 0, 4), steps(0)),
    "no columns": (zeros(1, 3, 4, 0), zeros(1, 3, 4, 0), steps(0)),
    "no batch axis": (GOOD[0], GOOD[0], steps(0)),
    "one axis more": (GOOD[None], GOOD[None], steps(0)),
    "four channels": (zeros(1, 4, 4, 4), zeros(1, 4, 4, 4), steps(0)),
    "channels last": (zeros(1, 4, 4, 3), zeros(1, 4, 4, 3), steps(0)),
    "sizes differ": (GOOD, zeros(1, 3, 4, 6), steps(0)),
    "batches differ": (zeros(2, 3, 4, 4), GOOD, steps(0, 0)),
    "a timestep is missing": (zeros(2, 3, 4, 4), zeros(2, 3, 4, 4), steps(0)),
    "a timestep too many": (GOOD, GOOD, steps(0, 0)),
    "timestep is a scalar": (GOOD, GOOD, np.int64(0)),
    "timestep is no integer": (GOOD, GOOD, zeros(1)),
    "timestep is a truth": (GOOD, GOOD, np.array([True])),
    "integers": (GOOD.astype(np.int32), GOOD, steps(0)),
    "complex": (GOOD, GOOD.astype(np.complex64), steps(0)),
    "objects": (GOOD.astype(object), GOOD, steps(0)),
    "text": ("x", "cond", "t"),
    "nothing": (None, None, None),
    "wider than any picture": (WIDE, WIDE, steps(0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_one_line(name: str, engine: Engine) -> None:
    with pytest.raises(ConfigError) as caught:
        engine.predict(*WRONG[name])
    assert "\n" not in str(caught.value)
    assert np.isfinite(engine.predict(GOOD, GOOD, steps(0))).all()  # it goes on working


def test_a_size_that_does_not_fit_is_named(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="size 6x5: both must be positive multiples of 2"):
        engine.predict(zeros(1, 3, 5, 6), zeros(1, 3, 5, 6), steps(0))


def test_an_empty_batch_gives_an_empty_batch(engine: Engine) -> None:
    found = engine.predict(zeros(0, 3, 4, 6), zeros(0, 3, 4, 6), steps())
    assert found.shape == (0, 3, 4, 6)
    assert found.dtype == np.float32


@every_kernel
def test_timesteps_beyond_the_schedule_take_the_nearest_group(kernel: str, model: Path) -> None:
    engine = load_engine(model, kernel)
    extremes = steps(-(2**40), -1, CONFIG.timesteps, 2**40)
    noisy, cond, _ = random_inputs(CONFIG, (4, 4), len(extremes))
    assert np.isfinite(engine.predict(noisy, cond, extremes)).all()


@every_kernel
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_value_that_is_no_number_spoils_its_own_sample_and_call_only(
    value: float, kernel: str, model: Path
) -> None:
    engine = load_engine(model, kernel)
    inputs = random_inputs(CONFIG, (8, 8), batch=3)
    expected = engine.predict(*inputs)
    noisy = inputs[0].copy()
    noisy[1, 0, 3, 4] = value
    found = engine.predict(noisy, *inputs[1:])
    assert not np.isfinite(found[1]).any()  # nobody can take it for a result
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    # What it left in the scratch memory does no harm.
    np.testing.assert_array_equal(engine.predict(*inputs), expected)


@pytest.mark.parametrize("size", [(5, 6), (6, 5), (0, 6), (-2, 6), (2**31, 6), (2**31 - 2, 6)])
def test_memory_of_no_size_is_refused(size: tuple[int, int], engine: Engine) -> None:
    with pytest.raises(ConfigError):
        engine.memory(*size)


@pytest.mark.parametrize(
    "arguments", [{"precision": "slow"}, {"precision": None}, {"threads": -1}, {"threads": 1025}]
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], model: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected"):
        Engine(model, **arguments)


def test_all_cpus_are_used_unless_told_otherwise(model: Path) -> None:
    assert 1 <= Engine(model).threads <= len(os.sched_getaffinity(0))


def test_the_profile_is_of_the_same_run(engine: Engine) -> None:
    costs = engine.profile(*random_inputs(CONFIG, (8, 8)))
    assert all(milliseconds >= 0 and macs >= 0 for milliseconds, macs in costs.values())
    assert sum(milliseconds for milliseconds, _ in costs.values()) > 0
    stem = 6 * CONFIG.channels * 9 * 8 * 8
    assert costs["stem, 6 channels at 8x8"][1] == stem


def test_the_profile_tells_sizes_apart_and_counts_every_operation(engine: Engine) -> None:
    costs = engine.profile(*random_inputs(CONFIG, (16, 8)))
    shapes = {name for name in costs if name.startswith("binary 3x3")}
    assert f"binary 3x3, {CONFIG.channels} channels at 8x16" in shapes
    layers = count(CONFIG, 16, 8)
    binary = sum(layer.binary_macs for layer in layers)
    counted = sum(macs for name, (_, macs) in costs.items() if name.startswith("binary"))
    assert counted == binary


def test_rates_are_measured() -> None:
    found = ceilings(1)
    assert {"popcount_tmacs", "fma_gmacs", "copy_gbs"} <= set(found)
    assert all(value > 0 for value in found.values())
    assert binary_conv_rate(32, 16, 1) > 0
    with pytest.raises(ConfigError, match="multiple of 8"):
        binary_conv_rate(12, 16)
