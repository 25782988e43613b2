"""Errands against the real contracts: what they would do, why they would be refused, their fate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from eth_account import Account

from market.errands import Approve, Deposit, DepositWithPermit, Stake, Unstake, Withdraw
from market.errors import SignatureError
from node.adapters.ethereum.devnet import CHAIN_ID, Devnet, run_devnet
from node.adapters.ethereum.errands import Errands
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.wallet import Wallet

pytestmark = pytest.mark.chain
MILLION = 1_000_000


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
