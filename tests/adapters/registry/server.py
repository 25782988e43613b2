"""Server: an OCI registry on 127.0.0.1, as the distribution specification says, and its vices.

Token and basic authentication, ranges, redirects to a second host, and on request: wrong bytes,
broken transfers, slowness, 429, no ranges. It notes what it was asked and with what credentials.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from market.image import MANIFEST_TYPES


@dataclass
class Registry:
    """What the server has and how it behaves. `port` is set once it listens."""

    port: int = 0
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    tags: dict[tuple[str, str], bytes] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)  # anonymous may read if there are none
    auth: str = "none"  # none, token, basic
    redirect: str = ""  # blobs are fetched from there: "http://host:port"
    ranges: bool = True
    spoil: set[bytes] = field(default_factory=set)  # digests sent with a wrong byte
    cut_after: int | None = None  # a blob's transfer breaks off after so many bytes, once
    busy: int = 0  # so many 429 answers first
    retry_after: str = "0"
    pause_s: float = 0.0  # between the parts of a body
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, range, authorization
    tokens: int = 0

    @property
    def host(self) -> str:
        """As references write it."""
        return f"127.0.0.1:{self.port}"

    def put(self, name: str, tag: str, manifest: bytes, *blobs: bytes) -> bytes:
        """Keep an image; returns its digest."""
        for data in (manifest, *blobs):
            self.blobs[hashlib.sha256(data).digest()] = data
        digest = hashlib.sha256(manifest).digest()
        self.tags[name, tag] = digest
        return digest

    def paths(self, part: str) -> list[str]:
        """What was asked that has `part` in it."""
        return [path for path, _, _ in self.asked if part in path]


def make_manifest(config: bytes, *layers: tuple[bytes, str]) -> bytes:
    """A manifest of these bytes; each layer with the end of its type, like `tar+gzip`."""

    def described(data: bytes, kind: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    kind = "application/vnd.oci.image"
    raw = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": described(config, f"{kind}.config.v1+json"),
        "layers": [described(data, f"{kind}.layer.v1.{end}") for data, end in layers],
    }
    return json.dumps(raw).encode()


def make_index(*entries: tuple[str, bytes]) -> bytes:
    """An index of manifests by architecture."""
    found = [
        {
            "mediaType": MANIFEST_TYPES[0],
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "size": len(data),
            "platform": {"os": "linux", "architecture": name},
        }
        for name, data in entries
    ]
    return json.dumps({"schemaVersion": 2, "manifests": found}).encode()


@contextmanager
def serving(registry: Registry | None = None) -> Iterator[Registry]:
    """Serve it until left."""
    registry = registry or Registry()

    class Handler(_Handler):
        state = registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Registry

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        state, parts = self.state, urlsplit(self.path)
        given = self.headers.get("authorization", "")
        state.asked.append((self.path, self.headers.get("range", ""), given))
        if parts.path == "/token":
            self._token(parts.query, given)
        elif parts.path.startswith("/cdn/"):
            self._blob(bytes.fromhex(parts.path.rpartition(":")[2]))
        elif state.busy > 0:
            state.busy -= 1
            self._say(429, b"{}", {"retry-after": state.retry_after})
        elif self._refused(given):
            return
        else:
            self._registry(parts.path)

    def _registry(self, path: str) -> None:
        state = self.state
        _, _, rest = path.partition("/v2/")
        if "/manifests/" in rest:
            name, _, wanted = rest.partition("/manifests/")
            if wanted.startswith("sha256:"):
                digest = bytes.fromhex(wanted.removeprefix("sha256:"))
            else:
                digest = state.tags.get((name, wanted), b"")
            if digest not in state.blobs:
                self._say(404, b"{}")
                return
            data = state.blobs[digest]
            if digest in state.spoil:
                data = data.replace(b"2", b"3", 1)
            self._say(200, data, {"content-type": MANIFEST_TYPES[0]})
        elif "/blobs/sha256:" in rest:
            if state.redirect:
                where = f"{state.redirect}/cdn/{rest.rpartition('/')[2]}"
                self._say(307, b"", {"location": where})
                return
            self._blob(bytes.fromhex(rest.rpartition(":")[2]))
        else:
            self._say(404, b"{}")

    def _refused(self, given: str) -> bool:
        state = self.state
        if state.auth == "none":
            return False
        if state.auth == "basic":
            if given.startswith("Basic ") and self._knows(given):
                return False
            self._say(401, b"{}", {"www-authenticate": 'Basic realm="here"'})
            return True
        if given.startswith("Bearer token-"):
            return False
        realm = f"http://{state.host}/token"
        header = f'Bearer realm="{realm}",service="registry",scope="repository:x:pull"'
        self._say(401, b"{}", {"www-authenticate": header})
        return True

    def _token(self, query: str, given: str) -> None:
        state = self.state
        assert parse_qs(query)["service"] == ["registry"]
        if state.users and not self._knows(given):
            self._say(401, b"{}")
            return
        state.tokens += 1
        self._say(200, json.dumps({"token": f"token-{state.tokens}", "expires_in": 60}).encode())

    def _knows(self, given: str) -> bool:
        if not given.startswith("Basic "):
            return False
        user, _, password = base64.b64decode(given[6:]).decode().partition(":")
        return self.state.users.get(user) == password

    def _blob(self, digest: bytes) -> None:
        state = self.state
        data = state.blobs.get(digest)
        if data is None:
            self._say(404, b"{}")
            return
        if digest in state.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin, status, headers = 0, 200, {}
        asked = self.headers.get("range", "")
        if asked and state.ranges:
            begin = int(asked.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                self._say(416, b"")
                return
            status = 206
            headers["content-range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._say(status, data[begin:], headers)

    def _say(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        state = self.state
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        cut = state.cut_after if status in (200, 206) and "sha256:" in self.path else None
        if cut is not None and cut < len(data):
            state.cut_after = None
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        try:
            for start in range(0, len(data), 65536):
                self.wfile.write(data[start : start + 65536])
                time.sleep(state.pause_s)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
