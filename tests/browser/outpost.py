"""Outpost: a node that strangers reach under a name of its own, and whose owner lets wallets in.

Its token has 18 decimals and no permit, and the wallet it works for is a contract (ERC-1271).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from web3 import Web3

from node.adapters.ethereum.devnet import Devnet
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.rpc import Rpc
from node.adapters.keystore.signer import load_or_create
from tests.browser.wallet import build
from tests.browser.world import Node, World, free_port, toml

OWNER = 5  # which of the chain's test keys owns the contract wallets
GUEST = 6  # a plain account that may enter
TOKENS = 100 * 10**18


@dataclass
class Outpost:
    """The node, the wallet contracts that may enter, and the keys behind them."""

    node: Node
    host: str
    contract: bytes
    moody: bytes
    owner_key: bytes
    guest_key: bytes

    @property
    def page(self) -> str:
        """Where a stranger's browser finds it."""
        return f"http://{self.host}"


async def deploy(wallet: Any, name: str, *arguments: object) -> bytes:
    """Deploy a mock; returns its address. `wallet` is one of the chain's."""
    data = build(name).constructor(*arguments).data_in_transaction
    made: bytes = (await wallet.sender.send(Call(b"", data))).contract
    return made


def begin(world: World) -> Outpost:
    """Start its process; `node.wait()` waits until it answers."""

    async def found(devnet: Devnet, rpc: Rpc) -> Outpost:
        wallet = devnet.wallet(rpc, OWNER)
        owner = Web3.to_checksum_address(wallet.address)
        contract = await deploy(wallet, "Wallet", owner)
        moody = await deploy(wallet, "MoodyWallet", owner)
        token = await deploy(wallet, "CallbackToken")
        mint = build("CallbackToken").encode_abi("mint", [Web3.to_checksum_address(contract),
                                                          TOKENS])  # fmt: skip
        await wallet.sender.send(Call(token, mint))
        node = Node("outpost", world.home / "outpost", devnet.keys[OWNER], wallet=contract)
        (node.home / "data").mkdir(parents=True)
        signer = load_or_create(node.home / "data" / "keys")
        node.operator, node.key_of_peer = signer.operator, signer.peer
        await wallet.send_gas(signer.operator, 10**18)
        node.port = free_port()
        host = f"outpost.localhost:{node.port}"
        guest = devnet.wallet(rpc, GUEST).address
        text = toml(node, devnet, 0, "", None).replace(devnet.token.hex(), token.hex())
        may_enter = ", ".join(f'"0x{one.hex()}"' for one in (contract, moody, guest))
        node.config.write_text(
            f'{text}decimals = 18\nweb_wallets = [{may_enter}]\nweb_hosts = ["{host}"]\n'
        )
        return Outpost(node, host, contract, moody, devnet.keys[OWNER], devnet.keys[GUEST])

    made = world.on_chain(found)
    world.guests.append(made.node)
    made.node.start()
    return made
