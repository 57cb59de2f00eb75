"""`bidiffsr models`, and tab completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import bidiffsr
from bidiffsr import Upscaler, list_models
from bidiffsr.cli import main

SOURCE = Path(bidiffsr.__file__).parents[1]


def run(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)} | environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("ascii" if environment.get("PYTHONIOENCODING") else "utf-8")


def test_json_says_what_the_files_and_the_upscaler_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    described = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert list(described) == list_models()
    defaults = {use: Upscaler.from_pretrained("default", scale=use).config for use in (2, None)}
    for name, model in described.items():
        file = files("bidiffsr.models") / "weights" / f"{name}.safetensors"
        config = Upscaler.from_pretrained(name).config
        assert model["bytes"] == len(file.read_bytes())
        assert model["scale"] == config.scale
        assert model["qualities"][model["default_quality"]] == config.sampling.steps
        assert set(model["qualities"]) == set(config.qualities)
        assert ("up to 2" in model["use"]) == (config == defaults[2])
        assert (model["use"] == "the default") == (config == defaults[None])


def test_the_table_has_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, scale, size in (("x2-small", "2x", "1.73 MB"), ("x4-small", "4x", "1.8 MB")):
        (row,) = (line for line in lines if name in line)
        assert scale in row.split()
        assert size in row
        assert row.count("default)") == 1


def test_the_table_in_a_terminal_without_unicode() -> None:
    code = "from bidiffsr.cli import main; main(['models'])"
    assert "x4-small" in run(code, PYTHONIOENCODING="ascii")


def test_it_loads_no_torch_and_no_pictures() -> None:
    code = (
        "import sys; from bidiffsr.cli import main; main(['models'])\n"
        "print(sorted({'torch', 'PIL', 'pyvips'} & set(sys.modules)))\n"
    )
    assert run(code).splitlines()[-1] == "[]"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    code = "from bidiffsr.cli import main; main(['--install-completion'])"
    run(code, HOME=str(tmp_path), SHELL="/bin/bash", BASH_VERSION="5")
    (script,) = (tmp_path / ".local/share/bash-completion/completions").iterdir()
    assert script.name == "bidiffsr"
    ask = (
        f"source {script}; set -- $(complete -p bidiffsr); "
        "while [ $# -gt 1 ] && [ $1 != -F ]; do shift; done; function=$2\n"
        "complete_line() { COMP_WORDS=(bidiffsr $1); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "
        "COMP_LINE=${COMP_WORDS[*]}; COMP_POINT=${#COMP_LINE}; COMPREPLY=(); "
        "$function bidiffsr ${COMP_WORDS[COMP_CWORD]}; echo ${COMPREPLY[*]}; }\n"
        "complete_line ups; complete_line 'upscale --qual'"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["upscale", "--quality"], done.stderr
