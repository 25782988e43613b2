"""Books by hand: what events add up to, for both sides, by agreement and by day."""

from __future__ import annotations

from market.chainlog import (
    AllowanceUsed,
    AnsweredChallenge,
    Authorised,
    BondLocked,
    CancelledTerms,
    ChallengedProvider,
    ClaimedPayment,
    ClosedAgreement,
    ClosingBegun,
    Deposited,
    DisputeBegun,
    DisputeRuled,
    EscrowEvent,
    ExtendedAgreement,
    OpenedAgreement,
    Place,
    Revoked,
    Staked,
    StakeSlashed,
    Unstaked,
    UnstakeStarted,
    Withdrawn,
)
from market.ledger import CLOSED, DISPUTED, SLASHED, UNLIMITED, Thaw, ledger_of
from market.statement import Position, Side, Sums, position, reconcile, statement

TOKEN, ANN, BOB, KEY = (bytes([n]) * 20 for n in (1, 2, 3, 4))
DAY = 86_400
FIRST = 1_800_000_000 // DAY * DAY


def at(block: int, day: int = 0) -> Place:
    return Place(block, 0, FIRST + day * DAY + block, block.to_bytes(32, "big"))


def agreement(number: int) -> bytes:
    return number.to_bytes(32, "big")


def opened(number: int, block: int, day: int = 0, **changes: int) -> OpenedAgreement:
    money = {"deposit": 100, "collateral": 40, "bond": 5, "units": 1 << number, **changes}
    place = at(block, day)
    return OpenedAgreement(
        place, agreement(number), ANN, BOB, TOKEN,
        opened_at=place.at_s, challenge_from=place.at_s + 4, end=place.at_s + 600, **money,
    )  # fmt: skip


FUNDED: tuple[EscrowEvent, ...] = (
    Deposited(at(1), TOKEN, ANN, ANN, 1000),
    Deposited(at(2), TOKEN, BOB, ANN, 200),
    Staked(at(3), TOKEN, BOB, 150),
)


def test_a_settled_agreement() -> None:
    events = (
        *FUNDED,
        opened(1, 4),
        ClaimedPayment(at(5), agreement(1), 30, 0),
        ClaimedPayment(at(6, 1), agreement(1), 70, 0),
        ClosedAgreement(at(7, 1), agreement(1), 70, 30),
    )
    ledger = ledger_of(events)
    assert ledger.free == {(TOKEN, ANN): 930, (TOKEN, BOB): 120}
    assert ledger.stake == {(TOKEN, BOB): 150}
    assert ledger.units == {BOB: 0}
    assert ledger.agreements[agreement(1)].status == CLOSED
    assert ledger.total(TOKEN) == 1200
    spent = statement(events, ANN, TOKEN, Side.REQUESTER)
    assert spent.total == Sums(payments=-70)
    assert [(day[-2:], sums.payments) for day, sums in spent.days] == [("15", -30), ("16", -40)]
    assert [line.closed_at_s for line in spent.lines] == [FIRST + DAY + 7]
    earned = statement(events, BOB, TOKEN, Side.PROVIDER, since_s=FIRST + DAY)
    assert earned.total == Sums(payments=40)
    assert [line.sums.net for line in earned.lines] == [40]
    for wallet in (ANN, BOB):
        expected, booked = reconcile(events, wallet, TOKEN)
        assert expected == booked


def test_a_closing_call_that_pays_without_saying_so() -> None:
    events = (*FUNDED, opened(1, 4), ClosedAgreement(at(7), agreement(1), 70, 30))
    assert ledger_of(events).total(TOKEN) == 1200
    assert statement(events, BOB, TOKEN, Side.PROVIDER).total == Sums(payments=70)
    assert statement(events, ANN, TOKEN, Side.REQUESTER).total == Sums(payments=-70)


