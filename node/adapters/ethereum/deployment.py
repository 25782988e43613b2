"""Deployment: where a committed build stands on a chain, and whether that is it. Sends nothing.

Addresses come from CREATE2 (EIP-1014) by the deployer that most chains have: the same build with
the same windows has the same address on each of them, known before it is there. What stands there
is compared by the hash of its code, with the immutables (windows, chain id, domain) blanked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Final

from market.errors import ChainError
from market.signing import keccak
from node.adapters.ethereum.contract import artifact

DEPLOYER: Final = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
DEPLOYER_CODE: Final = bytes.fromhex(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234"
    "f58015156039578182fd5b8082525050506014600cf3"
)
DEPLOYER_SIGNER: Final = bytes.fromhex("3fab184622dc19b6109349b94811493bf2a45362")
DEPLOYER_COST_WEI: Final = 10**16  # 100,000 gas at 100 gwei, as its transaction says
DEPLOYER_TX: Final = (
    "0xf8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b80825250505060"
    "14600cf31ba02222222222222222222222222222222222222222222222222222222222222222a0222222222222222222"
    "2222222222222222222222222222222222222222222222"
)
"""Signed by nobody: its signature was chosen, so that nobody has the key, and it fits every chain
that takes transactions without a chain id (github.com/Arachnid/deterministic-deployment-proxy)."""
SALT: Final = b"gridsouk escrow 1".ljust(32, b"\0")
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Windows:
    """The escrow's constructor arguments: what terms must stay within, in seconds."""

    min_window: int
    max_window: int
    min_claim_window: int
    max_claim_window: int
    max_duration: int
    thaw_period: int

    @property
    def argument(self) -> bytes:
        """ABI-encoded."""
        return b"".join(value.to_bytes(32, "big") for value in astuple(self))

    def as_json(self) -> dict[str, int]:
        """With the contract's names."""
        named = {}
        for name, value in asdict(self).items():
            first, *rest = name.split("_")
            named[first + "".join(part.capitalize() for part in rest)] = value
        return named


LOCAL: Final = Windows(2, 3600, 2, DAY_S, 30 * DAY_S, 60)
TESTNET: Final = Windows(1800, 7 * DAY_S, DAY_S, 30 * DAY_S, 90 * DAY_S, 7 * DAY_S)


@dataclass(frozen=True, slots=True)
class Network:
    """A preset: which chain it is, and what the escrow there was made with."""

    name: str
    chain_id: int
    windows: Windows

    @property
    def escrow(self) -> bytes:
        """Where this version's escrow stands, or will."""
        return address_of(init_code("Escrow", self.windows.argument))


NETWORKS: Final[Mapping[str, Network]] = {
    "devnet": Network("devnet", 31337, LOCAL),
    "sepolia": Network("sepolia", 11155111, TESTNET),
    "base-sepolia": Network("base-sepolia", 84532, TESTNET),
}


def token_address() -> bytes:
    """Where the test token stands, or will; it has no windows, so it is one everywhere."""
    return address_of(init_code("TestToken"))


def init_code(name: str, argument: bytes = b"") -> bytes:
    """What a deployment executes: the committed bytecode and its constructor's arguments."""
    return bytes.fromhex(artifact(name)["bytecode"][2:]) + argument


def address_of(code: bytes, salt: bytes = SALT) -> bytes:
    """The address CREATE2 gives `code` by the known deployer (EIP-1014)."""
    return keccak(b"\xff" + DEPLOYER + salt + keccak(code))[12:]


def code_hash(name: str, code: bytes) -> bytes:
    """Keccak-256 of code on chain with the build's immutables blanked; of its raw bytes if they
    are too few to be the build's.
    """
    blanked = bytearray(code)
    for places in artifact(name)["immutableReferences"].values():
        for place in places:
            start, end = place["start"], place["start"] + place["length"]
            if end > len(code):
                return keccak(code)
            blanked[start:end] = bytes(place["length"])
    return keccak(bytes(blanked))


def built_hash(name: str) -> bytes:
    """The hash that the committed build has, wherever it is deployed."""
    return keccak(bytes.fromhex(artifact(name)["deployedBytecode"][2:]))


def check_code(name: str, code: bytes, at: bytes, chain_id: int) -> None:
    """Raise ChainError unless `code`, found at `at`, is the committed build."""
    if not code:
        raise ChainError(
            f"there is no contract at 0x{at.hex()} on chain {chain_id}",
            hint=f"check {name.lower()} in the configuration",
        )
    if code_hash(name, code) != built_hash(name):
        raise ChainError(
            f"what stands at 0x{at.hex()} is not this version's {name}: its code has the hash "
            f"0x{code_hash(name, code).hex()[:16]}…, ours 0x{built_hash(name).hex()[:16]}…",
            hint="use the version that goes with it, or the address that goes with this one",
        )
