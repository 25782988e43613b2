"""Tars of strangers: read one entry at a time, with bounded memory.

Python's reader takes extended headers and sparse maps of any size into memory and remembers every
entry; a few compressed kilobytes could thereby fill the machine. Knows no image and no job.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any, NoReturn, cast

from market.errors import SandboxError

_HEADER_BYTES_MAX = 1024 * 1024  # long names and attributes take kilobytes
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class StrictEntry(tarfile.TarInfo):
    """An entry without sparse maps and with small headers. Raises SandboxError for others."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictEntry:
        """An entry from its block of 512 bytes."""
        entry = super().frombuf(buf, encoding, errors)
        if entry.type == tarfile.GNUTYPE_SPARSE:
            entry._refuse()
        if entry.type in _EXTENDED and entry.size > _HEADER_BYTES_MAX:
            raise SandboxError(f"the archive has a header of {entry.size} bytes")
        return entry

    def _refuse(self, *_: object) -> NoReturn:
        raise SandboxError("the archive holds a sparse file", hint="pack it without --sparse")

    # What the reader calls for the three ways to say "sparse" in a PAX header.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def stream(source: IO[bytes]) -> tarfile.TarFile:
    """A tar read strictly from its beginning to its end."""
    return tarfile.open(fileobj=source, mode="r|", tarinfo=StrictEntry)


def entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its entries, none of them remembered."""
    while (entry := tar.next()) is not None:
        cast(Any, tar).members.clear()  # a list, though the types do not say so
        yield entry
