"""What lies in a folder of prepared pairs, as the notes that are kept there say.

``OUT/prepared_X4.jsonl`` says how the pairs of a scale were cut, then what was made of each
picture. Only files that a note names are ever removed. Scales share the files in ``OUT/HR``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import lcm
from pathlib import Path
from typing import Any

from bidiffsr.errors import ConfigError, OutputError
from bidiffsr.system.files import printable, real_path, reason

_NAME = re.compile(r"prepared_X(\d+)\.jsonl")


@dataclass(frozen=True)
class Note:
    """What was made of a picture for one scale.

    Attributes:
        source: the picture's file.
        size, time: its bytes, and when it was changed, in nanoseconds; -1 where its pairs are
            removed.
        height, width: what was cut of it, in high-resolution pixels.
        pairs: how many there are, or may be, while it is not ``done``.
        done: whether all are written.
    """

    source: str
    size: int
    time: int
    height: int
    width: int
    pairs: int
    done: bool

    @classmethod
    def of(cls, path: Path, height: int, width: int, pairs: int, *, done: bool) -> Note:
        """A note on a picture as it is now.

        Raises:
            OSError: it is gone.
        """
        status = path.stat()
        source = str(real_path(path))
        return cls(source, status.st_size, status.st_mtime_ns, height, width, pairs, done)

    def is_of(self, path: Path) -> bool:
        """Whether the picture is what it was; not where it cannot be looked at."""
        try:
            now = Note.of(path, self.height, self.width, self.pairs, done=self.done)
        except OSError:
            return False
        return self == now

    def is_gone(self) -> bool:
        """Whether there are pairs, and their picture is no longer there."""
        return self.pairs > 0 and is_gone(Path(self.source))


def is_gone(path: Path) -> bool:
    """Whether a picture is not there, as far as can be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # which is reported when it is read
        return False
    return False


@dataclass(frozen=True)
class Place:
    """Where the pairs of a scale lie, and the notes on them.

    Attributes:
        output: the folder.
        scale: the factor.
        side: of the sub-images; None for whole pictures.
    """

    output: Path
    scale: int
    side: int | None

    @property
    def notes(self) -> Path:
        """The file of notes."""
        return self.output / f"prepared_X{self.scale}.jsonl"

    @property
    def low(self) -> Path:
        """The folder of the low-resolution files."""
        return self.output / "LR_bicubic" / f"X{self.scale}"

    def files(self, note: Note) -> list[tuple[Path, Path]]:
        """The pairs of a picture: (HR, LR) each."""
        stem = Path(note.source).stem
        stems = [stem][: note.pairs]
        if self.side is not None:
            stems = [f"{stem}_s{number:03}" for number in range(1, note.pairs + 1)]
        high = self.output / "HR"
        return [(high / f"{each}.png", self.low / f"{each}x{self.scale}.png") for each in stems]

    def there(self, note: Note) -> int:
        """How many of a picture's pairs are there."""
        return sum(all(file.is_file() for file in pair) for pair in self.files(note))

    def add(self, note: Note) -> None:
        """Write a note, at once, beginning on a line of its own: several processes may do so.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            with self.notes.open("ab") as file:
                file.write(f"\n{json.dumps(asdict(note))}\n".encode())
        except OSError as error:
            raise OutputError(
                f"{printable(self.notes)}: cannot be written to ({reason(error)})"
            ) from error

    def read(self) -> dict[str, Note]:
        """The last note on each picture, by its stem, with all the pairs that may be there."""
        found: dict[str, Note] = {}
        for line in self.notes.read_text("utf-8", errors="replace").split("\n")[1:]:
            with suppress(ValueError, KeyError, TypeError):  # cut short when a process was killed
                values: Any = json.loads(line)
                note = Note(**values)
                stem = Path(note.source).stem
                if not note.done and stem in found:
                    note = replace(note, pairs=max(note.pairs, found[stem].pairs))
                found[stem] = note
        return found


class Notes:
    """The notes on all scales of a folder.

    Args:
        output: the folder; it and its parts are made where they are missing.
        scale: the one that is worked on.
        side, step: how its pairs are cut, None for whole pictures; the same for all scales.

    Attributes:
        place: that of the scale.
        grid: what the sides of all pictures are cropped to a multiple of.

    Raises:
        ConfigError: the pairs that are there were cut in another way.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, output: Path, scale: int, side: int | None, step: int | None) -> None:
        self.place = Place(output, scale, side)
        head = json.dumps({"side": side, "step": step})
        try:
            others = {Place(output, each, side) for each in _scales_of(output)}
            for place in others:
                _check_head(place.notes, head)
            for folder in (output / "HR", self.place.low):
                folder.mkdir(parents=True, exist_ok=True)
            with self.place.notes.open("ab") as file:
                if file.tell() == 0:
                    file.write(f"{head}\n".encode())
            self._made = {place: place.read() for place in {self.place, *others}}
        except OSError as error:
            raise OutputError(
                f"{printable(output)}: cannot be written to ({reason(error)}); choose another"
            ) from error
        self.grid = lcm(*(place.scale for place in self._made))

    def whole(self, path: Path) -> Note | None:
        """The note on a picture that has not changed and all of whose pairs are there."""
        note = self._made[self.place].get(path.stem)
        if note is None or not note.done or not note.pairs or not note.is_of(path):
            return None
        return note if self.place.there(note) == note.pairs else None

    def others(self, path: Path) -> dict[int, Note]:
        """The notes by other scales on the picture as it is now, by the scale."""
        return {
            place.scale: made[path.stem]
            for place, made in self._made.items()
            if place != self.place and path.stem in made and made[path.stem].is_of(path)
        }

    def gone(self) -> list[Note]:
        """One for each picture that is no longer there but whose pairs are, for any scale."""
        found: dict[str, Note] = {}
        for made in self._made.values():
            for stem, note in made.items():
                if note.is_gone():
                    known = found.get(stem, note)
                    found[stem] = max(known, note, key=lambda each: each.pairs)
        return list(found.values())

    def remove(self, stem: str, keep: Callable[[int, Note], bool]) -> None:
        """Remove the pairs of a picture, but those of scales and notes that are to be kept.

        Raises:
            OutputError: a file cannot be removed.
        """
        notes = {place: made[stem] for place, made in self._made.items() if stem in made}
        kept = {place for place, note in notes.items() if keep(place.scale, note)}
        needed = {file for place in kept for pair in place.files(notes[place]) for file in pair}
        for place, note in notes.items():
            if place in kept or not note.pairs:
                continue
            for file in (file for pair in place.files(note) for file in pair):
                if file not in needed:
                    try:
                        file.unlink(missing_ok=True)
                    except OSError as error:
                        raise OutputError(
                            f"{printable(file)}: cannot be removed ({reason(error)})"
                        ) from error
            removed = replace(note, size=-1, time=-1, pairs=0, done=True)
            self._made[place][stem] = removed
            place.add(removed)

    def count(self) -> int:
        """How many pairs of the scale there are now, of whatever pictures."""
        return sum(map(self.place.there, self.place.read().values()))


def _check_head(notes: Path, head: str) -> None:
    """Before anything is made: were the pairs that are there cut in the same way?"""
    found = notes.read_text("utf-8", errors="replace").partition("\n")[0]
    if found and found != head:
        raise ConfigError(
            f"{printable(notes)}: the pairs there were made with {found[:80]}; "
            "choose another folder"
        )


def _scales_of(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    names = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return [int(name[1]) for name in names if name]
