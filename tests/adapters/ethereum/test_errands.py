"""Errands against the real contracts: what they would do, why they would be refused, their fate.

And contract wallets, honest and hostile ones, that are asked whether a signature is theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from web3 import Web3

from market.errands import Approve, Deposit, DepositWithPermit, Stake, Unstake, Withdraw
from market.errors import SignatureError
from node.adapters.ethereum.devnet import CHAIN_ID, Devnet, run_devnet
from node.adapters.ethereum.errands import Errands
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.wallet import Wallet
from node.web.sessions import personal_digest

pytestmark = pytest.mark.chain
MILLION = 1_000_000
CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
MOODS = ("Good", "Reverts", "Garbage", "Burns", "Reenters", "Floods", "Lies")


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Devnet, Rpc, Errands, Wallet]]:
    async with run_devnet(block_time_s=0) as devnet, Rpc((devnet.url,)) as rpc:
        wallet = devnet.wallet(rpc, 1)
        await wallet.mint(wallet.address, 10 * MILLION)
        yield devnet, rpc, Errands(rpc, CHAIN_ID, devnet.escrow, devnet.token), wallet


async def test_a_refusal_has_the_contracts_name() -> None:
    async with world() as (_, _, errands, wallet):
        cases = {
            Deposit(MILLION): "ERC20InsufficientAllowance",
            Withdraw(MILLION): "Escrow_InsufficientFree",
            Stake(MILLION): "Escrow_InsufficientFree",
            Unstake(MILLION): "Escrow_InsufficientStake",
            Withdraw(0): "Escrow_ZeroAmount",
            Approve(MILLION): "",
        }
        for errand, name in cases.items():
            said = await errands.refusal(wallet.address, errands.unsigned(errand))
            assert said == name, errand
        poor = errands.unsigned(Approve(1))
        assert await errands.refusal(b"\x09" * 20, poor) in ("", "insufficient funds")


async def test_a_permit_as_a_browser_wallet_signs_it_is_taken() -> None:
    async with world() as (devnet, rpc, errands, wallet):
        data = await errands.permit(wallet.address, 3 * MILLION)
        assert data is not None
        assert data["message"]["value"] == "3000000"  # text: JavaScript has no such integers
        deadline = int(data["message"]["deadline"])
        assert deadline > time.time()
        message = {
            key: int(value) if value.isdecimal() else value
            for key, value in data["message"].items()
        }
        signed = Account.sign_typed_data(devnet.keys[1], full_message={**data, "message": message})
        errand = DepositWithPermit(3 * MILLION, deadline, bytes(signed.signature))
        unsigned = errands.unsigned(errand)
        assert await errands.refusal(wallet.address, unsigned) == ""
        assert await errands.refusal(b"\x07" * 20, unsigned) != ""  # it is nobody else's
        with pytest.raises(SignatureError):
            errands.unsigned(DepositWithPermit(1, deadline, b"short"))


async def test_the_fate_of_a_transaction() -> None:
    async with world() as (_, rpc, errands, wallet):
        unknown = await errands.outcome(b"\x05" * 32)
        assert (unknown.known, unknown.block) == (False, 0)
        tx = await wallet.deposit(2 * MILLION)
        mined = await errands.outcome(tx)
        assert (mined.known, mined.problem) == (True, "")
        assert mined.block > 0
        unsigned = errands.unsigned(Withdraw(5 * MILLION))
        call = {
            "from": "0x" + wallet.address.hex(), "to": "0x" + unsigned.to.hex(),
            "data": "0x" + unsigned.data.hex(), "gas": hex(300_000),
        }  # fmt: skip
        sent = str(await rpc.ask("eth_sendTransaction", call))  # anvil signs for its own accounts
        failed = await errands.outcome(bytes.fromhex(sent[2:]))
        assert failed.block > 0
        assert failed.problem == "Escrow_InsufficientFree"


def mock(name: str) -> Any:
    made = json.loads((CONTRACTS / f"{name}.json").read_text())
    return Web3().eth.contract(abi=made["abi"], bytecode=made["bytecode"])


async def deploy(wallet: Wallet, name: str) -> bytes:
    owner = Web3.to_checksum_address(wallet.address)
    data = mock(name).constructor(owner).data_in_transaction
    return (await wallet.sender.send(Call(b"", data))).contract


def personal(message: bytes, key: bytes) -> tuple[bytes, bytes]:
    signed = Account.sign_message(encode_defunct(message), key)
    return personal_digest(message), bytes(signed.signature)


async def test_a_contract_vouches_for_its_owners_signature_only() -> None:
    async with world() as (devnet, _, errands, wallet):
        contract = await deploy(wallet, "Wallet")
        digest, signature = personal(b"let me in", devnet.keys[1])
        await errands.vouch(contract, digest, signature)
        _, others = personal(b"let me in", devnet.keys[2])
        another, _ = personal(b"something else", devnet.keys[1])
        for digest_, signature_ in (
            (digest, others),
            (another, signature),
            (digest, b""),
            (digest, signature[:64]),
            (digest, b"\xff" * 4096),
        ):
            with pytest.raises(SignatureError, match="wallet's contract"):
                await errands.vouch(contract, digest_, signature_)
        with pytest.raises(SignatureError, match="another account signed"):
            await errands.vouch(b"\x07" * 20, digest, signature)  # nobody lives there
        with pytest.raises(SignatureError, match="not deployed yet"):
            await errands.vouch(b"\x07" * 20, digest, signature + bytes.fromhex("6492" * 16))
        assert await errands.permit(contract, MILLION) is None  # no token takes a contract's permit


@pytest.mark.parametrize("mood", range(1, len(MOODS)), ids=MOODS[1:])
async def test_a_hostile_contract_is_refused_in_words_and_costs_little(mood: int) -> None:
    async with world() as (devnet, rpc, errands, wallet):
        contract = await deploy(wallet, "MoodyWallet")
        digest, signature = personal(b"let me in", devnet.keys[1])
        await errands.vouch(contract, digest, signature)
        reentry = errands.unsigned(Approve(1))
        data = mock("MoodyWallet").encode_abi(
            "set", [mood, Web3.to_checksum_address(reentry.to), reentry.data]
        )
        await wallet.sender.send(Call(contract, data))
        began = time.monotonic()
        if MOODS[mood] == "Reenters":  # what it does then is not kept: it was only asked
            await errands.vouch(contract, digest, signature)
            return
        with pytest.raises(SignatureError, match="wallet's contract"):
            await errands.vouch(contract, digest, signature)
        assert time.monotonic() - began < 30
        assert (await rpc.head()).number > 0  # the endpoint was not blamed for it
        assert rpc.endpoints.all[0].rests_until == 0