def test_a_challenge_answered_and_one_slashed() -> None:
    events = (
        *FUNDED,
        opened(1, 4),
        ChallengedProvider(at(5), agreement(1), 77, FIRST + 50),
        AnsweredChallenge(at(6), agreement(1), 1, FIRST + 60),
        BondLocked(at(7), agreement(1), 5),
        ChallengedProvider(at(7), agreement(1), 78, FIRST + 90),
        StakeSlashed(at(8), agreement(1), 40, 15, 25),
        ClosedAgreement(at(8), agreement(1), 0, 100),
    )
    ledger = ledger_of(events)
    assert ledger.agreements[agreement(1)].status == SLASHED
    assert ledger.free == {(TOKEN, ANN): 1000 - 5 + 15, (TOKEN, BOB): 50 + 5}
    assert (ledger.stake, ledger.burned) == ({(TOKEN, BOB): 110}, {TOKEN: 25})
    assert ledger.total(TOKEN) == 1200
    assert statement(events, ANN, TOKEN, Side.REQUESTER).total == Sums(bonds=-5, slashes=15)
    assert statement(events, BOB, TOKEN, Side.PROVIDER).total == Sums(bonds=5, slashes=-40)
    for wallet in (ANN, BOB):
        expected, booked = reconcile(events, wallet, TOKEN)
        assert expected == booked


def test_what_is_live_is_held_and_locked() -> None:
    events = (
        *FUNDED,
        opened(1, 4),
        ExtendedAgreement(at(5), agreement(1), 20, 60),
        ClaimedPayment(at(6), agreement(1), 50, 10),
        ClosingBegun(at(7), agreement(1), ANN, FIRST + 99),
    )
    ledger = ledger_of(events)
    assert position(ledger, ANN, TOKEN) == Position(875, 0, 0, 0, 75)
    assert position(ledger, BOB, TOKEN) == Position(100, 110, 0, 40, 0)
    assert ledger.units == {BOB: 2}
    assert ledger.total(TOKEN) == 1200
    (line,) = statement(events, ANN, TOKEN, Side.REQUESTER, since_s=FIRST + 9 * DAY).lines
    assert (line.held, line.sums, line.closed_at_s) == (75, Sums(), 0)


def test_a_dispute_gives_the_bond_to_one_of_them() -> None:
    begun = (*FUNDED, opened(1, 4), DisputeBegun(at(5), agreement(1), FIRST + 9))
    assert ledger_of(begun).agreements[agreement(1)].status == DISPUTED
    cleared = (
        *begun,
        DisputeRuled(at(6), agreement(1), 0),
        ClosedAgreement(at(6), agreement(1), 0, 100),
    )
    assert ledger_of(cleared).free[TOKEN, BOB] == 55
    guilty = (
        *begun,
        DisputeRuled(at(6), agreement(1), 40),
        StakeSlashed(at(6), agreement(1), 40, 40, 0),
        ClosedAgreement(at(6), agreement(1), 0, 100),
    )
    assert ledger_of(guilty).free[TOKEN, ANN] == 1040
    for events in (cleared, guilty):
        assert ledger_of(events).total(TOKEN) == 1200


def test_stake_thaws_and_allowances_are_used_up() -> None:
    ledger = ledger_of(
        (
            *FUNDED,
            Authorised(at(4), ANN, KEY, TOKEN, 100, 9),
            AllowanceUsed(at(5), ANN, KEY, TOKEN, 60),
            Authorised(at(5), BOB, KEY, TOKEN, UNLIMITED, 9),
            AllowanceUsed(at(6), BOB, KEY, TOKEN, 60),
            UnstakeStarted(at(6), TOKEN, BOB, 30, 30, FIRST + 70),
            UnstakeStarted(at(7), TOKEN, BOB, 20, 50, FIRST + 80),
            Withdrawn(at(8), TOKEN, ANN, 400),
            CancelledTerms(at(9), agreement(9)),
        )
    )
    assert ledger.allowances == {(ANN, KEY, TOKEN): (40, 9), (BOB, KEY, TOKEN): (UNLIMITED, 9)}
    assert ledger.thaws == {(TOKEN, BOB): Thaw(50, FIRST + 80)}
    assert ledger.cancelled == {agreement(9)}
    assert ledger.total(TOKEN) == 800
    ledger.apply(Unstaked(at(10), TOKEN, BOB, 50))
    ledger.apply(Revoked(at(11), ANN, KEY, TOKEN))
    assert (ledger.free[TOKEN, BOB], ledger.stake[TOKEN, BOB], ledger.thaws) == (100, 100, {})
    assert (ANN, KEY, TOKEN) not in ledger.allowances
