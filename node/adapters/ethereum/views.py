"""Views: the escrow as it is now, read by web3.py; and whether it is the one that is meant."""

from __future__ import annotations

from typing import Final

from web3 import AsyncWeb3

from market.errors import ChainError
from market.ledger import ledger_of
from market.signing import Domain
from node.adapters.ethereum.answers import AnswerError, number, raw
from node.adapters.ethereum.deployment import check_code
from node.adapters.ethereum.history import History
from node.adapters.ethereum.provider import Contracts
from node.adapters.ethereum.rpc import Rpc, RpcError
from node.adapters.ethereum.settings import ChainConfig
from node.ports import Account, ChainInfo

DECIMALS_MAX: Final = 36


class Views:
    """Asks one escrow about one token."""

    def __init__(self, config: ChainConfig, rpc: Rpc, history: History) -> None:
        """Asks nothing yet."""
        self._config = config
        self._rpc = rpc
        self._history = history
        self._contracts = Contracts(rpc, config.escrow)
        self._coin = self._contracts.at("TestToken", config.token).functions

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger of one wallet: the contract's views at one block, and the logs up to it."""
        head = (await self._rpc.head()).number
        owner = AsyncWeb3.to_checksum_address(wallet)
        key = AsyncWeb3.to_checksum_address(operator)
        token = AsyncWeb3.to_checksum_address(self._config.token)
        escrow, view = self._contracts.escrow.functions, self._contracts.view
        free, staked, thawing, thaws_at = await view(escrow.balance(token, owner), head)
        allowance, expiry = await view(escrow.authorisation(owner, key, token), head)
        units = await view(escrow.unitsTaken(owner), head)
        tokens = await view(self._coin.balanceOf(owner), head)
        gas = await self._rpc.ask("eth_getBalance", key, hex(head), read=number)
        ledger = ledger_of(await self._history.of(wallet, head))
        return Account(
            wallet=wallet, free=free, stake=staked,
            locked=ledger.locked(self._config.token, wallet),
            thawing=thawing, thaws_at_s=thaws_at, operator_allowance=allowance,
            operator_expires_at_s=expiry, tokens=tokens, gas=gas, units=units,
        )  # fmt: skip

    async def spendable(self, wallet: bytes, operator: bytes) -> int:
        """What `operator` may lock of the wallet's money at the newest block: two views."""
        head = await self._rpc.head()
        owner = AsyncWeb3.to_checksum_address(wallet)
        key = AsyncWeb3.to_checksum_address(operator)
        token = AsyncWeb3.to_checksum_address(self._config.token)
        escrow, view = self._contracts.escrow.functions, self._contracts.view
        free, _, _, _ = await view(escrow.balance(token, owner), head.number)
        if wallet == operator:
            return int(free)
        allowance, expiry = await view(escrow.authorisation(owner, key, token), head.number)
        return int(min(free, allowance)) if expiry >= head.at_s else 0

    async def deployed_at(self) -> int:
        """The block in which the escrow came into being, by halving; 0 if the endpoint forgets.

        Only worth it on a long chain: logs before it need not be read.
        """
        escrow = AsyncWeb3.to_checksum_address(self._config.escrow)
        low, high = 0, (await self._rpc.head()).number
        while low < high:
            middle = (low + high) // 2
            try:
                code = await self._rpc.ask("eth_getCode", escrow, hex(middle), read=raw)
            except RpcError:  # no archive
                return 0
            low, high = (low, middle) if code else (middle + 1, high)
        return low

    async def burned(self) -> int:
        """What was slashed and given to nobody."""
        token = AsyncWeb3.to_checksum_address(self._config.token)
        return int(await self._contracts.view(self._contracts.escrow.functions.burned(token)))

    async def check(self) -> ChainInfo:
        """Whether there is this version's escrow, and a token; what both say of themselves.

        Raises ChainError with what to correct.
        """
        await self._check_code()
        view = self._contracts.view
        try:
            symbol, decimals = await view(self._coin.symbol()), await view(self._coin.decimals())
        except (RpcError, AnswerError) as problem:
            raise ChainError(
                f"0x{self._config.token.hex()} is not a token", hint="check token"
            ) from problem
        if decimals > DECIMALS_MAX:
            raise ChainError(f"the token has {decimals} decimals", hint="check token")
        window, _, claim_window, *_ = await view(self._contracts.escrow.functions.limits())
        shown = "".join(letter for letter in str(symbol) if letter.isprintable())[:16]
        return ChainInfo(
            domain=Domain(self._config.chain_id, self._config.escrow), token=self._config.token,
            symbol=shown, decimals=decimals, window_min_s=window,
            claim_window_min_s=claim_window, explorer=self._config.explorer,
        )  # fmt: skip

    async def _check_code(self) -> None:
        escrow = AsyncWeb3.to_checksum_address(self._config.escrow)
        code = await self._rpc.ask("eth_getCode", escrow, "latest", read=raw)
        check_code("Escrow", code, self._config.escrow, self._config.chain_id)
