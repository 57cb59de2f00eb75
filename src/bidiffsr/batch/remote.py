"""Pictures in storage such as S3's, by pyarrow's file systems or, through them, fsspec's."""

# pyright: reportMissingImports=false
# What the extra `ray` installs may be missing.

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bidiffsr.errors import BidiffsrError, ConfigError, ImageError, OutputError
from bidiffsr.images.codec import most_bytes
from bidiffsr.images.decode import HeaderCheck, decode_image, image_header
from bidiffsr.images.encode import format_for, save_image
from bidiffsr.images.find import IMAGE_SUFFIXES, Listing
from bidiffsr.images.formats import Format
from bidiffsr.images.image import Header, Image
from bidiffsr.system.files import SETTLED, exists_already, printable, real_path, reason
from bidiffsr.system.memory import available_memory

if TYPE_CHECKING:
    from pyarrow import fs

# What pyarrow reads by itself; all else is fsspec's.
_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")

# Where a file appears only once all of it has been sent.
_WHOLE = ("s3", "gcs")

_PIECE = 1 << 20
_FEW = 20


class Remote:
    """See `Storage`. Files appear whole: where they would not, they are renamed once they do."""

    keeps_times = False

    def text(self, path: Path) -> str:
        """See `Storage`."""
        scheme, *names = path.parts
        return f"{scheme}//{'/' if scheme == 'file:' else ''}{'/'.join(names)}"

    def is_folder(self, path: Path) -> bool:
        """See `Storage`."""
        try:
            return self._is(path, "Directory")
        except OSError:
            return False

    def leads_to_folder(self, path: Path) -> bool:
        """See `Storage`."""
        with self._reading(path):
            kind = self._info(path).type.name
        if kind == "NotFound":
            raise ImageError(f"{self._name(path)}: no such file or folder; check the name")
        return kind == "Directory"

    def existing(self, paths: Iterable[Path]) -> set[Path]:
        """See `Storage`; where there are many in a folder, by looking at the folder once."""
        folders: dict[Path, set[Path]] = {}
        for path in paths:
            folders.setdefault(path.parent, set()).add(path)
        found: set[Path] = set()
        for folder, asked in folders.items():
            with suppress(OSError):
                if len(asked) > _FEW:
                    found |= asked & {at for at, kind in self._entries(folder) if kind == "File"}
                else:
                    found |= {path for path in asked if self._is(path, "File")}
        return found

    def listing(self, folder: Path, *, recursive: bool) -> Listing:
        """See `Storage`."""
        found = Listing()
        try:
            entries = sorted(self._entries(folder, recursive=recursive))
        except OSError as error:
            complaint = f"{self._name(folder)}: cannot be listed ({_said(error)})"
            found.errors[folder] = ImageError(complaint)
            return found
        for path, kind in entries:
            if any(name.startswith(".") for name in path.relative_to(folder).parts):
                continue
            if kind == "File":
                is_picture = path.suffix.lower() in IMAGE_SUFFIXES
                (found.pictures if is_picture else found.others).append(path)
            elif not recursive:
                found.folders.append(path)
        return found

    def real_path(self, path: Path) -> Path:
        """See `Storage`; of this machine's disk, that of the disk."""
        scheme, *names = path.parts
        return real_path(Path("/", *names)) if scheme == "file:" else path

    def modified(self, path: Path) -> int | None:
        """See `Storage`."""
        with suppress(OSError):
            return self._info(path).mtime_ns
        return None

    def state(self, path: Path) -> tuple[int, ...] | None:
        """See `Storage`; of files whose times the storage tells."""
        with suppress(OSError):
            info = self._info(path)
            size, modified = info.size, info.mtime_ns
            if size is None or modified is None:  # no file, or of a storage that keeps no times
                return None
            if time.time_ns() - modified > SETTLED:
                return size, modified
        return None

    def read_image(
        self, path: Path, *, max_pixels: int, check_header: HeaderCheck | None = None
    ) -> Image:
        """See `Storage`."""
        data, name = self._bytes(path, max_pixels), self._name(path)
        return decode_image(data, name=name, max_pixels=max_pixels, check_header=check_header)

    def read_header(self, path: Path, *, max_pixels: int) -> Header:
        """See `Storage`."""
        data = self._bytes(path, max_pixels)
        return image_header(data, name=self._name(path), max_pixels=max_pixels)

    def write_image(
        self,
        path: Path,
        image: Image,
        *,
        overwrite: bool,
        quality: int,
        subsampling: str,
        modified: int | None,
        written: Callable[[Path], object] | None = None,
    ) -> tuple[str, ...]:
        """See `Storage`; ``modified`` is not kept."""
        self.check_output(path, overwrite=overwrite)
        name = self._name(path)
        with tempfile.TemporaryDirectory(prefix="bidiffsr-", ignore_cleanup_errors=True) as folder:
            file = Path(folder, "result")
            try:
                left_out = save_image(
                    *(image, file, path.suffix),
                    name=name,
                    quality=quality,
                    subsampling=subsampling,
                )
                if written is not None:
                    written(file)
                self._upload(file, path, overwrite=overwrite)
            except BidiffsrError:
                raise
            except OSError as error:
                raise OutputError(
                    f"{name}: cannot be written ({_said(error)}); nothing was changed"
                ) from error
        return left_out

    def check_output(self, path: Path, *, overwrite: bool) -> Format:
        """See `Storage`."""
        name = self._name(path)
        format_ = format_for(path.suffix, name)
        try:
            kind = self._info(path).type.name
        except OSError as error:
            raise OutputError(f"{name}: cannot be a file ({_said(error)})") from error
        if kind == "Directory":
            raise OutputError(f"{name}: exists and is no regular file; choose another name")
        if kind == "File" and not overwrite:
            raise exists_already(self.text(path))
        return format_

    foresee_output = check_output

    def make_folder(self, folder: Path) -> None:
        """See `Storage`; where there are folders at all, writing makes them."""

    def working_folder(self, path: Path) -> Path:
        """See `Storage`."""
        return Path(tempfile.gettempdir())

    def remove_leftovers(self, folder: Path) -> None:
        """See `Storage`; of those that are hidden here nobody knows whose they are."""

    def _bytes(self, path: Path, max_pixels: int) -> bytes:
        most, name = most_bytes(max_pixels), self._name(path)
        with self._reading(path):
            info = self._info(path)
            if info.type.name == "NotFound":
                raise ImageError(f"{name}: no such file; check the name")
            if info.type.name != "File":
                raise ImageError(f"{name}: is a folder; expected a picture file")
            available = available_memory()
            if info.size > most or (available is not None and info.size > available):
                limit = f"expected at most {most}, more than any picture needs"
                if info.size <= most:
                    limit = f"more than the {available} bytes of memory there are"
                raise ImageError(f"{name}: has {info.size} bytes; {limit}")
            system, inside = _place(path)
            with system.open_input_stream(inside, compression=None) as stream:
                return stream.read()

    def _upload(self, file: Path, path: Path, *, overwrite: bool) -> None:
        """Copy a file into the storage, under another name until it is there."""
        hidden = path.with_name(f".bidiffsr-{secrets.token_hex(8)}.tmp")
        (system, temporary), (_, target) = _place(hidden), _place(path)
        if not overwrite and self._is(path, "File"):  # making it took a while
            raise exists_already(self.text(path))
        if system.type_name in _WHOLE:
            _copy(file, system, target)
            return
        try:
            _copy(file, system, temporary)
            system.move(temporary, target)
        except BaseException:
            with suppress(OSError):
                system.delete_file(temporary)
            raise

    def _name(self, path: Path) -> str:
        return printable(self.text(path))

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except BidiffsrError:
            raise
        except OSError as error:
            raise ImageError(f"{self._name(path)}: cannot be read ({_said(error)})") from error

    def _info(self, path: Path) -> fs.FileInfo:
        system, inside = _place(path)
        return system.get_file_info(inside)

    def _is(self, path: Path, kind: str) -> bool:
        return self._info(path).type.name == kind

    def _entries(self, folder: Path, *, recursive: bool = False) -> list[tuple[Path, str]]:
        """What is in a folder, and of which kind each is."""
        from pyarrow import fs

        system, inside = _place(folder)
        infos = system.get_file_info(fs.FileSelector(inside, recursive=recursive))
        return [
            (folder / _bare(info.path).relative_to(_bare(inside)), info.type.name) for info in infos
        ]


