"""What the commands share: the application they belong to, and parameters of several of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from bidiffsr.errors import OutputError
from bidiffsr.system.files import write_atomically

if TYPE_CHECKING:
    from bidiffsr.config import ModelConfig


def _version() -> str:
    from bidiffsr import __version__

    return __version__


app = App(
    name="bidiffsr",
    help="Make pictures larger and sharper, on an ordinary computer.\n\n"
    "Try: `bidiffsr upscale photo.jpg`",
    version=_version,
    # A name may begin with a bracket: it is no JSON.
    default_parameter=Parameter(negative=(), show_default=False, json_list=False, json_dict=False),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(
    help="Install tab completion for the shell this runs in: bash, zsh, fish or PowerShell."
)

Count = Parameter(validator=Number(gte=1))
Quality = Literal["fast", "balanced", "best"]
Steps = Annotated[int | None, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0, lt=2**64))]


@Parameter(name="*")
@dataclass(frozen=True)
class Running:
    """What runs the network; see `bidiffsr.backends.BackendOptions`."""

    backend: Annotated[
        Literal["auto", "engine", "torch"],
        Parameter(help="What runs the network. Default: the 1-bit engine, or torch on a GPU."),
    ] = "auto"
    precision: Annotated[
        Literal["fast", "exact"],
        Parameter(
            help="Of the engine: rounded more where it cannot be seen, or float32 throughout."
        ),
    ] = "fast"
    threads: Annotated[
        int, Parameter(help="Of the engine. Default: one for each CPU.", validator=Number(gte=0))
    ] = 0
    device: Annotated[
        str | None, Parameter(help="Of torch: cpu, cuda, ... Default: the engine, on the CPU.")
    ] = None


DEFAULT_RUNNING = Running()


def published_models() -> dict[str, ModelConfig]:
    """The networks that a command takes by name, without weights."""
    from bidiffsr.config import ModelConfig, SR3Config

    return {"bidiffsr": ModelConfig(), "sr3": ModelConfig(network=SR3Config())}


def check_text_output(path: Path) -> None:
    """Find out before long work rather than after it."""
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written; choose a file in a folder that exists")


def write_text(path: Path, text: str) -> None:
    """Save a table or JSON, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
