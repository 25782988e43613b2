"""Journal, blobs, logs and signer in memory: deterministic, and alive after a simulated crash.

A crash takes the node's tasks and leaves these objects: hand them to the node that comes after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container

import coincurve
import trio
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey

from market.errors import IntegrityError, LimitError, NotFoundError, SignatureError
from market.limits import ARTIFACT_BYTES_MAX, CHUNK_BYTES, LOG_BYTES_MAX, LOG_READ_BYTES_MAX
from market.signing import keccak
from node.ports import LogLine, Write

STORY_LINES_MAX = 500
ROOM_BYTES = 256 * 1024**2


class MemoryJournal:
    """The port Journal. A crash during `commit` comes before it or after it, never within."""

    def __init__(self) -> None:
        """Empty, as on the first start of a node."""
        self.commits = 0
        self.reached: dict[int, trio.Event] = {}  # set once so many commits were made
        self._values: dict[tuple[str, bytes], bytes] = {}
        self._stories: dict[bytes, list[LogLine]] = {}

    async def load(self) -> tuple[Write, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(Write(table, key, data) for (table, key), data in sorted(self._values.items()))

    async def commit(self, writes: tuple[Write, ...], log: tuple[LogLine, ...]) -> None:
        await trio.lowlevel.checkpoint()
        for write in writes:
            if write.data is None:
                self._values.pop((write.table, write.key), None)
            else:
                self._values[write.table, write.key] = write.data
        for line in log:
            story = self._stories.setdefault(line.subject, [])
            story.append(line)
            del story[:-STORY_LINES_MAX]
        self.commits += 1
        if self.commits in self.reached:
            self.reached[self.commits].set()

    async def story(self, subject: bytes, limit: int) -> tuple[LogLine, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._stories.get(subject, [])[-limit:]) if limit > 0 else ()

    def table(self, name: str) -> list[bytes]:
        """Every live value of one table, by key."""
        return [data for (table, _), data in sorted(self._values.items()) if table == name]

    def everything(self) -> list[LogLine]:
        """Every kept line of every story, by time: for the message of a failed test."""
        lines = [line for story in self._stories.values() for line in story]
        return sorted(lines, key=lambda line: line.at)


class MemoryLogs:
    """The port Logs."""

    def __init__(self) -> None:
        """No output yet."""
        self._output: dict[bytes, bytearray] = {}

    async def append(self, job: bytes, offset: int, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        end = len(self._output.get(job, b""))
        fresh = data[max(0, end - offset) : max(0, LOG_BYTES_MAX - offset)]
        if fresh:
            output = self._output.setdefault(job, bytearray())
            output.extend(bytes(max(0, offset - end)))
            output.extend(fresh)

    async def read(self, job: bytes, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        size = max(0, min(limit, LOG_READ_BYTES_MAX))
        return bytes(self._output.get(job, b"")[offset : offset + size])

    async def size(self, job: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return len(self._output.get(job, b""))


class MemoryBlobs:
    """The port Blobs. `put_file` and `export` use real files, as the tests that need them do."""

    def __init__(
        self,
        bytes_max: int = ROOM_BYTES,
        pinned: Callable[[], Container[bytes]] = frozenset,
    ) -> None:
        """Empty; `pinned` names what must stay when room is made."""
        self._bytes_max = bytes_max
        self._pinned = pinned
        self._kept: dict[bytes, tuple[bytes, bool]] = {}  # last in the dict: used last

    async def size(self, hash_: bytes) -> int | None:
        await trio.lowlevel.checkpoint()
        data, complete = self._kept.get(hash_, (b"", False))
        return len(data) if complete else None

    async def partial(self, hash_: bytes) -> int:
        await trio.lowlevel.checkpoint()
        data, complete = self._kept.get(hash_, (b"", False))
        return 0 if complete else len(data)

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._complete(hash_)[offset : offset + max(0, min(limit, CHUNK_BYTES))]

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        before, complete = self._kept.get(hash_, (b"", False))
        if complete or offset != len(before) or offset + len(data) > ARTIFACT_BYTES_MAX:
            raise LimitError(f"the blob goes on at byte {len(before)}, not at {offset}")
        self._make_room(hash_, len(data))
        self._kept.pop(hash_, None)
        self._kept[hash_] = (before + data, False)

    async def finish(self, hash_: bytes) -> int:
        await trio.lowlevel.checkpoint()
        data, complete = self._kept.get(hash_, (b"", False))
        if not complete and hashlib.sha256(data).digest() != hash_:
            self._kept.pop(hash_, None)
            raise IntegrityError(f"the bytes received for {hash_.hex()[:12]} are wrong")
        self._kept[hash_] = (data, True)
        return len(data)

    async def put(self, data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        hash_ = hashlib.sha256(data).digest()
        before, complete = self._kept.get(hash_, (b"", False))
        if not complete:
            self._make_room(hash_, len(data) - len(before))
        self._kept.pop(hash_, None)
        self._kept[hash_] = (data, True)
        return hash_

    async def put_file(self, path: str) -> tuple[bytes, int]:
        try:
            data = await trio.Path(path).read_bytes()
        except FileNotFoundError as problem:
            raise NotFoundError(f"{path} is not there") from problem
        return await self.put(data), len(data)

    async def export(self, hash_: bytes, path: str) -> None:
        await trio.Path(path).write_bytes(self._complete(hash_))

    async def lend(self, hash_: bytes, path: str) -> None:
        await self.export(hash_, path)

    async def discard(self, hash_: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._kept.pop(hash_, None)

    def keep(self, needed: Callable[[], Container[bytes]]) -> None:
        self._pinned = needed

    def _complete(self, hash_: bytes) -> bytes:
        data, complete = self._kept.get(hash_, (b"", False))
        if not complete:
            raise NotFoundError(f"no blob {hash_.hex()[:12]} is kept here")
        self._kept[hash_] = self._kept.pop(hash_)
        return data

    def _make_room(self, hash_: bytes, extra: int) -> None:
        missing = sum(len(data) for data, _ in self._kept.values()) + extra - self._bytes_max
        victims: list[bytes] = []
        for other, (data, _) in self._kept.items():
            if missing > 0 and other != hash_ and other not in self._pinned():
                victims.append(other)
                missing -= len(data)
        if missing > 0:
            raise LimitError(f"no room: {missing} bytes are missing")
        for victim in victims:
            del self._kept[victim]


class SimSigner:
    """The port Signer with keys made of a number: real signatures, the same in every run.

    Sealed boxes are as real, but for the one-time key, which comes of what is sealed and how often
    this signer has sealed: a run can be repeated to the byte, and must never hold a real secret.
    """

    def __init__(self, number: int) -> None:
        """Another number, other keys."""
        name = b"simulated signer %d" % number
        self._peer_key = SigningKey(hashlib.sha256(name + b" peer").digest())
        self._operator_key = coincurve.PrivateKey(hashlib.sha256(name + b" operator").digest())
        public = self._operator_key.public_key.format(compressed=False)
        self._operator = keccak(public[1:])[12:]
        self._sealed = 0

    @property
    def peer(self) -> bytes:
        return bytes(self._peer_key.verify_key)

    @property
    def operator(self) -> bytes:
        return self._operator

    def sign(self, data: bytes) -> bytes:
        return bytes(self._peer_key.sign(data).signature)

    def sign_digest(self, digest: bytes) -> bytes:
        signature = self._operator_key.sign_recoverable(digest, hasher=None)
        return bytes(signature[:64]) + bytes([27 + signature[64]])

    def seal_for(self, peer: bytes, data: bytes) -> bytes:
        self._sealed += 1
        seed = hashlib.sha256(b"%b %d %b" % (bytes(self._peer_key), self._sealed, data)).digest()
        try:
            once = PrivateKey(seed)
            reader = VerifyKey(peer).to_curve25519_public_key()
            nonce = _nonce(bytes(once.public_key), bytes(reader))
            return bytes(once.public_key) + bytes(Box(once, reader).encrypt(data, nonce).ciphertext)
        except (CryptoError, ValueError) as problem:
            raise SignatureError("nothing can be sealed for this peer: no such key") from problem

    def unseal(self, box: bytes) -> bytes:
        own = self._peer_key.to_curve25519_private_key()
        try:
            once = PublicKey(box[:32])
            nonce = _nonce(box[:32], bytes(own.public_key))
            return bytes(Box(own, once).decrypt(box[32:], nonce))
        except (CryptoError, ValueError) as problem:
            raise SignatureError("the sealed box is not for this node, or is damaged") from problem


def _nonce(once: bytes, reader: bytes) -> bytes:
    """The nonce of a sealed box, as libsodium makes it: BLAKE2b of both public keys."""
    return hashlib.blake2b(once + reader, digest_size=24).digest()