def _bare(inside: str) -> PurePosixPath:
    return PurePosixPath(inside.strip("/"))


def _place(path: Path) -> tuple[fs.FileSystem, str]:
    """The file system of a path, and its path in there.

    Raises:
        ConfigError: it is of an unknown kind, or cannot be reached at all.
    """
    scheme, *names = path.parts
    if scheme == "file:":
        system, root = _opened("file", "")
        return system, f"{root}{'/'.join(names)}"
    system, root = _opened(scheme.removesuffix(":"), names[0])
    return system, "/".join(filter(None, [root, *names[1:]]))


@cache
def _opened(scheme: str, authority: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    try:
        if scheme in _ARROW:
            return fs.FileSystem.from_uri(f"{scheme}://{authority}/")
        import fsspec

        system = fsspec.filesystem(scheme)
    except ModuleNotFoundError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"{scheme}://{authority}: cannot be reached ({_said(error)}); check its name, and "
            "whether this machine may"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), authority


def _copy(file: Path, system: fs.FileSystem, inside: str) -> None:
    """Into a folder that is made where folders are something."""
    try:
        sink = system.open_output_stream(inside, compression=None)
    except FileNotFoundError:
        system.create_dir(inside.rpartition("/")[0], recursive=True)
        sink = system.open_output_stream(inside, compression=None)
    with file.open("rb") as source, sink:
        shutil.copyfileobj(source, sink, _PIECE)


def _said(error: Exception) -> str:
    """Why, as one line."""
    text = reason(error) if isinstance(error, OSError | ValueError) else str(error)
    return " ".join(text.split())
