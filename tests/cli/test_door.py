"""The TCP door under attack: names, origins, tokens, sessions, floods, slow and large bodies."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from eth_account import Account
from eth_account.messages import encode_defunct

from market.errors import RefusedError, SignatureError, SpecError
from node.web import guard
from node.web.server import Guests, _listen_tcp
from node.web.sessions import (
    CHALLENGE_S,
    SESSION_S,
    SIGN_IN,
    Rates,
    Session,
    Sessions,
    checksum_address,
)
from tests.cli.test_api import local, remote, serving

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
WALLET = bytes.fromhex(Account.from_key(KEY).address[2:])


def signed(message: str, key: bytes = KEY) -> str:
    return "0x" + bytes(Account.sign_message(encode_defunct(message.encode()), key).signature).hex()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", ""])
async def test_a_rebound_name_is_not_answered(tmp_path: Path, host: str) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        async with client:
            for path in ("/", "/app.js", "/api/status", "/healthz", f"/?token={token}"):
                answer = await client.get(path, headers={"host": host})
                assert answer.status_code in (400, 421), path
                assert "set-cookie" not in answer.headers


async def test_the_page_is_served_with_a_strict_policy(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, _ = remote(at)
        async with client:
            for path in ("/", "/jobs", "/jobs/abc", "/network", "/?gpu=H100"):
                answer = await client.get(path)
                assert answer.status_code == 200
                assert "default-src 'self'" in answer.headers["content-security-policy"]
                assert "unsafe" not in answer.headers["content-security-policy"]
                assert answer.headers["x-frame-options"] == "DENY"
                assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            again = await client.get("/app.js", headers={"if-none-match": "x"})
            same = {"if-none-match": again.headers["etag"]}
            assert (await client.get("/app.js", headers=same)).status_code == 304
            assert (await client.get("/nothing.js")).status_code == 404
            lost = await client.get("/nothing", headers={"accept": "text/html"})
            assert (lost.status_code, lost.headers["content-type"][:9]) == (404, "text/html")


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/..%2f..%2fpyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
     "/vendor/../../api.py", "/vendor/..%5c..%5capi.py", "/pages.py", "/static/index.html", "/%00"],
)  # fmt: skip
async def test_no_path_leads_out_of_the_static_files(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as (at, _):
        assert at.url is not None
        host = at.url.removeprefix("http://").partition("/")[0]
        name, _, port = host.partition(":")
        stream = await trio.open_tcp_stream(name, int(port))
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        async with stream:
            await stream.send_all(request.encode())
            said = b"".join([part async for part in stream])
        assert said.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), said[:80]
        assert b"problem+json" in said or b"400" in said[:20]


async def test_a_change_needs_our_own_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        assert at.url is not None
        own = at.url.partition("/?")[0]
        async with client:
            await client.get(f"/?token={token}")
            body = json.dumps({"spec": {"name": "x"}})
            cases = [
                ({}, 403),  # a form of another site: the cookie is there, its origin is hidden
                ({"origin": "https://evil.example"}, 403),
                ({"origin": "null"}, 403),
                ({"origin": own.replace("127.0.0.1", "127.0.0.2")}, 403),
                ({"sec-fetch-site": "cross-site"}, 403),
                ({"sec-fetch-site": "same-site"}, 403),  # another port of this machine
                ({"origin": own}, 422),
                ({"sec-fetch-site": "same-origin"}, 422),
            ]
            for headers, status in cases:
                sent = {**headers, "content-type": "application/json"}
                answer = await client.post("/api/validate", content=body, headers=sent)
                assert answer.status_code == status, headers
                assert answer.headers["content-type"] == "application/problem+json"
            assert (await client.post("/api/validate", content=body, headers={
                "authorization": f"Bearer {token}"})).status_code == 422  # fmt: skip


async def test_the_token_outlives_the_node_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        first = remote(at)[1]
        assert (tmp_path / "web.token").stat().st_mode & 0o777 == 0o600
    async with serving(tmp_path) as (at, _):
        assert remote(at)[1] == first
    os.chmod(tmp_path / "web.token", 0o644)
    (tmp_path / "web.token").write_text("ab" * 16)  # somebody else may have read it: drawn anew
    async with serving(tmp_path) as (at, _):
        assert remote(at)[1] != "ab" * 16
        assert (tmp_path / "web.token").stat().st_mode & 0o777 == 0o600


async def test_a_wallet_signs_in_and_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        assert at.url is not None
        own = {"origin": at.url.partition("/?")[0]}
        async with client:
            await client.get(f"/?token={token}")
            asked = {"wallet": "0x" + WALLET.hex()}
            made = (await client.post("/api/session/challenge", json=asked, headers=own)).json()
            assert checksum_address(WALLET) in made["message"]
            assert own["origin"] in made["message"]
            answer = {"nonce": made["nonce"], "signature": signed(made["message"])}
            done = await client.post("/api/session", json=answer, headers=own)
            assert (done.status_code, done.json()["wallet"]) == (201, checksum_address(WALLET))
            assert "HttpOnly" in done.headers["set-cookie"]
            assert "SameSite=strict" in done.headers["set-cookie"]
            assert (await client.get("/api/session")).json()["wallet"] == checksum_address(WALLET)
            again = await client.post("/api/session", json=answer, headers=own)
            assert again.status_code == 409  # a signature counts once
            await client.request("DELETE", "/api/session", json={}, headers=own)
            assert (await client.get("/api/session")).json()["wallet"] is None


async def no_contract(wallet: bytes, digest: bytes, signature: bytes) -> None:
    raise SignatureError("no contract there")


async def test_a_session_is_only_for_who_signed() -> None:
    draw = iter(range(1, 100))
    sessions = Sessions(lambda size: next(draw).to_bytes(size, "big"), frozenset({WALLET}))

    async def enter(at: float, key: bytes = KEY, late_s: float = 1.0) -> tuple[str, Session]:
        made = sessions.challenge(WALLET, 1, "https://souk.example", at)
        signature = bytes.fromhex(signed(made.message, key)[2:])
        return await sessions.sign_in(
            made.nonce, signature, at + late_s, known=False, vouch=no_contract
        )

    other = bytes.fromhex("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a")
    with pytest.raises(SignatureError):
        await enter(1000.0, other)
    with pytest.raises(RefusedError):
        await enter(1000.0, late_s=CHALLENGE_S)
    name, session = await enter(2000.0)
    assert sessions.may_enter(session)
    assert sessions.find(name, 2002.0) == session
    assert sessions.find(name, 2001.0 + SESSION_S) is None
    assert sessions.find("", 2002.0) is None


async def test_a_strangers_contract_is_not_asked() -> None:
    asked: list[bytes] = []

    async def vouch(wallet: bytes, digest: bytes, signature: bytes) -> None:
        asked.append(wallet)

    sessions = Sessions(os.urandom, frozenset({WALLET}))
    for wallet, known, enters in ((b"\x11" * 20, False, False), (WALLET, False, True),
                                  (b"\x11" * 20, True, True)):  # fmt: skip
        made = sessions.challenge(wallet, 1, "https://souk.example", 1000.0)
        asked.clear()
        work = partial(sessions.sign_in, made.nonce, b"any bytes", 1001.0, known=known, vouch=vouch)
        if enters:
            assert (await work())[1].wallet == wallet
        else:
            with pytest.raises(SignatureError, match="may not use this node"):
                await work()
        assert asked == [wallet] * enters


def test_the_message_is_that_of_eip_4361() -> None:
    sessions = Sessions(lambda size: b"\x01" * size, frozenset())
    lines = sessions.challenge(WALLET, 31337, "http://localhost:8750", 0.0).message.split("\n")
    assert lines[0] == "localhost:8750 wants you to sign in with your Ethereum account:"
    assert lines[1] == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    assert lines[5:] == [
        "URI: http://localhost:8750", "Version: 1", "Chain ID: 31337", "Nonce: " + "01" * 16,
        "Issued At: 1970-01-01T00:00:00Z", "Expiration Time: 1970-01-01T00:05:00Z",
    ]  # fmt: skip


async def test_whoever_hurries_has_to_wait(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        assert at.url is not None
        own = {"origin": at.url.partition("/?")[0]}
        async with client:
            asked = {"wallet": "0x" + WALLET.hex()}
            seen = [
                (await client.post("/api/session/challenge", json=asked, headers=own)).status_code
                for _ in range(int(SIGN_IN.burst) + 10)
            ]
            assert seen[0] == 200
            assert 429 in seen
            known = {"authorization": f"Bearer {token}"}
            assert (await client.get("/api/status", headers=known)).status_code == 200


def test_a_rate_is_a_bucket() -> None:
    rates = Rates()
    for _ in range(int(SIGN_IN.burst)):
        rates.take("a", SIGN_IN, 5.0)
    with pytest.raises(guard.LimitError):
        rates.take("a", SIGN_IN, 5.0)
    rates.take("b", SIGN_IN, 5.0)  # others do not wait for it
    rates.take("a", SIGN_IN, 6.5)  # and it goes on as time passes
    with pytest.raises(guard.LimitError):
        rates.take("a", SIGN_IN, 6.5)


async def test_a_body_that_stops_is_shown_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_STALL_S", 0.2)
    async with serving(tmp_path) as (at, _):
        stream = await trio.open_unix_socket(str(at.socket_path))
        head = "POST /api/validate HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n"
        async with stream:
            await stream.send_all((head + "Content-Type: application/json\r\n\r\n{").encode())
            with trio.fail_after(10):
                said = await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 408"), said[:60]
        async with local(at) as client:  # and the node goes on
            assert (await client.get("/api/status")).status_code == 200


def test_a_port_for_all_needs_names_and_wallets() -> None:
    with pytest.raises(SpecError, match="is not this machine"):
        _listen_tcp("0.0.0.0", 0, Guests())
    with pytest.raises(SpecError, match="is not this machine"):
        _listen_tcp("0.0.0.0", 0, Guests(wallets=frozenset({WALLET})))
    _listen_tcp("0.0.0.0", 0, Guests(frozenset({WALLET}), ("souk.example",))).close()


async def test_an_exposed_node_lets_in_only_the_wallets_it_names(tmp_path: Path) -> None:
    guests = Guests(frozenset({WALLET}), ("souk.example",))
    async with serving(tmp_path, guests=guests) as (at, _):
        assert at.url is not None
        place = at.url.partition("/?")[0]
        headers = {"host": "souk.example", "origin": "https://souk.example"}
        async with httpx.AsyncClient(base_url=place, headers=headers) as client:
            assert (await client.get("/api/jobs")).status_code == 401
            for key, status in ((KEY, 201), (bytes([7]) * 32, 422)):
                wallet = "0x" + Account.from_key(key).address[2:]
                asked = {"wallet": wallet}
                made = (await client.post("/api/session/challenge", json=asked)).json()
                answer = {"nonce": made["nonce"], "signature": signed(made["message"], key)}
                done = await client.post("/api/session", json=answer)
                assert done.status_code == status, done.text
                if status == 201:
                    assert "Secure" in done.headers["set-cookie"]
                    name, _, value = done.headers["set-cookie"].partition(";")[0].partition("=")
                    cookie = {"cookie": f"{name}={value}"}
                    assert (await client.get("/api/jobs", headers=cookie)).status_code == 200
            assert (await client.get("/api/jobs")).status_code == 401
