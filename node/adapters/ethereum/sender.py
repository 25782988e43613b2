"""Sender: one account's way onto the chain. Nothing is sent twice, nothing is left behind.

    order --> estimate --> [ nonce, sign, journal, broadcast ] --> pending --> mined --> settled
              a revert      one at a time per account              |  ^          |
              is found here                                 resend, bump         | dropped by a
                                                                   |  +----------+ reorganisation
                                                                   v
                                                        a gap before it is filled

Nonces come from what is pending and from the chain, never from a counter: a crash or a refusal
leaves none out. A transaction stays pending until it is so deep that no reorganisation takes it
back; `tend` sends again what the chain has lost, raises what is stuck (all its hashes are watched,
the first one mined counts) and fills nonces that nobody will ever use.
"""

from __future__ import annotations

import math
import time
from typing import Any, Final

import structlog
import trio
from eth_account import Account as KeyAccount
from web3 import Web3

from market.errors import ChainError, ChainRefusedError
from node.adapters.ethereum.answers import AnswerError, Receipt, mapping, number, receipt
from node.adapters.ethereum.contract import reason
from node.adapters.ethereum.fees import TIP_DEFAULT_WEI, Fees, raised, wanted
from node.adapters.ethereum.outbox import Outbox, Transaction
from node.adapters.ethereum.pending import Call, Pace, Pending
from node.adapters.ethereum.rpc import Rpc, RpcError

log = structlog.get_logger("chain")

GAS_MARGIN_PERCENT: Final = 130  # storage that others touch between estimate and block
GAS_PLAIN: Final = 21_000
URGED_MAX: Final = 16  # so many of the first in line are looked after; the others wait for them
GAPS_MAX: Final = 16
NONCES_AHEAD_MAX: Final = 10_000  # a chain that claims more of ours in its pool is lying
FEE_BLOCKS: Final = 5


