"""PyTorch beyond plain eager: weights binarized once, and torch.compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bidiffsr.bench.systems import Predictor, System, Workload

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TorchBinarizedOnce(System):
    """Eager or compiled, with the weights' signs and scales taken at loading, not in each step."""

    compiled: bool = False
    needs: ClassVar[tuple[str, ...]] = ("torch", "bidiffsr.backends.pytorch")

    @property
    def name(self) -> str:
        how = "torch.compile" if self.compiled else "PyTorch eager"
        return f"{how}, float32, weights binarized once"

    def load(self, workload: Workload, threads: int) -> Predictor:
        import torch

        from bidiffsr.backends.pytorch import TorchBackend
        from bidiffsr.models.trained import load_model

        torch.set_num_threads(threads)
        network, _ = load_model(workload.model)
        binarize_weights(network)
        backend = TorchBackend(network, "cpu")
        if self.compiled:
            backend.network.compile()
        return backend


def binarize_weights(network: nn.Module) -> None:
    """Put each one-bit weight's scaled signs in its place and empty the slot; same outputs."""
    import torch

    from bidiffsr.binary import BinaryConv2d

    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, BinaryConv2d) and module.binarize_weight is not None:
            module.weight = torch.nn.Parameter(
                module.binarize_weight(module.weight).contiguous(), requires_grad=False
            )
            module.binarize_weight = None
