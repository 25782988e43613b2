"""The wallet's desk: what it prepares, what it warns of, what it makes of a transaction's fate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from market.errands import Authorise, DepositWithPermit, Errand, Revoke, Withdraw
from market.errors import RefusedError, SpecError
from node.desk import wallet
from node.desk.wallet import WATCHED_MAX, WalletDesk
from node.ports import Outcome, Unsigned

WALLET = b"\x11" * 20
OPERATOR = b"\x22" * 20
NOW = 1_800_000_000.0


class Errands:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.asked: list[Errand] = []
        self.refuses = ""
        self.fate: dict[bytes, Outcome] = {}
        self.endpoints = ("http://127.0.0.1:8545",)

    def unsigned(self, errand: Errand) -> Unsigned:
        self.asked.append(errand)
        return Unsigned(b"\x33" * 20, b"\xab\xcd")

    async def refusal(self, wallet: bytes, unsigned: Unsigned) -> str:
        return self.refuses

    async def permit(self, wallet: bytes, amount: int) -> dict[str, Any] | None:
        return None

    async def outcome(self, tx: bytes) -> Outcome:
        return self.fate[tx]


def desk() -> tuple[WalletDesk, Errands, SimpleNamespace]:
    errands = Errands()
    clock = SimpleNamespace(at=NOW)
    clock.now = lambda: clock.at
    info = SimpleNamespace(
        decimals=6, symbol="tUSD", explorer="", domain=SimpleNamespace(chain_id=31337)
    )
    ports = SimpleNamespace(
        chain=SimpleNamespace(info=info), signer=SimpleNamespace(operator=OPERATOR),
        clock=clock, errands=errands,
    )  # fmt: skip
    config = SimpleNamespace(wallet=WALLET, network="devnet-31337")
    return WalletDesk(cast(Any, config), cast(Any, ports)), errands, clock


@pytest.mark.parametrize(
    ("kind", "fields", "errand", "what"),
    [
        ("withdraw", {"amount": "2.5"}, Withdraw(2_500_000), "Withdraw 2.5 tUSD"),
        ("authorise", {"allowance": "40", "expires": int(NOW) + 60},
         Authorise(OPERATOR, 40_000_000, int(NOW) + 60), "Authorise this node for 40 tUSD"),
        ("revoke", {}, Revoke(OPERATOR), "Take back this node's authorisation"),
        ("deposit_with_permit", {"amount": "1", "deadline": 5, "signature": "0x" + "01" * 65},
         DepositWithPermit(1_000_000, 5, b"\x01" * 65), "Deposit 1 tUSD"),
    ],
)  # fmt: skip
async def test_an_errand_is_prepared(
    kind: str, fields: dict[str, Any], errand: Errand, what: str
) -> None:
    at, errands, _ = desk()
    made = await at.prepare(WALLET, kind, fields)
    assert errands.asked == [errand]
    assert made["what"] == what
    assert made["refusal"] is None
    assert made["transaction"] == {
        "from": "0x" + "11" * 20, "to": "0x" + "33" * 20, "data": "0xabcd", "value": "0x0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("withdraw", {"amount": "-1"}, "amount"),
        ("withdraw", {"amount": "0.0000001"}, "finer"),
        ("withdraw", {}, "amount"),
        ("authorise", {"allowance": "1", "expires": int(NOW)}, "expires"),
        ("authorise", {"allowance": "1", "expires": int(NOW) + 2 * 366 * 86_400}, "expires"),
        ("authorise", {"allowance": "1", "expires": True}, "expires"),
        ("deposit_with_permit", {"amount": "1", "deadline": 1, "signature": "0x00"}, "65 bytes"),
        ("selfdestruct", {}, "no errand"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    kind: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        await desk()[0].prepare(WALLET, kind, fields)


async def test_a_refusal_is_said_before_the_wallet_is_asked() -> None:
    at, errands, _ = desk()
    for name in (*wallet.REFUSALS, "Escrow_SomethingNew"):
        errands.refuses = name
        said = (await at.prepare(WALLET, "withdraw", {"amount": "1"}))["refusal"]
        assert said["name"] == name
        assert said["message"]


async def test_a_chain_without_errands_says_so() -> None:
    at, _, _ = desk()
    at._ports = cast(Any, SimpleNamespace(**{**vars(at._ports), "errands": None}))
    with pytest.raises(RefusedError):
        await at.prepare(WALLET, "revoke", {})


async def test_a_transaction_is_watched_to_its_end(autojump_clock: Any) -> None:
    at, errands, clock = desk()
    fates = {
        b"\x01" * 32: (Outcome(True, 7, ""), "mined"),
        b"\x02" * 32: (Outcome(True, 8, "Escrow_InsufficientFree"), "failed"),
        b"\x03" * 32: (Outcome(False, 0, ""), "lost"),
        b"\x04" * 32: (Outcome(True, 0, ""), "pending"),
    }
    errands.fate = {tx: Outcome(True, 0, "") for tx in fates}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at.run)
        for tx in fates:
            assert at.watch(tx, "Deposit 1 tUSD", WALLET)["state"] == "pending"
        before = at.version
        await trio.sleep(3)
        errands.fate = {tx: fate for tx, (fate, _) in fates.items()}
        clock.at += wallet.UNKNOWN_S + 1
        await trio.sleep(3)
        found = {bytes.fromhex(row["tx"][2:]): row for row in at.watched()}
        assert {tx: row["state"] for tx, row in found.items()} == {
            tx: state for tx, (_, state) in fates.items()
        }
        assert "free money" in found[b"\x02" * 32]["problem"]
        assert at.version > before
        nursery.cancel_scope.cancel()


def test_only_so_many_are_remembered() -> None:
    at, _, _ = desk()
    for number in range(WATCHED_MAX + 5):
        at.watch(number.to_bytes(32, "big"), "x", WALLET)
    assert len(at.watched()) == WATCHED_MAX
    assert at.watched()[0]["tx"].endswith(f"{WATCHED_MAX + 4:x}")
