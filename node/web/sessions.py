"""Sessions: who may use a TCP port. Sign-in with a wallet (EIP-4361), and the rates for everybody.

The node writes the message and keeps it, so nothing that a stranger wrote is parsed; the wallet
signs it (EIP-191) and the signer's address is recovered, or its contract vouches for it (ERC-1271).
Knows no HTTP and no chain. Time is handed in.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from market.errors import LimitError, RefusedError, SignatureError
from market.signing import keccak, recover

CHALLENGE_S: Final = 300  # as long as it takes to find the hardware wallet
SESSION_S: Final = 12 * 3600
CHALLENGES_MAX: Final = 256  # unanswered; the oldest goes
SESSIONS_MAX: Final = 256
CLIENTS_MAX: Final = 4096  # whose rate is remembered


Vouch = Callable[[bytes, bytes, bytes], Awaitable[None]]
"""Wallet, digest, signature: raises SignatureError unless the wallet's contract says yes."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: so many requests a second, and so many at once."""

    per_s: float
    burst: float


KNOWN: Final = Rate(100, 400)  # a page with every view open makes about ten a second
STRANGER: Final = Rate(40, 160)  # loads the page twice at once
SIGN_IN: Final = Rate(1, 10)  # nobody signs faster


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a wallet is asked to sign."""

    nonce: str
    wallet: bytes
    message: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Session:
    """A browser whose wallet has signed in."""

    wallet: bytes
    expires_at: float


class Sessions:
    """Challenges and sessions of one node, in memory: a restart asks for a new signature."""

    def __init__(self, token: Callable[[int], bytes], wallets: frozenset[bytes]) -> None:
        """`wallets` may enter without the operator's token; `token` draws random bytes."""
        self.wallets = wallets
        self._token = token
        self._challenges: OrderedDict[str, Challenge] = OrderedDict()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def challenge(self, wallet: bytes, chain_id: int, origin: str, now: float) -> Challenge:
        """A message for that wallet to sign, good for CHALLENGE_S. `origin` is scheme and host."""
        nonce = self._token(16).hex()
        domain = origin.partition("://")[2]
        message = (
            f"{domain} wants you to sign in with your Ethereum account:\n"
            f"{checksum_address(wallet)}\n\n"
            "Use this gridsouk node from this browser. This moves no money.\n\n"
            f"URI: {origin}\nVersion: 1\nChain ID: {chain_id}\nNonce: {nonce}\n"
            f"Issued At: {_iso(now)}\nExpiration Time: {_iso(now + CHALLENGE_S)}"
        )
        made = Challenge(nonce, wallet, message, now + CHALLENGE_S)
        self._challenges[nonce] = made
        while len(self._challenges) > CHALLENGES_MAX:
            self._challenges.popitem(last=False)
        return made

    async def sign_in(
        self, nonce: str, signature: bytes, now: float, *, known: bool, vouch: Vouch
    ) -> tuple[str, Session]:
        """The new session and its secret name. A challenge is used up by the first answer.

        `known` has the operator's token already. A stranger's contract is never asked: it could be
        anything, and asking is work. Raises RefusedError if the message is unknown or too old,
        SignatureError for another signer or a wallet that may not enter, ChainError.
        """
        challenge = self._challenges.pop(nonce, None)
        if challenge is None or challenge.expires_at <= now:
            raise RefusedError("the sign-in message is too old", hint="sign in again")
        session = Session(challenge.wallet, now + SESSION_S)
        welcome = known or not self.wallets or self.may_enter(session)
        digest = personal_digest(challenge.message.encode())
        if not _by_key(digest, signature, challenge.wallet):
            if not welcome:
                raise SignatureError(
                    "another account signed, or this wallet may not use this node",
                    hint="choose the account in your wallet that the node's owner has let in",
                )
            await vouch(challenge.wallet, digest, signature)
        elif not welcome:
            raise SignatureError(
                "this wallet may not use this node",
                hint="its owner can add it to web_wallets in the configuration",
            )
        name = self._token(32).hex()
        self._sessions[name] = session
        while len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return name, session

    def find(self, name: str, now: float) -> Session | None:
        """The live session called so."""
        session = self._sessions.get(name)
        if session is not None and session.expires_at <= now:
            del self._sessions[name]
            return None
        return session

    def end(self, name: str) -> None:
        """Sign out."""
        self._sessions.pop(name, None)

    def may_enter(self, session: Session) -> bool:
        """Whether the wallet alone is enough, without the operator's token."""
        return any(hmac.compare_digest(session.wallet, wallet) for wallet in self.wallets)


class Rates:
    """A bucket per client. The least recently seen is forgotten first."""

    def __init__(self) -> None:
        """Everybody is new."""
        self._buckets: OrderedDict[tuple[str, Rate], tuple[float, float]] = OrderedDict()

    def take(self, client: str, rate: Rate, now: float) -> None:
        """Count one request. Raises LimitError when the client is too fast."""
        left, at = self._buckets.pop((client, rate), (rate.burst, now))
        left = min(rate.burst, left + max(0.0, now - at) * rate.per_s)
        self._buckets[client, rate] = (left - 1 if left >= 1 else left, now)
        while len(self._buckets) > CLIENTS_MAX:
            self._buckets.popitem(last=False)
        if left < 1:
            raise LimitError("too many requests", hint="wait a second, then go on")


def _by_key(digest: bytes, signature: bytes, wallet: bytes) -> bool:
    if signature[64:] in (b"\0", b"\x01"):  # some wallets count from 0
        signature = signature[:64] + bytes([signature[64] + 27])
    try:
        return recover(digest, signature) == wallet
    except SignatureError:
        return False


def personal_digest(message: bytes) -> bytes:
    """What `personal_sign` signs (EIP-191, version 0x45)."""
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)


def checksum_address(address: bytes) -> str:
    """An address in mixed case (EIP-55); 20 bytes."""
    text = address.hex()
    hashed = keccak(text.encode()).hex()
    letters = (c.upper() if int(h, 16) > 7 else c for c, h in zip(text, hashed, strict=False))
    return "0x" + "".join(letters)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).isoformat().replace("+00:00", "Z")
