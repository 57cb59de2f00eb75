"""The kinds of layers on paper: names and parameters as in PyTorch, and what they cost.

Sizes are given as ``shrink``: how many times as high and wide as the layer's output the picture is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from bidiffsr.binary.methods import ConvMethod
from bidiffsr.binary.parameters import Parameter, Role

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


@dataclass(frozen=True)
class Layer(ABC):
    """A layer, under the name of its PyTorch module."""

    name: str

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Its parameters under their whole names, in PyTorch's order."""
        return {f"{self.name}.{part}": parameter for part, parameter in self.own().items()}

    @abstractmethod
    def own(self) -> dict[str, Parameter]:
        """Its parameters under the names that they have in it."""

    @abstractmethod
    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """What it costs, part by part, for an output picture of ``height`` × ``width`` pixels."""

    def _count(self, kind: str, macs: int, elements: int) -> LayerCount:
        parameters = sum(prod(parameter.shape) for parameter in self.own().values())
        return LayerCount(self.name, kind, 32, parameters, 0, macs, 0, elements)


@dataclass(frozen=True)
class Linear(Layer):
    """A linear layer of the time embedding."""

    channels_in: int
    channels_out: int

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        return {
            "weight": Parameter((self.channels_out, self.channels_in), Role.WEIGHT),
            "bias": Parameter((self.channels_out,), Role.VECTOR),
        }

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``."""
        yield self._count("linear", self.channels_in * self.channels_out, self.channels_out)


@dataclass(frozen=True)
class Conv(Layer):
    """A full-precision convolution outside of the binarized blocks."""

    channels_in: int
    channels_out: int
    kernel: int
    shrink: int
    bias: bool = True

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        shape = (self.channels_out, self.channels_in, self.kernel, self.kernel)
        bias = {"bias": Parameter((self.channels_out,), Role.VECTOR)} if self.bias else {}
        return {"weight": Parameter(shape, Role.WEIGHT)} | bias

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``."""
        elements = self.channels_out * _area(height, width, self.shrink)
        macs = elements * self.channels_in * self.kernel**2
        yield self._count(f"conv {self.kernel}x{self.kernel}", macs, elements)


@dataclass(frozen=True)
class ConvBlock(Layer):
    """A convolution block of a binarization method, or of none (``FullPrecision``)."""

    method: ConvMethod
    channels_in: int
    channels_out: int
    kernel: int
    shrink: int
    stride: int = 1

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        return self.method.parameters(self.channels_in, self.channels_out, self.kernel)

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``: a row for each of its modules that hold parameters."""
        modules: dict[str, dict[str, Parameter]] = {}
        for name, parameter in self.own().items():
            module, _, last = name.rpartition(".")
            modules.setdefault(module, {})[last] = parameter
        for module, parameters in modules.items():
            yield self._count_module(module, parameters, height, width)

    def _count_module(
        self, module: str, parameters: dict[str, Parameter], height: int, width: int
    ) -> LayerCount:
        elements = self.channels_out * _area(height, width, self.shrink)
        macs = binary = bits = 0
        kind = module or next(iter(parameters))
        for parameter in parameters.values():
            match parameter.role:
                case Role.WEIGHT:
                    macs = elements * prod(parameter.shape[1:])
                    kind = f"conv {parameter.shape[-1]}x{parameter.shape[-1]}"
                    bits = prod(parameter.shape) if parameter.one_bit else 0
                case Role.THRESHOLD:  # looks at the input
                    area = _area(height, width, self.shrink) * self.stride**2
                    elements = self.channels_in * area
                case Role.VECTOR:
                    pass
        if bits:
            kind, macs, binary = f"binary {kind}", 0, macs * self.method.activation_bits
        return LayerCount(
            f"{self.name}.{module}".strip("."),
            kind,
            1 if bits else 32,
            sum(prod(parameter.shape) for parameter in parameters.values()),
            bits,
            macs,
            binary,
            elements,
        )


@dataclass(frozen=True)
class Norm(Layer):
    """A scale and a shift a channel, after group norm's statistics or without any."""

    channels: int
    shrink: int
    statistics: bool = True

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        return dict.fromkeys(("weight", "bias"), Parameter((self.channels,), Role.VECTOR))

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``; a scale and a shift alone count as nothing."""
        elements = self.channels * _area(height, width, self.shrink)
        if self.statistics:
            yield self._count("norm", _NORM_OPERATIONS * elements, elements)
        else:
            yield self._count("affine", 0, elements)


@dataclass(frozen=True)
class Attention(Layer):
    """The two matrix products of self-attention over all positions."""

    channels: int
    shrink: int

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        return {}

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``."""
        area = _area(height, width, self.shrink)
        elements = self.channels * area
        yield self._count("attention", 2 * elements * area, elements)


@dataclass(frozen=True)
class Enlargement(Layer):
    """Nearest-neighbour upsampling; one module may serve several sizes."""

    sizes: tuple[tuple[int, int], ...]
    """Channels and ``shrink`` of each output."""

    def own(self) -> dict[str, Parameter]:
        """See ``Layer.own``."""
        return {}

    def counts(self, height: int, width: int) -> Iterator[LayerCount]:
        """See ``Layer.counts``; a value counts as an operation."""
        elements = sum(channels * _area(height, width, shrink) for channels, shrink in self.sizes)
        yield self._count("upsample", elements, elements)


def _area(height: int, width: int, shrink: int) -> int:
    return (height // shrink) * (width // shrink)
