"""What engines take of the machine: memory, processes, and no PyTorch."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from bidiffsr.models.catalog import find_model
from engine_cases import (
    KERNELS,
    load_engine,
    network_config,
    random_inputs,
    random_network,
    save_packed,
)

LOW = "x4-small"


@pytest.fixture(scope="module")
def shipped() -> Iterator[Path]:
    with find_model("default") as path:
        yield path


# Memory.


@pytest.mark.parametrize("changes", [{"attention_levels": (1,)}, {"patch": 4}])
def test_memory_grows_with_the_picture(changes: dict[str, Any], tmp_path: Path) -> None:
    config = network_config(channels=6, norm_groups=3, **changes)
    model = save_packed(tmp_path / "model.safetensors", random_network(config))
    engine = load_engine(model, KERNELS[0])
    sizes = [(8, 8), (32, 32), (32, 64), (256, 256), (4096, 8192)]
    needs = [engine.memory(*size) for size in sizes]
    assert needs[0] > 0
    assert needs == sorted(needs)
    # A picture's size is all that counts in the end.
    assert 1.9 < engine.memory(2048, 512) / engine.memory(1024, 512) < 2.1


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured in Linux's /proc"
)


LEAKS = """
    import os, sys, time
    from pathlib import Path
    import numpy as np
    from bidiffsr.backends.engine import Engine
    from bidiffsr.errors import ConfigError

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    def pictures(*size):
        return np.full((1, 3, *size), 0.5, np.float32)

    def engines():
        x = pictures(32, 32)
        Engine(sys.argv[1], threads=2).predict(x, x, np.array([0]))

    engine = Engine(sys.argv[1], threads=1)

    def calls():
        for size in ((64, 64), (128, 64), (64, 32), (64, 63)):
            x = pictures(*size)
            try:
                engine.predict(x, x, np.array([0]))
                assert size != (64, 63)
            except ConfigError:
                assert size == (64, 63)

    for work in (engines, calls):
        for _ in range(5):
            work()
        before, waiting = resident(), threads()
        for _ in range(30):
            work()
        print(resident() - before)
        for _ in range(100):  # the system takes a moment to bury a thread
            if threads() > waiting:
                time.sleep(0.01)
        assert threads() == waiting
"""


@needs_proc
def test_neither_engines_nor_calls_leave_anything_behind(shipped: Path) -> None:
    # One of these engines holds 3.6 MB, and the scratch memory of a call some megabytes.
    assert max(map(int, run_python(LEAKS, str(shipped)).split())) < 15e6


PEAK = """
    import sys
    from pathlib import Path
    import numpy as np
    from bidiffsr.backends.engine import Engine

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

    engine = Engine(sys.argv[1], sys.argv[2], 1)
    side = int(sys.argv[3])
    x = np.full((1, 3, side, side), 0.5, np.float32)
    engine.predict(x[..., :8, :8], x[..., :8, :8], np.array([0]))  # code is loaded as it runs
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what it is
    before = status("VmRSS")
    engine.predict(x, x, np.array([0]))
    print(status("VmHWM") - before, engine.memory(side, side))
"""


RELEASED = """
    import os, sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    import numpy as np
    from bidiffsr import Upscaler

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    upscaler = Upscaler.from_pretrained(sys.argv[1], threads=1)
    picture = np.zeros((32, 32, 3), np.uint8)
    upscaler(picture)
    upscaler.release_memory()
    before = resident()
    side = 512
    x = np.full((1, 3, side, side), 0.5, np.float32)
    scratch = upscaler.backend.memory(side, side)
    with ThreadPoolExecutor(int(sys.argv[2])) as pool:
        list(pool.map(lambda _: upscaler.backend.predict(x, x, np.array([0])).shape, range(8)))
    kept = resident() - before
    upscaler.release_memory()
    print(scratch, kept, resident() - before)
    upscaler(picture)
