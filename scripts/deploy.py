"""Deploy: the escrow and the test token onto a chain, at an address known beforehand.

    python -m scripts.deploy sepolia --rpc URL --keystore FILE --password-file FILE
    python -m scripts.deploy sepolia --rpc URL --check          # only look; needs no key
    python -m scripts.deploy custom --chain-id N --windows testnet --rpc URL ...

    wrong chain id --> refuse          deployer absent --> put it there (its known transaction)
    our code there --> nothing to do   other code there --> refuse
    absent --> CREATE2 --> look at code hash, windows, domain --> contracts/deployments/<chain>.json

Safe to repeat: what stands already is checked and not sent again. The key comes out of a keystore
(v3) and never out of an argument.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from eth_keyfile.keyfile import decode_keyfile_json
from web3 import Web3

from market.errors import ChainError, MarketError
from market.signing import keccak
from node.adapters.ethereum.answers import number, raw
from node.adapters.ethereum.contract import call, result
from node.adapters.ethereum.deployment import (
    DEPLOYER,
    DEPLOYER_CODE,
    DEPLOYER_COST_WEI,
    DEPLOYER_SIGNER,
    DEPLOYER_TX,
    LOCAL,
    NETWORKS,
    SALT,
    TESTNET,
    Network,
    address_of,
    check_code,
    code_hash,
    init_code,
)
from node.adapters.ethereum.outbox import Outbox
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.rpc import Rpc, RpcError
from node.adapters.ethereum.sender import Sender

WINDOWS: Final = {"local": LOCAL, "testnet": TESTNET}
FOLDER: Final = Path(__file__).resolve().parents[1] / "contracts" / "deployments"
FEE_CAP_WEI: Final = 200_000_000_000
DEPLOYER_LOOKS: Final = 120  # a second apart
KEYSTORE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """One contract as it stands. `tx` is empty and `block` 0 if somebody else put it there."""

    address: bytes
    code_hash: bytes
    tx: bytes = b""
    block: int = 0


class Deployment:
    """One run on one chain. Without a sender it only looks."""

    def __init__(self, rpc: Rpc, network: Network, sender: Sender | None) -> None:
        """The RPC has been told the chain id and refuses others."""
        self._rpc = rpc
        self._network = network
        self._sender = sender

    async def run(self, *, token: bool) -> dict[str, Any]:
        """Bring everything there and describe it. Raises ChainError."""
        found = await self._rpc.ask("eth_chainId", read=number)
        if found != self._network.chain_id:
            raise ChainError(
                f"the endpoint is on chain {found}, {self._network.name} is "
                f"{self._network.chain_id}",
                hint="point --rpc at the right network, or name the one it is on",
            )
        windows = self._network.windows
        escrow = await self._contract("Escrow", windows.argument)
        await self._check_escrow(escrow.address)
        described: dict[str, Any] = {
            "network": self._network.name,
            "chainId": self._network.chain_id,
            "deployer": _hex(DEPLOYER),
            "salt": "0x" + SALT.hex(),
            "contracts": {"Escrow": {**_described(escrow), "constants": windows.as_json()}},
        }
        if token:
            coin = await self._contract("TestToken", b"")
            described["contracts"]["TestToken"] = _described(coin)
        return described

    async def _contract(self, name: str, argument: bytes) -> Found:
        code = init_code(name, argument)
        at = address_of(code)
        there = await self._code(at)
        tx, block = b"", 0
        if not there:
            if self._sender is None:
                raise ChainError(f"{name} is not deployed: nothing is at {_hex(at)}")
            await self._deployer()
            _say(f"{name}: deploying to {_hex(at)}")
            made = await self._sender.send(Call(DEPLOYER, "0x" + SALT.hex() + code.hex()))
            tx, block, there = made.tx, made.block, await self._code(at)
        check_code(name, there, at, self._network.chain_id)
        _say(f"{name}: {_hex(at)}, code {code_hash(name, there).hex()[:16]}…, as built")
        return Found(at, code_hash(name, there), tx, block)

    async def _deployer(self) -> None:
        """The deployer itself: no key of ours, one transaction that everybody knows."""
        if await self._code(DEPLOYER) == DEPLOYER_CODE:
            return
        assert self._sender is not None
        purse = await self._rpc.ask("eth_getBalance", _hex(DEPLOYER_SIGNER), "latest", read=number)
        if purse < DEPLOYER_COST_WEI:
            await self._sender.send(Call(DEPLOYER_SIGNER, "0x", DEPLOYER_COST_WEI - purse))
        _say(f"deployer: sending its transaction to make {_hex(DEPLOYER)}")
        try:
            await self._rpc.ask("eth_sendRawTransaction", DEPLOYER_TX, read=raw)
        except RpcError as problem:
            raise ChainError(
                f"this chain does not take the deployer's transaction: {problem}",
                hint="it must allow transactions without a chain id, or have the deployer already",
            ) from problem
        for _ in range(DEPLOYER_LOOKS):
            if await self._code(DEPLOYER) == DEPLOYER_CODE:
                return
            await trio.sleep(1)
        raise ChainError("the deployer's transaction was not mined in time")

    async def _check_escrow(self, at: bytes) -> None:
        """Constants, as the contract itself tells them."""
        (limits,) = await self._view(at, "limits")
        if tuple(limits) != astuple(self._network.windows):
            raise ChainError(f"the escrow at {_hex(at)} has other windows: {tuple(limits)}")
        _, name, version, chain_id, contract, _, _ = await self._view(at, "eip712Domain")
        said = (name, version, chain_id, bytes.fromhex(contract[2:]))
        if said != ("gridsouk", "1", self._network.chain_id, at):
            raise ChainError(f"the escrow at {_hex(at)} signs for another domain: {said}")
        (separator,) = await self._view(at, "domainSeparator")
        if separator != _separator(self._network.chain_id, at):
            raise ChainError(f"the escrow at {_hex(at)} has another domain separator")

    async def _view(self, at: bytes, function: str) -> tuple[Any, ...]:
        asked = {"to": _hex(at), "data": call("Escrow", function)}
        answer = await self._rpc.ask("eth_call", asked, "latest", read=raw)
        return result("Escrow", function, answer)

    async def _code(self, at: bytes) -> bytes:
        return await self._rpc.ask("eth_getCode", _hex(at), "latest", read=raw)


def record(described: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Write <chain>.json; a transaction that an earlier run knew is kept."""
    path = folder / f"{described['chainId']}.json"
    if path.exists():
        known = json.loads(path.read_text()).get("contracts", {})
        for name, contract in described["contracts"].items():
            former = known.get(name, {})
            if not contract["tx"] and former.get("address") == contract["address"]:
                contract.update(tx=former["tx"], block=former["block"])
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, indent=2) + "\n")
    return path


