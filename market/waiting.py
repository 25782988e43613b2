"""Waiting: what a demand that found nobody yet waits for, in words. Knows a demand and a book."""

from __future__ import annotations

from typing import Final

from market.book import Book
from market.constraints import Constraint, misfits
from market.explain import Explanation, explain
from market.terms import Demand
from market.units import format_duration

LOOK_THROUGH_MAX: Final = 2000  # offers looked at one by one, for their queues: some milliseconds


def reason_to_wait(demand: Demand, book: Book, now: float, *, decimals: int = 6) -> str:
    """One sentence: where it is queued, or that quotes are awaited, or what would let it in."""
    found = explain(demand, book, now, decimals=decimals)
    if not found.considered:
        return "no live offer was heard; is the node connected? (souk peers)"
    busy = sum(r.alone for r in found.removed if r.constraint is Constraint.COUNT)
    wanted = f"{demand.num_nodes} are wanted; " if demand.num_nodes > 1 else ""
    if found.fitting and found.fitting >= demand.num_nodes:
        return f"{found.fitting} of {found.considered} live offers fit; waiting for quotes"
    if busy:
        return wanted + _queued(demand, book, now, busy)
    return f"{wanted}no live offer fits{_nearest(found)}"


def why_nothing(found: Explanation) -> str:
    """One sentence about a round that ended without an agreement."""
    if not found.considered:
        return "no live offer was heard; is the node connected? (souk peers)"
    if found.fitting:
        return f"{found.fitting} live offers fit, but no provider could be had in time"
    return f"none of {found.considered} live offers fits{_nearest(found)}"


def _nearest(found: Explanation) -> str:
    if not found.relaxations:
        return ""
    return f"; nearest: {found.relaxations[0].sentence.rstrip('.')}"


def _queued(demand: Demand, book: Book, now: float, busy: int) -> str:
    if len(book) > LOOK_THROUGH_MAX:
        return f"{busy} offers fit and are busy"
    waits: dict[bytes, int] = {}
    for offer in book.offers():
        broken = {problem.constraint for problem in misfits(demand, offer, now)}
        if broken == {Constraint.COUNT} and offer.num_units > offer.num_gpus:
            waits[offer.peer] = min(waits.get(offer.peer, 2**32), offer.queue_wait_s)
    if not waits:
        return "no live offer has enough units"
    words = f"queued at {len(waits)} provider{'s' if len(waits) > 1 else ''}"
    known = [wait_s for wait_s in waits.values() if wait_s]
    return f"{words}, next free in about {_about(min(known))}" if known else words


def _about(seconds: int) -> str:
    """Not to the second: it would change with every look."""
    if seconds >= 600:
        return format_duration(round(seconds / 300) * 300)
    return format_duration(max(60, round(seconds / 60) * 60) if seconds >= 60 else 60)
