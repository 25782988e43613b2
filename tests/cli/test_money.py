"""Money commands against a real chain, as a person would type them: right and wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account

from node.adapters.ethereum.devnet import Devnet, deploy, free_port, launch
from node.adapters.ethereum.rpc import Rpc
from node.cli.main import main

pytestmark = pytest.mark.chain
NETWORKS = {"devnet": 31337, "sepolia": 11155111, "base-sepolia": 84532}
OPERATOR = "0x" + "77" * 20


@dataclass
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Home:
    """A data directory and a configuration on one network."""

    folder: Path
    devnet: Devnet
    read: Callable[[], Any]
    extra: list[str] = field(default_factory=list)

    def souk(self, *arguments: str) -> Said:
        """In this process: what a command does is the same, and it starts ten times as fast."""
        self.read()
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *self.extra, "--config", str(self.folder / "config.toml")])
        said = self.read()
        key = self.devnet.keys[3].hex()
        assert key not in said.out + said.err
        return Said(int(str(ended.value.code or 0)), said.out, said.err)

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = (
            Home(self.folder, self.devnet, self.read).souk("wallet", "--json").json["wallet"]
        )
        return found


@pytest.fixture(scope="module", params=NETWORKS)
def everywhere(request: pytest.FixtureRequest) -> Iterator[Devnet]:
    """A chain with the id of each network."""
    yield from _chain(NETWORKS[request.param])


@pytest.fixture(scope="module")
def local() -> Iterator[Devnet]:
    yield from _chain(31337)


def _chain(chain_id: int) -> Iterator[Devnet]:
    port = free_port()
    process = launch(port=port, block_time_s=0, chain_id=chain_id)
    try:
        yield trio.run(deploy, f"http://127.0.0.1:{port}", process, chain_id)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def abroad(everywhere: Devnet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    """A home on each network, its wallet's key in a file elsewhere."""
    return _home(everywhere, tmp_path, capsys)


@pytest.fixture
def home(local: Devnet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    """A home on the local network."""
    return _home(local, tmp_path, capsys)


def _home(devnet: Devnet, folder: Path, capsys: pytest.CaptureFixture[str]) -> Home:
    async def anew() -> None:
        async with Rpc((devnet.url,)) as rpc:
            if devnet.url in _snapshots:
                await rpc.ask("evm_revert", _snapshots[devnet.url])
            _snapshots[devnet.url] = await rpc.ask("evm_snapshot")

    trio.run(anew)
    name = next(name for name, chain_id in NETWORKS.items() if chain_id == devnet.chain_id)
    address = Account.from_key(devnet.keys[3]).address
    (folder / "config.toml").write_text(
        f'network = "{name}"\nrpc = ["{devnet.url}"]\nescrow = "0x{devnet.escrow.hex()}"\n'
        f'token = "0x{devnet.token.hex()}"\ndata_dir = "{folder}/data"\n'
        f'explorer = "https://scan.example"\nwallet = "{address}"\n'
    )
    key = folder / "key"
    key.write_text(devnet.keys[3].hex())
    key.chmod(0o600)
    (folder / "data" / "keys").mkdir(parents=True)
    return Home(folder, devnet, capsys.readouterr, ["--wallet-file", str(key), "-y"])


_snapshots: dict[str, str] = {}


def plain(home: Home) -> Home:
    """Without the flags that only money commands have."""
    return Home(home.folder, home.devnet, home.read)


def test_money_goes_in_and_out_on_every_network(abroad: Home) -> None:
    home = abroad
    assert home.souk("wallet", "mint", "100").code == 0
    said = home.souk("deposit", "10.5")
    assert said.code == 0
    # The token has permits, so it is one transaction.
    assert said.out.count("https://scan.example/tx/0x") == 1
    assert "1 transaction, about" in said.err
    assert home.souk("stake", "add", "4").code == 0
    shown = home.shown()
    amounts = {name: shown[name] for name in ("in_wallet", "deposited", "stake", "thawing")}
    assert amounts == {"in_wallet": "89.5", "deposited": "6.5", "stake": "4", "thawing": "0"}
    assert shown["chain_id"] == home.devnet.chain_id
    assert home.souk("stake", "thaw", "1.5").code == 0
    said = home.souk("stake", "withdraw")
    assert (said.code, "still thaws" in said.err) == (6, True)

    async def wait() -> None:
        async with Rpc((home.devnet.url,)) as rpc:
            await rpc.ask("evm_increaseTime", 61)
            await rpc.ask("evm_mine")

    trio.run(wait)
    assert home.souk("stake", "withdraw").code == 0
    done = home.souk("withdraw", "all", "--json")
    assert done.json["done"] == "withdraw 8 tUSD"
    assert int(done.json["gas_used"]) > 21_000
    shown = home.shown()
    assert (shown["in_wallet"], shown["deposited"], shown["stake"]) == ("97.5", "0", "2.5")


def test_a_node_is_authorised_fuelled_and_revoked(home: Home) -> None:
    keys = home.folder / "data" / "keys"
    assert home.souk("wallet", "authorise", "--allowance", "5").code == 0  # it never ran: now it
    assert (keys / "operator.key").stat().st_mode & 0o777 == 0o600  # has a key of its own
    (keys / "operator.key").write_text("33" * 32)
    (keys / "operator.key").chmod(0o600)
    operator = Account.from_key("33" * 32).address.lower()
    assert home.souk("wallet", "authorise", "--allowance", "5", "--expires", "2d").code == 0
    assert home.souk("wallet", "gas", "0.25").code == 0
    shown = home.shown()
    assert (shown["operator"], shown["allowance"]) == (operator, "5")
    assert shown["gas_wei"] == str(25 * 10**16)
    assert home.souk("wallet", "authorise", OPERATOR, "--allowance", "unlimited").code == 0
    assert home.souk("wallet", "revoke").code == 0
    assert home.shown()["allowance"] == "0"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("deposit", "5"), 6, "has less of the token"),
        (("deposit", "0"), 2, "does nothing"),
        (("deposit", "ten"), 2, "is not an amount"),
        (("deposit", "0.0000001"), 2, "finer than the token"),
        (("deposit", "-1"), 2, ""),
        (("withdraw", "1"), 6, "only 0 tUSD can be withdrawn now"),
        (("withdraw", "all"), 6, "only 0 tUSD can be withdrawn now"),
        (("stake", "add", "1"), 6, "0 tUSD is deposited and free"),
        (("stake", "thaw", "1"), 6, "0 tUSD of the stake is free"),
        (("stake", "withdraw"), 6, "no stake is thawing"),
        (("wallet", "authorise", "0x12", "--allowance", "1"), 2, "is not an address"),
        (("wallet", "authorise", OPERATOR, "--allowance", "1", "--expires", "soon"), 2, "soon"),
        (("wallet", "import", "ab" * 32), 2, "seen by every program"),
        (("wallet", "import", "nothing-here"), 102, "No such file"),
        (("deposit", "5", "--wallet-file", "nothing-here"), 102, "no wallet file"),
    ],
)
def test_a_wrong_wish_says_what_to_do(
    home: Home, arguments: tuple[str, ...], code: int, words: str
) -> None:
    bare = "--wallet-file" in arguments or arguments[:2] == ("wallet", "import")
    run = plain(home) if bare else home
    said = run.souk(*arguments)
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    as_json = run.souk(*arguments, "--json")
    assert as_json.json["error"]["message"]


