"""Parameters and operations as the binarization papers count them (docs/method.md, "Counting").

Params = full-precision parameters + binary parameters / 32.
OPs = full-precision multiply-accumulates + binary ones / 64; group norm counts 5 an element,
nearest-neighbour upsampling 1, and attention's two matrix products count too.
"""

from __future__ import annotations

from collections.abc import Iterable

from bidiffsr.config import BiDiffSRConfig, SR3Config
from bidiffsr.errors import ConfigError
from bidiffsr.nn.layout import LayerCount, network_layers

__all__ = ["LayerCount", "count", "total"]


def count(config: BiDiffSRConfig | SR3Config, height: int, width: int) -> list[LayerCount]:
    """Count every layer that holds parameters or computes, in the order of its definition.

    Args:
        config: any network; nothing is built or run, and no PyTorch needed.
        height, width: of the output, pixels.

    Raises:
        ConfigError: the network takes no pictures of this size.
    """
    multiple = config.size_multiple
    if height % multiple or width % multiple:
        raise ConfigError(f"size {width}x{height}: both must be multiples of {multiple}")
    return [row for layer in network_layers(config) for row in layer.counts(height, width)]


def total(counts: Iterable[LayerCount]) -> LayerCount:
    """The sum over layers."""
    counts = list(counts)
    sums = {
        field: sum(getattr(layer, field) for layer in counts)
        for field in ("parameters", "binary_parameters", "macs", "binary_macs", "elements")
    }
    return LayerCount("total", "", 0, **sums)
