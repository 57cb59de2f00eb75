"""How the engine is put together: who includes whom, and what kernels' object files export."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "native"
KERNELS = sorted(path.stem for path in (NATIVE / "kernels" / "isa").glob("*.cpp"))
# Room of the engine -> the rooms it may include, besides itself. Bottom first.
ROOMS: dict[str, set[str]] = {
    "include": set(),
    "config": {"include"},
    "kernels": {"include"},
    "runtime": {"include", "kernels"},
    "ops": {"include", "kernels", "runtime"},
    "models": {"include", "kernels", "runtime", "ops"},
    "bench": {"include", "kernels", "runtime", "ops"},
    "io": {"include"},
    "upscaling": {"include", "runtime", "io"},
    "bindings": {"include", "upscaling"},
    "capi": {"include", "runtime", "io", "upscaling"},
}
# All that a file compiled for one instruction set may include: an inline function of anything else
# could replace the copy that the whole program uses.
OF_KERNELS = {"cstddef", "cstdint", "immintrin.h", "arm_neon.h"}
# Optimized as they ship; sanitizers would add symbols of their own.
BUILDS = ("python", "release", "arm")


def includes(file: Path) -> list[str]:
    """What a source file includes, without the delimiters."""
    return re.findall(r'^\s*#include\s+[<"]([^>"]+)[>"]', file.read_text("utf-8"), re.MULTILINE)


def room_of(name: str) -> str | None:
    """The room that an include names, if it is one of the engine's own."""
    room = "include" if name.startswith("bidiffsr/") else name.split("/")[0]
    return room if (NATIVE / room).is_dir() and "/" in name else None


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_include_one_way(room: str) -> None:
    files = [file for file in (NATIVE / room).rglob("*.*") if file.suffix in (".h", ".cpp")]
    assert files
    for file in files:
        found = {room_of(name) for name in includes(file)} - {None, room}
        assert found <= ROOMS[room], f"{file.relative_to(ROOT)} includes {found}"


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in NATIVE.iterdir() if path.is_dir()}
    assert rooms == {*ROOMS, "tests"}


def test_kernels_include_no_inline_function() -> None:
    pending = list((NATIVE / "kernels" / "isa").iterdir())
    seen: set[Path] = set()
    while pending:
        file = pending.pop()
        seen.add(file)
        for name in includes(file):
            if name in OF_KERNELS:
                continue
            assert name.startswith("kernels/"), f"{file.relative_to(ROOT)} includes {name}"
            if (NATIVE / name) not in seen:
                pending.append(NATIVE / name)
    assert NATIVE / "kernels" / "generic" / "all.h" in seen


def objects(kernel: str) -> list[Path]:
    """Where this kernel was built: the same architecture may not have all of them."""
    files = (
        ROOT
        / "build"
        / build
        / "CMakeFiles"
        / f"kernel_{kernel}.dir/native/kernels/isa/{kernel}.cpp.o"
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
