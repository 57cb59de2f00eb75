"""What mkdocs does beside its own work: the README is the first page, and no link leads astray."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the index."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=_links_from(text, "", config)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Lead links to files outside of docs/ to the repository."""
    return markdown if page.file.src_uri == "index.md" else _links_from(markdown, "docs", config)


def _links_from(markdown: str, folder: str, config: MkDocsConfig) -> str:
    """The links of a file in this folder of the repository, as seen from docs/."""

    def lead(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        inside = target.startswith("docs/")
        return match[1] + (target[5:] if inside else f"{config.repo_url}/blob/main/{target}")

    return _LINK.sub(lead, markdown)
