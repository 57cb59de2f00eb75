"""A process that holds one system and runs it when told to.

The parent lets one process run at a time. Between two turns a process waits on its pipe and costs
nothing: OpenMP's threads are told to sleep rather than to spin (unless the environment says
otherwise), which is also several times faster where others use the machine, and the pause after
each step lets those come to rest that spin all the same.

The child is ``python -m bidiffsr.bench.worker DESCRIPTOR``.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.bench.systems import Predictor, System, Workload
from bidiffsr.errors import BidiffsrError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


class WorkerError(BidiffsrError, RuntimeError):
    """What went wrong in a worker, in one line."""


class Worker:
    """The parent's side; use as a context manager, or ``close`` it.

    Args:
        threads: how many the process may compute with.
    """

    def __init__(self, threads: int) -> None:
        ours, theirs = Pipe()
        environment = _WAITING | os.environ | {name: str(threads) for name in _THREAD_VARIABLES}
        # The systems come from wherever this process imported them.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-m", "bidiffsr.bench.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours

    def call(self, function: str, *arguments: Any) -> Any:
        """Run a public function of ``Host`` there.

        Raises:
            WorkerError: it failed, or the process ended.
        """
        try:
            # Pickled here, so that what cannot be pickled fails here.
            self._pipe.send_bytes(pickle.dumps((function, arguments)))
            succeeded, value = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            code = self._process.wait()
            raise WorkerError(f"its process ended with code {code}") from None
        if not succeeded:
            raise WorkerError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Host:
    """The child's side: its public functions are what a parent may call."""

    def __init__(self) -> None:
        self._predictor: Predictor | None = None
        self._inputs: Any = None
        self._base_mb = 0.0

    def prepare(self, system: System, workload: Workload) -> None:
        """``System.prepare``."""
        system.prepare(workload)

    def load(self, system: System, workload: Workload, threads: int) -> None:
        """``System.load``, after importing what it needs."""
        if system.keeps_freed_memory:
            from bidiffsr.system.process import keep_freed_memory

            keep_freed_memory()
        for module in system.needs:
            import_module(module)
        self._inputs = workload.inputs()
        self._base_mb = _memory_mb("VmRSS")
        self._predictor = system.load(workload, threads)

    def output(self) -> NDArray[np.float32]:
        """What one step computes."""
        return self._loaded.predict(*self._inputs)

    def step(self) -> float:
        """Milliseconds of one step, from arrays to an array."""
        predictor, inputs = self._loaded, self._inputs
        start = time.perf_counter()
        predictor.predict(*inputs)
        return 1000 * (time.perf_counter() - start)

    def processor_step(self) -> float:
        """Milliseconds that the CPUs spent on one step: other programs' are not among them."""
        predictor, inputs = self._loaded, self._inputs
        start = time.process_time()
        predictor.predict(*inputs)
        return 1000 * (time.process_time() - start)

    def memory(self) -> tuple[float, float]:
        """Peak resident set in MB, and how much of it came after the imports."""
        peak = _memory_mb("VmHWM")
        return peak, peak - self._base_mb

    def profile(self, times: int = 5) -> dict[str, tuple[float, float]]:
        """Median milliseconds, and multiply-accumulates, by kind of layer."""
        loaded: Any = self._loaded
        profiles = [loaded.profile(*self._inputs) for _ in range(times)]
        return {
            kind: (statistics.median(profile[kind][0] for profile in profiles), macs)
            for kind, (_, macs) in profiles[0].items()
        }

    def ceilings(self, threads: int, times: int = 5) -> dict[str, float]:
        """`backends.engine.ceilings`, and the binary convolution alone: the best of several."""
        engine: Any = import_module("bidiffsr.backends.engine")

        def rates() -> dict[str, float]:
            alone = {
                f"binary 3x3 alone, {channels} channels (TMAC/s)": 1e-12
                * engine.binary_conv_rate(channels, width, threads)
                for channels, width in _PUBLISHED_ROWS
            }
            return engine.ceilings(threads) | alone

        found = [rates() for _ in range(times)]
        return {name: max(each[name] for each in found) for name in found[0]}

    def random_model(self, path: Path, config: Any) -> None:
        """``bidiffsr.bench.models.save_random_model``."""
        from bidiffsr.bench.models import save_random_model

        save_random_model(path, config)

    @property
    def _loaded(self) -> Predictor:
        if self._predictor is None:
            raise RuntimeError("nothing is loaded")
        return self._predictor


# Channels and widths of the published network's binary 3×3 convolutions at 256×256; the first are
# the halves of CP-Down.
_PUBLISHED_ROWS = ((32, 256), (64, 256), (128, 128), (256, 64), (512, 32))


def _memory_mb(key: str) -> float:
    """A line of /proc/self/status; elsewhere the peak, which is all that can be known."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def serve(pipe: Connection) -> None:
    """Answer calls until the parent hangs up."""
    host = Host()
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = (True, getattr(host, function)(*arguments))
        except Exception as error:
            lines = str(error).split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), "")
            kind = "" if isinstance(error, BidiffsrError) else f"{type(error).__name__}: "
            answer = (False, kind + reason)
        pipe.send_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
