"""Extensions: an agreement that lasts longer, for a larger deposit, as both sides see it."""

from __future__ import annotations

from dataclasses import replace

from market.agreement import Agreement, Ending, Phase
from market.duties import AskExtension, Submit, duties, payable
from market.escrow import Extend, Extended
from market.events import (
    ExtendWanted,
    ExtensionRefused,
    ExtensionSigned,
    OrderRefused,
    PayHeard,
    Ticked,
)
from market.signing import Domain, extension_digest
from market.terms import Extension
from market.units import UnixTime
from node.desk.rows import agreement_row
from tests.samples import (
    AGREEMENT_ID,
    TX,
    at,
    pay,
    running_provider,
    running_requester,
    told,
)
from tests.unit.test_signing import GOLDEN

MORE = Extension(AGREEMENT_ID, 300, 300)  # a base unit a second
LONGER = Extended(AGREEMENT_ID, 300, 300, TX)


def owed(a: Agreement, kind: type) -> list[object]:
    return [duty for duty in duties(a, at(2)) if isinstance(duty, kind)]


def orders(a: Agreement) -> list[object]:
    return [one.order for one in duties(a, at(2)) if isinstance(one, Submit)]


def test_it_is_asked_for_signed_and_submitted() -> None:
    wanted = told(running_requester(), ExtendWanted(300))
    assert owed(wanted, AskExtension) == [AskExtension(AGREEMENT_ID, MORE)]
    signed = told(wanted, ExtensionSigned(300, b"p" * 65))
    assert owed(signed, AskExtension) == []
    assert orders(signed) == [Extend(signed.terms, MORE, b"", b"p" * 65)]
    done = told(signed, LONGER)
    assert orders(done) == []
    assert told(done, LONGER) is done
    further = told(done, ExtendWanted(400))
    assert owed(further, AskExtension) == [
        AskExtension(AGREEMENT_ID, Extension(AGREEMENT_ID, 400, 400))
    ]


def test_a_no_is_a_no_until_something_else_is_asked() -> None:
    wanted = told(running_requester(), ExtendWanted(300))
    for no in (ExtensionRefused("busy"), OrderRefused("Extend", "Escrow_TooLate")):
        refused = told(wanted, no)
        assert owed(refused, AskExtension) + orders(refused) == []
        assert told(refused, ExtendWanted(300)) is refused
        assert owed(told(refused, ExtendWanted(301)), AskExtension)


def test_a_signature_for_something_else_is_none() -> None:
    wanted = told(running_requester(), ExtendWanted(300))
    assert told(wanted, ExtensionSigned(200, b"p" * 65)) is wanted
    ending = replace(wanted, ending=Ending.CANCELLED)
    assert owed(ending, AskExtension) == []


def test_both_sides_count_with_the_longer_terms() -> None:
    late = UnixTime(at(0) + 700)
    first = told(running_provider(600), PayHeard(pay(600)))
    assert told(first, Ticked(), now=late).ending is Ending.EXPIRED
    longer = told(replace(first, metered_s=650), LONGER, PayHeard(pay(640)))
    assert told(longer, Ticked(), now=late).ending is Ending.NONE
    assert told(longer, Ticked(), now=UnixTime(at(0) + 900)).ending is Ending.EXPIRED
    pays = running_requester(metered_s=650)
    assert payable(pays, late) == 600
    assert payable(told(pays, LONGER), late) == 650
    assert told(pays, LONGER, Ticked(), now=late).phase is Phase.RUNNING


def test_the_digest_is_the_contracts() -> None:
    (vector, *_) = GOLDEN["extensions"]
    message = vector["message"]
    extension = Extension(
        bytes.fromhex(message["agreement"][2:]), int(message["deposit"]), int(message["duration"])
    )
    domain = GOLDEN["domain"]
    named = Domain(int(domain["chainId"]), bytes.fromhex(domain["verifyingContract"][2:]))
    assert extension_digest(extension, named).hex() == vector["digest"][2:]


def test_its_row_shows_what_is_held_and_how_long_by_now() -> None:
    before = agreement_row(running_requester(), str)
    after = agreement_row(told(told(running_requester(), ExtendWanted(300)), LONGER), str)
    assert int(after["deposit"]) == int(before["deposit"]) + MORE.deposit
    assert after["duration_s"] == before["duration_s"] + MORE.duration_s
    assert after["ends"] == before["ends"] + MORE.duration_s
