"""Apply: what an event makes of an agreement. The only place where a phase changes.

Knows no clock, network, chain or sandbox: those are events by the time they get here. A repeated
or stale event returns the same object; an impossible one of our own making asserts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from market.agreement import CUT_SHORT, TRANSITIONS, Agreement, Ending, Phase, Role
from market.codec import clip
from market.escrow import (
    Answered,
    ChainFact,
    Challenged,
    Claimed,
    Closed,
    Closing,
    Extended,
    Opened,
    Slashed,
)
from market.events import (
    Accepted,
    Acknowledged,
    BeatHeard,
    BeatMade,
    BeatTaken,
    Broke,
    CheckpointPulled,
    CheckpointTaken,
    Collected,
    ContactFailed,
    Event,
    ExtendWanted,
    ExtensionRefused,
    ExtensionSigned,
    Halted,
    LogPulled,
    Looked,
    NonceDrawn,
    OrderRefused,
    PayHeard,
    PayMade,
    PayTaken,
    Preempted,
    Released,
    ResultsPulled,
    Scrubbed,
    Staged,
    Staging,
    StopAsked,
    Ticked,
    UnitLost,
)
from market.limits import (
    DELIVER_MAX_S,
    FINAL_GRACE_S,
    LOST_CONTACTS,
    LOST_INTERVALS,
    OPEN_MARGIN_S,
    STAGE_MAX_S,
)
from market.messages import NO_MORE_WORK, Pay, Report, WorkState
from market.units import UnixTime
from market.voucher import seconds_covered


def apply(agreement: Agreement, event: Event, now: UnixTime) -> Agreement:
    """The agreement after `event`; the same object if the event changes nothing."""
    match event:
        case (
            Opened()
            | Extended()
            | Claimed()
            | Challenged()
            | Answered()
            | Closing()
            | Closed()
            | Slashed()
        ):
            after = _on_chain(agreement, event, now)
        case Accepted() | Acknowledged() | Released() | StopAsked() | OrderRefused():
            after = _on_bargain(agreement, event, now)
        case Staging() | Staged():
            after = _on_staging(agreement, event)
        case Broke() | Looked() | Halted() | CheckpointTaken() | Collected():
            after = _on_work(agreement, event, now)
        case BeatMade() | BeatTaken() | BeatHeard() | ContactFailed():
            after = _on_beat(agreement, event, now)
        case PayMade() | PayTaken() | PayHeard():
            after = _on_pay(agreement, event)
        case CheckpointPulled() | LogPulled() | ResultsPulled():
            after = _on_fetched(agreement, event)
        case ExtendWanted() | ExtensionSigned() | ExtensionRefused():
            after = _on_extension(agreement, event)
        case Preempted() | UnitLost():
            after = _on_cut(agreement, event)
        case NonceDrawn(nonce):
            assert 0 < nonce < 2**48, "a nonce of 48 bits, never zero"
            after = agreement if agreement.nonce else replace(agreement, nonce=nonce)
        case Scrubbed():
            after = replace(agreement, scrubbed=True)
        case Ticked():
            after = _on_time(agreement, now)
        case _:
            assert_never(event)
    if after.phase is not agreement.phase:
        assert after.phase in TRANSITIONS[agreement.phase], (
            f"{agreement.phase} cannot become {after.phase} by {event}"
        )
    return agreement if after == agreement else after


def _on_fetched(a: Agreement, event: CheckpointPulled | LogPulled | ResultsPulled) -> Agreement:
    match event:
        case CheckpointPulled(checkpoint):
            return replace(a, checkpoint=checkpoint)
        case LogPulled(offset):
            return replace(a, log_have=max(a.log_have, offset))
        case ResultsPulled():
            return replace(a, delivered=True)
        case _:
            assert_never(event)


def _on_staging(a: Agreement, event: Staging | Staged) -> Agreement:
    assert a.role is Role.PROVIDER, "only the provider's side knows the work itself"
    if isinstance(event, Staged):
        return replace(a, staged=True)
    waits = a.report.work in (WorkState.WAITING, WorkState.STAGING)
    if a.staged or a.ending is not Ending.NONE or not waits:
        return a
    report = replace(a.report, work=WorkState.STAGING, reason=clip(event.progress))
    return replace(a, report=report)


def _on_chain(a: Agreement, fact: ChainFact, now: UnixTime) -> Agreement:
    late = a.ended and isinstance(fact, Challenged | Closing | Closed)
    if late or (not a.opened_at_s and not isinstance(fact, Opened)):
        return a  # nothing of ours is at stake
    match fact:
        case Opened(at_s=at_s, tx=tx):
            if a.opened_at_s:
                return a
            given_up = a.phase is Phase.VOID
            return replace(a, phase=Phase.CLOSING if given_up else Phase.RUNNING,
                           ending=_or(a.ending, Ending.CANCELLED) if given_up else a.ending,
                           opened_at_s=at_s, open_tx=tx, heard_at_ms=_ms(now))  # fmt: skip
        case Extended(extra_deposit=deposit, extra_duration_s=longer_s):
            return replace(a, extra_deposit=max(a.extra_deposit, deposit),
                           extra_duration_s=max(a.extra_duration_s, longer_s))  # fmt: skip
        case Claimed(paid=paid):
            return replace(a, paid=max(a.paid, paid))
        case Challenged(nonce=nonce, deadline_s=deadline_s, tx=tx):
            return replace(
                a, challenge_nonce=nonce, challenge_deadline_s=deadline_s, challenge_tx=tx
            )
        case Answered():
            return replace(a, challenge_nonce=0, challenge_deadline_s=0, answered=True)
        case Closing(by=by, deadline_s=deadline_s):
            by_provider = by == a.terms.parties.provider
            return replace(
                _closing(a, now, Ending.WITHDRAWN if by_provider else Ending.CANCELLED),
                closing_deadline_s=deadline_s,
                closing_by_provider=by_provider,
                challenge_nonce=0,
                challenge_deadline_s=0,
            )
        case Slashed(slashed=slashed, to_victim=to_victim, tx=tx):
            return replace(a, slashed=slashed, to_victim=to_victim, slash_tx=tx)
        case Closed(paid=paid, refunded=refunded, tx=tx):
            end = Phase.SLASHED if a.slashed else Phase.SETTLED
            return replace(a, phase=end, paid=paid, refunded=refunded, close_tx=tx,
                           ending=_or(a.ending, Ending.FINISHED),
                           ended_at_ms=a.ended_at_ms or _ms(now))  # fmt: skip
        case _:
            assert_never(fact)


def _on_bargain(
    a: Agreement,
    event: Accepted | Acknowledged | Released | StopAsked | OrderRefused,
    now: UnixTime,
) -> Agreement:
    match event:
        case Accepted(signature, manifest, secrets, rank, nodes, members):
            if a.manifest is not None or a.phase not in (Phase.QUOTED, Phase.RUNNING):
                return a
            phase = Phase.CONFIRMED if a.phase is Phase.QUOTED else a.phase
            return replace(
                a, phase=phase, requester_signature=signature, manifest=manifest, secrets=secrets,
                rank=rank, num_nodes=nodes, members=members,
            )  # fmt: skip
        case Acknowledged():
            return replace(a, acknowledged=True)
        case Released(reason):
            if a.phase is Phase.QUOTED or (a.phase is Phase.CONFIRMED and not a.acknowledged):
                return _void(a, reason, now)
            return a
        case StopAsked(ending, reason):
            if a.phase is Phase.CLOSING or a.ended or a.ending is not Ending.NONE:
                return a
            if a.phase is not Phase.RUNNING and a.role is Role.PROVIDER:
                # The units need not wait for `open_by_s`: the unit map keeps a late opening away.
                return _void(a, reason, now)
            return replace(a, ending=ending, reason=clip(reason))
        case OrderRefused("Extend", _):
            return replace(a, extension_refused=True)
        case OrderRefused("Open", reason):
            # Opened already, says the contract: then its fact is on the way.
            if a.phase is not Phase.CONFIRMED or reason.endswith("WrongStatus"):
                return a
            return _void(a, f"the escrow refused to open it: {reason}", now)
        case OrderRefused():
            return replace(a, refusals=min(a.refusals + 1, 255))
        case _:
            assert_never(event)


def _on_extension(
    a: Agreement, event: ExtendWanted | ExtensionSigned | ExtensionRefused
) -> Agreement:
    """What the requester wants and the provider says of it; the chain alone makes it so."""
    match event:
        case ExtendWanted(extra_s):
            if extra_s <= a.asked_extra_s or a.phase is not Phase.RUNNING:
                return a
            return replace(
                a, asked_extra_s=extra_s, extension_signature=b"", extension_refused=False
            )
        case ExtensionSigned(extra_s, signature):
            return a if extra_s != a.asked_extra_s else replace(a, extension_signature=signature)
        case ExtensionRefused():
            return replace(a, extension_refused=True)
        case _:
            assert_never(event)


def _on_work(
    a: Agreement,
    event: Broke | Looked | Halted | CheckpointTaken | Collected,
    now: UnixTime,
) -> Agreement:
    assert a.role is Role.PROVIDER, "only the provider's side knows the work itself"
    match event:
        case Broke(reason):
            if a.report.work in NO_MORE_WORK:
                return a
            report = replace(a.report, work=WorkState.BROKEN, reason=clip(reason))
            return replace(
                a, report=report, ending=_or(a.ending, Ending.BROKEN),
                reason=a.reason or clip(reason),
                halted=True, collected=True, ended_at_ms=a.ended_at_ms or _ms(now),
            )  # fmt: skip
        case Looked(report, metered_s):
            if a.report.work in NO_MORE_WORK:
                return a
            if a.ending in CUT_SHORT:  # its grace is not paid for
                return _cut_short(a, report, now) if report.work in NO_MORE_WORK else a
            merged = replace(
                report,
                checkpoint=a.report.checkpoint,
                checkpoint_step=a.report.checkpoint_step,
                results=a.report.results,
            )
            after = replace(a, report=merged, metered_s=max(a.metered_s, metered_s))
            if report.work is not WorkState.EXITED:
                return after
            return replace(after, halted=True, ending=_or(a.ending, Ending.FINISHED),
                           ended_at_ms=a.ended_at_ms or _ms(now))  # fmt: skip
        case Halted():
            report = a.report
            if a.ending in CUT_SHORT and report.work not in NO_MORE_WORK:
                return _cut_short(a, report, now)
            if report.work not in NO_MORE_WORK:
                report = replace(report, work=WorkState.EXITED, exit_code=143, reason="stopped")
            return replace(a, halted=True, report=report, ended_at_ms=a.ended_at_ms or _ms(now))
        case CheckpointTaken(checkpoint):
            a = replace(a, checkpointed_at_ms=_ms(now))
            if checkpoint is None or checkpoint == a.report.checkpoint:
                return a
            step = a.report.checkpoint_step + 1
            return replace(a, report=replace(a.report, checkpoint=checkpoint, checkpoint_step=step))
        case Collected(results):
            return replace(a, collected=True, report=replace(a.report, results=results))
        case _:
            assert_never(event)


def _on_cut(a: Agreement, event: Preempted | UnitLost) -> Agreement:
    """The work ends though it is not done; what is paid for stands still from here on."""
    runs = a.phase is Phase.RUNNING and a.ending is Ending.NONE
    match event:
        case Preempted(reason):  # only what was sold so makes way
            if a.role is Role.REQUESTER or not a.preemptible or not runs:
                return a
            return replace(a, ending=Ending.PREEMPTED, reason=clip(reason))
        case UnitLost(reason, metered_s):
            assert a.role is Role.PROVIDER, "only the provider's side knows its units"
            if not runs or a.report.work in NO_MORE_WORK:
                return a
            return replace(a, ending=Ending.BROKEN, reason=clip(reason),
                           metered_s=max(a.metered_s, metered_s))  # fmt: skip
        case _:
            assert_never(event)


def _cut_short(a: Agreement, report: Report, now: UnixTime) -> Agreement:
    """Whatever it exited with after SIGTERM, it was not done: it goes on elsewhere."""
    work = WorkState.PREEMPTED if a.ending is Ending.PREEMPTED else WorkState.BROKEN
    last = replace(
        a.report, work=work, exit_code=0, reason=a.reason,
        log_bytes=max(a.report.log_bytes, report.log_bytes),
    )  # fmt: skip
    return replace(a, report=last, halted=True, ended_at_ms=a.ended_at_ms or _ms(now))


def _on_beat(
    a: Agreement, event: BeatMade | BeatTaken | BeatHeard | ContactFailed, now: UnixTime
) -> Agreement:
    match event:
        case BeatMade(beat):
            newest = a.beat.heartbeat.sequence if a.beat else 0
            # The first of a number is the one; a second was never shown to anybody.
            return replace(a, beat=beat) if beat.heartbeat.sequence > newest else a
        case BeatTaken(sequence):
            return replace(a, beat_taken=max(a.beat_taken, sequence), heard_at_ms=_ms(now))
        case ContactFailed():
            return replace(a, missed=min(a.missed + 1, 255))
        case BeatHeard(beat):
            if a.beat and beat.heartbeat.sequence <= a.beat.heartbeat.sequence:
                # Nothing new, but somebody is there to say it.
                same = beat.heartbeat.sequence == a.beat.heartbeat.sequence
                return replace(a, missed=0, heard_at_ms=_ms(now)) if same else a
            a = replace(
                a, beat=beat, report=beat.report, missed=0, heard_at_ms=_ms(now),
                metered_s=max(a.metered_s, beat.heartbeat.metered_s),
            )  # fmt: skip
            if a.ending is Ending.NONE and a.phase is Phase.RUNNING:
                if beat.report.work is WorkState.EXITED:
                    return replace(a, ending=Ending.FINISHED, ended_at_ms=_ms(now))
                if beat.report.work is WorkState.BROKEN:
                    return replace(
                        a, ending=Ending.BROKEN, reason=beat.report.reason, ended_at_ms=_ms(now)
                    )
                if beat.report.work is WorkState.PREEMPTED:
                    agreed = Ending.PREEMPTED if a.preemptible else Ending.WITHDRAWN
                    return replace(
                        a, ending=agreed, reason=beat.report.reason, ended_at_ms=_ms(now)
                    )
            return a
        case _:
            assert_never(event)


def _on_pay(a: Agreement, event: PayMade | PayTaken | PayHeard) -> Agreement:
    match event:
        case PayMade(pay) | PayHeard(pay):
            assert pay.voucher.agreement == a.id, "a voucher belongs to its agreement"
            if a.pay is not None and not _better(pay, a.pay):
                return a
            return replace(a, pay=pay)
        case PayTaken(amount, last):
            return replace(a, pay_taken=max(a.pay_taken, amount), last_taken=a.last_taken or last)
        case _:
            assert_never(event)


def _on_time(a: Agreement, now: UnixTime) -> Agreement:
    match a.phase:
        case Phase.QUOTED if a.role is Role.PROVIDER and now >= a.hold_until_s:
            return _void(a, "the quote was not taken", now)
        case Phase.CONFIRMED:
            if a.role is Role.REQUESTER and not a.acknowledged and now >= a.hold_until_s:
                return _void(a, "the provider did not confirm in time", now)
            if now >= a.terms.timing.open_by_s + OPEN_MARGIN_S:
                return _void(a, "it was not funded in time", now)
            return a
        case Phase.RUNNING:
            if a.role is Role.REQUESTER:
                return _requester_time(a, now)
            after = _provider_time(a, now)
            # What ends with nothing left to halt may close at once.
            return after if after.ending is a.ending else _provider_time(after, now)
        case _:
            return a


def _requester_time(a: Agreement, now: UnixTime) -> Agreement:
    """When a requester stops believing: silence, overtime, staging without end, no last word."""
    silent_s = now - a.heard_at_ms / 1000
    if silent_s >= LOST_INTERVALS * a.interval_s and a.missed >= LOST_CONTACTS:
        if a.delivered:  # we have what we paid for; only the settlement is missing
            return _closing(a, now, a.ending)
        lost = replace(a, ending=Ending.LOST, reason=f"silent for {silent_s:.0f} s")
        return _closing(lost, now, Ending.LOST)
    if a.ending is not Ending.NONE:
        waited_s = now - (a.ended_at_ms or a.heard_at_ms) / 1000
        # The provider settles after the last voucher; results may take longer to arrive.
        patience_s = DELIVER_MAX_S if _delivering(a) else FINAL_GRACE_S
        return _closing(a, now, a.ending) if waited_s >= patience_s else a
    end_s = a.opened_at_s + a.extended.timing.duration_s
    if now >= end_s + FINAL_GRACE_S:
        return replace(a, ending=Ending.EXPIRED, reason="the agreed duration is over",
                       ended_at_ms=_ms(now))  # fmt: skip
    waiting = a.report.work in (WorkState.WAITING, WorkState.STAGING)
    if waiting and now >= a.opened_at_s + a.terms.timing.start_grace_s + STAGE_MAX_S:
        return replace(a, ending=Ending.BROKEN, reason="it was never started",
                       ended_at_ms=_ms(now))  # fmt: skip
    return a


def _provider_time(a: Agreement, now: UnixTime) -> Agreement:
    """When a provider stops: not paid, time over, no manifest; and when it goes to the chain."""
    if a.ending is Ending.NONE:
        covered_s = seconds_covered(a.extended, a.promised)
        exposed_s = a.metered_s - covered_s
        if exposed_s > a.terms.timing.offline_allowance_s + LOST_INTERVALS * a.interval_s:
            return replace(a, ending=Ending.UNPAID, reason=f"{exposed_s} s are not paid for",
                           ended_at_ms=_ms(now))  # fmt: skip
        if now >= a.opened_at_s + a.extended.timing.duration_s:
            return replace(a, ending=Ending.EXPIRED, reason="the agreed duration is over",
                           ended_at_ms=_ms(now))  # fmt: skip
        if a.manifest is None and now >= a.opened_at_s + a.terms.timing.start_grace_s:
            return replace(a, ending=Ending.BROKEN, reason="nothing to run was sent",
                           halted=True, collected=True, ended_at_ms=_ms(now))  # fmt: skip
        return a
    if not a.halted:
        return a
    waited_s = now - a.ended_at_ms / 1000
    if a.last_said or a.ending is Ending.UNPAID or waited_s >= FINAL_GRACE_S:
        return _closing(a, now, a.ending)
    return a


def _delivering(a: Agreement) -> bool:
    if a.ending in CUT_SHORT:
        return not a.has_checkpoint
    return a.ending is Ending.FINISHED and not a.delivered


def _better(new: Pay, old: Pay) -> bool:
    amount, known = new.voucher.amount, old.voucher.amount
    return amount > known or (amount == known and new.voucher.last and not old.voucher.last)


def _closing(a: Agreement, now: UnixTime, ending: Ending) -> Agreement:
    return replace(a, phase=Phase.CLOSING, ending=_or(a.ending, ending),
                   ended_at_ms=a.ended_at_ms or _ms(now))  # fmt: skip


def _void(a: Agreement, reason: str, now: UnixTime) -> Agreement:
    return replace(a, phase=Phase.VOID, reason=a.reason or clip(reason),
                   ended_at_ms=a.ended_at_ms or _ms(now))  # fmt: skip


def _or(ending: Ending, otherwise: Ending) -> Ending:
    return otherwise if ending is Ending.NONE else ending


def _ms(now: UnixTime) -> int:
    return int(now * 1000)
