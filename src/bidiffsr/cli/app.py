"""What the commands share: the application they belong to, and parameters of several of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from cyclopts import App, Parameter
from cyclopts.validators import Number

from bidiffsr.backends.options import BackendOptions
from bidiffsr.batch.options import FileOptions
from bidiffsr.errors import OptionError, OutputError
from bidiffsr.system.files import write_atomically

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

    from bidiffsr.config import ModelConfig

_FRACTION = re.compile(r"[+-]?\d*\.\d*")


def _version() -> str:
    from bidiffsr import __version__

    return __version__


def _refuse_fractions(_: App, __: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Of whole numbers, which cyclopts would round.

    Raises:
        OptionError: one is given with a point.
    """
    for argument in arguments:
        kinds = get_args(argument.hint) or (argument.hint,)
        if int in kinds and float not in kinds:
            for token in argument.tokens:
                if _FRACTION.fullmatch(token.value):
                    name = argument.name.removeprefix("--")
                    raise OptionError(name, f"got {token.value}, expected a whole number")


app = App(
    name="bidiffsr",
    help="Make pictures larger and sharper, on an ordinary computer.\n\n"
    "Try: `bidiffsr upscale photo.jpg`",
    version=_version,
    version_flags=["--version", "-V"],
    version_format="plaintext",  # for Markdown, half as much again is loaded
    # A name may begin with a bracket: it is no JSON.
    default_parameter=Parameter(negative=(), show_default=False, json_list=False, json_dict=False),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    config=_refuse_fractions,
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(
    help="Install tab completion for the shell this runs in: bash, zsh, fish or PowerShell."
)

Count = Parameter(validator=Number(gte=1))

# The fields of these classes are options of their own, their docstrings the help.
Files = Annotated[FileOptions, Parameter(name="*")]
Running = Annotated[BackendOptions, Parameter(name="*")]
FILES, RUNNING = FileOptions(), BackendOptions()


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
