"""Duties: what a state of an agreement obliges this node to do now. Orders, as frozen values.

`duties(agreement, now)` is a pure function of the state: nothing is "remembered to do", so a crash
between journal and deed loses nothing. Every duty is safe to repeat. Who performs them, and how
often, is the business of `node/keeper`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from market.agreement import CUT_SHORT, Agreement, Ending, Phase, Role
from market.escrow import (
    Answer,
    ChainOrder,
    Challenge,
    Extend,
    Finalize,
    Open,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
)
from market.limits import (
    CHAIN_LAG_S,
    PAY_AHEAD_S,
    REFUSALS_MAX,
    RETRY_CHAIN_S,
    RETRY_S,
)
from market.messages import NO_MORE_WORK, Beat, Pay, Report, WorkState
from market.terms import Artifact, Extension
from market.units import UnixTime
from market.unvouched import unvouched
from market.voucher import deposit_for, owed, paid_up


@dataclass(frozen=True, slots=True)
class SendQuote:
    """Provider: tell the requester what it may have."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Stage:
    """Provider: bring image, inputs and checkpoint here and prepare the sandbox."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Start:
    """Provider: run it."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """Provider: see how the work is."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Provider: put the newest checkpoint into the blob store."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Halt:
    """Provider: stop the work; the grace of its manifest applies, of its offer if preempted."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Collect:
    """Provider: put the results into the blob store; if it was cut short, the last checkpoint."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Scrub:
    """Provider: remove every trace of the work."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class MakeBeat:
    """Provider: sign heartbeat `sequence` over `report`; `challenge` is the chain's nonce or 0."""

    agreement: bytes
    sequence: int
    challenge: int
    report: Report


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Provider: hand the newest heartbeat to the requester."""

    agreement: bytes
    beat: Beat


@dataclass(frozen=True, slots=True)
class SendAccept:
    """Requester: hand countersignature, manifest and sealed secrets to the provider."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class AskExtension:
    """Requester: ask the provider to sign that the agreement lasts longer."""

    agreement: bytes
    extension: Extension


