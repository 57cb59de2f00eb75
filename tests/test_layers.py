"""The house's layers: imports go one way, and inference stays free of torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "bidiffsr"

# Room of the package -> the rooms it may import, anywhere in its files (inside functions and under
# TYPE_CHECKING too). "bidiffsr" stands for the names of __init__.py. Bottom first.
_BASE = {"errors", "config", "system"}
_PICTURES = {*_BASE, "images"}
_NETWORKS = {*_BASE, "binary", "nn"}
_RUNNING = {"diffusion", "models", "backends"}
_INFERENCE = {*_PICTURES, *_NETWORKS, *_RUNNING, "upscaling"}
_WORK = {
    *_INFERENCE,
    "batch",
    "server",
    "evaluation",
    "inspection",
    "data",
    "training",
    "bench",
}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "tables": set(),
    "binary": {"errors"},
    "config": {"errors", "binary"},
    "system": {"errors"},
    "images": {"errors", "system"},
    "diffusion": _BASE,
    "nn": {*_BASE, "binary"},
    "models": _NETWORKS,
    "_native": set(),
    "backends": {*_NETWORKS, "diffusion", "models", "_native"},
    "upscaling": {*_PICTURES, *_RUNNING},
    "batch": {*_PICTURES, "upscaling"},
    "server": {*_PICTURES, "upscaling", "bidiffsr"},
    "evaluation": {*_PICTURES, "models", "nn", "tables"},
    "inspection": {*_INFERENCE, "evaluation", "tables"},
    "data": {*_PICTURES, "evaluation"},
    "training": {*_INFERENCE, "data", "evaluation", "inspection"},
    "bench": {*_NETWORKS, "models", "backends", "tables"},
    "bidiffsr": {*_INFERENCE, "evaluation"},
    "cli": {*_WORK, "bidiffsr"},
    "__main__": {"cli"},
}

# The only modules that may import torch when they are themselves imported, by room or name.
TORCH_PARTS = {"training"}
TORCH_MODULES = {
    *("binary.fused", "binary.layers", "binary.quantizers"),
    *("nn.blocks", "nn.build", "nn.sr3", "nn.unet"),
    *("models.published", "models.trained"),
    *("backends.pytorch", "backends.compare", "data.crops", "inspection.statistics"),
}

# Test oracles, and libraries with a better replacement: imported nowhere in the package.
NEVER = {"scipy", "cv2", "diffusers", "torchvision", "basicsr", "pyiqa"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """`bidiffsr.nn.unet` -> `nn`; `bidiffsr` and names defined in its __init__ -> `bidiffsr`."""
    names = module.split(".")
    if len(names) == 1:
        return names[0]
    directory = PACKAGE / names[1]
    is_module = directory.with_suffix(".py").exists() or directory.is_dir()
    return names[1] if is_module or names[1] in LAYERS else "bidiffsr"


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    names = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported_names(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything the nodes of `tree` import."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = len(package) - node.level + 1 if node.level else 0
            source = ".".join([*package[:up], *filter(None, [node.module])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def upward_imports(path: Path, text: str) -> list[str]:
    """One line for each import in `text`, the file at `path`, that LAYERS does not allow."""
    part = part_of(module_name(path))
    allowed = LAYERS.get(part, set()) | {part}
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {part} may not import {name}"
        for line, name in imported_names(ast.parse(text), path)
        if name.split(".")[0] == "bidiffsr" and part_of(name) not in allowed
    ]


def may_load_torch(module: str) -> bool:
    """Whether importing ``module`` may load torch."""
    below = module.removeprefix("bidiffsr.")
    return part_of(module) in TORCH_PARTS or any(
        f"{below}.".startswith(f"{name}.") for name in TORCH_MODULES
    )


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The import statements that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from outside_functions(ast.Module(node.orelse, []))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from outside_functions(node)


def test_the_table_has_no_circle() -> None:
    placed: set[str] = set()
    waiting = dict(LAYERS)
    while waiting:
        ready = {part for part, below in waiting.items() if below <= placed}
        assert ready, f"these rooms import each other in a circle: {sorted(waiting)}"
        placed |= ready
        waiting = {part: below for part, below in waiting.items() if part not in ready}


def test_every_part_is_in_the_table() -> None:
    parts = {part_of(module_name(path)) for path in MODULES}
    assert parts <= set(LAYERS), "give each new room its row in LAYERS"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    assert upward_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_torch_and_pillow_are_not_loaded_in_passing(path: Path) -> None:
    allowed = {"torch"} if may_load_torch(module_name(path)) else set()
    at_import = {
        name.split(".")[0]
        for node in outside_functions(ast.parse(path.read_text(encoding="utf-8")))
        for _, name in imported_names(node, path)
    }
    assert not ({"torch", "PIL"} - allowed) & at_import


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_oracles_and_replaced_libraries_are_never_imported(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not NEVER & {name.split(".")[0] for _, name in imported_names(tree, path)}


@pytest.mark.parametrize(
    ("file", "text", "refused"),
    [
        ("nn/unet.py", "from bidiffsr.training import fit", True),
        ("nn/unet.py", "from bidiffsr import training", True),
        ("nn/unet.py", "import bidiffsr.training.fit", True),
        ("nn/unet.py", "from ..training import fit", True),
        ("nn/unet.py", "from .. import upscaling", True),
        ("nn/unet.py", "def f():\n    from bidiffsr import cli", True),
        ("nn/unet.py", "from bidiffsr import Upscaler", True),
        ("nn/__init__.py", "from ..training import fit", True),
        ("nn/__init__.py", "from .blocks import ResidualBlock", False),
        ("nn/unet.py", "from .blocks import ResidualBlock", False),
        ("nn/unet.py", "from bidiffsr.binary.layers import BinaryConv2d", False),
        ("nn/unet.py", "import torch", False),
        ("cli/pictures.py", "from bidiffsr import Upscaler", False),
    ],
)
def test_the_check_itself(file: str, text: str, refused: bool) -> None:
    assert bool(upward_imports(PACKAGE / file, text)) is refused


@pytest.mark.parametrize(
    "module",
    [
        "bidiffsr",
        "bidiffsr.diffusion.noise",
        "bidiffsr.binary",
        "bidiffsr.nn.counting",
        "bidiffsr.nn.layout",
        "bidiffsr.models.packed",
        "bidiffsr.backends.engine",
    ],
)
def test_importing_does_not_load_heavy_libraries(module: str) -> None:
    heavy = ["torch", "PIL", "pyvips", "scipy"]
    program = f"import sys, {module}; print(*(name for name in {heavy!r} if name in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
