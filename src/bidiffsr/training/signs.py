"""How binarized weights move: what training's log says of their signs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bidiffsr.binary import BinaryConv2d


class WeightSigns:
    """The signs of all binarized weights as they are now, to be compared with later ones.

    Args:
        layers: convolutions with their weights' binarizers, which need not be in place.
    """

    def __init__(self, layers: Sequence[tuple[BinaryConv2d, nn.Module]]) -> None:
        self._layers = layers
        self._signs = [_signs(*layer) for layer in layers]

    def after_update(self) -> dict[str, float]:
        """What the update since did, as shares of all binarized weights, 0 to 1.

        ``signs_flipped``: their signs have turned. ``signs_dead``: their gradient is exactly 0, as
        it is where the method's estimate of it ends; nothing but momentum can turn these.
        """
        total = sum(signs.numel() for signs in self._signs)
        if not total:
            return {}
        flipped = dead = 0
        for layer, before in zip(self._layers, self._signs, strict=True):
            flipped += int((_signs(*layer) != before).sum())
            gradient = layer[0].weight.grad
            dead += before.numel() if gradient is None else int((gradient == 0).sum())
        return {"signs_flipped": flipped / total, "signs_dead": dead / total}


def _signs(layer: BinaryConv2d, binarizer: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return binarizer(layer.weight) >= 0
