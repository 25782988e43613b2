"""Samples: small values of the market's words, and hypothesis strategies made of their types."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Union

from hypothesis import strategies as st

from market.agreement import Agreement, Role
from market.apply import apply
from market.codec import Between, Count
from market.escrow import Opened
from market.events import (
    Accepted,
    Acknowledged,
    BeatHeard,
    BeatMade,
    Event,
    Looked,
    PayHeard,
    PayMade,
    Staged,
)
from market.job import Bid, Job
from market.messages import Beat, Pay, Report, WorkState
from market.signing import digest
from market.terms import (
    Accelerator,
    Artifact,
    Coordinate,
    Demand,
    Heartbeat,
    Manifest,
    Money,
    Parties,
    Requirements,
    Terms,
    Timing,
    Voucher,
    Workload,
)
from market.units import UnixTime

START_S = 1_800_000_000  # the quote
OPENED_S = START_S + 4
ME = bytes([1]) * 32
OTHER = bytes([2]) * 32
DEMAND_ID = bytes([3]) * 16
JOB_ID = bytes([4]) * 16
AGREEMENT_ID = bytes([5]) * 32
TX = bytes([6]) * 32
INTERVAL_S = 5


def at(seconds: float) -> UnixTime:
    """So many seconds after the agreement was opened."""
    return UnixTime(OPENED_S + seconds)


SOON = at(1)


def artifact(path: str = "/out", content: int = 7, size_bytes: int = 11) -> Artifact:
    return Artifact(path, bytes([content]) * 32, size_bytes)


def manifest(**changes: Any) -> Manifest:
    value = Manifest(
        job_id=JOB_ID,
        name="job",
        workload=Workload.TRAINING,
        image=artifact("base", 9, 8),
        command="python train.py",
        envs=(),
        inputs=(),
        outputs=("/out",),
        checkpoint_path="/ckpt",
        checkpoint_interval_s=10,
        resume=None,
        cpus=1,
        memory_mib=512,
        disk_mib=1024,
        max_duration_s=600,
        grace_s=3,
        ports=(),
    )
    return replace(value, **changes)


def terms(**changes: Any) -> Terms:
    """One unit at 3,600 base units an hour: one for every second, 600 seconds, all of it paid."""
    money = Money(
        deposit=600, collateral=1000, price_per_hour=3600, bond=10,
        slash_bps=5000, victim_share_bps=6000, equivocation_bps=8000,
    )  # fmt: skip
    timing = Timing(
        open_by_s=START_S + 30, duration_s=600, start_grace_s=20, window_s=12,
        claim_window_s=120, offline_allowance_s=15, arbiter_window_s=0,
    )  # fmt: skip
    parties = Parties(*(bytes([n]) * 20 for n in (11, 12, 13, 14, 15)), bytes(20))
    value = Terms(parties, money, timing, 1, digest(manifest()), bytes([8]) * 32)
    for name, part in changes.items():
        if name in ("money", "timing"):
            part = replace(getattr(value, name), **part)
        value = replace(value, **{name: part})
    return value


def report(work: WorkState = WorkState.RUNNING, **changes: Any) -> Report:
    value = Report(
        work=work, exit_code=0, out_of_memory=False, reason="", cpu_ms=10, memory_bytes=20,
        gpu_ppm=0, log_bytes=0, checkpoint=None, checkpoint_step=0, results=(),
    )  # fmt: skip
    return replace(value, **changes)


def beat(
    sequence: int = 1, metered_s: int = 1, told: Report | None = None, challenge: int = 0,
    at_s: int = OPENED_S,
) -> Beat:  # fmt: skip
    told = told or report()
    heartbeat = Heartbeat(AGREEMENT_ID, sequence, at_s, metered_s, challenge, digest(told))
    return Beat(heartbeat, b"s" * 65, told)


def pay(amount: int, last: bool = False) -> Pay:
    return Pay(Voucher(AGREEMENT_ID, amount, bytes(32), last), b"s" * 65)


def provider(**changes: Any) -> Agreement:
    """The provider's side of a fresh quote."""
    value = Agreement(
        id=AGREEMENT_ID, role=Role.PROVIDER, peer=OTHER, demand_id=DEMAND_ID, job_id=JOB_ID,
        terms=terms(), provider_signature=b"p" * 65, interval_s=INTERVAL_S,
        hold_until_s=START_S + 20, created_at_ms=START_S * 1000,
    )  # fmt: skip
    return replace(value, **changes)


