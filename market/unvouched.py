"""Unvouched: what a provider may still draw for seconds that its requester never promised to pay.

The contract pays them on a heartbeat alone, within the allowance that the terms name. Pure.
"""

from __future__ import annotations

from market.agreement import Agreement
from market.escrow import Claim, ClaimOffline
from market.limits import REFUSALS_MAX
from market.voucher import offline_worth


def unvouched(a: Agreement) -> Claim | ClaimOffline | None:
    """What is still to be drawn for seconds that were metered while the requester said nothing.

    The vouchers come first, for the allowance counts from them. None: nothing, or not any more.
    """
    if a.beat is None or a.last_said or a.refusals >= REFUSALS_MAX:
        return None
    beat = a.beat.heartbeat
    by_requester = a.closing_deadline_s and not a.closing_by_provider
    if by_requester and beat.at_s > a.closing_deadline_s - a.terms.timing.claim_window_s:
        return None  # metered after the requester had ended it
    metered_s = min(beat.metered_s, max(0, beat.at_s - a.opened_at_s))
    if offline_worth(a.extended, a.promised, metered_s) <= max(a.promised, a.paid):
        return None
    if a.pay is not None and a.paid < a.promised:
        return Claim(a.terms, a.pay.voucher, a.pay.signature)
    return ClaimOffline(a.terms, beat, a.beat.signature)
