"""The journal of a batch: what was made of which picture, and who works on what.

An SQLite file. Each result is written down, with the SHA-256 of its file, just before it gets its
name; so at whatever moment a process is killed, a result is either there as it is written down, or
has to be made. Several processes of a machine may share a journal. What they claim is only a hint
that keeps them from working on one picture: results are whole whoever writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bidiffsr.errors import ImageError, JournalError
from bidiffsr.system.files import SETTLED, StrPath, printable, reason
from bidiffsr.system.process import boot, here, started_at

# Of SQLite's header: "bdsr", and the version of the tables.
_APPLICATION, _VERSION = 0x62647372, 1
_TABLES = """
CREATE TABLE works (id INTEGER PRIMARY KEY, model TEXT, settings TEXT, UNIQUE (model, settings));
CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, inode INTEGER,
    sha256 BLOB) WITHOUT ROWID;
CREATE TABLE results (picture BLOB, work INTEGER, part TEXT, path BLOB, sha256 BLOB,
    PRIMARY KEY (picture, work, part, path)) WITHOUT ROWID;
CREATE INDEX results_by_path ON results (path);
CREATE TABLE claims (picture BLOB, work INTEGER, host TEXT, boot TEXT, place TEXT,
    process INTEGER, started INTEGER, seen REAL, PRIMARY KEY (picture, work)) WITHOUT ROWID;
