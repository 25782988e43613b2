"""Shared files: one copy on disk of what several unpacked images hold alike.

Images that share layers share most of their files. A file is known by its content and its mode and
is linked into each tree; trees are never written to once they are complete. Knows no image.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

LEAST_BYTES: Final = 4096  # below a block there is nothing to save
LINKS_MAX: Final = 30_000  # of one file; ext4 allows 65,000


class SharedFiles:
    """A folder of files by content, on one disk with the trees that they are linked into."""

    def __init__(self, directory: Path) -> None:
        """Makes the folder."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def share(self, parent: int, name: str, digest: str, mode: int, size: int) -> bool:
        """Whether the file `name` in the open folder `parent` was here already.

        It is then a link to what was; else it is what later ones are linked to. It must be whole,
        with this SHA-256, mode and size, and nobody may write to it again. Raises OSError.
        """
        if size < LEAST_BYTES:
            return False
        known = self._directory / f"{digest}-{mode:o}"
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(known, follow_symlinks=False)
            if found.st_nlink < LINKS_MAX and found.st_size == size:
                draft = known.with_suffix(".new")
                draft.unlink(missing_ok=True)
                os.link(known, draft)
                os.rename(draft, name, dst_dir_fd=parent)
                return True
            known.unlink()
        os.link(name, known, src_dir_fd=parent, follow_symlinks=False)
        return False

    def sweep(self) -> None:
        """Remove what no tree holds any more."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_nlink == 1 or entry.name.endswith(".new"):
                    os.unlink(entry.path)