class Sender:
    """Signs and sends for one key; any number of callers at once."""

    def __init__(
        self, rpc: Rpc, key: bytes, chain_id: int, fee_cap_wei: int, outbox: Outbox,
        pace: Pace | None = None,
    ) -> None:  # fmt: skip
        """`fee_cap_wei` bounds what one unit of gas may cost."""
        self._rpc = rpc
        self._account = KeyAccount.from_key(key)
        self._chain_id = chain_id
        self._fee_cap_wei = fee_cap_wei
        self._outbox = outbox
        self._pace = pace or Pace()
        self._turn = trio.Lock()
        self._tending = trio.Lock()
        self._pending: dict[int, Pending] = {}
        self._counts = dict.fromkeys(("sent", "resent", "raised", "dropped", "filled", "lost"), 0)
        self.trouble = ""

    @property
    def address(self) -> str:
        """Checksummed."""
        return str(self._account.address)

    def statistics(self) -> dict[str, int]:
        """Counters: sent, resent, raised, dropped by a reorganisation, gaps filled, nonces lost."""
        return {**self._counts, "pending": len(self.unmined())}

    def unmined(self) -> list[Pending]:
        """What waits for a block, by nonce."""
        return [self._pending[n] for n in sorted(self._pending) if not self._pending[n].receipt]

    async def load(self) -> None:
        """Take up what a former run has signed."""
        for sent in await self._outbox.load():
            entry = self._pending.get(sent.nonce)
            if entry is not None:
                entry.tries.append(sent)
            else:
                call = Call(sent.to, sent.data, sent.value)
                self._pending[sent.nonce] = Pending(sent.nonce, call, [sent], time.time())

    async def estimate(self, call: Call) -> int:
        """Gas it would take. Raises ChainRefusedError with the contract's reason if it reverts."""
        try:
            return await self._rpc.ask("eth_estimateGas", self._request(call), read=number)
        except RpcError as problem:
            if problem.data or "revert" in str(problem):
                raise ChainRefusedError(reason=reason(problem.data)) from problem
            raise self._poor(problem) from problem

    async def fees(self) -> Fees:
        """What a transaction would bid now. Raises ChainError if the cap does not allow it."""
        fees = await self._fees()
        if fees is None:
            raise ChainError(
                "gas costs more than the configured cap", hint="wait until gas is cheaper"
            )
        return fees

    async def send(self, call: Call, *, once: bool = False) -> Receipt:
        """Send it, wait until it is mined.

        With `once` the same call already on its way is waited for, and not sent again.
        Raises ChainRefusedError with the contract's reason if it reverts, ChainError otherwise.
        """
        entry = self._same(call) if once else None
        if entry is None:
            gas = await self.estimate(call) * GAS_MARGIN_PERCENT // 100
            async with self._turn:
                entry = self._same(call) if once else None
                if entry is None:
                    entry = await self._sign_and_send(call, gas)
        found = await self._mined(entry)
        if found.ok:
            return found
        try:
            await self._rpc.ask("eth_call", self._request(call), hex(found.block))
        except RpcError as problem:
            raise ChainRefusedError(reason=reason(problem.data)) from problem
        raise ChainRefusedError(reason="reverted")

    async def run(self) -> None:
        """Look after what is pending, for ever."""
        while True:
            try:
                await self.tend()
            except ChainError as problem:
                self.trouble = str(problem)
            # What is mined is only looked at to see whether it stays so.
            await trio.sleep(self._pace.look_s * (1 if self.unmined() else 4))

    async def tend(self) -> None:
        """One look at everything pending. Raises ChainError if the chain cannot be asked."""
        async with self._tending:
            if not self._pending:
                return
            used = await self._rpc.ask(
                "eth_getTransactionCount", self.address, "latest", read=number
            )
            head = await self._rpc.ask("eth_blockNumber", read=number)
            settled = []
            for nonce in sorted(self._pending):
                entry = self._pending[nonce]
                if nonce >= used:
                    continue
                await self._look_for_receipt(entry)
                deep = entry.receipt and head - entry.receipt.block >= self._pace.settled_blocks
                if deep or entry.gone:
                    settled.append(nonce)
            if settled:
                await self._outbox.forget(settled)
                for nonce in settled:
                    self._pending.pop(nonce).tell()
            waiting = [nonce for nonce in sorted(self._pending) if nonce >= used]
            for nonce in waiting[:URGED_MAX]:
                await self._urge(self._pending[nonce], first=nonce == waiting[0])
            await self._fill_gaps(used, waiting)
            self.trouble = self.trouble if waiting else ""

    # Sending.

    def _same(self, call: Call) -> Pending | None:
        return next((entry for entry in self.unmined() if entry.call == call), None)

    async def _sign_and_send(self, call: Call, gas: int) -> Pending:
        entry = await self._sign(call, gas, await self._next_nonce())
        try:
            await self._broadcast(entry)
        except ChainError:
            if not entry.receipt and len(entry.tries) == 1:
                self._pending.pop(entry.nonce, None)
                with trio.CancelScope(shield=True):
                    await self._outbox.forget([entry.nonce])
            raise
        return entry

    async def _sign(self, call: Call, gas: int, nonce: int) -> Pending:
        fees = await self.fees()
        sent = self._signed(call, gas, nonce, fees)
        entry = Pending(nonce, call, [sent], time.time())
        self._pending[nonce] = entry
        try:
            await self._outbox.put(sent)
        except BaseException:  # the nonce is nobody's again
            self._pending.pop(nonce, None)
            raise
        self._counts["sent"] += 1
        return entry

    def _signed(self, call: Call, gas: int, nonce: int, fees: Fees) -> Transaction:
        fields: dict[str, Any] = {
            "type": 2, "chainId": self._chain_id, "nonce": nonce, "gas": gas,
            "maxFeePerGas": fees.most, "maxPriorityFeePerGas": fees.tip,
            "value": call.value, "data": call.data,
        }  # fmt: skip
        if call.to:
            fields["to"] = Web3.to_checksum_address(call.to)
        signed = self._account.sign_transaction(fields)
        return Transaction(
            nonce, bytes(signed.hash), bytes(signed.raw_transaction), call.to, call.data,
            call.value, gas, fees.most, fees.tip,
        )  # fmt: skip

    async def _next_nonce(self) -> int:
        known = await self._rpc.ask("eth_getTransactionCount", self.address, "pending", read=number)
        ours = max(self._pending, default=-1) + 1
        if self._pending and known > ours + NONCES_AHEAD_MAX:
            raise AnswerError(f"the RPC endpoint says that {self.address} has sent {known}")
        return max(known, ours)

    async def _fees(self) -> Fees | None:
        tip = TIP_DEFAULT_WEI
        try:
            history = await self._rpc.ask(
                "eth_feeHistory", hex(FEE_BLOCKS), "latest", [50], read=mapping
            )
            base = number(history["baseFeePerGas"][-1])
            tips = sorted(number(row[0]) for row in history.get("reward") or [] if row)
            tip = tips[len(tips) // 2] if tips else tip
        except (RpcError, AnswerError, LookupError, TypeError):  # not every chain has it
            base = (await self._rpc.head()).base_fee_wei * BASE_STEP[0] // BASE_STEP[1]
        return wanted(base, tip, self._fee_cap_wei)

    async def _broadcast(self, entry: Pending) -> None:
        """Send the newest try. An endpoint that does not answer may have taken it: that is fine."""
        entry.seen_at = trio.current_time()
        entry.raised_at = min(entry.raised_at, entry.seen_at)
        try:
            await self._rpc.ask("eth_sendRawTransaction", "0x" + entry.tries[-1].raw.hex())
        except RpcError as problem:
            said = str(problem).lower()
            if any(words in said for words in _TAKEN):
                return
            if any(words in said for words in _CHEAP):
                entry.raised_at = -math.inf  # raise it at the next look
                return
            raise self._poor(problem) from problem
        except ChainError as problem:
            self.trouble = str(problem)

    def _poor(self, problem: RpcError) -> ChainError:
        if "insufficient funds" in str(problem).lower():
            self.trouble = f"{self.address} has not enough coin for gas"
            return ChainError(self.trouble, hint="send it some of the chain's own coin")
        return problem

    def _request(self, call: Call) -> dict[str, Any]:
        request = {"from": self.address, "data": call.data, "value": hex(call.value)}
        if call.to:
            request["to"] = Web3.to_checksum_address(call.to)
        return request

    # Looking after what was sent.

    async def _mined(self, entry: Pending) -> Receipt:
        pause_s = min(0.02, self._pace.look_s)
        unreachable: ChainError | None = None
        with trio.move_on_after(self._pace.give_up_s):
            while not entry.over:
                news = entry.news
                try:
                    await self.tend()
                    unreachable = None
                except ChainError as problem:
                    unreachable = problem
                with trio.move_on_after(pause_s):  # at once, if the look brought news
                    await news.wait()
                pause_s = min(pause_s * 1.5, self._pace.look_s)
        if entry.receipt is not None:
            return entry.receipt
        if entry.gone:
            raise ChainError(
                f"another program sends with the key of {self.address}",
                hint="give each node a data directory and keys of its own",
            )
        raise unreachable or ChainError(
            f"transaction 0x{entry.tries[-1].hash.hex()} was not mined in time",
            hint="it may still be: look it up before you send anew",
        )

    async def _look_for_receipt(self, entry: Pending) -> None:
        if entry.receipt is not None:
            return
        for sent in reversed(entry.tries):
            name = "0x" + sent.hash.hex()
            found = await self._rpc.ask("eth_getTransactionReceipt", name, read=receipt)
            if found is not None:
                entry.receipt = found
                entry.tell()
                return
        now = trio.current_time()
        entry.used_at = min(entry.used_at, now)
        if now - entry.used_at > self._pace.lost_s:
            entry.gone = True
            self._counts["lost"] += 1
            log.error("a nonce of ours was used by somebody else", nonce=entry.nonce)
            entry.tell()

    async def _urge(self, entry: Pending, *, first: bool) -> None:
        now = trio.current_time()
        entry.used_at = math.inf
        if entry.receipt is not None:  # its block is no more: the chain was reorganised
            entry.receipt = None
            self._counts["dropped"] += 1
            log.warning("a transaction was dropped by a reorganisation; it is sent again",
                        nonce=entry.nonce)  # fmt: skip
            await self._resend(entry)
        elif now - entry.seen_at >= self._pace.resend_s:
            name = "0x" + entry.tries[-1].hash.hex()
            if await self._rpc.ask("eth_getTransactionByHash", name) is None:
                self._counts["resent"] += entry.seen_at > -math.inf
                await self._resend(entry)
            else:
                entry.seen_at = now
                entry.raised_at = min(entry.raised_at, now)
        if first and now - entry.raised_at >= self._pace.stuck_s:
            await self._raise_fees(entry)

    async def _resend(self, entry: Pending) -> None:
        try:
            await self._broadcast(entry)
        except ChainError as problem:
            self.trouble = str(problem)

    async def _raise_fees(self, entry: Pending) -> None:
        last = entry.tries[-1]
        entry.raised_at = trio.current_time()
        now = await self._fees()
        more = raised(Fees(last.most, last.tip), now or Fees(0, 0), self._fee_cap_wei)
        if more is None:
            self.trouble = "gas costs more than the configured cap; waiting until it is cheaper"
            return
        sent = self._signed(entry.call, last.gas, entry.nonce, more)
        await self._outbox.put(sent)
        entry.tries.append(sent)
        self._counts["raised"] += 1
        await self._resend(entry)

    async def _fill_gaps(self, used: int, waiting: list[int]) -> None:
        """A nonce that no transaction has holds up all after it: spend it on nothing."""
        if not waiting or (waiting[-1] - used) < len(waiting):
            return
        missing = [nonce for nonce in range(used, waiting[-1]) if nonce not in self._pending]
        known = await self._rpc.ask("eth_getTransactionCount", self.address, "pending", read=number)
        own = bytes.fromhex(self.address[2:])
        for nonce in missing[:GAPS_MAX]:
            if nonce < known:
                continue  # the pool has one there that we do not know
            async with self._turn:
                if nonce not in self._pending:
                    await self._resend(await self._sign(Call(own, "0x"), GAS_PLAIN, nonce))
                    self._counts["filled"] += 1


BASE_STEP: Final = (9, 8)  # by how much the base fee may rise from one block to the next
_TAKEN: Final = (
    "already known", "already imported", "already in mempool", "known transaction",
    "nonce too low", "already exists",
)  # fmt: skip
_CHEAP: Final = (
    "underpriced", "less than block base fee", "fee too low", "lower than the current base fee",
)  # fmt: skip
