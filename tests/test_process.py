"""The command as a process: its streams, Ctrl-C, warnings, exit codes, and CPUs."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from bidiffsr.backends import engine
from bidiffsr.errors import ImageError
from bidiffsr.images.codec import read_image, write_image
from bidiffsr.images.image import Image
from bidiffsr.system import files
from bidiffsr.system.cpus import usable_cpus
from bidiffsr.system.memory import available_memory

STOPPED = "bidiffsr: stopped; what was finished is kept, nothing is half-written"
Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    write_image("a.png", Image(ramp.reshape(5, 6, 3)))
    return tmp_path


def run(
    *arguments: str,
    shell: str = "",
    program: str = "",
    python: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Done:
    """What a process says; ``shell`` stands behind the command."""
    start = [sys.executable, *python, *(["-c", program] if program else ["-m", "bidiffsr"])]
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", *start, *arguments]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    variables.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


# Streams.


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_keep_nobody_from_the_work(closed: str, model: str) -> None:
    done = run("upscale", "a.png", "-n", model, shell=closed)
    assert done.returncode == 0
    assert done.stderr == ""
    line = "a.png -> a_x4.png (24x20, "
    assert done.stdout.startswith(line if ">&-" not in closed.replace("2>&-", "") else "")
    assert done.stdout.count("\n") == (0 if ">&-" in closed.replace("2>&-", "") else 1)
    assert read_image("a_x4.png").pixels.shape == (20, 24, 3)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("upscale", "none.png"), 1), (("upscal",), 2), (("upscale", "--samples", "0", "a"), 2)],
)
def test_errors_never_go_to_standard_output(
    closed: str, arguments: tuple[str, ...], code: int
) -> None:
    done = run(*arguments, shell=closed)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == (0 if "2>&-" in closed else 1)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("kernels",), ("--version",)])
def test_a_full_disk_behind_standard_output_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = run("kernels", shell="| true; exit 0")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_log_file_is_no_terminal(name: str, model: str) -> None:
    done = run("upscale", "a.png", "none.png", "-n", model, environment={name: "1"})
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 2  # the error and the count


WARNS = """
import sys, warnings
from bidiffsr.upscaling.upscaler import Upscaler

def warn(*_, **__):
    warnings.warn("invalid value encountered", RuntimeWarning)
    raise MemoryError

