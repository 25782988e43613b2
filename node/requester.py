"""Requester: what the buying side of an agreement owes. Accepts, pays, asks, fetches.

When a provider is lost is `market/apply`'s rule; how a job finds its providers is in `node/wishes`.
It touches network, blobs and logs through the ports; it changes no agreement.
"""

from __future__ import annotations

from collections.abc import Iterable

from market.agreement import Agreement
from market.duties import (
    AskExtension,
    AskStatus,
    DrawNonce,
    Duty,
    MakePay,
    PullCheckpoint,
    PullLog,
    PullResults,
    SendAccept,
    SendPay,
    SendStop,
)
from market.errors import (
    RefusedError,
    SignatureError,
    UnreachableError,
)
from market.events import (
    Acknowledged,
    BeatHeard,
    CheckpointPulled,
    ContactFailed,
    Event,
    ExtensionRefused,
    ExtensionSigned,
    LogPulled,
    NonceDrawn,
    PayMade,
    PayTaken,
    Released,
    ResultsPulled,
)
from market.limits import LOG_BYTES_MAX
from market.messages import (
    Accept,
    Beat,
    Done,
    Extend,
    Extended,
    LogPart,
    Pay,
    ReadLog,
    Status,
    Stop,
)
from market.signing import (
    check_signer,
    digest,
    extension_digest,
    heartbeat_digest,
    voucher_digest,
)
from market.terms import Extension, Sealed, Voucher
from node.artifacts import Artifacts, pull_all
from node.keeper import Keeper
from node.mail import Mail
from node.ports import Ports


class Requester:
    """The buying half of a node."""

    def __init__(self, ports: Ports, keeper: Keeper, mail: Mail, artifacts: Artifacts) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._artifacts = artifacts

    # What peers say.

    def check_beat(self, a: Agreement, beat: Beat) -> None:
        """Raise unless the heartbeat is of this agreement, signed, and says what its hash says."""
        if beat.heartbeat.agreement != a.id or digest(beat.report) != beat.heartbeat.state:
            raise SignatureError("the heartbeat does not belong to its report")
        named = heartbeat_digest(beat.heartbeat, self._ports.chain.info.domain)
        check_signer(named, beat.signature, a.terms.parties.provider_signer)

    # What an agreement owes.

    async def perform(self, duty: Duty, a: Agreement) -> Iterable[Event]:
        """Do one of a requester's duties; the events say what came of it."""
        match duty:
            case SendAccept():
                return await self._send_accept(a)
            case AskExtension(extension=extension):
                return await self._ask_extension(a, extension)
            case SendStop():
                await self._mail.ask(a.peer, Stop(a.id, a.reason or a.ending.value))
                return ()
            case AskStatus():
                return await self._ask_status(a)
            case MakePay(amount=amount, last=last):
                return (PayMade(self._pay(a, amount, last)),)
            case SendPay(pay=pay):
                reply = await self._mail.ask(a.peer, pay)
                taken = PayTaken(pay.voucher.amount, pay.voucher.last)
                return (taken,) if isinstance(reply, Done) else ()
            case PullCheckpoint(checkpoint=checkpoint):
                await self._artifacts.pull(a.peer, checkpoint)
                return (CheckpointPulled(checkpoint),)
            case PullLog(offset=offset):
                return (LogPulled(await self._pull_log(a, offset, a.report.log_bytes)),)
            case PullResults(results=results):
                end = await self._pull_log(a, a.log_have, a.report.log_bytes)
                await pull_all(self._artifacts, a.peer, results)
                return (LogPulled(end), ResultsPulled())
            case DrawNonce():
                nonce = int.from_bytes(self._ports.entropy.token(6), "big")
                return (NonceDrawn(nonce or 1),)
            case _:
                raise AssertionError(f"{type(duty).__name__} is not a requester's duty")

    def _pay(self, a: Agreement, amount: int, last: bool) -> Pay:
        ack = digest(a.beat.heartbeat) if a.beat else bytes(32)
        voucher = Voucher(agreement=a.id, amount=amount, ack=ack, last=last)
        named = voucher_digest(voucher, self._ports.chain.info.domain)
        return Pay(voucher, self._ports.signer.sign_digest(named))

    async def _send_accept(self, a: Agreement) -> Iterable[Event]:
        assert a.manifest is not None, "a requester knows what it wants run"
        secrets = tuple(
            Sealed(s.name, self._ports.signer.seal_for(a.peer, self._ports.signer.unseal(s.box)))
            for s in a.secrets
        )
        try:
            await self._mail.ask(
                a.peer,
                Accept(
                    a.id, a.requester_signature, a.manifest, secrets, a.rank, a.num_nodes, a.members
                ),
            )
        except RefusedError as problem:
            return (Released(f"the provider declined: {problem}"),)
        return (Acknowledged(),)

    async def _ask_extension(self, a: Agreement, extension: Extension) -> Iterable[Event]:
        try:
            reply = await self._mail.ask(a.peer, Extend(extension))
        except RefusedError as problem:
            return (ExtensionRefused(str(problem)),)
        if not isinstance(reply, Extended):
            return (ExtensionRefused("it answered something else"),)
        named = extension_digest(extension, self._ports.chain.info.domain)
        check_signer(named, reply.signature, a.terms.parties.provider_signer)
        return (ExtensionSigned(extension.duration_s, reply.signature),)

    async def _ask_status(self, a: Agreement) -> Iterable[Event]:
        try:
            reply = await self._mail.ask(
                a.peer, Status(a.id), timeout_s=max(1.0, float(a.interval_s))
            )
        except (UnreachableError, RefusedError):
            return (ContactFailed(),)
        if not isinstance(reply, Beat):
            return ()  # it lives, and has nothing to show yet
        self.check_beat(a, reply)
        return (BeatHeard(reply),)

    async def _pull_log(self, a: Agreement, offset: int, end: int) -> int:
        """Fetch output up to `end`. Each attempt's output follows the last's; ranks lie apart.

        An agreement's own offset is counted from where it began.
        """
        job = self._keeper.jobs.get(a.job_id)
        if job is None or a.id not in job.gang:
            return offset  # the job runs under another by now: what it says here is not its word
        begin = self._log_begin(a)
        end = min(end, LOG_BYTES_MAX)
        while offset < end:
            reply = await self._mail.ask(a.peer, ReadLog(a.id, offset))
            if not isinstance(reply, LogPart) or not reply.data or reply.offset != offset:
                break
            await self._ports.logs.append(log_name(a.job_id, a.rank), begin + offset, reply.data)
            offset += len(reply.data)
        return offset

    def _log_begin(self, a: Agreement) -> int:
        job = self._keeper.jobs.get(a.job_id)
        begin = 0
        for attempt in job.attempts if job else ():
            if a.id in attempt.members:
                break
            if a.rank < len(attempt.members):
                before = self._keeper.agreements.get(attempt.members[a.rank])
                begin += before.log_have if before else 0
        return begin


def log_name(job_id: bytes, rank: int) -> bytes:
    """Under what name the output of one rank is kept: rank 0's is the job's."""
    return job_id + bytes([rank]) if rank else job_id