def unlock(keystore: Path, password_file: Path) -> bytes:
    """The key in a v3 keystore. Raises MarketError, which names neither key nor password."""
    try:
        with keystore.open("rb") as file:
            locked = json.loads(file.read(KEYSTORE_BYTES_MAX))
        password = password_file.read_bytes().rstrip(b"\r\n")
        return bytes(decode_keyfile_json(locked, password))
    except OSError as problem:
        raise MarketError(f"{problem.filename}: {problem.strerror}") from problem
    except (ValueError, KeyError, TypeError, NotImplementedError) as problem:
        raise MarketError(
            f"{keystore} does not open with the password in {password_file}",
            hint="it must be a keystore v3 file, and the password's first line its password",
        ) from problem


async def deploy(
    network: Network, urls: tuple[str, ...], key: bytes | None, *, token: bool = True
) -> dict[str, Any]:
    """One run. `key` None: only look. Raises MarketError."""
    async with Rpc(urls, network.chain_id) as rpc:
        sender = None
        if key is not None:
            sender = Sender(rpc, key, network.chain_id, FEE_CAP_WEI, Outbox.in_memory())
        return await Deployment(rpc, network, sender).run(token=token)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if everything stands and was checked, 1 if not, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="scripts.deploy", description=(__doc__ or "")[:70])
    parser.add_argument("network", choices=[*sorted(NETWORKS), "custom"])
    parser.add_argument("--chain-id", type=int, metavar="N", help="of a custom network")
    parser.add_argument(
        "--windows", choices=sorted(WINDOWS), default="testnet", help="of a custom network"
    )
    parser.add_argument("--rpc", action="append", required=True, metavar="URL")
    parser.add_argument("--keystore", type=Path, metavar="FILE", help="keystore v3 of who pays")
    parser.add_argument("--password-file", type=Path, metavar="FILE")
    parser.add_argument("--no-token", action="store_true", help="the escrow alone")
    parser.add_argument("--check", action="store_true", help="send nothing, write nothing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where <chain>.json goes")
    said = parser.parse_args(arguments)
    if not said.check and not (said.keystore and said.password_file):
        parser.error("--keystore and --password-file are needed (or --check)")
    if (said.network == "custom") != (said.chain_id is not None):
        parser.error("--chain-id goes with custom, and custom needs it")
    network = NETWORKS.get(said.network) or Network("custom", said.chain_id, WINDOWS[said.windows])
    try:
        key = None if said.check else unlock(said.keystore, said.password_file)
        work = partial(deploy, network, tuple(said.rpc), key)
        described = trio.run(partial(work, token=not said.no_token))
    except MarketError as problem:
        _say(f"deploy: {problem}")
        if problem.hint:
            _say(f"  {problem.hint}")
        return 1
    if said.check:
        sys.stdout.write(json.dumps(described, indent=2) + "\n")
    else:
        _say(f"written: {record(described, said.folder)}")
    return 0


def _described(found: Found) -> dict[str, Any]:
    return {
        "address": _hex(found.address),
        "tx": "0x" + found.tx.hex() if found.tx else "",
        "block": found.block,
        "codeHash": "0x" + found.code_hash.hex(),
    }


def _separator(chain_id: int, contract: bytes) -> bytes:
    kind = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    words = (keccak(kind), keccak(b"gridsouk"), keccak(b"1"), chain_id.to_bytes(32, "big"))
    return keccak(b"".join(words) + contract.rjust(32, b"\0"))


def _hex(address: bytes) -> str:
    return str(Web3.to_checksum_address(address))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
