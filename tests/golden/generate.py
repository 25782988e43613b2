"""Golden vectors: writes eip712.json and money.json. Knows neither market/ nor the contract.

The reference is eth_account's encode_typed_data for digests and signatures, and plain integers for
money. pytest and forge both read the files; a changed digest changes them first.

    uv run python tests/golden/generate.py           # write
    uv run python tests/golden/generate.py --check   # exit 1 if the files differ

Every integer is a decimal string: JSON readers lose uint256s.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

HERE = Path(__file__).resolve().parent
KEY = "0x" + "11" * 31 + "42"  # a test key; holds nothing anywhere
DOMAIN = {
    "name": "gridsouk",
    "version": "1",
    "chainId": 31337,
    "verifyingContract": "0x00000000000000000000000000000000DEADC0de",
}


def fields(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), part.split(), strict=True)) for part in text.split(",")]


TYPES = {
    "Parties": fields(
        "address requester,address provider,address requesterSigner,address providerSigner,"
        "address token,address arbiter"
    ),
    "Money": fields(
        "uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,uint16 slashBps,"
        "uint16 victimShareBps,uint16 equivocationBps"
    ),
    "Timing": fields(
        "uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,uint32 claimWindow,"
        "uint32 offlineAllowance,uint32 arbiterWindow"
    ),
    "Terms": fields(
        "Parties parties,Money money,Timing timing,uint256 units,bytes32 job,bytes32 salt"
    ),
    "Voucher": fields("bytes32 agreement,uint96 amount,bytes32 ack,bool last"),
    "Heartbeat": fields(
        "bytes32 agreement,uint64 sequence,uint40 at,uint32 meteredSeconds,uint48 challenge,"
        "bytes32 state"
    ),
    "Settlement": fields("bytes32 agreement,uint96 paid,uint96 slashed"),
    "Extension": fields("bytes32 agreement,uint96 deposit,uint32 duration"),
}
USES = {"Terms": ("Parties", "Money", "Timing")}


def address(seed: str) -> str:
    return str(Account.from_key(keccak(text=seed)).address)


def word(seed: str) -> str:
    return "0x" + keccak(text=seed).hex()


def top(bits: int) -> int:
    return (1 << bits) - 1


ZERO = "0x" + "00" * 20
NOTHING = "0x" + "00" * 32
EVERYTHING = "0x" + "ff" * 32


def terms() -> list[dict[str, Any]]:
    usual = {
        "parties": {
            "requester": address("requester"),
            "provider": address("provider"),
            "requesterSigner": address("requester signer"),
            "providerSigner": address("provider signer"),
            "token": address("token"),
            "arbiter": ZERO,
        },
        "money": {
            "deposit": 12_500_000,
            "collateral": 25_000_000,
            "pricePerHour": 1_270_000,
            "bond": 500_000,
            "slashBps": 5000,
            "victimShareBps": 6000,
            "equivocationBps": 8000,
        },
        "timing": {
            "openBy": 1_800_000_600,
            "duration": 14_400,
            "startGrace": 300,
            "window": 1800,
            "claimWindow": 86_400,
            "offlineAllowance": 900,
            "arbiterWindow": 604_800,
        },
        "units": 0b1111,
        "job": word("job"),
        "salt": word("salt"),
    }
    native = {
        **usual,
        "parties": {**usual["parties"], "token": ZERO, "arbiter": address("arbiter")},
        "units": (1 << 255) | 1,
        "salt": NOTHING,
    }
    largest = {
        "parties": dict.fromkeys(usual["parties"], "0x" + "Ff" * 20),
        "money": {f["name"]: top(int(f["type"][4:])) for f in TYPES["Money"]},
        "timing": {f["name"]: top(int(f["type"][4:])) for f in TYPES["Timing"]},
        "units": top(256),
        "job": EVERYTHING,
        "salt": EVERYTHING,
    }
    largest["parties"] = dict.fromkeys(
        usual["parties"], "0xFFfFfFffFFfffFFfFFfFFFFFffFFFffffFfFFFfF"
    )
    smallest = {
        "parties": dict.fromkeys(usual["parties"], ZERO),
        "money": dict.fromkeys(usual["money"], 0),
        "timing": dict.fromkeys(usual["timing"], 0),
        "units": 0,
        "job": NOTHING,
        "salt": NOTHING,
    }
    return [usual, native, largest, smallest]


def digest_of(kind: str, message: dict[str, Any]) -> tuple[str, str]:
    names = (kind, *USES.get(kind, ()))
    signable = encode_typed_data(DOMAIN, {name: TYPES[name] for name in names}, message)
    digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
    signature = Account.from_key(KEY).sign_message(signable).signature
    return "0x" + digest.hex(), "0x" + bytes(signature).hex()


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return str(value)


def vectors(kind: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for message in messages:
        digest, signature = digest_of(kind, message)
        rows.append({"message": plain(message), "digest": digest, "signature": signature})
    return rows


def eip712() -> dict[str, Any]:
    some = digest_of("Terms", terms()[0])[0]
    return {
        "domain": plain(DOMAIN),
        "key": KEY,
        "address": str(Account.from_key(KEY).address),
        "types": TYPES,
        "terms": vectors("Terms", terms()),
        "vouchers": vectors(
            "Voucher",
            [
                {"agreement": some, "amount": 1_270_000, "ack": word("ack"), "last": False},
                {"agreement": some, "amount": 5_080_000, "ack": word("ack 2"), "last": True},
                {"agreement": NOTHING, "amount": 0, "ack": NOTHING, "last": False},
                {"agreement": EVERYTHING, "amount": top(96), "ack": EVERYTHING, "last": True},
            ],
        ),
        "heartbeats": vectors(
            "Heartbeat",
            [
                {
                    "agreement": some,
                    "sequence": 7,
                    "at": 1_800_001_000,
                    "meteredSeconds": 380,
                    "challenge": 0,
                    "state": word("state"),
                },
                {
                    "agreement": some,
                    "sequence": 8,
                    "at": 1_800_001_030,
                    "meteredSeconds": 410,
                    "challenge": 0x1234_5678_9ABC,
                    "state": word("state 2"),
                },
                {
                    "agreement": EVERYTHING,
                    "sequence": top(64),
                    "at": top(40),
                    "meteredSeconds": top(32),
                    "challenge": top(48),
                    "state": EVERYTHING,
                },
            ],
        ),
        "settlements": vectors(
            "Settlement",
            [
                {"agreement": some, "paid": 3_000_000, "slashed": 0},
                {"agreement": some, "paid": 0, "slashed": 12_500_000},
                {"agreement": EVERYTHING, "paid": top(96), "slashed": top(96)},
            ],
        ),
        "extensions": vectors(
            "Extension",
            [
                {"agreement": some, "deposit": 2_000_000, "duration": 0},
                {"agreement": some, "deposit": 2_000_000, "duration": 3600},
                {"agreement": EVERYTHING, "deposit": top(96), "duration": top(32)},
            ],
        ),
    }


def accrued(price_per_hour: int, units: int, seconds: int) -> int:
    return price_per_hour * units.bit_count() * seconds // 3600


def money() -> dict[str, Any]:
    accruals = [
        (3_600_000, 1, 1),
        (3_600_000, 0b11, 1),
        (1, 1, 3599),  # one base unit an hour: nothing yet
        (1, 1, 3600),
        (1, 0b11, 1800),
        (1_270_000, 0b1111, 14_400),
        (1_270_000, 0b1111, 14_399),
        (999_999, 0b101, 7),
        (0, top(256), 3600),
        (1_000_000, 0, 3600),
        (1_000_000, 1 << 255, 3600),
        (1_000_000, top(256), 1),
        (top(96), top(256), top(32)),
    ]
    closes = [
        # deposit, price per hour, units, elapsed seconds, voucher amount
        (10_000_000, 3_600_000, 0b11, 1000, 2_000_000),  # exactly what accrued
        (10_000_000, 3_600_000, 0b11, 1000, 2_000_001),  # one more than accrued
        (10_000_000, 3_600_000, 0b11, 1000, 1_999_999),  # one less
        (10_000_000, 3_600_000, 0b11, 1000, 0),
        (10_000_000, 3_600_000, 0b11, 5000, 10_000_000),  # the whole deposit
        (9_999_999, 3_600_000, 0b11, 5000, 10_000_000),  # deposit is the cap
        (10_000_000, 1, 1, 3599, 10),
        (0, 3_600_000, 1, 100, 5),
    ]
    slashes = [
        # collateral, slash bps, victim share bps
        (20_000_000, 5000, 6000),
        (20_000_000, 10_000, 10_000),
        (20_000_000, 10_000, 0),
        (20_000_000, 0, 6000),
        (1, 9999, 9999),  # rounds to nothing
        (3, 5000, 5000),
        (10_001, 3333, 6667),
        (0, 10_000, 10_000),
        (59_999_999, 1, 1),
    ]
    close_rows = []
    for deposit, price, units, elapsed, amount in closes:
        paid = min(amount, deposit, accrued(price, units, elapsed))
        close_rows.append(
            {
                "deposit": deposit,
                "pricePerHour": price,
                "units": units,
                "elapsed": elapsed,
                "voucher": amount,
                "paid": paid,
                "refund": deposit - paid,
            }
        )
    slash_rows = []
    for collateral, slash_bps, victim_bps in slashes:
        slashed = collateral * slash_bps // 10_000
        victim = slashed * victim_bps // 10_000
        slash_rows.append(
            {
                "collateral": collateral,
                "slashBps": slash_bps,
                "victimShareBps": victim_bps,
                "slashed": slashed,
                "toVictim": victim,
                "burned": slashed - victim,
                "back": collateral - slashed,
            }
        )
    return plain_rows(
        {
            "accrued": [
                {"pricePerHour": p, "units": u, "seconds": s, "accrued": accrued(p, u, s)}
                for p, u, s in accruals
            ],
            "closes": close_rows,
            "slashes": slash_rows,
        }
    )


def plain_rows(tables: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {name: [plain(row) for row in rows] for name, rows in tables.items()}


def main() -> None:
    differs = False
    for name, value in (("eip712.json", eip712()), ("money.json", money())):
        path = HERE / name
        text = json.dumps(value, indent=1) + "\n"
        if "--check" in sys.argv[1:]:
            differs = differs or not path.exists() or path.read_text() != text
        else:
            path.write_text(text)
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    main()
