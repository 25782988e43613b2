"""Memory: the small ports kept in memory. They outlive a simulated crash, as a disk does."""

from __future__ import annotations

import hashlib
import random

import coincurve
import trio
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from market.errors import IntegrityError, LimitError, NotFoundError, SignatureError
from market.signing import keccak
from market.units import UnixTime
from node.ports import LogLine, Unit, UnitHealth, Write

EPOCH = 1_800_000_000.0


class SimClock:
    """Wall-clock time that follows trio's clock."""

    def now(self) -> UnixTime:
        """Seconds since 1970."""
        return UnixTime(EPOCH + trio.current_time())


class SimEntropy:
    """Seeded, so that a run can be run again."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def token(self, size: int) -> bytes:
        """So many bytes."""
        return self._rng.randbytes(size)


class SimSigner:
    """Real signatures with keys made of a seed."""

    def __init__(self, seed: bytes) -> None:
        self.seed = hashlib.sha256(seed).digest()
        self._key = SigningKey(self.seed)
        self._chain_key = coincurve.PrivateKey(hashlib.sha256(seed + b"chain").digest())
        self.peer = bytes(self._key.verify_key)
        self.operator = keccak(self._chain_key.public_key.format(compressed=False)[1:])[12:]

    def sign(self, data: bytes) -> bytes:
        """Ed25519."""
        return self._key.sign(data).signature

    def sign_digest(self, digest: bytes) -> bytes:
        """r, s, v."""
        signature = self._chain_key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def seal_for(self, peer: bytes, data: bytes) -> bytes:
        """Only that peer opens it."""
        return bytes(SealedBox(VerifyKey(peer).to_curve25519_public_key()).encrypt(data))

    def unseal(self, box: bytes) -> bytes:
        """Open one of ours."""
        try:
            return SealedBox(self._key.to_curve25519_private_key()).decrypt(box)
        except CryptoError as problem:
            raise SignatureError("not sealed to this node") from problem


class MemoryJournal:
    """A journal whose every commit is at once durable."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, bytes], bytes] = {}
        self.lines: list[LogLine] = []
        self.commits = 0

    async def load(self) -> tuple[Write, ...]:
        """What is there."""
        return tuple(
            Write(table, key, self.values[table, key]) for table, key in sorted(self.values)
        )

    async def commit(self, writes: tuple[Write, ...], log: tuple[LogLine, ...]) -> None:
        """All, at once; a crash comes before or after, as a checkpoint of the scheduler."""
        await trio.lowlevel.checkpoint()
        self.commits += 1
        for write in writes:
            if write.data is None:
                self.values.pop((write.table, write.key), None)
            else:
                self.values[write.table, write.key] = write.data
        self.lines += log

    async def story(self, subject: bytes, limit: int) -> tuple[LogLine, ...]:
        """The newest lines about a subject."""
        return tuple(line for line in self.lines if line.subject == subject)[-limit:]


class MemoryBlobs:
    """Blobs by hash."""

    def __init__(self) -> None:
        self.whole: dict[bytes, bytes] = {}
        self.parts: dict[bytes, bytes] = {}

    async def size(self, hash_: bytes) -> int | None:
        """Of a complete one."""
        data = self.whole.get(hash_)
        return None if data is None else len(data)

    async def partial(self, hash_: bytes) -> int:
        """Of an incomplete one."""
        return len(self.parts.get(hash_, b""))

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        """A part."""
        if hash_ not in self.whole:
            raise NotFoundError("no such blob")
        return self.whole[hash_][offset : offset + limit]

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        """In order only."""
        have = self.parts.get(hash_, b"")
        if offset != len(have):
            raise LimitError("a gap")
        self.parts[hash_] = have + data

    async def finish(self, hash_: bytes) -> int:
        """Checked."""
        data = self.parts.pop(hash_, b"")
        if hash_ in self.whole:
            return len(self.whole[hash_])
        if hashlib.sha256(data).digest() != hash_:
            raise IntegrityError("the bytes are not those of the hash")
        self.whole[hash_] = data
        return len(data)

    async def put(self, data: bytes) -> bytes:
        """Small ones."""
        hash_ = hashlib.sha256(data).digest()
        self.whole[hash_] = data
        return hash_

    async def put_file(self, path: str) -> tuple[bytes, int]:
        """A file's bytes."""
        data = await trio.Path(path).read_bytes()
        return await self.put(data), len(data)

    async def export(self, hash_: bytes, path: str) -> None:
        """To a file."""
        await trio.Path(path).write_bytes(await self.read(hash_, 0, 1 << 62))

    async def discard(self, hash_: bytes) -> None:
        """Gone."""
        self.whole.pop(hash_, None)
        self.parts.pop(hash_, None)


class MemoryLogs:
    """Output by job."""

    def __init__(self) -> None:
        self.texts: dict[bytes, bytes] = {}

    async def append(self, job: bytes, offset: int, data: bytes) -> None:
        """What is there already is skipped, a gap filled."""
        have = self.texts.get(job, b"")
        have = have.ljust(offset, b"\0")
        self.texts[job] = have + data[len(have) - offset :]

    async def read(self, job: bytes, offset: int, limit: int) -> bytes:
        """A part."""
        return self.texts.get(job, b"")[offset : offset + limit]

    async def size(self, job: bytes) -> int:
        """All of it."""
        return len(self.texts.get(job, b""))


class SimDevices:
    """So many declared units."""

    def __init__(self, count: int, name: str = "CPU") -> None:
        self._units = tuple(Unit(index, name, "", 2048, True) for index in range(count))

    def units(self) -> tuple[Unit, ...]:
        """All."""
        return self._units

    def health(self) -> tuple[UnitHealth, ...]:
        """Well."""
        return tuple(UnitHealth(u.index, True, "", None, None, None, None) for u in self._units)
