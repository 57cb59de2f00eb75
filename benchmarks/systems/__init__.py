"""The systems that the benchmark compares, in the order of its table."""

from __future__ import annotations

from benchmarks.systems.openvino_systems import OpenVINO
from benchmarks.systems.torch_systems import TorchBinarizedOnce
from bidiffsr.bench import EngineSystem, System, TorchEager

# The first is what the others' times and outputs are compared with.
BIDIFFSR: tuple[System, ...] = (
    TorchEager(),
    TorchBinarizedOnce(),
    TorchBinarizedOnce(compiled=True),
    OpenVINO("float", "f32"),
    OpenVINO("float", "bf16"),
    OpenVINO("BinaryConvolution", "f32", binary=True),
    OpenVINO("BinaryConvolution", "bf16", binary=True),
    OpenVINO("BinaryConvolution", "bf16", binary=True, int8=True),
    EngineSystem("exact"),
    EngineSystem("fast"),
)
SR3: tuple[System, ...] = (
    TorchEager(),
    OpenVINO("float", "bf16"),
    OpenVINO("float", "bf16", int8=True),
)