def requester(**changes: Any) -> Agreement:
    """The requester's side, just countersigned."""
    return replace(provider(role=Role.REQUESTER, peer=ME), **{**_countersigned(), **changes})


def _countersigned() -> dict[str, Any]:
    confirmed = apply(provider(), Accepted(b"r" * 65, manifest(), ()), UnixTime(START_S + 2))
    return {
        "phase": confirmed.phase,
        "requester_signature": confirmed.requester_signature,
        "manifest": confirmed.manifest,
    }


def told(agreement: Agreement, *events: Event, now: UnixTime = SOON) -> Agreement:
    """The agreement after all these events at one moment."""
    for event in events:
        agreement = apply(agreement, event, now)
    return agreement


def running_provider(metered_s: int = 0, **changes: Any) -> Agreement:
    """Staged, funded, started."""
    value = told(
        provider(), Acknowledged(), Accepted(b"r" * 65, manifest(), ()), Staged(),
        Opened(AGREEMENT_ID, OPENED_S, TX), Looked(report(), metered_s),
        now=at(0),
    )  # fmt: skip
    return replace(value, **changes)


def running_requester(**changes: Any) -> Agreement:
    """Acknowledged, funded, and told once that it runs."""
    opened = Opened(AGREEMENT_ID, OPENED_S, TX)
    value = told(requester(), Acknowledged(), opened, BeatHeard(beat()), now=at(0))
    return replace(value, **changes)


def paid(agreement: Agreement, amount: int, last: bool = False) -> Agreement:
    """With a voucher of this amount, made or heard."""
    heard = PayHeard if agreement.role is Role.PROVIDER else PayMade
    return told(agreement, heard(pay(amount, last)))


def beaten(agreement: Agreement, sequence: int, **how: Any) -> Agreement:
    """With a heartbeat of this number, made or heard."""
    made = BeatMade if agreement.role is Role.PROVIDER else BeatHeard
    return told(agreement, made(beat(sequence, **how)))


def job(**changes: Any) -> Job:
    value = Job(
        id=JOB_ID,
        manifest=manifest(),
        requirements=Requirements(accelerators=(Accelerator("CPU", 1),)),
        bid=Bid(
            max_price_per_hour=3600, value_of_time_per_hour=3600, max_duration_s=600,
            deadline_at_s=0, priority=0, max_wait_s=60, max_attempts=3, estimate_s=0,
        ),
        created_at_ms=START_S * 1000,
    )  # fmt: skip
    return replace(value, **changes)


def demand(round_: int = 1) -> Demand:
    return Demand(
        demand_id=DEMAND_ID, job_id=JOB_ID, round=round_, peer=OTHER, requester=bytes(20),
        operator=bytes(20), requirements=job().requirements, max_price_per_hour=3600,
        value_of_time_per_hour=3600, workload=Workload.BATCH, estimate_s=0, max_duration_s=600,
        deadline_at_s=0, priority=0, num_nodes=1, preemptible=False, checkpoint_interval_s=10,
        image=bytes(32), image_bytes=8, input_bytes=0, output_bytes=0, job=bytes(32),
        token=bytes(20), slash_bps=5000, exclude=(), coordinate=Coordinate(),
        quote_by_ms=(START_S + 2) * 1000, expires_at_s=START_S + 30,
    )  # fmt: skip


# Strategies.


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that the type and its bounds allow, the sizes kept small."""
    return _values(kind, None)


@cache
def _values(kind: Any, bound: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(kind) is Annotated:
        base, *notes = typing.get_args(kind)
        return _values(base, next((n for n in notes if isinstance(n, Between | Count)), bound))
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return st.none() | _values(inner[0], None)
    if origin is tuple:
        inner_kind = typing.get_args(kind)[0]
        return st.lists(
            _values(inner_kind, None), min_size=bound.low, max_size=min(bound.high, bound.low + 2)
        ).map(tuple)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        names = [field.name for field in dataclasses.fields(kind)]
        return st.builds(kind, **{name: _values(hints[name], None) for name in names})
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    return _scalars(kind, bound)


def _scalars(kind: Any, bound: Any) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.sampled_from((bound.low, bound.high)) | st.integers(bound.low, bound.high)
    if kind is bytes:
        return st.binary(min_size=bound.low, max_size=min(bound.high, bound.low + 40))
    assert kind is str, f"{kind} has no samples"
    text = st.text(st.characters(codec="utf-8"), max_size=min(bound.high, 24))
    fits = text.filter(lambda said: bound.low <= len(said.encode()) <= bound.high)
    return fits | st.just("x" * bound.high) if bound.high <= 256 else fits.map(lambda s: s or "x")