"""


@needs_proc
@pytest.mark.parametrize("callers", [1, 3])
def test_scratch_is_kept_and_given_back(callers: int, shipped: Path) -> None:
    scratch, kept, left = map(int, run_python(RELEASED, str(shipped), str(callers)).split())
    bound = min(callers, len(os.sched_getaffinity(0)))
    assert 0.8 * scratch < kept < (bound + 0.5) * scratch
    assert left < 0.5 * scratch  # in the allocator, a result of each caller


FAULTS = """
    import resource, sys
    import numpy as np
    from bidiffsr import Upscaler

    upscaler = Upscaler.from_pretrained(sys.argv[1], threads=1)
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        upscaler(picture, quality="fast")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_a_plain_process_pays_once_for_its_memory() -> None:
    """Without the engine's help it was 14,792 pages for every picture."""
    assert int(run_python(FAULTS, LOW)) < 1000


@needs_proc
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_call_takes_the_memory_it_says(precision: str, shipped: Path, tmp_path: Path) -> None:
    config = network_config(patch=4, channels=64, multipliers=(1,), full_precision_up_levels=0)
    low = save_packed(tmp_path / "low.safetensors", random_network(config))
    for model, side in ((shipped, 256), (low, 512)):
        taken, said = map(int, run_python(PEAK, str(model), precision, str(side)).split())
        assert 0.8 * said < taken < 1.2 * said, model


# Other processes.


def run_python(code: str, *arguments: str, file: Path | None = None) -> str:
    """The output of ``code`` in a Python of its own, without PyTorch, which must succeed."""
    program = ["-c", dedent(code)]
    if file is not None:
        file.write_text(dedent(code))
        program = [str(file)]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
    import os, sys
    import numpy as np
    from bidiffsr.backends.engine import Engine

    x = np.random.default_rng(0).standard_normal((2, 3, 64, 48)).astype(np.float32)

    def predict(engine):
        return engine.predict(x, x, np.array([0, 3])).tobytes()

    engine = Engine(sys.argv[1], threads=3)
    expected = predict(engine)
    child = os.fork()
    if not child:
        same = predict(engine) == expected and predict(Engine(sys.argv[1], threads=2)) == expected
        del engine  # whose threads are not here
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert predict(engine) == expected  # the parent's threads are still there
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_goes_on_with_the_engine(shipped: Path) -> None:
    run_python(FORK, str(shipped))


SPAWN = """
    import multiprocessing, sys
    import numpy as np
    from bidiffsr.backends.engine import Engine

    def predict(path):
        x = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
        return Engine(path, threads=2).predict(x, x, np.array([1])).tobytes()

    if __name__ == "__main__":
        expected = predict(sys.argv[1])
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(predict, [sys.argv[1]]) == [expected]
"""


def test_a_spawned_child_gives_the_same_bytes(shipped: Path, tmp_path: Path) -> None:
    run_python(SPAWN, str(shipped), file=tmp_path / "spawn.py")


WITHOUT_TORCH = """
    import sys
    import numpy as np
    from bidiffsr.backends.engine import Engine

    x = np.full((1, 3, 32, 32), 0.5, np.float32)
    result = Engine(sys.argv[1]).predict(x, x, np.array([2]))
    assert np.isfinite(result).all() and result.std() > 0
    unwanted = {"torch", "torchvision", "PIL", "pyvips", "openvino"} & set(sys.modules)
    assert not unwanted, unwanted
"""


def test_the_shipped_model_runs_without_pytorch(shipped: Path) -> None:
    run_python(WITHOUT_TORCH, str(shipped))


# Signals.


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_is_heard_during_a_call(threads: int, tmp_path: Path) -> None:
    class Heard(Exception):  # noqa: N818
        pass

    def hear(number: int, frame: object) -> None:
        raise Heard

    network = random_network(network_config())
    path = save_packed(tmp_path / "model.safetensors", network)
    engine = load_engine(path, KERNELS[0], threads=threads)
    one = random_inputs(network.config, (128, 128))
    expected = engine.predict(*one)
    started = time.process_time()
    engine.predict(*one)
    count = 50 + int(4 / (time.process_time() - started))  # seconds of work
    x_t, cond, t = one
    many = x_t.repeat(count, axis=0), cond.repeat(count, axis=0), t.repeat(count)
    handler = signal.signal(signal.SIGALRM, hear)
    try:
        started = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Heard):
            engine.predict(*many)
        assert time.process_time() - started < 2, "heard when all the work was done"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    np.testing.assert_array_equal(engine.predict(*one), expected)
