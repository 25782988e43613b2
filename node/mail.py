"""Mail: sealing what this node says and opening what it is told. Decides nothing by itself.

Bytes are decoded and verified here, and only here: what leaves this room is `Signed[...]`.
"""

from __future__ import annotations

from market.errors import RefusedError, UnreachableError
from market.limits import REQUEST_TIMEOUT_S
from market.messages import Gossiped, Message, Refused, Request
from market.signing import EVERYBODY, Signed, seal, verify
from node.ports import Clock, Gossip, Link, Signer

DIRECT_LIFETIME_S = 60.0  # a direct message is answered or forgotten within the minute


class Mail:
    """The node's pen and letter opener."""

    def __init__(
        self, network: str, signer: Signer, clock: Clock, link: Link, gossip: Gossip
    ) -> None:
        """All of it is shared with the rest of the node; mail keeps only its sequence number."""
        self._network = network
        self._signer = signer
        self._clock = clock
        self._link = link
        self._gossip = gossip
        self._sequence = 0

    @property
    def me(self) -> bytes:
        """This node's peer key."""
        return self._signer.peer

    def seal(self, message: Message, *, to: bytes = EVERYBODY, lifetime_s: float) -> bytes:
        """The message in a signed envelope; the sequence grows over restarts too."""
        now = self._clock.now()
        self._sequence = max(self._sequence + 1, int(now * 1_000_000_000))
        return seal(
            message,
            author=self.me,
            to=to,
            network=self._network,
            sequence=self._sequence,
            now=now,
            lifetime_s=lifetime_s,
            sign=self._signer.sign,
        )

    def open(self, data: bytes) -> Signed[Message]:
        """Verify what came from the network. CodecError, SignatureError or StaleError."""
        return verify(data, network=self._network, reader=self.me, now=self._clock.now())

    async def publish(self, topic: str, message: Gossiped, *, lifetime_s: float) -> bytes:
        """Broadcast; returns the sealed bytes, for the state sync to hand on."""
        data = self.seal(message, lifetime_s=lifetime_s)
        await self._gossip.publish(topic, data)
        return data

    async def ask(
        self, peer: bytes, message: Request, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Message:
        """Ask one peer and open its reply.

        Raises UnreachableError if it cannot be reached, RefusedError if it says no, and what
        `open` raises if its reply is not a message.
        """
        data = self.seal(message, to=peer, lifetime_s=DIRECT_LIFETIME_S)
        reply = self.open(await self._link.request(peer, data, timeout_s=timeout_s))
        if reply.author != peer:
            raise UnreachableError("somebody else answered")
        if isinstance(reply.message, Refused):
            raise RefusedError(reply.message.message, hint=reply.message.code)
        return reply.message

    def reply(self, peer: bytes, message: Message) -> bytes:
        """The sealed answer to a request of `peer`."""
        return self.seal(message, to=peer, lifetime_s=DIRECT_LIFETIME_S)
