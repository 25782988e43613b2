"""Inbox: who asks this node directly, and what it answers. Every request is verified here once.

It turns what peers say into events for the keeper and into replies. A peer's fault is answered
with a refusal, counted, and never climbs past this room.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from market.agreement import Agreement, Ending, Phase, Role
from market.errors import MarketError, NotFoundError, RefusedError, SignatureError
from market.events import Accepted, BeatHeard, PayHeard, Released, StopAsked
from market.limits import LOG_READ_BYTES_MAX
from market.messages import (
    Accept,
    Beat,
    Done,
    Extend,
    Extended,
    LogPart,
    Message,
    Pay,
    Quote,
    ReadLog,
    Refused,
    Release,
    Status,
    Stop,
    Sync,
)
from market.signing import check_signer, digest, voucher_digest
from node.bulletin import Bulletin
from node.keeper import Happened, Keeper
from node.mail import Mail
from node.ports import Ports
from node.provider import Provider
from node.requester import Requester
from node.wishes import Wishes

log = structlog.get_logger("inbox")


class Inbox:
    """Answers requests."""

    def __init__(
        self, ports: Ports, keeper: Keeper, mail: Mail, bulletin: Bulletin, provider: Provider,
        requester: Requester, wishes: Wishes,
    ) -> None:  # fmt: skip
        """Holds the rooms it hands things on to."""
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._bulletin = bulletin
        self._provider = provider
        self._requester = requester
        self._wishes = wishes
        self.refused = 0

    async def answer(self, peer: bytes, data: bytes) -> bytes:
        """The sealed reply to a sealed request; never raises for anything a peer may send."""
        try:
            signed = self._mail.open(data)
            if signed.author != peer:
                raise SignatureError("a direct message is signed by whoever sends it")
            reply = await self._handle(peer, signed.message)
        except MarketError as problem:
            self.refused += 1
            log.debug("refused a request", peer=peer.hex()[:12], problem=str(problem))
            reply = Refused(problem.code[:64], str(problem).encode()[:250].decode(errors="ignore"))
        return self._mail.reply(peer, reply)

    async def _handle(self, peer: bytes, message: Message) -> Message:
        match message:
            case Quote():
                believed = replace(message, offer=self._bulletin.believed(message.offer))
                self._wishes.hear_quote(peer, believed)
            case Accept():
                await self._accept(self._mine(message.agreement, peer, Role.PROVIDER), message)
            case Release():
                agreement = self._mine(message.agreement, peer, Role.PROVIDER)
                await self._tell(agreement, Released("the requester chose another"))
            case Stop(reason=reason):
                agreement = self._mine(message.agreement, peer, Role.PROVIDER)
                await self._tell(agreement, StopAsked(Ending.CANCELLED, reason))
            case Pay():
                await self._pay(self._mine(message.voucher.agreement, peer, Role.PROVIDER), message)
            case Beat():
                agreement = self._mine(message.heartbeat.agreement, peer, Role.REQUESTER)
                self._requester.check_beat(agreement, message)
                await self._tell(agreement, BeatHeard(message))
            case Status():
                agreement = self._mine(message.agreement, peer, Role.PROVIDER)
                return agreement.beat or Done()
            case ReadLog(offset=offset):
                agreement = self._mine(message.agreement, peer, Role.PROVIDER)
                data = await self._provider.read_log(agreement, offset, LOG_READ_BYTES_MAX)
                more = offset + len(data) < agreement.report.log_bytes
                return LogPart(offset, data, more)
            case Extend(extension=extension):
                agreement = self._mine(extension.agreement, peer, Role.PROVIDER)
                return Extended(await self._provider.sign_extension(agreement, extension))
            case Sync():
                return self._bulletin.synced(message)
            case _:
                raise RefusedError(f"{type(message).__name__} is not a request")
        return Done()

    def _mine(self, id_: bytes, peer: bytes, role: Role) -> Agreement:
        agreement = self._keeper.agreements.get(id_)
        if agreement is None or agreement.peer != peer or agreement.role is not role:
            raise NotFoundError("there is no such agreement between us")
        return agreement

    async def _tell(
        self, agreement: Agreement, event: Released | StopAsked | BeatHeard | PayHeard | Accepted
    ) -> None:
        await self._keeper.heed(Happened(agreement.id, event))

    async def _accept(self, agreement: Agreement, message: Accept) -> None:
        if agreement.manifest is not None:
            return  # said before; the acknowledgement was lost
        if agreement.phase not in (Phase.QUOTED, Phase.RUNNING):
            raise RefusedError("the hold is over")
        if digest(message.manifest) != agreement.terms.job:
            raise RefusedError("the manifest is not the one that the terms name")
        _check_gang(agreement, message, self._ports.signer.peer)
        signer = agreement.terms.parties.requester_signer
        check_signer(agreement.id, message.requester_signature, signer)
        await self._tell(
            agreement,
            Accepted(
                message.requester_signature,
                message.manifest,
                message.secrets,
                message.rank,
                message.num_nodes,
                message.members,
            ),
        )

    async def _pay(self, agreement: Agreement, message: Pay) -> None:
        named = voucher_digest(message.voucher, self._ports.chain.info.domain)
        check_signer(named, message.signature, agreement.terms.parties.requester_signer)
        await self._tell(agreement, PayHeard(message))


def _check_gang(agreement: Agreement, message: Accept, me: bytes) -> None:
    """Raise RefusedError unless it names as many nodes as there are, and this one in its place."""
    members = message.members
    if message.rank >= message.num_nodes:
        raise RefusedError("a gang's ranks begin at 0")
    if len(members) != (message.num_nodes if message.num_nodes > 1 else 0):
        raise RefusedError("a gang names its members, all of them")
    if not members:
        return
    mine = members[message.rank]
    if (mine.agreement, mine.peer) != (agreement.id, me):
        raise RefusedError("this node is not the member that it is said to be")
    if len({one.peer for one in members}) < len(members):
        raise RefusedError("the members of a gang are different peers")
