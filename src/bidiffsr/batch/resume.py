"""Going on with a batch that has a journal: what is done already, here or under another name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bidiffsr.batch.journal import Journal, Owner
from bidiffsr.batch.options import FileOptions
from bidiffsr.batch.plan import Job
from bidiffsr.batch.storage import DISK, check_on_disk
from bidiffsr.errors import BidiffsrError, ImageError, JournalError, OutputError
from bidiffsr.images.codec import check_output, read_image
from bidiffsr.images.formats import FORMAT_BY_SUFFIX
from bidiffsr.system.files import StrPath, is_file, printable, write_atomically
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler

# Of the options, what does not change a result: samples are told apart by their numbers.
_INCIDENTAL = {"max_memory", "samples"}


def open_journal(
    path: StrPath, upscaler: Upscaler, options: UpscaleOptions, files: FileOptions
) -> Journal:
    """The journal for a batch.

    Args:
        path: of its file, made where there is none.
        upscaler: the model, from ``from_pretrained``.
        options: of the upscaling, as ``Upscaler.check`` returns them.
        files: how files are written.

    Raises:
        JournalError: see `Journal`.
    """
    assert upscaler.origin is not None
    computation = upscaler.origin.computation
    settings = {name: value for name, value in asdict(options).items() if name not in _INCIDENTAL}
    settings |= {name: computation[name] for name in ("name", "precision") if name in computation}
    return Journal(path, upscaler.origin.model, settings | {"strip": files.strip})


@dataclass(frozen=True)
class Copied:
    """A result that had been made of the same picture under another name."""

    path: Path
    original: Path


@dataclass(frozen=True)
class Standing:
    """How far a job has come."""

    picture: bytes
    """SHA-256 of its file."""
    missing: bool
    """Whether there is something left to make; this process has claimed it, or ``owner`` has."""
    copied: tuple[Copied, ...] = ()
    """What has now been copied."""
    owner: Owner | None = None
    """Another process that works on it."""


class Resumption:
    """A batch that goes on.

    Args:
        journal: of the batch.
        files: how files are written.
    """

    def __init__(self, journal: Journal, files: FileOptions) -> None:
        self.journal = journal
        self._files = files

    def begin(self, job: Job) -> Standing:
        """Find out what is there, copy what can be copied, and claim what is left.

        Where something is left, and no other process has it, ``journal.release`` ends the claim.

        Raises:
            ConfigError: the picture or a result does not lie on a disk.
            ImageError: the picture cannot be read.
            OutputError: a file is in the way.
            JournalError: see `Journal`.
        """
        check_on_disk("--journal", (job.source, *job.outputs))
        picture = self.journal.digest(job.source)
        if not self._missing(job, picture):
            return Standing(picture, missing=False)
        owner = self.journal.claim(picture)
        if owner is not None:
            return Standing(picture, missing=True, owner=owner)
        try:
            # Again: it may have been done until the claim.
            places = self._missing(job, picture)
            copied = [self._copy(job, picture, *place) for place in places.items()]
            missing = None in copied
            if not missing:
                self.journal.release(picture)
        except BaseException:
            with suppress(JournalError):
                self.journal.release(picture)
            raise
        return Standing(picture, missing, tuple(each for each in copied if each is not None))

    def is_left(self, job: Job) -> bool:
        """Whether there seems to be something to make that no other process makes; changes nothing.

        A file that is hashed for it need not be for ``begin``.

        Raises:
            ImageError: a file cannot be read.
            JournalError: see `Journal`.
        """
        picture = self.journal.digest(job.source)
        return self.journal.owner(picture) is None and not all(
            is_file(path)
            and self.journal.digest(path) in self.journal.results(picture, part).values()
            for part, path in self._parts(job).items()
        )

    def written(self, job: Job, picture: bytes) -> Callable[[Path, Path], None]:
        """For ``upscale_file``: writes down each result.

        Raises:
            ImageError: by what is returned, where the picture is no longer the one it was.
        """
        parts = {path: part for part, path in self._parts(job).items()}

        def record(path: Path, temporary: Path) -> None:
            if not self._is_still(job, picture):
                raise ImageError(
                    f"{printable(job.source)}: was changed while it was upscaled; run again"
                )
            self.journal.record(picture, parts[path], path, temporary)

        return record

    def _is_still(self, job: Job, picture: bytes) -> bool:
        """Whether a picture's file holds what it held; also if it is gone, for it was read."""
        try:
            return self.journal.digest(job.source) == picture
        except ImageError:
            return True

    def _parts(self, job: Job) -> dict[str, Path]:
        """The files of a job, by what tells them apart from others of the same work."""
        found = {f"sample {number}": path for number, path in enumerate(job.outputs, 1)}
        of = f"of {len(job.outputs)}"
        found |= {f"{word} {of}": path for word, path in job.summaries.items()}
        return {f"{name}, {self._form(path)}": path for name, path in found.items()}

    def _form(self, path: Path) -> str:
        """How a file is written."""
        format_ = FORMAT_BY_SUFFIX.get(path.suffix.lower())
        if format_ is None:
            return "unknown"
        lossy = f" {self._files.file_quality}" if format_.lossy else ""
        return f"{format_.name}{lossy}{f' {self._files.subsampling}' if format_.subsampled else ''}"

    def _missing(self, job: Job, picture: bytes) -> dict[str, Path]:
        """The parts that are not there."""
        return {
            part: path
            for part, path in self._parts(job).items()
            if not self._is_there(part, path, picture)
        }

    def _is_there(self, part: str, path: Path, picture: bytes) -> bool:
        """Whether a file is the result that it should be, or one that must not be replaced.

        Raises:
            OutputError: it is the result of something else.
        """
        if not is_file(path):
            return False
        digest = self.journal.digest(path)
        known = self.journal.results(picture, part)
        place = path.absolute()
        if digest in known.values():
            if place not in known:  # it was moved, perhaps with its picture
                self.journal.adopt(picture, part, path, digest)
            return True
        if self._files.overwrite:
            return False
        if place in known:
            return _is_whole(path)
        if self.journal.made_otherwise(path, digest):
            raise OutputError(
                f"{printable(path)}: is the result of another picture, model or setting; name "
                "another folder (-o) or another name (--name), or overwrite it (--overwrite)"
            )
        return True

    def _copy(self, job: Job, picture: bytes, part: str, path: Path) -> Copied | None:
        """Copy a result that lies elsewhere, whole; None where there is none."""
        known = self.journal.results(picture, part)
        damaged = path.absolute() in known and is_file(path) and not _is_whole(path)
        if damaged and not self._files.overwrite:
            path.unlink(missing_ok=True)  # or what is left of it would count as there
        for original, digest in known.items():
            try:
                if original == path.absolute() or self.journal.digest(original) != digest:
                    continue
            except ImageError:  # it is no longer there
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            check_output(path, overwrite=self._files.overwrite)
            copy = Copied(path, original)
            self._write_copy(job, picture, part, copy, digest)
            return copy
        return None

    def _write_copy(self, job: Job, picture: bytes, part: str, copy: Copied, digest: bytes) -> None:
        modified = DISK.modified(job.source) if self._files.keep_times else None

        def write(temporary: Path) -> None:
            shutil.copyfile(copy.original, temporary)
            if modified is not None:
                os.utime(temporary, ns=(modified, modified))
            if self.journal.record(picture, part, copy.path, temporary) != digest:
                raise ImageError(
                    f"{printable(copy.original)}: was changed while it was copied; run again"
                )

        write_atomically(copy.path, write, overwrite=self._files.overwrite)


def _is_whole(path: Path) -> bool:
    """Whether a result that has changed is a picture still, so that somebody may want it so."""
    try:
        return not read_image(path).metadata.left_out
    except BidiffsrError:
        return False
