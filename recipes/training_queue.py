"""Trains models on rented machines, some minutes at a time.

Pictures travel there, and what goes on elsewhere travels back, in files as small as need be. What
lies on a machine stays while it is rented: a slice that was cut off goes on from there.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
import tarfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from cyclopts import App

from bidiffsr.cli.research import train
from bidiffsr.cli.terminal import exit_code, metric, print_result
from bidiffsr.config import TrainingConfig, load_yaml, parse_config
from bidiffsr.config.overrides import with_overrides
from bidiffsr.errors import ConfigError, TrainingError
from bidiffsr.images.find import find_images
from bidiffsr.models.packed import load_packed, save_packed
from bidiffsr.system.checks import amount_of_memory
from bidiffsr.system.files import write_atomically
from bidiffsr.training.checkpoint import STATE_NAME
from bidiffsr.training.compact import write_compact
from bidiffsr.training.cost import iteration_macs
from bidiffsr.training.state import loads
from bidiffsr.training.trainer import MODEL_NAME

PICTURES = Path("runs/pictures")
COMPACT_NAME = "state"
LOG_NAME = "log.jsonl"


class Run(NamedTuple):
    """A recipe, and what a GPU changes in it."""

    recipe: str
    changes: tuple[str, ...]
    rate: float | None
    """Iterations a second, where that has been measured."""


# What all runs change: a GPU's loader, and a rate that ends at zero.
_ON_A_GPU = (
    "--data.workers=8",
    "--optimizer.final_learning_rate=0.0",
    "--accelerator=auto",
    "--checkpoint_every=500",
    "--validation.folders=[]",
)
# At high resolution compiling takes minutes, every time.
_HIGH = ("--data.crop=96", "--batch=32", "--iterations=4000", "--compile=false")
# At low resolution an iteration of a few crops is over before the next kernel has started. It goes
# on from the shipped weights with the better loss; nobody has measured the iterations a second.
_LOW = (
    "--initialize_from=src/bidiffsr/models/weights/x4-small.safetensors",
    "--loss=l1",
    "--compile=false",
    "--data.crop=192",
    f"--data.store={PICTURES}.bin",
    "--batch=64",
    "--iterations=20000",
    "--optimizer.warmup=500",
)
# On an H100 beside another run, for either width: starting the kernels takes the time.
_HIGH_RATE = 5.5
_BASE = (
    "--model.network.channels=64",
    "--model.network.norm_groups=16",
)
_X2 = ("--model.scale=2", "--model.diffusion.residual_scale=0.05")  # there is less to add
QUEUE = {
    "x4_small": Run("x4_small.yml", _LOW, None),
    "x4_base": Run("x4_full_resolution.yml", (*_HIGH, *_BASE), _HIGH_RATE),
    "x2_base": Run("x4_full_resolution.yml", (*_HIGH, *_BASE, *_X2), _HIGH_RATE),
    "x2_small": Run("x4_full_resolution.yml", (*_HIGH, *_X2), _HIGH_RATE),
}
"""The most valuable run first."""

_TOY = (
    "--initialize_from=null",
    "--model.network.channels=8",
    "--model.network.norm_groups=4",
    "--data.exclude=[]",
    "--data.crop=32",
    "--data.workers=0",
    "--batch=2",
    "--iterations=3",
    "--checkpoint_every=1",
    "--log_every=1",
    "--accelerator=cpu",
    "--precision=32-true",
    "--compile=false",
)

_CHECKSUMS = "SHA256SUMS"
# At most: a file's headers, padding and line of checksums; and what ends an archive.
_TAR_FILE, _TAR_END = 4096, 16384

app = App(name="training_queue", help=__doc__, result_action="return_value")


@app.command(name="list")
def show() -> None:
    """Print the runs, the most valuable first, and the pictures that they need."""
    for name in QUEUE:
        config = _config(name)
        operations = 2 * iteration_macs(config) * config.iterations
        price = f"{name}: {config.iterations} iterations, {operations / 1e15:.0f} PFLOP"
        rate = QUEUE[name].rate
        if rate is not None:
            price += f"; at {rate} iterations/s {config.iterations / rate / 60:.0f} minutes"
        print_result(price)
        print_result(
            "  "
            + shlex.join(["bidiffsr", "train", f"recipes/{_recipe(name).name}", *_tokens(name)])
        )
    originals = [folder for folder in _originals() if folder.is_dir()]
    files = find_images(originals) if originals else []
    size = sum(file.stat().st_size for file in files)
    print_result(f"pictures: {len(files)}, {metric(size)}B")


@app.command
def stage(out: Path, /, *folders: Path, limit: str = "1G") -> None:
    """Pack pictures, as they are, into tar files of a limited size.

    Args:
        out: The folder for them.
        folders: Of the pictures. Default: those of all runs.
        limit: Of each tar file, bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number, files in enumerate(
        _shards(folders or _originals(), amount_of_memory("limit", limit))
    ):
        path = out / _shard_name(number)
        write_atomically(path, lambda temporary, files=files: _write_shard(temporary, files))
        print_result(f"{path}: {len(files)} pictures, {metric(path.stat().st_size)}B")


