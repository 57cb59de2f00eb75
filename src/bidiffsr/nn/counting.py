"""Parameters and operations as the binarization papers count them (docs/method.md, "Counting").

Params = full-precision parameters + binary parameters / 32.
OPs = full-precision multiply-accumulates + binary ones / 64; group norm counts 5 an element,
nearest-neighbour upsampling 1, and attention's two matrix products count too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bidiffsr.binary import BinaryConv2d
from bidiffsr.nn.blocks import SelfAttention

_NORM_OPERATIONS = 5


@dataclass(frozen=True)
class LayerCount:
    """What one layer holds and does in one step for one picture."""

    name: str
    kind: str
    bits: int
    """Bits a weight takes at inference; 0 for a sum over layers."""
    parameters: int
    binary_parameters: int
    """How many of ``parameters`` are one bit."""
    macs: int
    """Full-precision multiply-accumulates, or what counts as such."""
    binary_macs: int
    elements: int = 0
    """How many values it writes."""

    @property
    def params(self) -> float:
        """Parameters as the papers count them: full-precision + binary / 32."""
        return self.parameters - self.binary_parameters + self.binary_parameters / 32

    @property
    def ops(self) -> float:
        """Operations as the papers count them: full-precision + binary / 64."""
        return self.macs + self.binary_macs / 64


def count(network: nn.Module, height: int, width: int) -> list[LayerCount]:
    """Count every layer that holds parameters, in the order of its definition.

    Args:
        network: any network of this package; only shapes are computed, nothing is run.
        height, width: of the output, pixels.
    """
    modules = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, SelfAttention | nn.Upsample)
        or any(True for _ in module.parameters(recurse=False))
    }
    # A module that is called several times has several outputs.
    outputs: dict[str, list[torch.Size]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs[name].append(output.shape)
        )
        for name, module in modules.items()
    ]
    try:
        _run_shapes(network, height, width)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        replace(
            _count_layer(name, module, outputs[name]),
            elements=sum(output.numel() for output in outputs[name]),
        )
        for name, module in modules.items()
    ]


def total(counts: Iterable[LayerCount]) -> LayerCount:
    """The sum over layers."""
    counts = list(counts)
    sums = {
        field: sum(getattr(layer, field) for layer in counts)
        for field in ("parameters", "binary_parameters", "macs", "binary_macs", "elements")
    }
    return LayerCount("total", "", 0, **sums)


def _run_shapes(network: nn.Module, height: int, width: int) -> None:
    """One forward in which tensors have shapes and no contents."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    picture = torch.empty(1, 3, height, width, device="meta")
    timestep = torch.zeros(1, dtype=torch.int64, device="meta")
    training = network.training
    with torch.no_grad():
        torch.func.functional_call(network.eval(), shapes, (picture, picture, timestep))
    network.train(training)


def _count_layer(name: str, module: nn.Module, outputs: list[torch.Size]) -> LayerCount:
    parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    elements = sum(output.numel() for output in outputs)
    if isinstance(module, BinaryConv2d):
        macs = elements * module.weight[0].numel()
        weights = module.weight.numel() if module.weight_bits == 1 else 0
        kind = f"conv {module.weight.shape[-1]}x{module.weight.shape[-1]}"
        if module.is_binary:
            return LayerCount(name, f"binary {kind}", 1, parameters, weights, 0, macs)
        return LayerCount(name, kind, module.weight_bits, parameters, weights, macs, 0)
    if isinstance(module, SelfAttention):
        products = sum(2 * output.numel() * output[-1] * output[-2] for output in outputs)
        return LayerCount(name, "attention", 32, 0, 0, products, 0)
    if isinstance(module, nn.GroupNorm):
        return LayerCount(name, "norm", 32, parameters, 0, _NORM_OPERATIONS * elements, 0)
    if isinstance(module, nn.Upsample):
        return LayerCount(name, "upsample", 32, 0, 0, elements, 0)
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Conv2d | nn.Linear) and isinstance(weight, Tensor):
        kind = "linear"
        if isinstance(module, nn.Conv2d):
            kind = f"conv {module.kernel_size[0]}x{module.kernel_size[1]}"
        return LayerCount(name, kind, 32, parameters, 0, elements * weight[0].numel(), 0)
    return LayerCount(name, type(module).__name__, 32, parameters, 0, 0, 0)
