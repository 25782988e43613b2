"""`souk provider init`: questions on a terminal, refusals without one, and how it goes on."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from market.errors import RefusedError
from node.adapters.ethereum.devnet import Devnet, deploy, free_port, launch
from node.cli import opening
from node.cli.funding import Gap, Needs, gap
from node.cli.main import main
from node.cli.options import Common
from node.cli.settingsfile import with_keys, without_table
from node.cli.sitting import Sitting
from node.client.http import Node, NodeDownError
from node.ports import Account
from tests.cli.terminal import Terminal
from tests.cli.test_cli import Said

PASSWORD = "correct horse"
SHORT = ("--cpu-units", "1", "--skip", "doctor", "--skip", "start")  # what needs no root


@dataclass
class Newcomer:
    """An empty home beside a chain."""

    home: Path
    devnet: Devnet
    read: Callable[[], Any]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            "XDG_STATE_HOME": f"{self.home}/state", "XDG_CONFIG_HOME": f"{self.home}/config",
        }  # fmt: skip

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "node.cli.main", "provider", "init", *words]

    def terminal(self, *words: str) -> Terminal:
        return Terminal(self.command(*words), self.home, self.environment)

    def init(self, *words: str) -> Said:
        """In this process: it is the same, and starts ten times as fast."""
        self.read()
        with pytest.raises(SystemExit) as ended:
            main(["provider", "init", *words])
        said = self.read()
        assert self.devnet.keys[-1].hex() not in said.out + said.err
        return Said(int(str(ended.value.code or 0)), said.out, said.err)

    def flags(self) -> tuple[str, ...]:
        return (
            "--network", "devnet", "--rpc", self.devnet.url,
            "--escrow", f"0x{self.devnet.escrow.hex()}", "--token", f"0x{self.devnet.token.hex()}",
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return tomllib.loads((self.home / "config" / "gridsouk" / "config.toml").read_text())


@pytest.fixture(scope="module")
def chain() -> Iterator[Devnet]:
    port = free_port()
    process = launch(port=port, block_time_s=0, chain_id=31337)
    try:
        yield trio.run(deploy, f"http://127.0.0.1:{port}", process, 31337)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def newcomer(
    chain: Devnet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Newcomer:
    for name, text in (("key", chain.keys[-1].hex()), ("password", PASSWORD)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    made = Newcomer(tmp_path, chain, capsys.readouterr)
    for name, text in made.environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.mark.chain
def test_it_asks_until_an_answer_will_do(newcomer: Newcomer) -> None:
    screen = newcomer.terminal(*SHORT)
    try:
        _answer_all(screen, newcomer.devnet)
        assert screen.end() == 2
        assert PASSWORD not in screen.shown
    finally:
        screen.kill()
    said = newcomer.settings()
    assert (said["rpc"], said["provider"]["price_per_hour"]) == ([newcomer.devnet.url], "0.30")
    assert said["provider"]["geolocation"] == "SE"
    # Nothing was asked again that was answered once; the money is all that is left.
    screen = newcomer.terminal(*SHORT)
    try:
        screen.answer("password of", PASSWORD)
        screen.until("mint 1.5 tUSD of play money, deposit 1.5 tUSD, stake 1.5 tUSD, let the")
        screen.answer("do it? [y/N] ", "y")
        screen.until("5 transactions, for")
        assert screen.end() == 0
    finally:
        screen.kill()
    assert "[none]" not in screen.shown
    done = newcomer.init(*SHORT, "--json")
    told = json.loads(done.out)
    assert (done.code, told["schema"], told["listed"]) == (0, 1, False)
    outcomes = {one["step"]: one["outcome"] for one in told["steps"]}
    assert outcomes == {
        "units": "done", "network": "was done", "keys": "was done", "price": "was done",
        "settings": "was done", "doctor": "skipped", "money": "was done", "start": "skipped",
        "bench": "left", "listed": "left",
    }  # fmt: skip


def _answer_all(screen: Terminal, devnet: Devnet) -> None:
    screen.answer("network [devnet]: ", "mars")
    screen.until("'mars' is none of devnet, sepolia, base-sepolia, custom")
    screen.answer("network [devnet]: ", "")
    screen.answer("escrow's address: ", "0x12")
    screen.until("'0x12' is not an address (0x and 40 digits)")
    screen.answer("escrow's address: ", f"0x{devnet.escrow.hex()}")
    screen.answer("token's address: ", f"0x{devnet.token.hex()}")
    screen.until("no RPC endpoint answers")  # nothing is at the usual place
    screen.answer("RPC URL [http://127.0.0.1:8545]: ", "localhost")
    screen.until("'localhost' is not a web address")
    screen.answer("RPC URL [http://127.0.0.1:8545]: ", devnet.url)
    screen.answer("escrow's address [0x", "")
    screen.answer("token's address [0x", "")
    screen.until("is there, and tUSD")
    screen.answer("a peer to start from (multiaddress) [none]: ", "rig.example:4001")
    screen.until("'rig.example:4001' is not an address")
    screen.answer("a peer to start from (multiaddress) [none]: ", "")
    screen.answer("elsewhere): ", "")
    screen.until("nothing was named")
    screen.answer("elsewhere): ", "nowhere.txt")
    screen.until("nowhere.txt: No such file or directory")
    screen.answer("elsewhere): ", "key")
    screen.answer("a password for the new wallet file: ", PASSWORD)
    screen.until("back it up, and its password")
    screen.answer("price per unit-hour [0.05]: ", "cheap")
    screen.until("'cheap' is not an amount")
    screen.answer("price per unit-hour [0.05]: ", "0.30")
    screen.answer("geolocation (country) [none]: ", "1")
    screen.until("'1' is not a country")
    screen.answer("geolocation (country) [none]: ", "SE")
    screen.until("skipped, as asked for")
    screen.answer("password of", PASSWORD)
    screen.answer("do it? [y/N] ", "n")
    screen.until("nothing was sent")


@pytest.mark.chain
def test_leaving_it_loses_nothing(newcomer: Newcomer) -> None:
    screen = newcomer.terminal(*SHORT, *newcomer.flags(), "--bootstrap", "/ip4/127.0.0.1/tcp/1",
                               "--wallet", "new", "--password-file", "password")  # fmt: skip
    try:
        screen.until("price per unit-hour")
        screen.type("\x03")
        screen.until("left at price; the same command goes on from there")
        assert screen.end() == 130
    finally:
        screen.kill()
    done = newcomer.init(*SHORT, *newcomer.flags(), "-y", "--wallet", "new", "--skip", "money")
    assert (done.code, "its key is in" in done.err) == (0, True)  # the one made before


@pytest.mark.chain
def test_without_a_terminal_it_says_which_flag_is_missing(newcomer: Newcomer) -> None:
    given: list[str] = []
    for flags, hint in (
        ((), "network: there is no terminal to ask on (give --network, or -y for devnet)"),
        (newcomer.flags(), "(give --bootstrap, or -y for none)"),
        (("--bootstrap", "/ip4/127.0.0.1/tcp/1"), "there is no terminal to ask on (give --wallet)"),
        (("--wallet", f"0x{'12' * 20}"), "(give --price, or -y for 0.05)"),
        (("--price", "0.2"), "(give --geolocation, or -y for none)"),
    ):
        given += flags
        done = newcomer.init(*SHORT, *given)
        assert (done.code, hint in done.err) == (2, True), done.err
        assert done.out == ""
    given += ["--geolocation", "SE"]
    done = newcomer.init(*SHORT, *given, "--json")  # that wallet signs elsewhere
    told = json.loads(done.out)
    assert done.code == 0, done
    assert len(told["money"]["unsigned"]) == 6  # mint, approve, deposit, stake, authorise, gas
    assert told["steps"][6]["outcome"] == "waits"
    done = newcomer.init(*SHORT, *given[:-4], "--price", "0.7", "--json")
    told = json.loads(done.out)
    assert (done.code, told["error"]["code"]) == (1, "refused")
    assert "ask 0.2 already" in told["error"]["message"]
    assert told["steps"][3]["outcome"] == "failed"


@pytest.mark.chain
def test_a_key_is_never_shown(newcomer: Newcomer) -> None:
    key = newcomer.devnet.keys[-1].hex()
    for text in (key, f"0x{key}", key[:-1]):
        done = newcomer.init(*SHORT, *newcomer.flags(), "-y", "--wallet", text)
        assert done.code == 2
        assert text not in done.out + done.err


@pytest.mark.chain
def test_who_is_not_root_is_told_before_anything_else(
    newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = newcomer.init("--cpu-units", "1", *newcomer.flags(), "-y", "--wallet", "new")
    assert (done.code, "a provider needs root" in done.err) == (1, True)
    assert not (newcomer.home / "state").exists()


def account(**amounts: int) -> Account:
    names = ("free", "stake", "locked", "thawing", "thaws_at_s", "operator_allowance",
             "operator_expires_at_s", "tokens", "gas", "units")  # fmt: skip
    return Account(wallet=bytes(20), **{**dict.fromkeys(names, 0), **amounts})


@pytest.mark.parametrize(
    ("has", "missing"),
    [
        ({}, Gap(30, 30, 30, 500, 9)),
        ({"tokens": 50}, Gap(0, 30, 30, 500, 9)),
        ({"free": 10, "tokens": 5, "gas": 9}, Gap(15, 20, 30, 500, 0)),
        ({"stake": 10, "locked": 20, "gas": 5}, Gap(0, 0, 0, 500, 0)),
        (
            {"stake": 30, "gas": 5, "operator_allowance": 250, "operator_expires_at_s": 10**6},
            Gap(0, 0, 0, 0, 0),
        ),
        (
            {"stake": 30, "gas": 4, "operator_allowance": 249, "operator_expires_at_s": 10**6},
            Gap(0, 0, 0, 500, 9),
        ),
    ],
)
def test_only_what_is_missing_is_moved(has: dict[str, int], missing: Gap) -> None:
    assert gap(Needs(30, 500, 9), account(**has), now=0.0) == missing


KEYS = st.sampled_from(["network", "rpc", "escrow", "wallet"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=20)


@given(st.dictionaries(KEYS, TEXTS | st.lists(TEXTS, max_size=3)))
def test_settings_are_written_into_what_is_there(keys: dict[str, object]) -> None:
    before = (
        '# mine\nwallet = "0x1" # old\nrpc = [\n  "http://a.example",\n]\nmax_fee_gwei = 7\n\n'
        '[provider]\nprice_per_hour = "1"\n[[provider.units]]\nname = "CPU"\n'
        '[sandbox]\ninstance = "a"\n'
    )
    after = with_keys(before, keys)
    assert tomllib.loads(after) == {**tomllib.loads(before), **keys}
    assert after.startswith("# mine\n")
    assert with_keys(after, keys) == after
    assert tomllib.loads(without_table(before)).keys() == {
        "wallet", "rpc", "max_fee_gwei", "sandbox",
    }  # fmt: skip
    with pytest.raises(RefusedError, match="a way of their own"):
        with_keys('"network" = "devnet"\n', {"network": "sepolia"})


class Waking(Node):
    """A node that answers from the third look on."""

    looks = 0

    def get(self, path: str) -> Any:
        self.looks += 1
        if self.looks < 3:
            raise NodeDownError("no node runs here")
        return {"selling": True}


def test_where_systemd_runs_it_starts_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, told = tmp_path / "units", tmp_path / "told"
    units.mkdir()
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {told}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(opening, "SYSTEMD", tmp_path)
    monkeypatch.setattr(opening, "UNIT_DIR", units)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    config = tmp_path / "config.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    sitting = Sitting(("start",), yes=True, as_json=False)
    sitting.begin("start")
    assert opening.start(sitting, Common(config=config), Waking(tmp_path)) is True
    assert told.read_text() == "daemon-reload\nenable --now gridsouk\n"
    text = (units / "gridsouk.service").read_text()
    assert f"up --config {config} --data-dir {tmp_path}/data " in text
    assert sitting.step.outcome == "done"
