"""The native module by itself: what Python's face does not check first is refused all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bidiffsr import _native
from bidiffsr.models.packed import load_packed
from engine_cases import network_config, random_inputs, random_network, save_packed

CONFIG = network_config(attention_levels=(1,), channels=6, norm_groups=3)
NETWORK: dict[str, Any] = dict(CONFIG)
HUGE = 2**31 - 1


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model's."""
    path = tmp_path_factory.mktemp("native") / "model.safetensors"
    return dict(load_packed(save_packed(path, random_network(CONFIG))).tensors)


def make(tensors: dict[str, Any], threads: int = 1, kernel: str = "", **changes: Any) -> Any:
    return _native.make_engine(NETWORK | changes, tensors, False, kernel, threads)


# Configurations.


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("multipliers", ()),
        ("multipliers", (0, 0)),
        ("multipliers", (1, -2)),
        ("multipliers", (1, 3)),
        ("multipliers", (1, HUGE)),
        ("multipliers", tuple(2**level for level in range(30))),
        *((key, value) for key in ("channels", "patch", "norm_groups") for value in (0, -1, HUGE)),
        ("patch", 9),
        ("channels", 7),
        ("norm_groups", 4),
        ("blocks_per_level", 0),
        ("blocks_per_level", -1),
        ("blocks_per_level", HUGE),
        ("attention_levels", (-1,)),
        ("attention_levels", (2,)),
        ("full_precision_up_levels", -1),
        ("full_precision_up_levels", 3),
        ("timesteps", 0),
        ("timesteps", -5),
        ("time_groups", 0),
        ("time_groups", HUGE),
        ("time_groups", 2**40),
        ("channels", "64"),
        ("channels", None),
        ("method", "reactnet"),
        ("fusion", "sum"),
        ("normalization", "batch"),
        ("resampling", "bilinear"),
        ("stem_condition", "none"),
    ],
)
def test_a_configuration_out_of_range_is_refused(
    key: str, value: Any, tensors: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=key) as caught:
        make(tensors, **{key: value})
    assert "\n" not in str(caught.value)


def test_an_affine_network_needs_groups_that_divide_nothing(tensors: dict[str, Any]) -> None:
    make(tensors, normalization="affine", norm_groups=5)


@pytest.mark.parametrize("key", ["channels", "method", "multipliers"])
def test_a_missing_key_is_named(key: str, tensors: dict[str, Any]) -> None:
    network = {name: value for name, value in NETWORK.items() if name != key}
    with pytest.raises(ValueError, match=f"{key}: missing"):
        _native.make_engine(network, tensors, False, "", 1)


@pytest.mark.parametrize("threads", [-1, 1025, HUGE])
def test_threads_out_of_range_are_refused(threads: int, tensors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="threads"):
        make(tensors, threads)
    for measure in (lambda: _native.ceilings("", threads), lambda: rate(threads=threads)):
        with pytest.raises(ValueError, match="threads"):
            measure()


# Arrays.


