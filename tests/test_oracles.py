"""The oracles themselves against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from oracles import openvino_accumulators


@pytest.mark.parametrize("channels", [1, 3, 8, 12, 64, 100])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_openvinos_binary_convolution(channels: int, kernel: int, stride: int) -> None:
    generator = np.random.default_rng(channels)
    signs = generator.choice([-1, 1], (2, channels, 6, 10))
    weights = generator.choice([-1, 1], (5, channels, kernel, kernel))
    expected = F.conv2d(
        torch.from_numpy(signs), torch.from_numpy(weights), stride=stride, padding=kernel // 2
    )
    sums = openvino_accumulators(signs, weights, stride)
    np.testing.assert_array_equal(sums, expected.numpy())
