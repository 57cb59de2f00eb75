"""The kernels' object files: what one instruction set compiles must not leak into the rest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "native"
KERNELS = sorted(path.stem for path in (NATIVE / "kernels" / "isa").glob("*.cpp"))
# Optimized as they ship; sanitizers would add symbols of their own.
BUILDS = ("python", "release", "arm")


def objects(kernel: str) -> list[Path]:
    """Where this kernel was built: the same architecture may not have all of them."""
    files = (
        ROOT / "build" / build / "CMakeFiles" / f"kernel_{kernel}.dir/native/kernels/isa/{kernel}.cpp.o"
        for build in BUILDS
    )
    return [file for file in files if file.exists()]


def symbols(file: Path) -> list[tuple[str, str]]:
    """(type, name) of every symbol that the linker sees."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    listing = subprocess.run(
        [nm, "--extern-only", "--format=posix", file], check=True, capture_output=True, text=True
    )
    fields = (line.split() for line in listing.stdout.splitlines())
    return [(field[1], field[0]) for field in fields]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_exports_its_table_alone(kernel: str) -> None:
    found = objects(kernel)
    if not found:
        pytest.skip(f"kernel {kernel} is of another architecture, or was not built under build/")
    for file in found:
        defined = [symbol for symbol in symbols(file) if symbol[0] != "U"]
        assert len(defined) == 1, f"{file} exports {defined}"
        kind, name = defined[0]
        # Read-only data: neither weak (V, W) nor unique (u), of which the linker keeps any copy.
        assert kind in "RD", f"{file}: {name} is of type {kind}"
        assert "bidiffsr" in name, f"{file}: {name} is no table of ours"


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_calls_no_cpp_function(kernel: str) -> None:
    """A C++ function outside could be an inline one, compiled elsewhere for another CPU."""
    for file in objects(kernel):
        called = [name for kind, name in symbols(file) if kind == "U"]
        assert not [name for name in called if name.startswith("_Z")], f"{file} needs {called}"


def test_kernels_of_this_machine_were_checked() -> None:
    if not any((ROOT / "build" / build).exists() for build in BUILDS):
        pytest.skip("the engine was not built under build/")
    assert objects("portable")
