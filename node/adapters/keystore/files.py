"""Files: secrets on disk, readable by their owner only, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from market.errors import MarketError

FILE_BYTES_MAX: Final = 64 * 1024  # a keystore is half a KiB


def create(path: Path, text: bytes) -> None:
    """Write the file whole or not at all, and never over another: a key is lost only once."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(file, "wb") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process was first: its key is the node's
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink()


def read(path: Path) -> bytes:
    """What is in it. Raises MarketError if others may read it, OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise MarketError(
                f"{path} can be read by others", hint=f"make it yours alone: chmod 600 {path}"
            )
        return file.read(FILE_BYTES_MAX)
