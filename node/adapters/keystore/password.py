"""Password: where the one that locks a key comes from: a file, or a credential of systemd's.

Never an argument, never the environment itself: both are seen by other programs. Never shown.
"""

from __future__ import annotations

import os
from pathlib import Path

from market.errors import MarketError
from node.adapters.keystore.files import read


def credential(name: str) -> Path | None:
    """The file of a `LoadCredential=NAME:...` of the unit this runs in (systemd.exec(5))."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, name) if directory else None
    return path if path is not None and path.is_file() else None


def read_password(path: Path) -> bytes:
    """Its first line's bytes. Raises MarketError if it is empty or others may read it."""
    try:
        text = read(path)
    except OSError as problem:
        raise MarketError(
            f"{path} cannot be read: {problem.strerror}", hint="check the password file"
        ) from problem
    password = text.rstrip(b"\r\n")
    if not password:
        raise MarketError(f"{path} is empty", hint="write the password into it")
    return password
