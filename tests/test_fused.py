"""The BI-Conv block as one function, against the modules it stands for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bidiffsr.binary import ConvBlock, compiled_kernels, fuse
from bidiffsr.binary.fused import EAGER, Kernels
from bidiffsr.binary.methods import BiDiffSR, ConvMethod, FullPrecision
from bidiffsr.binary.methods.helped import Helped
from bidiffsr.config import BiDiffSRConfig
from bidiffsr.nn import build_network
from helpers import relative_l2, scramble, tiny_network_config

METHODS: dict[str, ConvMethod] = {
    "groups": BiDiffSR(5, 5),
    "one group": BiDiffSR(1, 1),
    "mixed": BiDiffSR(5, 1),
    "no shortcut": BiDiffSR(5, 5, identity_shortcut=False),
    "gain": BiDiffSR(5, 5, gain=True),
    "pointwise help": Helped(BiDiffSR(5, 5), "pointwise"),
    "grouped help": Helped(BiDiffSR(5, 5), "grouped"),
}
SHAPES = [(6, 6, 3, 1), (6, 10, 3, 1), (8, 8, 1, 1), (4, 8, 3, 2), (1, 1, 3, 1)]


def gradients(block: nn.Module, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The output for leaf tensors, and every gradient of a fixed weighting of it."""
    leaves = [
        value.clone().requires_grad_() if value.is_floating_point() else value for value in inputs
    ]
    block.zero_grad()
    output = block(*leaves)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    (output * weights).sum().backward()
    found = {name: value.grad for name, value in block.named_parameters() if value.grad is not None}
    found |= {f"input {n}": leaf.grad for n, leaf in enumerate(leaves) if leaf.grad is not None}
    return output.detach(), found


def check_same(block: nn.Module, kernels: Kernels, tolerance: float, *inputs: Any) -> None:
    block.train()
    expected, expected_gradients = gradients(block, *inputs)
    fuse(block, kernels)
    found, found_gradients = gradients(block, *inputs)
    assert found.dtype == expected.dtype
    assert relative_l2(found, expected) < tolerance
    assert found_gradients.keys() == expected_gradients.keys()
    for name, value in expected_gradients.items():
        assert relative_l2(found_gradients[name], value) < tolerance, name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_output_and_every_gradient_are_the_modules(
    method: str, shape: tuple[int, int, int, int]
) -> None:
    channels_in, channels_out, kernel, stride = shape
    block = scramble(METHODS[method].conv(channels_in, channels_out, kernel, stride)).double()
    with torch.no_grad():
        block.conv.weight[0, 0, 0, 0] = 1.5  # type: ignore[index]  # outside of the straight-through window
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, channels_in, 6, 10, generator=generator, dtype=torch.float64)
    check_same(block, EAGER, 1e-12, x, torch.tensor([0, 3, 3, 4]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_passes_are_the_eager_ones() -> None:
    block = scramble(BiDiffSR(3, 3).conv(16, 16, 3))
    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    x = x.to(memory_format=torch.channels_last)
    check_same(block, compiled_kernels(), 1e-5, x, torch.tensor([2, 0, 1]))


def test_a_whole_network_trains_the_same() -> None:
    network = scramble(build_network(tiny_network_config(dropout=0.0))).double()
    generator = torch.Generator().manual_seed(2)
    pictures = torch.rand(2, 3, 3, 8, 12, generator=generator, dtype=torch.float64)
    check_same(network, EAGER, 1e-9, pictures[0], pictures[1], torch.tensor([0, 50, 99]))


def test_under_autocast_bfloat16_convolves_signs_exactly() -> None:
    """Sums of up to 256 signs are numbers of bfloat16, where products with a scale would not be."""
    block = scramble(BiDiffSR(2, 2).conv(28, 28, 3)).train()
    x = torch.randn(2, 28, 8, 8, generator=torch.Generator().manual_seed(1))
    group = torch.tensor([1, 0])
    exact = block(x, group)
    dtypes = []

    def epilogue(sums: Tensor, *rest: Any) -> Tensor:
        dtypes.append(sums.dtype)
        return EAGER.epilogue(sums, *rest)

    fuse(block, replace(EAGER, epilogue=epilogue))
    with torch.autocast("cpu", torch.bfloat16):
        result = block(x, group)
    assert dtypes == [torch.bfloat16]
    assert result.dtype == torch.float32
    assert relative_l2(result.detach(), exact.detach()) < 1e-6
    result.sum().backward()
    assert all(value.grad is not None for value in block.parameters())


def test_evaluation_full_precision_and_real_weights_stay_with_the_modules() -> None:
    def refused(*_: Any) -> Tensor:
        raise AssertionError("fused")

    broken = Kernels(refused, refused, refused, refused)  # type: ignore[arg-type]
    x, group = torch.randn(1, 4, 5, 5), torch.tensor([0])
    block, plain = BiDiffSR(1, 1).conv(4, 4, 3), FullPrecision().conv(4, 4, 3)
    for each in (block, plain):
        fuse(each, broken)
    assert isinstance(plain(x, group), Tensor)
    assert isinstance(block.eval()(x, group), Tensor)
    with pytest.raises(AssertionError, match="fused"):
        block.train()(x, group)
    block.conv.binarize_weight = None  # as ``binarize_weights_from`` has it
    assert isinstance(block(x, group), Tensor)


def test_every_binary_block_of_a_network_is_fused() -> None:
    network = build_network(BiDiffSRConfig(channels=16, norm_groups=4))
    fuse(network, EAGER)
    blocks = [module for module in network.modules() if isinstance(module, ConvBlock)]
    assert {block.kernels is EAGER for block in blocks if block.conv.is_binary} == {True}
    assert {block.kernels for block in blocks if not block.conv.is_binary} == {None}