@app.command
def unstage(*shards: Path, into: Path = PICTURES) -> None:
    """Unpack tar files of `stage`, each once its checksums are known to be right.

    Args:
        shards: The tar files; some now, others with a later call.
        into: Where the runs look for the pictures.
    """
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as archive:
                members = _checked(archive)
                archive.extractall(into, members, filter="data")
        except (tarfile.TarError, ValueError) as error:
            raise TrainingError(f"{shard}: is damaged ({error}); bring it again") from None
        print_result(f"{into}: {len(members)} pictures of {shard.name}")


@app.command(name="slice")
def train_slice(
    name: str,
    /,
    *,
    out: Path,
    minutes: float | None = None,
    resume: Path | None = None,
    limit: str | None = None,
    part: str | None = None,
    toy: bool = False,
) -> int:
    """Train one run for some minutes; then write what goes on elsewhere, and the packed model.

    Where runs/NAME holds a checkpoint, the run goes on from that: after a slice that was cut off,
    the same command does.

    Args:
        name: Of the run.
        out: The folder to bring back.
        minutes: To train; starting and writing take some time more. Default: to the end.
        resume: A folder that an earlier slice brought back.
        limit: Of all files in the folder together, bytes. Default: none; then nothing is left out
            that fits into a compact state.
        part: Of each file of the state, bytes. Default: one file.
        toy: A network and a run so small that a CPU does it in seconds.
    """
    more = [] if minutes is None else [f"--minutes={minutes}"]
    if toy:
        more += [f"--output=runs/toy_{name}", *_TOY]
    if resume is not None:
        more.append(f"--resume_from={resume / COMPACT_NAME}")
    folder = _config(name, *more).output
    if resume is not None and not (folder / STATE_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(resume / LOG_NAME, folder)
    code = train(_recipe(name), *_tokens(name), *more)
    out.mkdir(parents=True, exist_ok=True)
    model = load_packed(folder / MODEL_NAME)
    brought = [out / f"{name}.safetensors", out / LOG_NAME]
    save_packed(brought[0], model.config, model.tensors)
    shutil.copy(folder / LOG_NAME, brought[1])
    room = None
    if limit is not None:
        room = amount_of_memory("limit", limit) - sum(file.stat().st_size for file in brought)
    state = loads((folder / STATE_NAME).read_bytes())
    write_compact(
        out / COMPACT_NAME, state, room, None if part is None else amount_of_memory("part", part)
    )
    return code


def _recipe(name: str) -> Path:
    if name not in QUEUE:
        raise ConfigError(f"{name}: no such run; choose one of {', '.join(QUEUE)}")
    return Path(__file__).with_name(QUEUE[name].recipe)


def _tokens(name: str) -> list[str]:
    there = ", ".join(str(PICTURES / folder.name) for folder in _folders(_recipe(name)))
    return [
        f"--output=runs/{name}",
        f"--data.folders=[{there}]",
        *_ON_A_GPU,
        *QUEUE[name].changes,
    ]


def _config(name: str, *more: str) -> TrainingConfig:
    recipe = _recipe(name)
    values = with_overrides(load_yaml(recipe), [*_tokens(name), *more], str(recipe))
    return parse_config(TrainingConfig, values, str(recipe))


def _folders(recipe: Path) -> tuple[Path, ...]:
    return parse_config(TrainingConfig, load_yaml(recipe), str(recipe)).data.folders


def _originals() -> tuple[Path, ...]:
    """The folders of all runs, each once."""
    return tuple(dict.fromkeys(folder for name in QUEUE for folder in _folders(_recipe(name))))


def _shards(folders: Iterable[Path], limit: int) -> list[list[Path]]:
    """The pictures of the folders, in order, as many in each shard as it holds."""
    shards: list[list[Path]] = []
    room = 0
    for file in find_images(folders):
        size = file.stat().st_size + _TAR_FILE
        if size + _TAR_END > limit:
            raise ConfigError(f"{file}: {metric(size)}B are more than a shard; raise --limit")
        if size > room:
            shards.append([])
            room = limit - _TAR_END
        shards[-1].append(file)
        room -= size
    return shards


def _shard_name(number: int) -> str:
    return f"pictures.{number:03}.tar"


def _write_shard(path: Path, files: Sequence[Path]) -> None:
    names = [f"{file.parent.name}/{file.name}" for file in files]
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n"
        for file, name in zip(files, names, strict=True)
    ]
    checksums = "".join(lines).encode()
    first = tarfile.TarInfo(_CHECKSUMS)
    first.size = len(checksums)
    with tarfile.open(path, "w", dereference=True) as archive:
        archive.addfile(first, BytesIO(checksums))
        for file, name in zip(files, names, strict=True):
            archive.add(file, name, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(mtime=0, mode=0o644, uid=0, gid=0, uname="", gname="", deep=False)


def _checked(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The pictures of a shard; ValueError where they are not what its checksums say."""
    first, *members = archive.getmembers() or [tarfile.TarInfo()]
    found = [f"{_sha256(archive, member)}  {member.name}" for member in members]
    listed: Any = archive.extractfile(first) if first.name == _CHECKSUMS else None
    if listed is None or listed.read().decode().splitlines() != found:
        raise ValueError("checksums")
    return members


def _sha256(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file: Any = archive.extractfile(member) if member.isreg() else None
    return "" if file is None else hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    return exit_code(lambda: app(arguments))


if __name__ == "__main__":
    sys.exit(main())
