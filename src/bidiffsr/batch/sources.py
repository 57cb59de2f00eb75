"""The pictures that files and folders stand for, and what cannot be had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bidiffsr.batch.storage import shown, storage_of
from bidiffsr.errors import BidiffsrError, ImageError
from bidiffsr.images.find import IMAGE_SUFFIXES
from bidiffsr.system.files import StrPath

# Suffixes of pictures that are not read: of these a folder's owner may wonder.
_FOREIGN_SUFFIXES = {
    *(".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".wdp", ".hif", ".heics", ".avifs"),
    *(".pbm", ".psd", ".psb", ".xcf", ".tga", ".hdr", ".dds", ".pcx", ".ico", ".svg", ".eps"),
    # Of cameras' raw files.
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf"),
    *(".pef", ".srw", ".x3f", ".3fr", ".iiq", ".erf", ".mrw", ".rwl", ".raw"),
}


@dataclass(frozen=True)
class Source:
    """A picture to upscale, or what was given and is none."""

    path: Path
    folder: Path | None = None
    """The given folder it was found in; None where it was named itself."""
    error: BidiffsrError | None = None
    """Why it cannot be had, where that is known."""

    @property
    def name(self) -> Path:
        """Its path inside the given folder; as given, where it was named itself."""
        return self.path if self.folder is None else self.path.relative_to(self.folder)


@dataclass
class Sources:
    """What was found."""

    pictures: list[Source]
    unread: list[Path] = field(default_factory=list)
    """Left out: pictures of kinds that are not read."""
    folders: list[Path] = field(default_factory=list)
    """Left out: folders inside folders."""


def find_sources(paths: Iterable[StrPath], *, recursive: bool = False) -> Sources:
    """Expand files and folders into pictures, each once.

    Args:
        paths: files, taken whatever their suffix, and folders, of which the files with one of
            `IMAGE_SUFFIXES` are taken in order of name; hidden files and folders are skipped.
        recursive: whether to look into folders inside folders (not through symbolic links).

    Returns:
        What is missing or cannot be listed stands among the pictures, with its error.

    Raises:
        ImageError: there is nothing at all to upscale.
    """
    given = [Path(path) for path in paths]
    sources = Sources([])
    named = {path.absolute() for path in given}
    seen: set[Path] = set()
    for path in given:
        for source in _expanded(path, sources, recursive=recursive):
            place = source.path.absolute()
            if place not in seen and (source.folder is None or place not in named):
                sources.pictures.append(source)
                seen.add(place)
    if not sources.pictures:
        where = ", ".join(map(shown, given)) or "no paths"
        inside = " (--recursive looks into the folders inside)" if sources.folders else ""
        raise ImageError(
            f"{where}: no pictures; expected files ending {' '.join(IMAGE_SUFFIXES)}{inside}"
        )
    return sources


def _expanded(path: Path, sources: Sources, *, recursive: bool) -> Iterator[Source]:
    try:
        is_folder = storage_of(path).leads_to_folder(path)
    except ImageError as error:
        yield Source(path, error=error)
    else:
        yield from _inside(path, sources, recursive=recursive) if is_folder else [Source(path)]


def _inside(folder: Path, sources: Sources, *, recursive: bool) -> list[Source]:
    """The pictures of a folder, in order of name; notes in ``sources`` what is left out."""
    listing = storage_of(folder).listing(folder, recursive=recursive)
    sources.folders += listing.folders
    sources.unread += [path for path in listing.others if path.suffix.lower() in _FOREIGN_SUFFIXES]
    found = [Source(path, folder) for path in listing.pictures]
    found += [Source(path, folder, error) for path, error in listing.errors.items()]
    return sorted(found, key=lambda source: source.path)
