"""Chain: the escrow on an EVM chain. Facts are told at depth, once, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio
from web3 import Web3

from market.errors import ChainError
from market.escrow import ChainFact, ChainOrder
from market.signing import Domain
from node.adapters.ethereum.contract import artifact, call, calldata, fact, result, topics
from node.adapters.ethereum.errands import Errands
from node.adapters.ethereum.rpc import Rpc, RpcError, number, raw
from node.adapters.ethereum.transactions import Sender, receipt_hash
from node.ports import Account, ChainBatch, ChainInfo

SPAN_BLOCKS: Final = 1000  # logs are asked for in ranges; halved when an endpoint says no


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """Where the chain is and what is trusted on it. `confirmations` 1: the newest block counts."""

    urls: tuple[str, ...]
    chain_id: int
    escrow: bytes
    token: bytes
    confirmations: int = 1
    poll_s: float = 0.5
    fee_cap_wei: int = 200_000_000_000
    explorer: str = ""
    first_block: int = 0


class EthereumChain:
    """Implements the port `Chain` for one operator key."""

    def __init__(self, config: ChainConfig, rpc: Rpc, sender: Sender, info: ChainInfo) -> None:
        """Made by `open_chain`, which has checked chain id and code."""
        self._config = config
        self._rpc = rpc
        self._sender = sender
        self._info = info
        self._providers: dict[bytes, bytes] = {}

    @property
    def info(self) -> ChainInfo:
        """As found at the start."""
        return self._info

    @property
    def errands(self) -> Errands:
        """What this chain's wallets may be asked to do."""
        return Errands(self._rpc, self._config.chain_id, self._config.escrow, self._config.token)

    async def submit(self, order: ChainOrder) -> bytes:
        """Send it and wait until it is mined."""
        receipt = await self._sender.send(self._config.escrow, calldata(order))
        return receipt_hash(receipt)

    async def facts(self, after_block: int) -> AsyncIterator[ChainBatch]:
        """Confirmed facts for ever; a batch per new head, also empty."""
        block = max(after_block, self._config.first_block - 1)
        span = SPAN_BLOCKS
        if after_block > self._config.first_block:
            await self._remember(after_block)
        while True:
            head = number(await self._rpc.ask("eth_blockNumber"))
            safe = head - self._config.confirmations + 1
            if safe <= block:
                await trio.sleep(self._config.poll_s)
                continue
            to = min(safe, block + span)
            try:
                batch = await self._batch(block + 1, to)
            except RpcError:
                if span == 1:
                    raise
                span = max(1, span // 2)
                continue
            yield batch
            block = to

    async def _remember(self, until: int) -> None:
        """Learn who provides what in agreements opened before: their endings name an address."""
        for log in await self._logs(self._config.first_block, until):
            fact(log, 0, self._providers)

    async def _batch(self, first: int, last: int) -> ChainBatch:
        times: dict[int, int] = {}
        facts: list[ChainFact] = []
        for log in await self._logs(first, last):
            at = number(log["blockNumber"])
            if at not in times:
                times[at] = await self._time(at)
            try:
                found = fact(log, times[at], self._providers)
            except ValueError as problem:
                raise ChainError(f"an unreadable log: {problem}") from problem
            if found is not None:
                facts.append(found)
        return ChainBatch(last, times.get(last) or await self._time(last), tuple(facts))

    async def _logs(self, first: int, last: int) -> list[dict[str, Any]]:
        wanted = ["0x" + topic.hex() for topic in topics()]
        logs = await self._rpc.ask(
            "eth_getLogs",
            {
                "fromBlock": hex(first), "toBlock": hex(last), "topics": [wanted],
                "address": Web3.to_checksum_address(self._config.escrow),
            },
        )  # fmt: skip
        if not isinstance(logs, list) or not all(isinstance(log, dict) for log in logs):
            raise ChainError("the RPC endpoint answered something that is not a list of logs")
        try:
            kept = [log for log in logs if not log.get("removed")]
            for log in kept:
                if not first <= number(log["blockNumber"]) <= last:
                    raise ChainError("the RPC endpoint answered logs of other blocks")
            return sorted(
                kept, key=lambda log: (number(log["blockNumber"]), number(log["logIndex"]))
            )
        except KeyError as problem:
            raise ChainError("the RPC endpoint answered an incomplete log") from problem

    async def _time(self, block: int) -> int:
        header = await self._rpc.ask("eth_getBlockByNumber", hex(block), False)
        if not isinstance(header, dict):
            raise ChainError("the RPC endpoint does not know its own block")
        return number(header.get("timestamp"))

    async def _view(self, contract: str, to: bytes, function: str, *arguments: object) -> Any:
        data = call(contract, function, *arguments)
        answer = await self._rpc.ask(
            "eth_call", {"to": Web3.to_checksum_address(to), "data": data}, "latest"
        )
        return result(contract, function, raw(answer))

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger of one wallet."""
        owner, key = Web3.to_checksum_address(wallet), Web3.to_checksum_address(operator)
        token, escrow = Web3.to_checksum_address(self._config.token), self._config.escrow
        free, staked, thawing, thaws_at = await self._view(
            "Escrow", escrow, "balance", token, owner
        )
        allowance, expiry = await self._view("Escrow", escrow, "authorisation", owner, key, token)
        (units,) = await self._view("Escrow", escrow, "unitsTaken", owner)
        (tokens,) = await self._view("TestToken", self._config.token, "balanceOf", owner)
        gas = number(await self._rpc.ask("eth_getBalance", key, "latest"))
        return Account(
            wallet=wallet, free=free, stake=staked, locked=0, thawing=thawing, thaws_at_s=thaws_at,
            operator_allowance=allowance, operator_expires_at_s=expiry, tokens=tokens, gas=gas,
            units=units,
        )  # fmt: skip


@asynccontextmanager
async def open_chain(config: ChainConfig, operator_key: bytes) -> AsyncIterator[EthereumChain]:
    """The chain, once its id and the contract's presence are checked. Raises ChainError."""
    async with Rpc(config.urls) as rpc:
        found = number(await rpc.ask("eth_chainId"))
        if found != config.chain_id:
            raise ChainError(
                f"the RPC endpoint is on chain {found}, the configuration says {config.chain_id}",
                hint="point rpc at the right network",
            )
        code = raw(await rpc.ask("eth_getCode", Web3.to_checksum_address(config.escrow), "latest"))
        if not code:
            raise ChainError(
                f"there is no contract at 0x{config.escrow.hex()} on chain {found}",
                hint="check escrow in the configuration",
            )
        if len(code) * 2 + 2 != len(artifact("Escrow")["deployedBytecode"]):
            raise ChainError("the contract there is not this version's escrow")
        sender = Sender(rpc, operator_key, config.chain_id, config.fee_cap_wei)
        chain = EthereumChain(config, rpc, sender, _nothing(config))
        (symbol,) = await chain._view("TestToken", config.token, "symbol")
        (decimals,) = await chain._view("TestToken", config.token, "decimals")
        ((window, _, claim_window, _, _, _),) = await chain._view("Escrow", config.escrow, "limits")
        chain._info = ChainInfo(
            domain=Domain(config.chain_id, config.escrow), token=config.token,
            symbol=str(symbol)[:16], decimals=decimals, window_min_s=window,
            claim_window_min_s=claim_window, explorer=config.explorer,
        )  # fmt: skip
        yield chain


def _nothing(config: ChainConfig) -> ChainInfo:
    domain = Domain(config.chain_id, config.escrow)
    return ChainInfo(domain, config.token, "", 0, 0, 0, config.explorer)