def other_orders(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """The same values, laid out otherwise."""
    doubled = np.repeat(array, 2, axis=-1)[..., ::2]
    backwards = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    others = [doubled, backwards, np.asfortranarray(array)]
    return [other for other in others if not other.flags.c_contiguous]


def test_tensors_in_another_order_are_refused(tensors: dict[str, Any]) -> None:
    for name in ("stem.weight", "stem.bias", "middle.0.conv1.conv.weight.signs"):
        others = other_orders(np.asarray(tensors[name]))
        assert others
        for other in others:
            with pytest.raises(ValueError, match=f"{name}: expected an array in C order"):
                make(tensors | {name: other})


@pytest.mark.parametrize("wrong", [None, 3, "text", [1.0, 2.0], np.zeros(6), np.zeros(6, np.int64)])
def test_tensors_of_another_type_are_refused(wrong: Any, tensors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"stem\.bias"):
        make(tensors | {"stem.bias": wrong})


def test_inputs_in_another_order_or_type_are_refused(tensors: dict[str, Any]) -> None:
    engine = make(tensors)
    inputs = random_inputs(CONFIG, (8, 8), batch=2)
    expected = engine.predict(*inputs)
    assert expected.shape == inputs[0].shape
    for index, array in enumerate(inputs):
        floats = array.dtype == np.float32
        for other in [*other_orders(array), array.astype(np.float64 if floats else np.int32)]:
            changed: list[Any] = list(inputs)
            changed[index] = other
            for function in (engine.predict, engine.profile):
                with pytest.raises(TypeError):
                    function(*changed)
    np.testing.assert_array_equal(engine.predict(*inputs), expected)


@pytest.mark.parametrize("shapes", [((1, 3, 4, 4), (1, 3, 4, 6), 1), ((1, 3, 4, 4),) * 2 + (2,)])
def test_inputs_that_do_not_fit_are_refused(shapes: Any, tensors: dict[str, Any]) -> None:
    *pictures, count = shapes
    x_t, cond = (np.zeros(shape, np.float32) for shape in pictures)
    with pytest.raises(ValueError, match="must have"):
        make(tensors).predict(x_t, cond, np.zeros(count, np.int64))


def test_a_prediction_comes_without_a_profile(tensors: dict[str, Any]) -> None:
    engine = make(tensors)
    inputs = random_inputs(CONFIG, (8, 8))
    assert isinstance(engine.predict(*inputs), np.ndarray)
    costs = engine.profile(*inputs)
    assert all(milliseconds >= 0 for milliseconds, _ in costs.values())


# Sizes.


@pytest.mark.parametrize("size", [(0, 4), (-2, 4), (4, -2), (3, 4), (2**20 + 2, 4), (4, HUGE - 1)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int], tensors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="size"):
        make(tensors).scratch_bytes(*size)


def test_scratch_of_pictures_beyond_int_follows_from_small_ones(tensors: dict[str, Any]) -> None:
    """Every row takes as much as any other: whole numbers in Python, which cannot overflow."""
    engine = make(tensors)
    step = 1024
    for width in (8192, 2**20):
        least = engine.scratch_bytes(step, width)
        more = engine.scratch_bytes(2 * step, width) - least
        # The first level's features, padded to 16 channels, and a skip connection, at the least.
        assert more >= 2 * step * width * 16 * 4
        for height in (2**18, 2**20):
            assert engine.scratch_bytes(height, width) == least + (height // step - 1) * more


# The functions for tests and measurements.


def accumulators(
    outputs: int = 4, size: int = 3, stride: int = 1, x: Any = None, **changes: Any
) -> Any:
    """Of weights -1 and, where ``x`` is not given, activations +1; ``changes`` are tensors."""
    inputs = 5
    channels = (outputs, inputs * size * size)
    columns = tuple(max(0, side) for side in (channels[0], (channels[1] + 7) // 8))
    arrays = {
        "block.conv.weight.signs": np.zeros(columns, np.uint8),
        "block.conv.weight.scale": np.ones(columns[0], np.float32),
        "block.shift.bias": np.zeros((1, inputs), np.float32),
    }
    for name in ("bias_in", "slope", "bias_out"):
        arrays[f"block.activation.{name}"] = np.zeros((1, columns[0]), np.float32)
    named = {f"block.{name.replace('__', '.')}": array for name, array in changes.items()}
    if x is None:
        x = np.ones((inputs, 4, 6), np.float32)
    return _native.binary_accumulators(x, arrays | named, outputs, size, stride, "")


@pytest.mark.parametrize("size", [-3, -1, 0, 2, 4, 5, 7])
def test_kernel_sizes_that_no_kernel_has_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="kernel_size"):
        accumulators(size=size)


@pytest.mark.parametrize(("size", "stride"), [(3, 0), (3, -1), (3, 3), (1, 2), (3, HUGE)])
def test_strides_that_no_kernel_has_are_refused(size: int, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        accumulators(size=size, stride=stride)


@pytest.mark.parametrize("outputs", [0, -1, -HUGE])
def test_counts_that_are_none_are_refused(outputs: int) -> None:
    with pytest.raises(ValueError, match="out"):
        accumulators(outputs)


@pytest.mark.parametrize("shape", [(0, 4, 6), (5, 0, 6), (5, 4, 0), (5, 3, 6), (5, 4, 5)])
def test_inputs_of_no_size_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"in:|size:"):
        accumulators(stride=2, x=np.ones(shape, np.float32))


def test_accumulators_refuse_tensors_of_another_shape_and_inputs_of_another_order() -> None:
    assert (accumulators()[:, 1:-1, 1:-1] == -45).all()
    wrong = np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match=r"conv\.weight\.signs"):
        accumulators(conv__weight__signs=wrong)
    with pytest.raises(ValueError, match=r"shift\.bias"):
        accumulators(shift__bias=wrong)
    with pytest.raises(ValueError, match="time groups"):
        accumulators(shift__bias=np.zeros((0, 5), np.float32))
    for other in other_orders(np.ones((5, 4, 6), np.float32)):
        with pytest.raises(TypeError):
            accumulators(x=other)


def rate(threads: int = 1, channels: int = 8, width: int = 4) -> float:
    return _native.binary_conv_rate("", threads, channels, width)


@pytest.mark.parametrize("channels", [0, -8, 4, 12, HUGE, 2**20])
def test_rates_of_channels_that_are_none_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="channels"):
        rate(channels=channels)


@pytest.mark.parametrize("width", [0, -1, HUGE])
def test_rates_of_rows_that_are_none_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="width"):
        rate(width=width)
