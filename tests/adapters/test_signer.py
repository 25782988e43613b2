"""Keys in files keep the port's contract, as simulated ones do, and are kept from other eyes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from eth_account import Account

from market.errors import MarketError
from node.adapters.keystore.signer import FileSigner, load_or_create
from tests.adapters.contract_signer import CONTRACT, Factory
from tests.simulation.memory import SimSigner


@pytest.fixture(params=["files", "simulated"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    if request.param == "simulated":
        return SimSigner
    return lambda number: load_or_create(tmp_path / str(number))


@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
async def test_a_signer_keeps(law: Callable[[Factory], Awaitable[None]], factory: Factory) -> None:
    await law(factory)


def test_simulated_boxes_are_those_of_real_signers(tmp_path: Path) -> None:
    real, simulated = load_or_create(tmp_path), SimSigner(1)
    assert real.unseal(simulated.seal_for(real.peer, b"secret")) == b"secret"
    assert simulated.unseal(real.seal_for(simulated.peer, b"secret")) == b"secret"
    assert SimSigner(1).seal_for(real.peer, b"x") == SimSigner(1).seal_for(real.peer, b"x")


def test_known_keys_have_their_known_names() -> None:
    """RFC 8032 section 7.1 test 2, and the first account of every development chain."""
    seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    operator_key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
    signer = FileSigner(bytes.fromhex(seed), bytes.fromhex(operator_key))
    assert signer.peer.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signer.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540")
    assert signer.operator.hex() == "f39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    assert signer.seed.hex() == seed
    assert signer.operator_key.hex() == operator_key


def test_keys_are_private_files_and_show_nowhere(tmp_path: Path) -> None:
    signer = load_or_create(tmp_path / "keys")
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "keys").iterdir()}
    assert modes == {"peer.key": 0o600, "operator.key": 0o600}
    for shown in (repr(signer), str(signer), f"{signer}"):
        assert signer.seed.hex() not in shown
        assert signer.operator_key.hex() not in shown
        assert signer.peer.hex() in shown


@pytest.mark.parametrize("name", ["peer.key", "operator.key"])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    load_or_create(tmp_path)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(MarketError, match="can be read by others") as caught:
        load_or_create(tmp_path)
    assert f"chmod 600 {tmp_path / name}" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, b"ab" * 33, b"00" * 32, b"\xff"])
def test_a_damaged_key_is_neither_used_nor_shown(tmp_path: Path, content: bytes) -> None:
    load_or_create(tmp_path)
    (tmp_path / "operator.key").write_bytes(content)
    with pytest.raises(MarketError, match="does not hold a key") as caught:
        load_or_create(tmp_path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert (tmp_path / "operator.key").read_bytes() == content


def test_a_password_locks_the_operator_key(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    keys = tmp_path / "keys"
    signer = load_or_create(keys, password)
    text = (keys / "operator.json").read_text()
    assert signer.operator_key.hex() not in text
    assert json.loads(text)["version"] == 3
    assert bytes(Account.decrypt(text, "correct horse")) == signer.operator_key
    assert load_or_create(keys, password).operator == signer.operator
    password.write_text("battery staple\n")
    with pytest.raises(MarketError, match=r"operator\.json") as caught:
        load_or_create(keys, password)
    assert "password" in caught.value.hint
    with pytest.raises(MarketError, match="locked by a password"):
        load_or_create(keys)


def test_passwords_and_plain_keys_are_not_mixed(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o600)
    signer = load_or_create(tmp_path / "keys")
    with pytest.raises(MarketError, match="not locked by a password"):
        load_or_create(tmp_path / "keys", password)
    assert load_or_create(tmp_path / "keys").operator == signer.operator
    password.write_text("\n")
    with pytest.raises(MarketError, match="is empty"):
        load_or_create(tmp_path / "others", password)
    with pytest.raises(MarketError, match="nothing-here"):
        load_or_create(tmp_path / "others", tmp_path / "nothing-here")


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    password.chmod(0o644)
    with pytest.raises(MarketError, match="can be read by others") as caught:
        load_or_create(tmp_path / "keys", password)
    assert f"chmod 600 {password}" in caught.value.hint


def test_systemd_may_bring_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "operator-password").write_text("correct horse\n")
    (credentials / "operator-password").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    signer = load_or_create(tmp_path / "keys")
    assert (tmp_path / "keys" / "operator.json").exists()
    assert not (tmp_path / "keys" / "operator.key").exists()
    assert load_or_create(tmp_path / "keys").operator == signer.operator
