"""Shelf: the unpacked images of this machine, bounded in number and bytes.

The least recently used goes first, never one that is in use. What images have in common is on the
disk once, and counted once where it matters. Blocking; who calls it works on images one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.adapters.oci.shared import SharedFiles

DRAFT: Final = ".new"  # the suffix of a tree that is being unpacked
_BOTH: Final = 2  # links of a file that one tree and the shared folder hold


@dataclass(frozen=True, slots=True)
class Shelf:
    """The trees in `directory`, one a folder named by its image's hash; `files` is beside it."""

    directory: Path
    images_max: int
    bytes_max: int

    @property
    def files(self) -> SharedFiles:
        """What the trees have in common."""
        return SharedFiles(self.directory.with_name("files"))

    def open(self) -> None:
        """Make the folders, and remove what an unpacking that was cut short left behind."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for draft in self.directory.glob(f"*{DRAFT}"):
            shutil.rmtree(draft)
        self.files.sweep()

    def make_room(self, used: frozenset[str], coming: int = 1) -> None:
        """Remove the images unused for longest until so many more fit; those in `used` stay."""
        trees = self._trees()
        count = len(trees) + coming - self.images_max
        # What the records say counts shared files twice: only then is the disk looked at.
        over = sum(map(_recorded_bytes, trees)) - self.bytes_max
        if over > 0:
            over = sum(held_bytes(trees).values()) - self.bytes_max
        removed = False
        for tree in self._spare(trees, used):
            if count <= 0 and over <= 0:
                break
            over -= self._remove(tree) if over > 0 else self._remove(tree, measure=False)
            count, removed = count - 1, True
        if removed:
            self.files.sweep()

    def prune(self, used: frozenset[str]) -> int:
        """Remove every image that is not in `used`; returns the bytes that are free now."""
        freed = sum(self._remove(tree) for tree in self._spare(self._trees(), used))
        self.files.sweep()
        return freed

    def names(self) -> frozenset[str]:
        """The hashes of the images that are here, in hex."""
        return frozenset(tree.name for tree in self._trees())

    def _trees(self) -> list[Path]:
        return [entry for entry in self.directory.iterdir() if entry.suffix != DRAFT]

    def _spare(self, trees: list[Path], used: frozenset[str]) -> list[Path]:
        spare = (tree for tree in trees if tree.name not in used)
        return sorted(spare, key=lambda tree: (tree.stat().st_mtime_ns, tree.name))

    def _remove(self, tree: Path, *, measure: bool = True) -> int:
        """In one step as others see it; returns the bytes that nobody else holds."""
        freed = sum(held_bytes([tree], alone=True).values()) if measure else 0
        going = tree.with_name(tree.name + DRAFT)
        shutil.rmtree(going, ignore_errors=True)
        tree.rename(going)
        shutil.rmtree(going)
        return freed


def held_bytes(trees: list[Path], *, alone: bool = False) -> dict[tuple[int, int], int]:
    """The sizes of the files in these trees, each file once; `alone`: that no other tree holds."""
    found: dict[tuple[int, int], int] = {}
    folders = [str(tree) for tree in trees]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    seen = entry.stat(follow_symlinks=False)
                    if not alone or seen.st_nlink <= _BOTH:
                        found[(seen.st_dev, seen.st_ino)] = seen.st_size
    return found


def _recorded_bytes(tree: Path) -> int:
    try:
        return int(json.loads((tree / "image.json").read_text()).get("bytes", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0