Upscaler.from_pretrained = warn
from bidiffsr.cli import main
sys.exit(main())
"""


def test_warnings_stand_before_no_error_unless_asked_for() -> None:
    done = run("upscale", "a.png", program=WARNS)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the memory ran out" in done.stderr
    asked = run("upscale", "a.png", program=WARNS, python=("-W", "default"))
    assert "invalid value encountered" in asked.stderr


# Ctrl-C.

INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
from bidiffsr.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "imported",
    [
        *("bidiffsr.cli.commands", "cyclopts", "bidiffsr.cli.research", "bidiffsr.cli.app"),
        *("numpy", "pydantic", "bidiffsr.batch.run", "bidiffsr._native", "pyvips", "rich"),
    ],
)
def test_ctrl_c_while_something_is_loaded(imported: str, model: str, folder: Path) -> None:
    done = run(imported, "upscale", "a.png", "-n", model, program=INTERRUPTED)
    assert done.returncode == 130, done.stderr
    assert done.stderr == f"{STOPPED}\n"
    assert list(folder.iterdir()) == [folder / "a.png"]


# CPUs.

V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("", {}, 8),
        ("0::/", {f"{V2}/cpu.max": "max 100000"}, 8),
        ("0::/", {f"{V2}/cpu.max": "400000 100000"}, 4),
        ("0::/", {f"{V2}/cpu.max": "150000 100000"}, 2),  # half a CPU more needs a thread
        ("0::/", {f"{V2}/cpu.max": "1000 100000"}, 1),
        ("0::/", {f"{V2}/cpu.max": "3200000 100000"}, 8),
        ("0::/a/b", {f"{V2}/a/cpu.max": "300000 100000", f"{V2}/a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b", {f"{V2}/a/cpu.max": "300000 100000", f"{V2}/a/b/cpu.max": "5 10"}, 1),
        ("0::/docker/1f", {f"{V2}/cpu.max": "200000 100000"}, 2),  # seen from inside
        ("0::/../..", {f"{V2}/cpu.max": "200000 100000"}, 2),
        ("0::/", {f"{V2}/cpu.max": "what is this?"}, 8),
        ("nonsense", {f"{V2}/cpu.max": "200000 100000"}, 8),
        (
            "5:memory:/\n4:cpu,cpuacct:/x",
            {
                f"{V2}/cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
                f"{V2}/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            "1:cpu:/\n0::/",
            {f"{V2}/cpu/cpu.cfs_quota_us": "-1", f"{V2}/cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
        (
            "2:cpuset:/\n1:cpuacct:/",
            {f"{V2}/cpu/cpu.cfs_quota_us": "100000", f"{V2}/cpu/cpu.cfs_period_us": "100000"},
            8,  # of groups that this process is not in
        ),
    ],
)
def test_containers_may_use_what_they_are_given(
    groups: str, files: dict[str, str], cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert usable_cpus(tmp_path) == cpus


def test_a_process_bound_to_some_cpus_uses_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert usable_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == 1


def test_the_engine_takes_as_many_threads(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cpus", lambda: 3)
    assert engine.Engine(model).threads == 3
    assert engine.Engine(model, threads=2).threads == 2


# Memory.

V1 = f"{V2}/memory"
GB = 10**9


@pytest.mark.parametrize(
    ("groups", "files", "gigabytes"),
    [
        ("", {}, 8),
        ("0::/", {f"{V2}/memory.max": "max", f"{V2}/memory.current": "3"}, 8),
        ("0::/", {f"{V2}/memory.max": 5 * GB, f"{V2}/memory.current": 2 * GB}, 3),
        ("0::/", {f"{V2}/memory.max": 50 * GB, f"{V2}/memory.current": 2 * GB}, 8),
        ("0::/", {f"{V2}/memory.max": 2 * GB, f"{V2}/memory.current": 3 * GB}, 0),
        (
            "0::/a/b",
            {
                f"{V2}/a/memory.max": 5 * GB,
                f"{V2}/a/memory.current": 1 * GB,
                f"{V2}/a/b/memory.max": "max",
                f"{V2}/a/b/memory.current": 1 * GB,
            },
            4,
        ),
        (
            "0::/docker/1f",  # seen from inside
            {
                f"{V2}/memory.max": 5 * GB,
                f"{V2}/memory.current": 4 * GB,
                f"{V2}/memory.stat": f"anon 5\ninactive_file {2 * GB}\nslab x",
            },
            3,
        ),
        (
            "4:memory:/x\n3:cpu:/",
            {
                f"{V1}/x/memory.limit_in_bytes": 5 * GB,
                f"{V1}/x/memory.usage_in_bytes": 4 * GB,
                f"{V1}/x/memory.stat": f"total_inactive_file {GB}",
                f"{V1}/memory.limit_in_bytes": 2**63 - 4096,
                f"{V1}/memory.usage_in_bytes": 40 * GB,
            },
            2,
        ),
        ("0::/", {f"{V2}/memory.max": "what is this?", f"{V2}/memory.current": "1"}, 8),
        ("0::/", {f"{V2}/memory.max": 5 * GB}, 8),
    ],
)
def test_containers_may_take_the_memory_they_are_given(
    groups: str, files: dict[str, object], gigabytes: int, tmp_path: Path
) -> None:
    machine = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB"}
    for name, text in {"proc/self/cgroup": groups, **machine, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert available_memory(tmp_path) == pytest.approx(gigabytes * GB, abs=1024)


# Too little of something.


def limited(kilobytes: int, *arguments: str) -> Done:
    """The command where the process may have so much address space."""
    program = f"import resource as r; r.setrlimit(r.RLIMIT_AS, ({kilobytes * 1024},) * 2)\n"
    return run(*arguments, program=f"{program}{MAIN}")


MAIN = "import sys\nfrom bidiffsr.cli import main\nsys.exit(main())"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
@pytest.mark.parametrize("kilobytes", [60_000, 100_000, 170_000, 200_000, 300_000])
def test_very_little_memory_is_one_line(kilobytes: int, model: str, folder: Path) -> None:
    done = limited(kilobytes, "upscale", "a.png", "-n", model)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "memory" in done.stderr
    assert list(folder.iterdir()) == [folder / "a.png"]


NO_LIBVIPS = f"""
import importlib.abc, sys

class Gone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "pyvips":
            raise OSError("cannot load library 'libvips.so.42': no such file.  Additionally, ...")

sys.meta_path.insert(0, Gone())
{MAIN}
"""


def test_libvips_that_cannot_be_loaded_is_one_line(model: str) -> None:
    done = run("upscale", "a.png", "-n", model, program=NO_LIBVIPS)
    assert done.returncode == 1
    assert done.stderr.startswith("bidiffsr: error: a.png: libvips, which reads")
    assert "cannot load library 'libvips.so.42': no such file)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_a_picture_that_cannot_fit_is_refused_undecoded(model: str) -> None:
    # Constant colour: some kilobytes that would take 300 MB.
    side = 10_000
    rows = zlib.compress(bytes(side * (1 + 3 * side)), 1)
    Path("large.png").write_bytes(png_file(side, side, rows))
    program = f"""
