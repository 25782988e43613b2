"""Deploying, rehearsed: local chains that carry the testnets' ids, without the known deployer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from eth_keyfile.keyfile import create_keyfile_json

from market.errors import ChainError
from node.adapters.ethereum.answers import number, raw
from node.adapters.ethereum.chain import open_chain
from node.adapters.ethereum.contract import artifact
from node.adapters.ethereum.deployment import (
    DEPLOYER,
    NETWORKS,
    address_of,
    built_hash,
    code_hash,
    token_address,
)
from node.adapters.ethereum.devnet import free_port, launch
from node.adapters.ethereum.devnet import test_keys as public_keys
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.settings import ChainConfig
from scripts.deploy import main

pytestmark = pytest.mark.chain
PASSWORD = "correct horse"


class Rehearsal:
    """A chain that stands in for a testnet, and files as a person has them."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        self.url = url
        self.network = NETWORKS[name]
        self.folder = folder
        self.keystore = folder / "wallet.json"
        self.password = folder / "password"
        key = public_keys(1)[0]
        locked = create_keyfile_json(key, PASSWORD.encode(), kdf="pbkdf2", iterations=1000)
        self.keystore.write_text(json.dumps(locked))
        self.password.write_text(PASSWORD + "\n")

    def deploy(self, *more: str) -> int:
        """The command as typed."""
        return main(
            [
                self.network.name, "--rpc", self.url, "--keystore", str(self.keystore),
                "--password-file", str(self.password), "--folder", str(self.folder), *more,
            ]
        )  # fmt: skip

    def written(self) -> dict[str, dict[str, dict[str, object]]]:
        """The deployments file."""
        text = (self.folder / f"{self.network.chain_id}.json").read_text()
        found: dict[str, dict[str, dict[str, object]]] = json.loads(text)
        return found

    def ask(self, method: str, *params: object) -> object:
        """One question to the chain."""

        async def asked() -> object:
            async with Rpc((self.url,)) as rpc:
                return await rpc.ask(method, *params)

        return trio.run(asked)

    def code(self, at: bytes) -> bytes:
        """What stands at an address."""
        return raw(self.ask("eth_getCode", "0x" + at.hex(), "latest"))

    def sent(self) -> int:
        """How many transactions the payer has sent."""
        payer = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        return number(self.ask("eth_getTransactionCount", payer, "latest"))


def start(name: str, port: int) -> subprocess.Popen[bytes]:
    process = launch(port=port, block_time_s=0, chain_id=NETWORKS[name].chain_id)

    async def up() -> None:
        async with Rpc((f"http://127.0.0.1:{port}",)) as rpc:
            while True:
                try:
                    await rpc.ask("anvil_setCode", "0x" + DEPLOYER.hex(), "0x")
                    return
                except ChainError:
                    await trio.sleep(0.05)

    trio.run(up)
    return process


@pytest.fixture(scope="module", params=["sepolia", "base-sepolia"])
def rehearsal(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rehearsal]:
    """Each testnet in turn, deployed to once; the chain begins without the known deployer."""
    port = free_port()
    process = start(request.param, port)
    try:
        folder = tmp_path_factory.mktemp(request.param)
        made = Rehearsal(f"http://127.0.0.1:{port}", request.param, folder)
        assert made.code(DEPLOYER) == b""
        assert made.deploy() == 0
        yield made
    finally:
        process.terminate()
        process.wait()


def test_it_stands_where_the_preset_says(rehearsal: Rehearsal) -> None:
    escrow, token = (rehearsal.written()["contracts"][name] for name in ("Escrow", "TestToken"))
    assert str(escrow["address"]).lower() == "0x" + rehearsal.network.escrow.hex()
    assert str(token["address"]).lower() == "0x" + token_address().hex()
    assert escrow["codeHash"] == "0x" + built_hash("Escrow").hex()
    assert escrow["constants"] == rehearsal.network.windows.as_json()
    receipt = rehearsal.ask("eth_getTransactionReceipt", escrow["tx"])
    assert isinstance(receipt, dict)
    assert number(receipt["blockNumber"]) == escrow["block"]
    code = rehearsal.code(rehearsal.network.escrow)
    assert code_hash("Escrow", code) == built_hash("Escrow")
    assert code != raw(artifact("Escrow")["deployedBytecode"]), "its immutables are set"


