"""Challenger: finds out whether offers do what their certificates say, and remembers it.

`verified` in this node's book means: this node has challenged that very unit, lately, and it
answered rightly and in time. Nobody else's word counts, since words are free. Offers are challenged
when somebody asks, and by itself when a job of ours wants verified ones and none are known.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import structlog
import trio

from market.certificate import (
    HISTORY,
    SIZE_MIN,
    Certificate,
    Certified,
    History,
    Standing,
    Tried,
    allowed_s,
    dlperf_milli,
    signed_bytes,
    size_of,
    standing,
)
from market.codec import decode, encode
from market.errors import (
    CodecError,
    IntegrityError,
    MarketError,
    RefusedError,
    SignatureError,
    UnreachableError,
)
from market.limits import CHALLENGES_EVERY_S, RECORD_BYTES_MAX
from market.messages import Challenge, Committed, Show, Shown
from market.product import PRIME, ROWS_SHOWN, check, root_from
from market.signing import check_peer_signature
from market.terms import Offer
from node.bulletin import Bulletin
from node.certify import PROTOCOL
from node.keeper import Keeper, Noted
from node.ports import Channel, Ports

log = structlog.get_logger("challenger")
NOTE = b"challenged/"  # apart from what node/standing notes
ROUND_S = 2.0
AT_ONCE = 2
STALL_S = 120.0
KNOWN_MAX = 10_000  # units whose standing is remembered


class Challenger:
    """The standings of other providers' units, as this node has found them."""

    def __init__(self, ports: Ports, keeper: Keeper) -> None:
        """Finds again what was found out before a restart."""
        self._ports = ports
        self._keeper = keeper
        self._valid: dict[bytes, bool] = {}  # signatures that were looked at
        self._again_at: dict[bytes, float] = {}
        self.histories: dict[bytes, tuple[Tried, ...]] = {
            key: decode(History, data, size_max=RECORD_BYTES_MAX).tries
            for key, data in keeper.notes.items()
            if key.startswith(NOTE)
        }

    def judge(self, offer: Offer) -> Offer:
        """The offer as this node believes it: its claims cut down to what was found out."""
        certified, now = offer.certificate, self._ports.clock.now()
        if certified is None or not self._holds(offer, certified, now):
            return replace(offer, verified=False, dlperf_milli=0, certificate=None)
        found = self.standing_of(certified.certificate)
        speed = 0 if found is Standing.FAILED else dlperf_milli(certified.certificate)
        return replace(offer, verified=found is Standing.PASSED, dlperf_milli=speed)

    def standing_of(self, certificate: Certificate) -> Standing:
        """What is known of that unit."""
        history = self.histories.get(_key(certificate), ())
        return standing(history, self._ports.clock.now())

    def _holds(self, offer: Offer, certified: Certified, now: float) -> bool:
        certificate = certified.certificate
        fits = (certificate.peer, certificate.name) == (offer.peer, offer.gpu_name)
        if not fits or not certificate.measured_at_s <= now + 60 or certificate.expires_at_s <= now:
            return False
        key = hashlib.sha256(encode(certified)).digest()
        if key not in self._valid:
            if len(self._valid) >= KNOWN_MAX:
                self._valid.clear()
            try:
                check_peer_signature(
                    certificate.peer, signed_bytes(certificate), certified.signature
                )
                self._valid[key] = True
            except SignatureError:
                self._valid[key] = False
        return self._valid[key]

    async def run(self, bulletin: Bulletin) -> None:
        """Challenge what jobs of ours need to know, for ever."""
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(AT_ONCE)
            while True:
                await trio.sleep(ROUND_S)
                if not self._wanted():
                    continue
                for offer in bulletin.book.offers():
                    certified = offer.certificate
                    if certified is None or limit.available_tokens < 1:
                        continue
                    key, now = _key(certified.certificate), self._ports.clock.now()
                    unknown = self.standing_of(certified.certificate) is Standing.UNKNOWN
                    if unknown and now >= self._again_at.get(key, 0.0) and offer.num_gpus:
                        self._again_at[key] = now + CHALLENGES_EVERY_S
                        nursery.start_soon(self._quietly, certified.certificate, limit)

    def _wanted(self) -> bool:
        return any(
            job.requirements.verified and not job.over and not job.gang
            for job in self._keeper.jobs.values()
        )

    async def _quietly(self, certificate: Certificate, limit: trio.CapacityLimiter) -> None:
        async with limit:
            try:
                await self.challenge(certificate)
            except MarketError as problem:
                log.info("not challenged", peer=certificate.peer.hex()[:12],
                         problem=str(problem))  # fmt: skip

    async def challenge(self, certificate: Certificate) -> tuple[Tried, float, float]:
        """Challenge a unit now: what came of it, the seconds it took and those it might take.

        Raises UnreachableError and RefusedError (busy) without a verdict.
        """
        size = max(SIZE_MIN, size_of(certificate))
        rtt_s = next((info.rtt_us for info in self._ports.link.peers()
                      if info.peer == certificate.peer and info.rtt_us), 0) / 1e6  # fmt: skip
        may_s = allowed_s(certificate, size, rtt_s)
        seed = self._ports.entropy.token(32)
        asked = Challenge(certificate.unit, certificate.uuid, seed, size)
        async with self._ports.link.open(certificate.peer, PROTOCOL) as channel:
            began = trio.current_time()
            await channel.send(encode(asked))
            said = await self._next(channel, Committed, 4 * may_s + STALL_S)
            took_s = trio.current_time() - began
            if said.code == "busy":
                raise RefusedError("the provider is busy", hint="try again later")
            if said.code == "stale":
                raise RefusedError(
                    "the provider has measured its unit anew since this offer",
                    hint="try again in a moment: its next offer says so",
                )
            right = not said.code and await self._shows(channel, seed, size, said.root)
        tried = Tried(int(self._ports.clock.now()), right, took_s <= may_s)
        await self._remember(certificate, tried)
        log.info("challenged", peer=certificate.peer.hex()[:12], uuid=certificate.uuid, size=size,
                 right=right, seconds=round(took_s, 2), allowed=round(may_s, 2))  # fmt: skip
        return tried, took_s, may_s

    async def _shows(self, channel: Channel, seed: bytes, size: int, root: bytes) -> bool:
        """Rows that nobody could foresee, each on its way to the root, and right."""
        wanted = self._rows(size)
        await channel.send(encode(Show(wanted)))
        shown: dict[int, bytes] = {}
        for row in wanted:
            said = await self._next(channel, Shown, STALL_S)
            with trio.move_on_after(STALL_S):
                data = await channel.receive()
            if said.row != row or data is None or len(data) != 4 * size:
                return False
            try:
                if root_from(row, data, said.path, size) != root:
                    return False
            except IntegrityError:
                return False
            shown[row] = data
        dice = self._ports.entropy.token(32)
        return await trio.to_thread.run_sync(_checked, seed, size, shown, dice)

    def _rows(self, size: int) -> tuple[int, ...]:
        found: dict[int, None] = {}
        while len(found) < min(ROWS_SHOWN, size):
            found[int.from_bytes(self._ports.entropy.token(8), "big") % size] = None
        return tuple(found)

    async def _next(self, channel: Channel, kind: type, limit_s: float):  # type: ignore[no-untyped-def]
        with trio.move_on_after(limit_s):
            frame = await channel.receive()
            if frame is None:
                raise UnreachableError("the provider ended the challenge")
            try:
                return decode(kind, frame, size_max=4096)
            except CodecError as problem:
                raise UnreachableError("the provider does not speak of challenges") from problem
        raise UnreachableError("the provider did not answer the challenge")

    async def _remember(self, certificate: Certificate, tried: Tried) -> None:
        key = _key(certificate)
        while len(self.histories) >= KNOWN_MAX and key not in self.histories:
            del self.histories[next(iter(self.histories))]
        tries = (*self.histories.pop(key, ()), tried)[-HISTORY:]
        self.histories[key] = tries
        await self._keeper.post(Noted(key, encode(History(tries))))


def _checked(seed: bytes, size: int, shown: dict[int, bytes], dice: bytes) -> bool:
    import numpy as np

    words = np.frombuffer(hashlib.shake_256(dice).digest(8 * size), "<u8")
    return check(seed, size, shown, (words % PRIME).astype(np.int64))


def _key(certificate: Certificate) -> bytes:
    named = certificate.peer + certificate.uuid.encode()
    return NOTE + hashlib.sha256(named).digest()


def chance_of_escape(share: float) -> float:
    """The chance that a provider which computed only this share of the rows is not caught."""
    return math.pow(share, ROWS_SHOWN)
