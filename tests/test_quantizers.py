"""The binarizers: signs against NumPy's, gradients against autograd of the formulas they cite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from bidiffsr.binary import ActivationSign, ScaledWeightSign

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# The places where a formula changes, beside whatever else is drawn.
numbers = st.one_of(
    st.sampled_from([-1.0, 0.0, -0.0, 1.0, np.nextafter(-1, -2), np.nextafter(1, 2), 5e-324]),
    st.floats(-1.5, 1.5),
    st.floats(-1e100, 1e100),
)
activations = arrays(np.float64, array_shapes(max_dims=4, max_side=5), elements=numbers)
weights = arrays(np.float64, array_shapes(min_dims=4, max_dims=4, max_side=4), elements=numbers)


def gradient(function: object, x: Tensor, upstream: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (result,) = torch.autograd.grad(function(x), x, upstream)  # type: ignore[operator]
    return result


def piecewise_quadratic(x: Tensor) -> Tensor:
    """Bi-Real Net (Liu et al. 2018), eq. 6: what stands for the sign when going backward."""
    left = torch.where(x < -1, -1.0, 2 * x + x * x)
    right = torch.where(x < 1, 2 * x - x * x, 1.0)
    return torch.where(x < 0, left, right)


def upstream_of(x: Tensor) -> Tensor:
    return torch.linspace(-2, 3, x.numel(), dtype=x.dtype).reshape(x.shape)


@settings(deadline=None)
@given(activations)
@example(np.array([-0.0, 0.0]))
def test_activation_is_plus_one_from_zero_up(x: NDArray[np.float64]) -> None:
    signs = ActivationSign()(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(signs, np.where(x >= 0, 1.0, -1.0))


def test_activation_has_no_zero() -> None:
    signs = ActivationSign()(torch.tensor([-1e-30, -0.0, 0.0, 1e-30]))
    assert signs.tolist() == [-1.0, 1.0, 1.0, 1.0]


@settings(deadline=None)
@given(activations)
def test_activation_gradient_is_that_of_the_piecewise_quadratic(x: NDArray[np.float64]) -> None:
    tensor = torch.from_numpy(x)
    upstream = upstream_of(tensor)
    found = gradient(ActivationSign(), tensor, upstream)
    expected = gradient(piecewise_quadratic, tensor, upstream)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("x", "slope"),
    [
        (-1.5, 0),
        (-1.0, 0),
        (-0.75, 0.5),
        (-0.25, 1.5),
        (0.0, 2),
        (0.25, 1.5),
        (0.75, 0.5),
        (1.0, 0),
        (1.5, 0),
    ],
)
def test_activation_gradient_by_hand(x: float, slope: float) -> None:
    tensor = torch.tensor([x])
    assert gradient(ActivationSign(), tensor, torch.ones(1)).item() == slope
    assert gradient(ActivationSign(), tensor, torch.full((1,), -3.0)).item() == -3 * slope


@settings(deadline=None)
@given(weights)
def test_weight_is_the_mean_magnitude_with_each_sign(weight: NDArray[np.float64]) -> None:
    found = ScaledWeightSign()(torch.from_numpy(weight)).numpy()
    for filter_, result in zip(weight, found, strict=True):
        expected = np.mean(np.abs(filter_)) * np.sign(filter_)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
        np.testing.assert_array_equal(result[filter_ == 0], 0)


@settings(deadline=None)
@given(weights)
def test_weight_gradient_is_straight_through_with_alpha_constant(
    weight: NDArray[np.float64],
) -> None:
    tensor = torch.from_numpy(weight)
    upstream = upstream_of(tensor)

    def straight_through(w: Tensor) -> Tensor:
        alpha = w.abs().mean(dim=(1, 2, 3), keepdim=True).detach()
        return alpha * w.clamp(-1, 1)  # clamp passes the gradient at its ends, too

    found = gradient(ScaledWeightSign(), tensor, upstream)
    torch.testing.assert_close(found, gradient(straight_through, tensor, upstream))


def test_weight_gradient_by_hand() -> None:
    weight = torch.tensor([[-2.0, -1.0, -0.5, 0.0], [0.5, 1.0, 1.5, 1.0]])[:, :, None, None]
    found = gradient(ScaledWeightSign(), weight, torch.ones_like(weight))
    alpha = [3.5 / 4, 1.0]
    expected = [[0, alpha[0], alpha[0], alpha[0]], [alpha[1], alpha[1], 0, alpha[1]]]
    assert found.flatten(1).tolist() == expected


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (4, 2, 3, 3)])
@pytest.mark.parametrize("binarizer", [ActivationSign(), ScaledWeightSign()])
def test_dtype_and_shape_are_kept(
    binarizer: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(shape).to(dtype).requires_grad_(True)
    before = x.detach().clone()
    result = binarizer(x)
    result.sum().backward()
    assert result.dtype == dtype
    assert result.shape == shape
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert x.grad.shape == shape
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 2, 3, 4, 5)])
def test_activation_takes_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    result = ActivationSign()(x)
    result.sum().backward()
    assert result.shape == shape
    assert x.grad is not None
    assert x.grad.shape == shape