import atexit, re
from pathlib import Path
status = Path("/proc/self/status")
atexit.register(lambda: print(re.search("VmHWM:\\s*(\\d+) kB", status.read_text())[1]))
{MAIN}"""
    done = run("upscale", "large.png", "-n", model, "--max-memory", "200M", program=program)
    assert done.returncode == 1
    assert "large.png: an output of 40000x40000 pixels needs about" in done.stderr
    assert 0 < int(done.stdout) < 200_000
    done = run(
        program=f"""
import bidiffsr
upscaler = bidiffsr.Upscaler.from_pretrained({model!r})
try:
    upscaler("large.png", max_memory="200M")
except MemoryError as error:
    print(error)"""
    )
    assert "large.png: an output of 40000x40000 pixels needs about" in done.stdout


def png_file(width: int, height: int, compressed: bytes) -> bytes:
    """An RGB picture of 8 bits from its compressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", compressed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_large_file_that_is_no_picture_is_hardly_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("junk.png").open("wb") as file:
        file.truncate(10 * 2**30)  # sparse, and more than there may be of memory
    monkeypatch.setattr(files, "available_memory", lambda: None)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"junk\.png: not a picture of a known kind"):
        read_image("junk.png", max_pixels=2**40)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_fails_no_picture(model: str) -> None:
    write_image("b.png", read_image("a.png"))
    done = run("upscale", "a.png", "b.png", "-n", model, shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "bidiffsr: 2 done",
        "bidiffsr: error: standard output cannot be written to (No space left on device); "
        "results are kept",
    ]
    for name in ("a_x4.png", "b_x4.png"):
        assert read_image(name).pixels.shape == (20, 24, 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_error_stops_no_batch(model: str) -> None:
    done = run("upscale", "none.png", "a.png", "-n", model, shell="2> /dev/full")
    assert done.returncode != 0
    assert done.stdout.startswith("a.png -> a_x4.png")


def test_a_batch_ends_with_what_failed(model: str) -> None:
    Path("junk.png").write_text("junk")
    done = run("upscale", "junk.png", "none.png", "a.png", "-n", model)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "bidiffsr: 1 done, 2 failed: junk.png, none.png"


def test_of_very_many_failures_some_are_named(model: str) -> None:
    done = run("upscale", *(f"{index}.png" for index in range(23)), "-n", model)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bidiffsr: 0 done, 23 failed: 0.png, 1.png, ")
    assert last.endswith("19.png and 3 more")


FORKS = """
import os, sys
from bidiffsr.errors import ImageError
from bidiffsr.images import read_image

read_image("a.png")
child = os.fork()
if child == 0:
    try:
        read_image("a.png")
    except ImageError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_child_is_told_to_be_spawned() -> None:
    assert "forked" in run(program=FORKS).stdout


# Without PyTorch.

WITHOUT_TORCH = f"import sys\nsys.modules['torch'] = None\n{MAIN}"


@pytest.mark.parametrize(
    "arguments",
    [
        *(("pack", "no.pth", "-o", "x.safetensors"), ("convert", "no.pth", "-o", "x.safetensors")),
        *(("inspect", "no.safetensors"), ("upscale", "a.png", "-n", "no", "--backend", "torch")),
    ],
)
def test_a_wrong_path_does_not_hide_behind_pytorch(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, program=WITHOUT_TORCH)
    assert done.returncode == 1
    assert "no such file" in done.stderr
    assert "torch" not in done.stderr.replace("--backend torch", "")


@pytest.mark.parametrize("name", ["load_model", "from_reference"])
def test_what_needs_pytorch_says_so_once_the_path_is_right(name: str, model: str) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
import bidiffsr
for path in ("no.pth", {model!r}):
    try:
        bidiffsr.{name}(path)
    except bidiffsr.BidiffsrError as error:
        print(error)
"""
    missing, present = run(program=program).stdout.splitlines()
    assert missing == "no.pth: no such file; check the path"
    assert present.startswith("torch is not installed; pip install 'bidiffsr[")


CALLED_FROM_C = """
import ctypes, signal, time
from bidiffsr.system.process import signals_interrupt

inside = {"__name__": "pyvips.callbacks", "signal": signal}
exec("def callback(): signal.raise_signal(signal.SIGINT); return 7", inside)
with signals_interrupt():
    try:
        assert ctypes.CFUNCTYPE(ctypes.c_int)(inside["callback"])() == 7
        while True:
            time.sleep(60)
    except KeyboardInterrupt as stop:
        print(stop.args)
"""


def test_ctrl_c_in_a_callback_of_libvips_is_not_lost() -> None:
    """An exception that leaves a function called from C is printed, and that is all."""
    done = subprocess.run(
        [sys.executable, "-c", CALLED_FROM_C], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == ("(2,)\n", "", 0)
