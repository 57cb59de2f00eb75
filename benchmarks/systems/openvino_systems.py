"""OpenVINO's CPU plugin: the float network, its rewriting on BinaryConvolution, and SR3.

The graph is built where PyTorch is, saved, and read in the process that runs it, which knows
OpenVINO alone. All forms are written by hand (``openvino_graph``), which is faster than what
OpenVINO's converter makes of the modules: group norms stay channels-last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bidiffsr.bench.systems import System, Workload, is_installed

_CALIBRATION_INPUTS = 4


def time_encoding(t: float, channels: int) -> NDArray[np.float32]:
    """The sines and cosines of the timestep (1, C), as ``TimeEmbedding`` defines them.

    Outside of the graph, because angles of up to 2000 mean nothing in bfloat16.
    """
    half = channels // 2
    frequency = np.exp(-np.log(1e4) / half * np.arange(half)).astype(np.float32)
    angles = np.float32(t) * frequency
    return np.concatenate([np.sin(angles), np.cos(angles)])[None].astype(np.float32)


class OpenVINOPredictor:
    """A compiled graph."""

    def __init__(self, graph: Path, precision: str, threads: int) -> None:
        import openvino as ov

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        }
        compiled = ov.Core().compile_model(str(graph), "CPU", settings)
        self._channels = compiled.input("encoding").shape[1]
        self._request = compiled.create_infer_request()

    def predict(
        self, x_t: NDArray[np.float32], cond: NDArray[np.float32], t: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        encoding = time_encoding(float(t[0]), self._channels)
        inputs = {"x_t": x_t, "cond": cond, "encoding": encoding}
        return self._request.infer(inputs, share_inputs=True)[0].copy()


@dataclass(frozen=True)
class OpenVINO(System):
    """One graph in one precision."""

    label: str
    precision: Literal["f32", "bf16"]
    binary: bool = False
    int8: bool = False
    """Whether nncf quantizes the convolutions in full precision."""
    needs: ClassVar[tuple[str, ...]] = ("openvino",)
    prepares: ClassVar[bool] = True
    # Its memory plan reuses what it holds anyway; what compiling frees may go back.
    keeps_freed_memory: ClassVar[bool] = False

    @property
    def scales(self) -> bool:
        return self.binary and self.precision == "bf16" and not self.int8

    @property
    def name(self) -> str:
        return f"OpenVINO {self.label}, {'int8 + ' if self.int8 else ''}{self.precision}"

    @property
    def tolerance(self) -> float:
        return 0.3 if self.int8 else 0.15 if self.precision == "bf16" else 0.05

    def unavailable(self) -> str | None:
        if self.int8 and not is_installed("nncf"):
            return "nncf is not installed"
        return super().unavailable()

    def prepare(self, workload: Workload) -> None:
        path = self._graph(workload)
        if path.exists():
            return
        import openvino as ov

        from benchmarks.systems.openvino_graph import build_graph
        from bidiffsr.models.trained import load_model
        from bidiffsr.nn import BiDiffSRUNet

        network, _ = load_model(workload.model)
        group = 0
        if isinstance(network, BiDiffSRUNet):
            import torch

            group = int(network.group_of(torch.tensor([workload.timestep])))
        graph = build_graph(network, workload.size, workload.size, group, binary=self.binary)
        if self.int8:
            graph = quantize(graph, list(_calibration(workload, graph)))
        # Never halved: nothing is gained on a CPU, and signs would flip.
        ov.save_model(graph, str(path), compress_to_fp16=False)

    def load(self, workload: Workload, threads: int) -> OpenVINOPredictor:
        return OpenVINOPredictor(self._graph(workload), self.precision, threads)

    def _graph(self, workload: Workload) -> Path:
        form = ("binary" if self.binary else "float") + ("-int8" if self.int8 else "")
        return workload.folder / f"{workload.model.stem}-{workload.size}-{form}.xml"


def _calibration(workload: Workload, graph: Any) -> Iterator[dict[str, NDArray[np.float32]]]:
    generator = np.random.default_rng(1)
    shape = (1, 3, workload.size, workload.size)
    channels = graph.input("encoding").shape[1]
    for _ in range(_CALIBRATION_INPUTS):
        yield {
            "x_t": generator.standard_normal(shape, dtype=np.float32),
            "cond": generator.random(shape, dtype=np.float32),
            "encoding": time_encoding(workload.timestep, channels),
        }


def quantize(graph: Any, inputs: list[dict[str, NDArray[np.float32]]]) -> Any:
    """Post-training int8 quantization of the convolutions, and of nothing else.

    Left to itself nncf also quantizes what group norms are made of: with one step size for all
    variances, small ones become zero and the output is wrong; and the requantizations around
    additions cost more than they save.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    kinds = {node.get_type_name() for node in graph.get_ops()}
    ignored = sorted(kinds - {"Convolution", "Constant", "Parameter", "Result"})
    return nncf.quantize(
        graph,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(types=ignored, validate=False),
    )
