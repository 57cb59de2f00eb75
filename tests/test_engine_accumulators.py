"""The engine's integers against loops, PyTorch's convolution and OpenVINO's, on every kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F

from bidiffsr import _native
from bidiffsr.binary.methods.dorefa import DoReFa, DoReFaTwoBit
from bidiffsr.binary.quantizers import ActivationLevels
from engine_cases import KERNELS, every_kernel
from oracles import openvino_accumulators


@dataclass(frozen=True)
class Convolution:
    """A binarized convolution and its input."""

    x: NDArray[np.float32]
    """(C, H, W)"""
    shift: NDArray[np.float32]
    """(C,)"""
    weight: NDArray[np.int64]
    """-1, 0 or 1: (O, C, k, k)"""
    stride: int = 1

    @property
    def activations(self) -> NDArray[np.int64]:
        """sign(x + b), with sign(0) = +1 and no NaN above it, added in float32 as in training."""
        return np.where(self.x + self.shift[:, None, None] >= 0, 1, -1)


def sums_of_the_engine(
    case: Convolution,
    kernel: str,
    method: str = "bi-diffsr",
    constants: dict[str, NDArray[np.float32]] | None = None,
) -> NDArray[np.int32]:
    outputs, inputs, size, _ = case.weight.shape
    rows = case.weight.reshape(outputs, -1)
    tensors = {
        "block.conv.weight.signs": np.packbits(rows >= 0, axis=1),
        "block.conv.weight.scale": np.ones(outputs, np.float32),
        # A second time group, which must not be looked at.
        "block.shift.bias": np.stack([case.shift, np.full(inputs, 1e9, np.float32)]),
    }
    for name in ("bias_in", "slope", "bias_out"):
        tensors[f"block.activation.{name}"] = np.zeros((2, outputs), np.float32)
    for name, value in (constants or {}).items():
        tensors[f"block.{name}"] = value
    zeros = np.flatnonzero(rows == 0)
    if len(zeros):
        tensors["block.conv.weight.zeros"] = zeros.astype(np.int32)
    return _native.binary_accumulators(case.x, tensors, outputs, size, case.stride, kernel, method)


def sums_of_loops(case: Convolution) -> NDArray[np.int64]:
    """Taps outside contribute nothing; the two loops over channels are a matrix product."""
    outputs, _, size, _ = case.weight.shape
    active = case.activations
    _, height, width = active.shape
    sums = np.zeros((outputs, height // case.stride, width // case.stride), np.int64)
    for _, row, column in np.ndindex(1, *sums.shape[1:]):
        for tap_row, tap_column in np.ndindex(size, size):
            y = row * case.stride + tap_row - size // 2
            x = column * case.stride + tap_column - size // 2
            if 0 <= y < height and 0 <= x < width:
                sums[:, row, column] += case.weight[:, :, tap_row, tap_column] @ active[:, y, x]
    return sums


# Around whole words of bits and whole panels of outputs, where packing might go wrong.
channel_counts = st.integers(1, 130) | st.sampled_from([1, 15, 16, 17, 63, 64, 65, 127, 128, 129])


def make_case(
    inputs: int,
    outputs: int,
    size: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    zero_share: float = 0.0,
    odd_share: float = 0.0,
    seed: int = 0,
) -> Convolution:
    """Random; ``odd_share`` of the values are NaN, infinite, minus zero or at the threshold."""
    random = np.random.default_rng(seed)
    shift = random.choice(np.array([-1.5, -0.5, -0.0, 0.0, 0.25, 1e-40, 3.0], np.float32), inputs)
    x = random.standard_normal((inputs, *size)).astype(np.float32)
    odd = random.random(x.shape) < odd_share
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, -1e-40], np.float32)
    x[odd] = random.choice(values, int(odd.sum()))
    edge = random.random(x.shape) < odd_share
    x[edge] = np.broadcast_to(-shift[:, None, None], x.shape)[edge]
    weight = random.choice([-1, 1], (outputs, inputs, kernel_size, kernel_size))
    weight[random.random(weight.shape) < zero_share] = 0
    return Convolution(x, shift, weight, stride)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    kernel_size, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
    sides = st.integers(1, 9) if stride == 1 else st.sampled_from([2, 4, 6, 8])
    return make_case(
        draw(channel_counts),
        draw(channel_counts),
        (draw(sides), draw(sides)),
        kernel_size,
        stride,
        draw(st.sampled_from([0.0, 0.02, 0.5])),
        draw(st.sampled_from([0.0, 0.3])),
        draw(st.integers(0, 2**32 - 1)),
    )


@settings(max_examples=150, deadline=None)
@given(convolutions())
@example(make_case(130, 1, (9, 9), zero_share=1.0))
@example(make_case(1, 130, (1, 1), odd_share=1.0))
@example(make_case(64, 16, (8, 8), stride=2, odd_share=1.0))
def test_they_equal_the_loops(case: Convolution) -> None:
    expected = sums_of_loops(case)
    for kernel in KERNELS:
        found = sums_of_the_engine(case, kernel)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected, kernel)


@every_kernel
@pytest.mark.parametrize("inputs", [16, 63, 64, 65, 192, 513])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_they_equal_torchs_convolution_of_signs(
    inputs: int, kernel_size: int, stride: int, kernel: str
) -> None:
    case = make_case(inputs, 33, (6, 34), kernel_size, stride, 0.01, 0.1, seed=inputs)
    active = torch.from_numpy(case.activations).double()[None]
    weight = torch.from_numpy(case.weight).double()
    expected = F.conv2d(active, weight, None, stride, padding=kernel_size // 2)[0]
    np.testing.assert_array_equal(sums_of_the_engine(case, kernel), expected.numpy())


@every_kernel
@pytest.mark.parametrize("inputs", [1, 16, 63, 64, 65, 513])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("method", ["dorefa", "dorefa-w1a2"])
def test_of_steps_they_are_twice_torchs_convolution(
    method: str, inputs: int, kernel_size: int, stride: int, kernel: str
) -> None:
    """DoReFa-Net's levels from 0 up; values on both sides of each step, and on it."""
    bits = DoReFa if method == "dorefa" else DoReFaTwoBit
    highest = 2**bits.activation_bits - 1
    case = make_case(inputs, 33, (6, 34), kernel_size, stride, odd_share=0.1, seed=inputs)
    x = case.x.copy()
    for level in range(highest):
        step = np.float32((level + 0.5) / highest)
        around = np.array(
            [np.nextafter(step, np.float32(0)), step, np.nextafter(step, np.float32(1))]
        )
        x[:, level::3, ::3] = around[np.arange(x[:, level::3, ::3].shape[-1]) % 3]
    active = ActivationLevels(bits.activation_bits)(torch.from_numpy(x)) * highest
    active = active.nan_to_num(0).double().round()[None]
    assert set(active.unique().tolist()) == set(range(highest + 1))
    weight = torch.from_numpy(case.weight).double()
    expected = F.conv2d(active, weight, None, stride, padding=kernel_size // 2)[0]
    constants = bits().constants(inputs, 33)
    found = sums_of_the_engine(replace(case, x=x), kernel, method, constants)
    np.testing.assert_array_equal(found, 2 * expected.numpy())


@every_kernel
@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(3))
def test_a_single_weight_sees_a_single_neighbour(row: int, column: int, kernel: str) -> None:
    """Each tap by itself, so that two of them cannot make up for each other at a border."""
    case = make_case(5, 3, (4, 5), zero_share=1.0, seed=3 * row + column)
    case.weight[1, 2, row, column] = -1
    found = sums_of_the_engine(case, kernel)
    expected = np.zeros((4 + 2, 5 + 2), np.int64)
    expected[1:-1, 1:-1] = -case.activations[2]
    np.testing.assert_array_equal(found[1], expected[row : row + 4, column : column + 5])
    assert not found[[0, 2]].any()


@every_kernel
def test_no_channel_is_taken_for_another(kernel: str) -> None:
    """Identity weights of 1×1 give the signs themselves, each in its place."""
    case = make_case(129, 129, (3, 7), kernel_size=1, odd_share=0.5)
    case = replace(case, weight=np.eye(129, dtype=np.int64)[:, :, None, None])
    np.testing.assert_array_equal(sums_of_the_engine(case, kernel), case.activations)


@every_kernel
@pytest.mark.parametrize("inputs", [8, 63, 64, 72, 136])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_they_equal_openvinos_binary_convolution(
    inputs: int, kernel_size: int, stride: int, kernel: str
) -> None:
    case = make_case(inputs, 40, (6, 10), kernel_size, stride, seed=inputs)
    expected = openvino_accumulators(case.activations[None], case.weight, stride)[0]
    np.testing.assert_array_equal(sums_of_the_engine(case, kernel), expected)
