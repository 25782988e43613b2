"""The page's wallet over HTTP: holdings, transactions to sign, and what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from node.control import Control

AddressText = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]
Amount = Annotated[str, Field(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Call(_Strict):
    """An errand: approve, deposit, deposit_with_permit, withdraw, stake, unstake,
    complete_unstake, authorise or revoke, with the fields it needs.
    """

    wallet: AddressText
    kind: Annotated[str, Field(max_length=32)]
    amount: Amount | None = None
    allowance: Amount | None = None
    expires: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    deadline: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{130}$")] | None = None


class PermitFor(_Strict):
    """Whose tokens, and how many."""

    wallet: AddressText
    amount: Amount


class Sent(_Strict):
    """A transaction that a wallet has sent."""

    tx: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{64}$")]
    what: Annotated[str, Field(max_length=128)]
    wallet: AddressText


def wallet_routes(control: Control) -> APIRouter:
    """/api/wallets/… and /api/transactions."""
    router = APIRouter()

    @router.get("/api/chain")
    async def chain() -> dict[str, Any]:
        """The chain as a wallet wants to know it when it is added (EIP-3085)."""
        return control.wallet.chain()

    @router.get("/api/wallets/{address}")
    async def holdings(
        address: Annotated[str, PathParameter(pattern=r"^0x[0-9a-fA-F]{40}$")],
    ) -> dict[str, Any]:
        """What escrow and token hold for a wallet, and what this node's key may use of it."""
        return await control.wallet.holdings(_address(address))

    @router.post("/api/wallets/call")
    async def call(asked: Call) -> dict[str, Any]:
        """The transaction to sign, and why the chain would refuse it, if it would."""
        fields = asked.model_dump(exclude={"wallet", "kind"}, exclude_none=True)
        return await control.wallet.prepare(_address(asked.wallet), asked.kind, fields)

    @router.post("/api/wallets/permit")
    async def permit(asked: PermitFor) -> dict[str, Any]:
        """Typed data (EIP-712) of an EIP-2612 permit; null if the token has none."""
        return await control.wallet.permit(_address(asked.wallet), asked.amount)

    @router.get("/api/transactions")
    async def transactions() -> list[dict[str, Any]]:
        """What pages have sent, newest first."""
        return control.wallet.watched()

    @router.post("/api/transactions", status_code=201)
    async def watch(sent: Sent) -> dict[str, Any]:
        """Watch a transaction; `money` in the events says when there is news of it."""
        return control.wallet.watch(bytes.fromhex(sent.tx[2:]), sent.what, _address(sent.wallet))

    return router


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:])