@dataclass(frozen=True, slots=True)
class SendStop:
    """Requester: ask the provider to end the work."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Requester: contact a silent provider directly."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class MakePay:
    """Requester: sign a voucher of this cumulative amount."""

    agreement: bytes
    amount: int
    last: bool


@dataclass(frozen=True, slots=True)
class SendPay:
    """Requester: hand the newest voucher to the provider."""

    agreement: bytes
    pay: Pay


@dataclass(frozen=True, slots=True)
class PullCheckpoint:
    """Requester: fetch the newest checkpoint."""

    agreement: bytes
    checkpoint: Artifact


@dataclass(frozen=True, slots=True)
class PullLog:
    """Requester: fetch the job's output from `offset` on, as far as the newest heartbeat says."""

    agreement: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class PullResults:
    """Requester: fetch the rest of the output and every result."""

    agreement: bytes
    results: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class DrawNonce:
    """Requester: draw an unpredictable nonce for a challenge."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Submit:
    """Either: give the contract an order."""

    agreement: bytes
    order: ChainOrder


Duty = (
    SendQuote
    | Stage
    | Start
    | Look
    | TakeCheckpoint
    | Halt
    | Collect
    | Scrub
    | MakeBeat
    | SendBeat
    | SendAccept
    | AskExtension
    | SendStop
    | AskStatus
    | MakePay
    | SendPay
    | PullCheckpoint
    | PullLog
    | PullResults
    | DrawNonce
    | Submit
)


def pace_s(duty: Duty, agreement: Agreement) -> float:
    """How long after its last performance the same duty may be performed again."""
    match duty:
        case Submit():
            return float(RETRY_CHAIN_S * 2 ** min(agreement.refusals, 6))
        case Look() | AskStatus():
            return float(agreement.interval_s)
        case TakeCheckpoint():
            return float(agreement.manifest.checkpoint_interval_s if agreement.manifest else 1)
        case _:
            return RETRY_S


def duties(agreement: Agreement, now: UnixTime) -> tuple[Duty, ...]:
    """Everything owed in this state, in the order in which it should be begun."""
    if agreement.role is Role.PROVIDER:
        return tuple(_provider(agreement, now))
    return tuple(_requester(agreement, now))


def _provider(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    match a.phase:
        case Phase.QUOTED:
            if not a.acknowledged:
                yield SendQuote(a.id)
        case Phase.CONFIRMED:
            if not a.staged and a.ending is Ending.NONE:
                yield Stage(a.id)
        case Phase.RUNNING:
            yield from _work(a, now)
            yield from _beats(a, now)
            yield from _answer(a)
        case Phase.CLOSING:
            yield from _work(a, now)
            if a.challenge_nonce:
                yield from _beats(a, now)
            yield from _answer(a)
            yield from _provider_ending(a, now)
        case Phase.SETTLED | Phase.SLASHED | Phase.VOID:
            if a.manifest is not None and not a.halted and a.staged:
                yield Halt(a.id)
            elif a.manifest is not None and not a.scrubbed:
                yield Scrub(a.id)


def _work(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    work = a.report.work
    if a.ending is not Ending.NONE or a.phase is Phase.CLOSING:
        if not a.halted:
            yield Halt(a.id)
        elif not a.collected:
            yield Collect(a.id)
        return
    if a.manifest is None:
        return
    if not a.staged:
        yield Stage(a.id)
    elif work in (WorkState.WAITING, WorkState.STAGING):
        yield Start(a.id)
    elif work is WorkState.RUNNING:
        yield Look(a.id)
        if a.manifest.checkpoint_path and a.manifest.checkpoint_interval_s:
            since_s = now - max(a.checkpointed_at_ms / 1000, a.opened_at_s)
            if since_s >= a.manifest.checkpoint_interval_s:
                yield TakeCheckpoint(a.id)


def stated(a: Agreement) -> Report:
    """The report as a heartbeat states it.

    A job counts as exited once its results are kept, as cut short once its last checkpoint is.
    """
    if a.report.work in NO_MORE_WORK and not a.collected:
        return replace(a.report, work=WorkState.RUNNING)
    return a.report


def _beats(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    report, newest = stated(a), a.beat
    sequence = newest.heartbeat.sequence if newest else 0
    if newest is None or _beat_is_due(a, newest, report, now):
        yield MakeBeat(a.id, sequence + 1, a.challenge_nonce, report)
    elif a.beat_taken < sequence:
        yield SendBeat(a.id, newest)


def _beat_is_due(a: Agreement, newest: Beat, report: Report, now: UnixTime) -> bool:
    if a.challenge_nonce != newest.heartbeat.challenge and a.challenge_nonce:
        return True
    before = newest.report
    news = (report.work, report.checkpoint_step, report.results)
    if news != (before.work, before.checkpoint_step, before.results):
        return True
    return now >= newest.heartbeat.at_s + a.interval_s and not a.last_said


def _answer(a: Agreement) -> Iterator[Duty]:
    nonce, beat = a.challenge_nonce, a.beat
    if nonce and beat is not None and beat.heartbeat.challenge == nonce:
        yield Submit(a.id, Answer(a.terms, beat.heartbeat, beat.signature))


def _provider_ending(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    if a.challenge_nonce:
        return
    begun = a.closing_deadline_s > 0
    if begun and now > a.closing_deadline_s + CHAIN_LAG_S:
        yield Submit(a.id, Finalize(a.terms))
    elif (order := unvouched(a)) is not None:
        yield Submit(a.id, order)
    elif begun and a.closing_by_provider:
        return
    elif a.pay is not None:
        yield Submit(a.id, Settle(a.terms, a.pay.voucher, a.pay.signature))
    elif not begun:
        yield Submit(a.id, ProviderClose(a.terms))


def _requester(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    match a.phase:
        case Phase.QUOTED:
            return
        case Phase.CONFIRMED:
            if a.ending is not Ending.NONE:
                if a.acknowledged:
                    yield SendStop(a.id)  # its units need not wait for `open_by_s`
            elif not a.acknowledged:
                yield SendAccept(a.id)
            elif now < a.terms.timing.open_by_s and a.num_nodes == 1:  # else the job opens all
                yield Submit(a.id, Open(a.terms, a.requester_signature, a.provider_signature))
        case Phase.RUNNING:
            yield from _contact(a, now)
            yield from _fetch(a)
            yield from _pay(a, now)
            yield from _extend(a)
        case Phase.CLOSING:
            yield from _requester_ending(a, now)
        case Phase.SETTLED | Phase.SLASHED | Phase.VOID:
            return


def _contact(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    ended = a.report.work in NO_MORE_WORK
    if a.ending not in (Ending.NONE, Ending.FINISHED) and not ended:
        yield SendStop(a.id)
    silent_s = now - a.heard_at_ms / 1000
    if silent_s > 1.5 * a.interval_s and not a.last_taken:
        yield AskStatus(a.id)


def _fetch(a: Agreement) -> Iterator[Duty]:
    if a.ending is Ending.FINISHED:
        if not a.delivered:
            yield PullResults(a.id, a.report.results)
        return
    if a.log_have < a.report.log_bytes:
        yield PullLog(a.id, a.log_have)
    if a.report.checkpoint is not None and not a.has_checkpoint:
        yield PullCheckpoint(a.id, a.report.checkpoint)


def _pay(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    due = payable(a, now)
    finished = a.ending is Ending.FINISHED and a.delivered
    given_up = (
        a.ending not in (Ending.NONE, Ending.FINISHED)
        and a.report.work in NO_MORE_WORK
        # The last checkpoint is kept until it is fetched: that is what ends it.
        and (a.ending not in CUT_SHORT or a.has_checkpoint)
    )
    if (finished or given_up) and not a.last_said:
        yield MakePay(a.id, max(due, a.promised), last=True)
    elif due > a.promised and not a.last_said:
        yield MakePay(a.id, due, last=False)
    elif a.pay is not None and (a.pay_taken < a.promised or (a.last_said and not a.last_taken)):
        yield SendPay(a.id, a.pay)


def payable(a: Agreement, now: UnixTime) -> int:
    """What the heartbeats so far earn: metered seconds, never more than have passed since opening.

    The one interval of tolerance is for whole-second rounding on both machines.
    """
    passed_s = max(0, int(now) - a.opened_at_s) + a.interval_s
    terms = a.extended
    return owed(terms, min(a.metered_s, passed_s, terms.timing.duration_s))


def extension(a: Agreement) -> Extension:
    """What the agreement would be raised by to last as long as is asked: the deposit with it."""
    money, timing = a.terms.money, a.terms.timing
    longer_s = timing.duration_s + a.asked_extra_s
    whole = deposit_for(money.price_per_hour, a.terms.unit_count, longer_s)
    return Extension(a.id, max(0, whole - money.deposit), a.asked_extra_s)


def _extend(a: Agreement) -> Iterator[Duty]:
    if a.ending is not Ending.NONE or a.extension_refused:
        return
    if a.asked_extra_s <= a.extra_duration_s:
        return
    if not a.extension_signature:
        yield AskExtension(a.id, extension(a))
    else:
        yield Submit(a.id, Extend(a.terms, extension(a), b"", a.extension_signature))


def _requester_ending(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    if a.ending is Ending.LOST and not a.answered and a.refusals < REFUSALS_MAX:
        if a.challenge_deadline_s:
            if now > a.challenge_deadline_s + CHAIN_LAG_S:
                yield Submit(a.id, Slash(a.terms))
            return
        if not a.closing_deadline_s or a.closing_by_provider:
            yield from _challenge(a, now)
            return
    if not a.closing_deadline_s:
        yield Submit(a.id, RequesterClose(a.terms))
    elif now > a.closing_deadline_s + CHAIN_LAG_S:
        yield Submit(a.id, Finalize(a.terms))


def _challenge(a: Agreement, now: UnixTime) -> Iterator[Duty]:
    """A challenger is paid up first: also for the silence, which the slash makes good."""
    passed_s = max(0, int(now) - a.opened_at_s)
    if passed_s <= a.terms.timing.start_grace_s + CHAIN_LAG_S:
        return  # the contract gives a provider this long before it must answer
    if not a.nonce:
        yield DrawNonce(a.id)
    elif a.pay is None or a.promised < paid_up(a.extended, passed_s + 1):
        yield MakePay(a.id, paid_up(a.extended, passed_s + PAY_AHEAD_S), last=False)
    else:
        yield Submit(a.id, Challenge(a.terms, a.pay.voucher, a.pay.signature, a.nonce))
