"""Independent implementations that tests compare with."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

# OpenVINO's operation is silently wrong where the channels do not fill whole bytes.
_CHANNELS = 8


def openvino_accumulators(
    signs: NDArray[Any], weights: NDArray[Any], stride: int = 1
) -> NDArray[np.int64]:
    """Integer sums of a "same" convolution by OpenVINO's BinaryConvolution, on one thread.

    Taps outside contribute 0. The test is skipped where OpenVINO is not installed.

    Args:
        signs: -1 and +1, (B, C, H, W), any C.
        weights: -1 and +1, (O, C, k, k), k odd.
        stride: H and W are divisible by it.
    """
    pytest.importorskip("openvino", reason="OpenVINO, a test oracle only, is not installed")
    missing = -signs.shape[1] % _CHANNELS
    signs = _with_ones(signs, missing)
    weights = _with_ones(weights, missing)
    sums = _run(signs, weights, stride)
    # Each channel added above is +1 times +1, so it counted the taps inside.
    return sums - missing * _taps_inside(signs.shape[2:], weights.shape[-1], stride)


def _with_ones(value: NDArray[Any], channels: int) -> NDArray[Any]:
    return np.pad(value, ((0, 0), (0, channels), (0, 0), (0, 0)), constant_values=1)


def _taps_inside(size: tuple[int, ...], kernel: int, stride: int) -> NDArray[np.int64]:
    """How many taps of the window lie inside, at each output pixel: (H', W')."""
    reach = kernel // 2
    rows, columns = (
        np.array(
            [
                sum(0 <= at + tap < length for tap in range(-reach, reach + 1))
                for at in range(0, length, stride)
            ]
        )
        for length in size
    )
    return rows[:, None] * columns


def _run(signs: NDArray[Any], weights: NDArray[Any], stride: int) -> NDArray[np.int64]:
    openvino: Any = importlib.import_module("openvino")
    ops: Any = importlib.import_module("openvino.opset15")
    x = ops.parameter(list(signs.shape), np.float32)
    # Above zero is 1, the rest 0, which the operation takes for +1 and -1.
    zero, one = ops.constant(np.float32(0)), ops.constant(np.float32(1))
    bits = ops.fake_quantize(x, zero, zero, zero, one, 2)
    packed = np.packbits(weights.reshape(-1) > 0, bitorder="little")
    tensor = openvino.Tensor(packed, openvino.Shape(list(weights.shape)), openvino.Type.u1)
    kernel = openvino.op.Constant(tensor, shared_memory=False)
    strides, pad = [stride] * 2, [weights.shape[-1] // 2] * 2
    sums = ops.binary_convolution(bits, kernel, strides, pad, pad, [1, 1], "xnor-popcount", 0.0)
    model = openvino.Model([sums], [x])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return compiled(signs.astype(np.float32))[0].astype(np.int64)
