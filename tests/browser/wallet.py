"""A wallet for tests: an EIP-1193 provider whose key stays in this process, outside the page.

The page sees what a wallet's extension would inject: an EIP-6963 announcement and `request`. Every
call comes here, is written down, and is answered, refused or left hanging as the test says.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from web3 import Web3

CONTRACTS = Path(__file__).resolve().parents[1] / "contracts"
NAME = "__souk_test_wallet"
RDNS = "test.gridsouk.wallet"
ICON = (
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHdpZHRoPSIyNiIg"
    "aGVpZ2h0PSIyNiI+PHJlY3Qgd2lkdGg9IjI2IiBoZWlnaHQ9IjI2IiByeD0iNiIgZmlsbD0iIzZhNDVhOCIvPjwvc3ZnPg"
)

INJECTED = (
    """(() => {
  const listeners = {};
  const provider = {
    on: (name, listener) => { (listeners[name] ||= []).push(listener); },
    removeListener: () => {},
    request: async ({ method, params }) => {
      const { error, result } = JSON.parse(await window.NAME(method, JSON.stringify(params || [])));
      if (error) throw Object.assign(new Error(error.message), error);
      return result;
    },
  };
  window.__emit = (name, value) => (listeners[name] || []).forEach((one) => one(value));
  const info = Object.freeze({ uuid: 'a7b1c2d3-0000-4000-8000-000000000001', name: 'Test wallet',
    icon: 'ICON', rdns: 'RDNS' });
  const announce = () => dispatchEvent(new CustomEvent('eip6963:announceProvider',
    { detail: Object.freeze({ info, provider }) }));
  addEventListener('eip6963:requestProvider', announce);
  announce();
})();"""
).replace("NAME", NAME).replace("ICON", ICON).replace("RDNS", RDNS)  # fmt: skip


def build(name: str) -> Any:
    """A mock contract, as web3 knows it (made by contracts/tools/artifacts.py)."""
    made = json.loads((CONTRACTS / f"{name}.json").read_text())
    return Web3().eth.contract(abi=made["abi"], bytecode=made["bytecode"])


class Refusal(Exception):
    """What an EIP-1193 provider throws."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class TestWallet:
    """One key, on one chain at a time. `refuse` maps a method to (code, message), once each."""

    __test__ = False

    key: bytes
    rpc: str
    chain_id: int = 31337
    chains: set[int] = field(default_factory=lambda: {1, 31337})
    connected: bool = False
    contract: bytes = (
        b""  # a contract wallet (ERC-1271) that the key owns: see contracts/test/Mocks
    )
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    stubborn: bool = False  # says that it switched the chain, and did not
    hang: set[str] = field(default_factory=set)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"0x{self.contract.hex()}" if self.contract else self._signer.lower()

    @property
    def _signer(self) -> str:
        return str(Account.from_key(self.key).address)

    def install(self, context: Any) -> TestWallet:
        """Into every page of a browser context."""
        context.expose_function(NAME, self.answer)
        context.add_init_script(INJECTED)
        return self

    def count(self, method: str) -> int:
        """How often the page asked that."""
        return sum(name == method for name, _ in self.calls)

    def answer(self, method: str, params: str) -> str:
        """A JSON text with `result` or `error`."""
        given = json.loads(params)
        self.calls.append((method, given))
        if method in self.hang:
            threading.Event().wait(0.2)
            return json.dumps({"error": {"code": -32002, "message": "already pending"}})
        try:
            if method in self.refuse:
                raise Refusal(*self.refuse.pop(method))
            return json.dumps({"result": self._do(method, given)})
        except Refusal as refusal:
            return json.dumps({"error": {"code": refusal.code, "message": str(refusal)}})

    def _do(self, method: str, given: list[Any]) -> Any:
        match method:
            case "eth_requestAccounts":
                self.connected = True
                return [self.address]
            case "eth_accounts":
                return [self.address] if self.connected else []
            case "eth_chainId":
                return hex(self.chain_id)
            case "wallet_switchEthereumChain":
                wanted = int(given[0]["chainId"], 16)
                if wanted not in self.chains:
                    raise Refusal(4902, "Unrecognized chain ID")
                self.chain_id = self.chain_id if self.stubborn else wanted
                return None
            case "wallet_addEthereumChain":
                assert given[0]["rpcUrls"], "a wallet needs an endpoint"
                self.chains.add(int(given[0]["chainId"], 16))
                return None
            case "personal_sign":
                self._mine(given[1])
                text = bytes.fromhex(given[0][2:])
                return self._hex(Account.sign_message(encode_defunct(text), self.key).signature)
            case "eth_signTypedData_v4":
                self._mine(given[0])
                data = encode_typed_data(full_message=_typed(json.loads(given[1])))
                return self._hex(Account.sign_message(data, self.key).signature)
            case "eth_sendTransaction":
                return self._send(given[0])
        raise Refusal(4200, f"{method} is not supported")

    def _mine(self, address: str) -> None:
        if address.lower() != self.address:
            raise Refusal(4100, "The requested account has not been authorized by the user")

    def _send(self, call: dict[str, str]) -> str:
        self._mine(call["from"])
        asked = {**call, "from": self._signer}
        if self.contract:  # which the owner has call what the page wants called
            run = build("Wallet").encode_abi(
                "run", [Web3.to_checksum_address(call["to"]), call["data"]]
            )
            asked |= {"to": self.address, "data": run}
        gas = int(self._rpc("eth_estimateGas", asked), 16)
        count = int(self._rpc("eth_getTransactionCount", asked["from"], "pending"), 16)
        transaction = {
            "type": 2, "chainId": self.chain_id, "nonce": count, "gas": gas * 13 // 10,
            "maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9, "value": 0,
            "to": bytes.fromhex(asked["to"][2:]), "data": asked["data"],
        }  # fmt: skip
        signed = Account.sign_transaction(transaction, self.key)
        return str(self._rpc("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex()))

    def _rpc(self, method: str, *params: Any) -> str:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = httpx.post(self.rpc, json=body, timeout=10).json()
        if "error" in answer:
            raise Refusal(answer["error"]["code"], answer["error"]["message"])
        return str(answer["result"])

    @staticmethod
    def _hex(data: bytes) -> str:
        return "0x" + bytes(data).hex()


def _typed(data: dict[str, Any]) -> dict[str, Any]:
    """Numbers may come as decimal text, as wallets take them."""
    message = dict(data["message"])
    for field_ in data["types"][data["primaryType"]]:
        if field_["type"].startswith("uint"):
            message[field_["name"]] = int(message[field_["name"]])
    return {**data, "message": message}