"""
# Seconds to wait for another process's writing.
_PATIENCE = 60.0
# Seconds between signs of life, and of silence after which a process that cannot be looked at,
# on another machine or in another container, counts as gone.
_SIGN_EVERY, _SILENCE = 60.0, 3600.0
_OWNER = "place = ? AND process = ? AND started = ?"
_CLAIMS_OF = (
    "SELECT host, boot, place, process, started, seen FROM claims WHERE picture = ? AND work = ?"
)


@dataclass(frozen=True)
class Owner:
    """A process that works on a picture."""

    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Journal:
    """A journal, open for one kind of work; close it, or use it as a context manager.

    May be called from several threads.

    Args:
        path: of the file, which is made where there is none.
        model: SHA-256 of the model's file.
        settings: what else decides how every result comes out.

    Raises:
        JournalError: it cannot be opened, is damaged, or is no journal. Everything else here
            raises this, too, where the file can no longer be read or written.
    """

    def __init__(self, path: StrPath, model: str, settings: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._lock = threading.RLock()
        self._host, self._boot = platform.node(), boot()
        process = os.getpid()
        self._me = here(), process, started_at(process) or 0
        self._signed = time.monotonic()
        with self._explained():
            self._check_kind()
            self._base = sqlite3.connect(
                self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._prepare()
                self._work = self._number_of(model, json.dumps(settings, sort_keys=True))
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what this process has claimed, and close the file."""
        with suppress(JournalError), self._explained():
            self._base.execute(f"DELETE FROM claims WHERE {_OWNER}", self._me)
        self._base.close()

    def digest(self, path: Path) -> bytes:
        """The SHA-256 of a file, 32 bytes.

        A file whose size, inode and time of change are as they were is not read again.

        Raises:
            ImageError: it cannot be read, or is no regular file.
        """
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):
                raise ImageError(f"{printable(path)}: is no regular file; expected a picture file")
            known = self._read("SELECT * FROM files WHERE path = ?", _stored(path))
            if known and known[0][1:4] == _traits(state):
                return known[0][4]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                after = os.fstat(file.fileno())
        except FileNotFoundError as error:
            raise ImageError(f"{printable(path)}: no such file; check the name") from error
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"{printable(path)}: cannot be read ({reason(error)})") from error
        if _traits(after) == _traits(state) and time.time_ns() - state.st_mtime_ns > SETTLED:
            with self._writing() as base:
                _note_file(base, path, state, digest)
        return digest

    def results(self, picture: bytes, part: str) -> dict[Path, bytes]:
        """Where this part of the work on a picture was written to, and the files' SHA-256.

        Args:
            picture: SHA-256 of its file.
            part: which of its results.
        """
        found = self._read(
            "SELECT path, sha256 FROM results WHERE picture = ? AND work = ? AND part = ?",
            *(picture, self._work, part),
        )
        return {Path(os.fsdecode(path)): digest for path, digest in found}

    def made_otherwise(self, path: Path, digest: bytes) -> bool:
        """Whether the file, of this SHA-256, is a result of other work than it is asked about."""
        asked = "SELECT 1 FROM results WHERE path = ? AND sha256 = ? LIMIT 1"
        return bool(self._read(asked, _stored(path), digest))

    def record(self, picture: bytes, part: str, path: Path, temporary: Path) -> bytes:
        """Write down a result, whole in a temporary file that is about to be renamed.

        Args:
            picture: see ``results``.
            part: see ``results``.
            path: the result's name.
            temporary: where it is now.

        Returns:
            Its SHA-256.
        """
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            state = os.fstat(file.fileno())
        row = picture, self._work, part, _stored(path), digest
        with self._writing() as base:
            base.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", row)
            _note_file(base, path, state, digest)
        return digest

    def adopt(self, picture: bytes, part: str, path: Path, digest: bytes) -> None:
        """Write down that a result lies at another place, too, such as where it was moved to."""
        row = picture, self._work, part, _stored(path), digest
        with self._writing() as base:
            base.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", row)

    def claim(self, picture: bytes) -> Owner | None:
        """Take the work on a picture, unless another process that runs has it.

        Returns:
            That process; None where the work is ours now.
        """
        key = picture, self._work
        with self._writing() as base:
            owner = self._owner_in(base.execute(_CLAIMS_OF, key).fetchall())
            if owner is not None:
                return owner
            mine = *key, self._host, self._boot, *self._me, time.time()
            base.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?)", mine)
        return None

    def owner(self, picture: bytes) -> Owner | None:
        """Another process that runs and has the work on a picture; claims nothing."""
        return self._owner_in(self._read(_CLAIMS_OF, picture, self._work))

    def release(self, picture: bytes) -> None:
        """Give up the claim on a picture."""
        with self._writing() as base:
            base.execute(
                f"DELETE FROM claims WHERE picture = ? AND work = ? AND {_OWNER}",
                (picture, self._work, *self._me),
            )

    def sign(self) -> None:
        """Tell other machines and containers that this process runs; quick if called often."""
        if time.monotonic() - self._signed > _SIGN_EVERY:
            self._signed = time.monotonic()
            with self._writing() as base:
                base.execute(f"UPDATE claims SET seen = ? WHERE {_OWNER}", (time.time(), *self._me))

    def _owner_in(self, claims: list[Any]) -> Owner | None:
        return next((Owner(row[0], row[3]) for row in claims if self._runs(*row)), None)

    def _runs(
        self, host: str, boot_: str, place: str, process: int, started: int, seen: float
    ) -> bool:
        """Whether another process that made a claim still runs."""
        if (place, process, started) == self._me:
            return False
        if place == here():
            return started_at(process) == started
        if host == self._host and boot_ != self._boot:
            return False
        return abs(time.time() - seen) < _SILENCE

    def _check_kind(self) -> None:
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise self._error(f"cannot be opened ({reason(error)}); choose another file") from None
        if not stat.S_ISREG(mode):
            raise self._error("is no regular file; choose another")

    def _prepare(self) -> None:
        """Make sure that the file is a whole journal, or make it one."""
        base = self._base
        base.execute("PRAGMA synchronous = NORMAL")
        if not self._is_ours():
            with self._writing():
                if not self._is_ours():  # another process may have been faster
                    for command in _TABLES.split(";"):
                        base.execute(command)
                    base.execute(f"PRAGMA application_id = {_APPLICATION}")
                    base.execute(f"PRAGMA user_version = {_VERSION}")
        [(verdict,)] = base.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise sqlite3.DatabaseError("database disk image is malformed")
        self._log_ahead()

    def _log_ahead(self) -> None:
        """So that readers need not wait; where the file's system cannot, they do."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._base.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:  # for this, SQLite does not wait by itself
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _is_ours(self) -> bool:
        """Whether it is a journal; False where it is empty."""
        application, version = self._pragma("application_id"), self._pragma("user_version")
        if application == _APPLICATION:
            if version != _VERSION:
                raise self._error(
                    f"is a journal of version {version}, this bidiffsr knows {_VERSION}; choose "
                    "another file, or the bidiffsr that made it"
                )
            return True
        if application or version or self._pragma("schema_version"):
            raise self._error("is the database of another program; choose another file")
        return False

    def _pragma(self, name: str) -> int:
        return self._base.execute(f"PRAGMA {name}").fetchone()[0]

    def _number_of(self, model: str, settings: str) -> int:
        with self._writing() as base:
            row = model, settings
            base.execute("INSERT OR IGNORE INTO works (model, settings) VALUES (?, ?)", row)
            asked = "SELECT id FROM works WHERE model = ? AND settings = ?"
            return base.execute(asked, row).fetchone()[0]

    def _read(self, command: str, *values: Any) -> list[Any]:
        with self._lock, self._explained():
            return self._base.execute(command, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, in the face of other processes."""
        with self._lock, self._explained():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    with suppress(sqlite3.Error):
                        self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            what = str(error)
            if "not a database" in what:
                complaint = "is no journal; choose another file"
            elif (
                "malformed" in what
                or "no such" in what
                or not isinstance(error, sqlite3.OperationalError)
            ):
                complaint = (
                    f"is damaged ({what}); results are as they were; remove it, and a new one is "
                    "made, which takes results that are there as they are"
                )
            elif "locked" in what:
                complaint = "is locked by another program; wait for it, or choose another file"
            else:
                complaint = f"cannot be written ({what}); make room, or choose another file"
            raise self._error(complaint) from error

    def _error(self, complaint: str) -> JournalError:
        return JournalError(f"{printable(self._path)}: {complaint}")


def _stored(path: Path) -> bytes:
    """A path as it stands in the journal, whatever the current folder is."""
    return os.fsencode(path.absolute())


def _traits(state: os.stat_result) -> tuple[int, int, int]:
    inode = state.st_ino % 2**63  # SQLite's integers have a sign
    return state.st_size, state.st_mtime_ns, inode


def _note_file(base: sqlite3.Connection, path: Path, state: os.stat_result, digest: bytes) -> None:
    row = _stored(path), *_traits(state), digest
    base.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)