def test_nothing_is_sent_without_a_yes(home: Home) -> None:
    asked = Home(home.folder, home.devnet, home.read, home.extra[:2])
    assert home.souk("wallet", "mint", "100").code == 0
    said = asked.souk("deposit", "10")
    assert (said.code, "say yes with -y" in said.err) == (2, True)
    assert home.shown()["deposited"] == "0"


def test_a_cold_wallet_gets_calls_and_a_permit_to_sign(home: Home) -> None:
    assert home.souk("wallet", "mint", "100").code == 0
    cold = plain(home)
    said = cold.souk("deposit", "7", "--unsigned", "--json").json
    assert [call["to"] for call in said["unsigned"]] == [
        "0x" + home.devnet.token.hex(), "0x" + home.devnet.escrow.hex(),
    ]  # fmt: skip
    assert said["typed_data"]["primaryType"] == "Permit"
    message = said["typed_data"]["message"]
    assert (message["value"], message["nonce"]) == ("7000000", "0")
    said["typed_data"]["message"] = {
        name: int(value) if value.isdecimal() else value for name, value in message.items()
    }
    signed = Account.from_key(home.devnet.keys[3]).sign_typed_data(full_message=said["typed_data"])
    assert len(signed.signature) == 65

    async def elsewhere() -> None:
        """The wallet that holds the key sends them as they are."""
        async with Rpc((home.devnet.url,)) as rpc:
            for call in said["unsigned"]:
                assert call["chainId"] == hex(31337)
                request = {key: call[key] for key in ("from", "to", "data", "value")}
                await rpc.ask("eth_sendTransaction", request)

    trio.run(elsewhere)
    assert cold.shown()["deposited"] == "7"
    said_missing = cold.souk("deposit", "1", "-y")
    assert (said_missing.code, "--unsigned" in said_missing.err) == (102, True)


def test_wallet_files_are_keystores_and_are_never_overwritten(home: Home) -> None:
    config, source = home.folder / "config.toml", home.folder / "key"
    config.write_text(config.read_text().replace('"devnet"', '"sepolia"') + "chain_id = 31337\n")
    bare = plain(home)
    refused = bare.souk("wallet", "import", str(source))
    assert "must be locked by a password" in refused.err
    secret = home.folder / "password"
    secret.write_text("correct horse\n")
    flags = ("--password-file", str(secret))
    assert "can be read by others" in bare.souk("wallet", "import", str(source), *flags).err
    secret.chmod(0o600)
    assert bare.souk("wallet", "import", str(source), *flags).code == 0
    path = home.folder / "data" / "keys" / "wallet.json"
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(text)["version"] == 3
    assert bytes(Account.decrypt(text, "correct horse")) == home.devnet.keys[3]
    assert "there already" in bare.souk("wallet", "new", *flags).err
    assert path.read_text() == text
    assert "locked by a password" in bare.souk("wallet", "mint", "1", "-y").err
    assert bare.souk("wallet", "mint", "1", "-y", *flags).code == 0
    secret.write_text("battery staple\n")
    said = bare.souk("wallet", "mint", "1", "-y", *flags)
    assert (said.code, "does not open with this password" in said.err) == (1, True)
    assert "battery" not in said.out + said.err


def test_a_new_wallet_on_the_local_chain_needs_no_password(home: Home) -> None:
    said = plain(home).souk("wallet", "new", "--json")
    path = home.folder / "data" / "keys" / "wallet.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert said.json["address"] == Account.from_key(path.read_text().strip()).address.lower()
    assert path.read_text().strip() not in said.out + said.err


def test_csv_cells_are_no_formulas() -> None:
    from node.cli.books import _cell

    out = io.StringIO()
    csv.writer(out).writerow([_cell(value) for value in ("=1+1", "@a", None, "ok", "-1.5")])
    assert out.getvalue().strip() == "'=1+1,'@a,,ok,-1.5"
