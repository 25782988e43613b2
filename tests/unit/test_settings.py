"""Settings: what the file says in human units becomes what the node decides by, or a sentence."""

from pathlib import Path

import pytest

from node import config as rules
from node.adapters.devices.declared import Declared
from node.adapters.ethereum import deployment
from node.cli.daemon import to_place
from node.cli.readers import SettingsError
from node.cli.selling import UnitGroup
from node.cli.settings import load, to_config

WHOLE = """\
network = "devnet"
rpc = ["http://127.0.0.1:8545"]
escrow = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
token = "0x5FbDB2315678afecb367f032d93F642f64180aa4"
wallet = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
listen = ["/ip4/127.0.0.1/tcp/0"]
web = "127.0.0.1:8750"

[provider]
price_per_hour = "0.20"
collateral_per_unit = "1.0"
cpu_ram = "4GB"
inet_up = "250"
max_duration = "2d"
policy = "fair"

[[provider.units]]
name = "CPU"
count = 2
ram = "4GB"

[sandbox]
runtime = "crun"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_human_units_become_base_units(tmp_path: Path) -> None:
    settings = load(written(tmp_path, WHOLE), {"data_dir": tmp_path})
    config = to_config(settings, 6)
    selling = config.selling
    assert selling is not None
    assert (selling.price_per_hour, selling.collateral_per_unit) == (200_000, 1_000_000)
    assert (selling.cpu_ram_mib, selling.inet_up_kbps) == (4096, 250_000)
    assert (selling.max_duration_s, selling.policy) == (2 * 24 * 3600, "fair")
    assert (config.network, config.rules) == ("devnet-31337", rules.devnet_rules())
    assert config.wallet.hex() == "70997970c51812dc3a010c7d01b50e0d17dc79c8"
    assert settings.web == ("127.0.0.1", 8750)
    assert settings.provider is not None
    assert settings.provider.units == (UnitGroup("CPU", 2, 4096),)
    place = to_place(settings)
    assert place.declared == (Declared(2, "CPU", 4096),)
    assert place.sandbox is not None
    assert (place.sandbox.runtime, place.sandbox.memory_mib) == ("crun", 4096)
    assert (place.chain.chain_id, place.chain.confirmations) == (31337, 1)


def test_several_kinds_of_units_have_prices_of_their_own(tmp_path: Path) -> None:
    text = WHOLE.replace(
        "[sandbox]",
        '[[provider.units]]\nname = "H100"\nram = "80GB"\nprice_per_hour = "2.5"\n'
        'preemptible_price_per_hour = "1.1"\n[sandbox]',
    )
    settings = load(written(tmp_path, text), {"data_dir": tmp_path})
    selling = to_config(settings, 6).selling
    assert selling is not None
    assert selling.prices == (
        rules.UnitPrice("CPU", 4096),
        rules.UnitPrice("H100", 81_920, 2_500_000, None, 1_100_000),
    )
    assert to_place(settings).declared == (Declared(2, "CPU", 4096), Declared(1, "H100", 81_920))
    twice = text.replace('name = "H100"\nram = "80GB"', 'name = "CPU"\nram = "4GB"')
    with pytest.raises(SettingsError, match="two tables are about the same units"):
        load(written(tmp_path, twice))
    with pytest.raises(SettingsError, match="more than 256 units"):
        load(written(tmp_path, text.replace("count = 2", "count = 256")))


def test_flags_win_over_the_file_and_the_file_over_presets(tmp_path: Path) -> None:
    path = written(tmp_path, 'network = "base-sepolia"\nchain_id = 7\n')
    settings = load(path, {"chain_id": 9, "listen": None})
    assert (settings.chain_id, settings.listen) == (9, ("/ip4/0.0.0.0/tcp/4001",))
    assert load(path).chain_id == 7
    assert load(path, {"network": "sepolia"}).network == "sepolia"


def test_a_testnet_has_a_testnets_clocks(tmp_path: Path) -> None:
    settings = load(written(tmp_path, WHOLE), {"network": "base-sepolia"})
    assert to_config(settings, 6).rules == rules.testnet_rules()
    assert settings.confirmations == 3


@pytest.mark.parametrize("network", ["sepolia", "base-sepolia"])
def test_a_testnet_knows_where_this_version_stands(tmp_path: Path, network: str) -> None:
    settings = load(written(tmp_path, f'network = "{network}"\n'))
    assert settings.escrow == deployment.NETWORKS[network].escrow, "the build has changed"
    assert settings.token == deployment.token_address()
    assert settings.chain_id == deployment.NETWORKS[network].chain_id
    other = load(written(tmp_path, f'network = "{network}"\nescrow = "0x{"11" * 20}"\n'))
    assert other.escrow == b"\x11" * 20


def test_nothing_need_be_written_for_asking_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRIDSOUK_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert load().socket_path == tmp_path / "state" / "gridsouk" / "node.sock"
    monkeypatch.setenv("GRIDSOUK_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(SettingsError, match="there is no such file"):
        load()


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("walet = 1", "walet: no such setting", "did you mean wallet?"),
        ("[provider]\nspeed = 1", "provider.speed: no such setting", "known: "),
        ("[provider]\nprice_per_hour = 1", "provider.collateral_per_unit: missing", "add a line"),
        ("[sandbox]\nruntim = 'x'", "sandbox.runtim: no such", "did you mean sandbox.runtime?"),
        ('wallet = "0x12"', "wallet: '0x12' is not an address", "0x and 40 digits"),
        ('network = "main"', "network: 'main' is none of devnet,", ""),
        ('listen = "127.0.0.1:4001"', "listen: '127.0.0.1:4001' is not an address", "like /ip4"),
        ('web = "localhost"', "web: 'localhost' is not an address", "127.0.0.1:8750"),
        ("chain_id = true", "chain_id: True is not a whole number", ""),
        ("network =", "config.toml: Invalid value", "it is TOML"),
        ("provider = 3", "provider: must be a table", ""),
    ],
)
def test_refuses_with_the_key_and_what_to_write(
    tmp_path: Path, text: str, sentence: str, hint: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, text))
    assert sentence in str(refused.value)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"0.20"', '"free"', "provider.price_per_hour: 'free' is not an amount"),
        ('"0.20"', "true", "provider.price_per_hour: True is not an amount"),
        ('"fair"', '"best"', "provider.policy: 'best' is none of fcfs"),
        ('"2d"', '"soon"', "provider.max_duration: 'soon' is not a duration"),
        ("count = 2", "count = 0", "provider.units: count: 0 is not a whole number from 1"),
    ],
)
def test_refuses_a_wrong_provider(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, WHOLE.replace(old, new)))
    assert sentence in str(refused.value)


def test_a_node_says_what_it_still_lacks(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="wallet: missing"):
        to_config(load(written(tmp_path, "")), 6)
    finer = WHOLE.replace('"0.20"', '"0.0000001"')
    with pytest.raises(Exception, match="finer than the token's 6 decimals"):
        to_config(load(written(tmp_path, finer)), 6)