def test_a_second_run_sends_nothing_and_forgets_nothing(rehearsal: Rehearsal) -> None:
    before, sent = rehearsal.written(), rehearsal.sent()
    assert rehearsal.deploy() == 0
    assert (rehearsal.written(), rehearsal.sent()) == (before, sent)
    assert main([rehearsal.network.name, "--rpc", rehearsal.url, "--check"]) == 0


def test_a_custom_network_is_named_by_its_chain(rehearsal: Rehearsal, tmp_path: Path) -> None:
    key = ["--keystore", str(rehearsal.keystore), "--password-file", str(rehearsal.password)]
    said = ["custom", "--chain-id", str(rehearsal.network.chain_id), "--rpc", rehearsal.url]
    assert main([*said, "--check"]) == 0, "the same windows: the same contract"
    folder = ["--folder", str(tmp_path)]
    assert main([*said, *key, *folder, "--windows", "local", "--no-token"]) == 0
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text())["contracts"]["Escrow"]["constants"]["minWindow"] == 2
    with pytest.raises(SystemExit):
        main(["custom", "--rpc", rehearsal.url, "--check"])


def test_another_network_is_refused(
    rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "base-sepolia" if rehearsal.network.name == "sepolia" else "sepolia"
    assert main([other, "--rpc", rehearsal.url, "--check"]) == 1
    assert f"is on chain {rehearsal.network.chain_id}" in capsys.readouterr().err


def test_a_node_opens_what_was_deployed(rehearsal: Rehearsal) -> None:
    async def opened() -> tuple[int, str]:
        network = rehearsal.network
        config = ChainConfig((rehearsal.url,), network.chain_id, network.escrow, token_address())
        async with open_chain(config, public_keys(2)[1]) as chain:
            return chain.info.window_min_s, chain.info.symbol

    assert trio.run(opened) == (1800, "tUSD")


@pytest.mark.parametrize("change", ["one byte", "shorter", "nothing"])
def test_a_node_refuses_another_contract(rehearsal: Rehearsal, change: str) -> None:
    network, at = rehearsal.network, bytes([0x42]) * 20
    code = bytearray(rehearsal.code(network.escrow))
    if change == "one byte":
        code[len(code) // 2] ^= 1
    code = {"one byte": code, "shorter": code[:-32], "nothing": bytearray()}[change]
    rehearsal.ask("anvil_setCode", "0x" + at.hex(), "0x" + code.hex())
    config = ChainConfig((rehearsal.url,), network.chain_id, network.escrow, token_address())

    async def opened() -> None:
        async with open_chain(replace(config, escrow=at), public_keys(2)[1]):
            pass

    words = "there is no contract" if change == "nothing" else "not this version's Escrow"
    with pytest.raises(ChainError, match=words):
        trio.run(opened)


def test_another_code_at_the_address_is_refused(
    rehearsal: Rehearsal, capsys: pytest.CaptureFixture[str]
) -> None:
    at = "0x" + rehearsal.network.escrow.hex()
    good = "0x" + rehearsal.code(rehearsal.network.escrow).hex()
    rehearsal.ask("anvil_setCode", at, good[:-2] + "00")
    try:
        assert rehearsal.deploy() == 1
        assert "is not this version's Escrow" in capsys.readouterr().err
    finally:
        rehearsal.ask("anvil_setCode", at, good)


@pytest.mark.parametrize("broken", ["password", "keystore", "missing"])
def test_a_key_that_does_not_open_is_named_and_not_shown(
    rehearsal: Rehearsal, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("{}" if broken == "keystore" else "a secret guess")
    said = {
        "password": (rehearsal.keystore, wrong),
        "keystore": (wrong, rehearsal.password),
        "missing": (tmp_path / "nowhere", rehearsal.password),
    }[broken]
    arguments = ["--keystore", str(said[0]), "--password-file", str(said[1])]
    assert main([rehearsal.network.name, "--rpc", rehearsal.url, *arguments]) == 1
    shown = capsys.readouterr()
    assert str(said[0]) in shown.err
    assert "guess" not in shown.err + shown.out
    assert PASSWORD not in shown.err + shown.out


def test_a_deployment_takes_no_key_as_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main(["sepolia", "--rpc", "http://127.0.0.1:9"])
    assert usage.value.code == 2
    assert "--keystore" in capsys.readouterr().err


def test_create2_is_the_eips() -> None:
    """The eighth example of EIP-1014 needs its own deployer; ours is checked by the rehearsal."""
    assert address_of(b"\x00", bytes(32)) != address_of(b"\x00", b"\x01" + bytes(31))
