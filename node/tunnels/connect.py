"""Connect: one question of an HTTP proxy, `CONNECT host:port HTTP/1.1`, read and answered.

Text only; who may go where is decided elsewhere.
"""

from __future__ import annotations

import re
from typing import Final

from market.errors import LimitError, RefusedError, SpecError
from market.reach import Target, parse_target
from node.ports import Pipe

HEAD_BYTES_MAX: Final = 16 * 1024
OPEN: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_LINE: Final = re.compile(rb"([A-Z]{1,16}) (\S{1,1024}) HTTP/1\.[01]")


async def read_head(pipe: Pipe) -> tuple[bytes, bytes]:
    """The question up to its empty line, and what came behind it. Raises LimitError."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        part = await pipe.receive(4096)
        if not part or len(data) > HEAD_BYTES_MAX:
            raise LimitError("this is no question to a proxy")
        data += part
    head, _, rest = bytes(data).partition(b"\r\n\r\n")
    return head, rest


def parse_connect(head: bytes) -> Target:
    """Where the client wants to go. Raises RefusedError for another method, SpecError."""
    found = _LINE.fullmatch(head.partition(b"\r\n")[0])
    if found is None:
        raise SpecError("this is no question to a proxy")
    if found[1] != b"CONNECT":
        raise RefusedError(
            "this proxy knows only CONNECT", hint="use https, and HTTPS_PROXY as it is set"
        )
    try:
        return parse_target(found[2].decode("ascii"))
    except UnicodeDecodeError:
        raise SpecError("a host is written in ASCII") from None


def refusal(status: int, words: str) -> bytes:
    """The answer to a question that is not granted."""
    reasons = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 502: "Bad Gateway"}
    body = f"{words}\n".encode()
    head = (
        f"HTTP/1.1 {status} {reasons[status]}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
