"""Sessions over HTTP: who this browser is, and signing in with a wallet (EIP-4361)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from node.web.sessions import SESSION_S, Sessions, checksum_address

if TYPE_CHECKING:
    from node.control import Control

SIGNATURE_BYTES_MAX: Final = 4096  # a contract's may name dozens of owners; a key's has 65


class Asking(BaseModel):
    """The account that wants to sign in."""

    model_config = ConfigDict(extra="forbid")
    wallet: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{40}$")]


class Answering(BaseModel):
    """The signature over the message that was handed out under this nonce."""

    model_config = ConfigDict(extra="forbid")
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    signature: Annotated[
        str, Field(pattern=r"^0x([0-9a-fA-F]{2})+$", max_length=2 + 2 * SIGNATURE_BYTES_MAX)
    ]


def session_routes(control: Control, sessions: Sessions) -> APIRouter:
    """/api/session."""
    router = APIRouter()

    async def vouch(wallet: bytes, digest: bytes, signature: bytes) -> None:
        await control.wallet.vouch(wallet, digest, signature)

    @router.get("/api/session")
    async def who(request: Request) -> dict[str, Any]:
        """What this browser may do: `operator` holds the node's token, `wallet` has signed in."""
        state = request.scope.get("state", {})
        session = state.get("session")
        operator = bool(state.get("local") or state.get("operator"))
        return {
            "operator": operator,
            "wallet": checksum_address(session.wallet) if session else None,
            "expires": session.expires_at if session else None,
            "may_enter": operator or (session is not None and sessions.may_enter(session)),
            "wallets_may_enter": bool(sessions.wallets),
        }

    @router.post("/api/session/challenge")
    async def challenge(asking: Asking, request: Request) -> dict[str, str]:
        """A message for the wallet to sign with personal_sign."""
        origin = request.headers.get("origin") or f"http://{request.headers.get('host', 'local')}"
        made = sessions.challenge(
            bytes.fromhex(asking.wallet[2:]),
            control.ports.chain.info.domain.chain_id,
            origin,
            control.ports.clock.now(),
        )
        return {"nonce": made.nonce, "message": made.message}

    @router.post("/api/session", status_code=201)
    async def sign_in(answering: Answering, request: Request) -> JSONResponse:
        """Check the signature and remember this browser by a cookie that no script can read."""
        known = bool(request.scope.get("state", {}).get("operator"))
        name, session = await sessions.sign_in(
            answering.nonce,
            bytes.fromhex(answering.signature[2:]),
            control.ports.clock.now(),
            known=known,
            vouch=vouch,
        )
        answer = JSONResponse({"wallet": checksum_address(session.wallet)}, status_code=201)
        secure = request.headers.get("origin", "").startswith("https:")
        answer.set_cookie(_cookie(request), name, max_age=SESSION_S, httponly=True,
                          samesite="strict", secure=secure)  # fmt: skip
        return answer

    @router.delete("/api/session", status_code=200)
    async def sign_out(request: Request) -> JSONResponse:
        """Forget this browser's wallet."""
        sessions.end(request.cookies.get(_cookie(request), ""))
        answer = JSONResponse({"wallet": None})
        answer.delete_cookie(_cookie(request), httponly=True, samesite="strict")
        return answer

    return router


def _cookie(request: Request) -> str:
    return str(request.scope.get("state", {}).get("session_cookie", "souk_wallet"))
