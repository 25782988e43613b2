"""The node's two keys as files, and what is signed and opened with them.

It signs what it is given and never decides whether to. Keys show in no repr and in no error.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import coincurve
from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json
from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from market.errors import MarketError, SignatureError
from market.signing import keccak
from node.adapters.keystore.files import create, read
from node.adapters.keystore.password import credential, read_password

PEER_FILE: Final = "peer.key"
OPERATOR_FILE: Final = "operator.key"
OPERATOR_KEYSTORE: Final = "operator.json"
OPERATOR_CREDENTIAL: Final = "operator-password"


class FileSigner:
    """Fills the `Signer` port. Made by `load_or_create`."""

    __slots__ = ("_operator", "_operator_key", "_peer_key")

    def __init__(self, seed: bytes, operator_key: bytes) -> None:
        """Both are 32 secret bytes; ValueError if they are no keys."""
        self._peer_key = SigningKey(seed)
        self._operator_key = coincurve.PrivateKey(operator_key)
        self._operator = keccak(self._operator_key.public_key.format(compressed=False)[1:])[12:]

    def __repr__(self) -> str:
        """Public halves only."""
        return f"FileSigner(peer={self.peer.hex()}, operator=0x{self._operator.hex()})"

    @property
    def peer(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return bytes(self._peer_key.verify_key)

    @property
    def operator(self) -> bytes:
        """The operator's address, 20 bytes."""
        return self._operator

    @property
    def seed(self) -> bytes:
        """The Ed25519 secret, for the network's own handshake. Never log it."""
        return bytes(self._peer_key)

    @property
    def operator_key(self) -> bytes:
        """The operator's secp256k1 secret, for the chain's transactions. Never log it."""
        return bytes(self._operator_key.secret)

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return bytes(self._peer_key.sign(data).signature)

    def sign_digest(self, digest: bytes) -> bytes:
        """A chain signature r, s, v of 65 bytes, low s, v 27 or 28; the nonce is RFC 6979's."""
        assert len(digest) == 32, "only digests are signed"
        signature: bytes = self._operator_key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def seal_for(self, peer: bytes, data: bytes) -> bytes:
        """A sealed box (X25519) that only `peer` can open. SignatureError if it is no key."""
        try:
            reader = VerifyKey(peer).to_curve25519_public_key()
            return bytes(SealedBox(reader).encrypt(data))
        except (CryptoError, ValueError) as problem:
            raise SignatureError("nothing can be sealed for this peer: no such key") from problem

    def unseal(self, box: bytes) -> bytes:
        """Open a sealed box meant for `peer`. Raises SignatureError."""
        try:
            return bytes(SealedBox(self._peer_key.to_curve25519_private_key()).decrypt(box))
        except (CryptoError, ValueError) as problem:
            raise SignatureError("the sealed box is not for this node, or is damaged") from problem


def load_or_create(directory: Path, password_file: Path | None = None) -> FileSigner:
    """The keys in `directory`, made on first use; readable by their owner only, or refused.

    With a password (a file, or systemd's credential `operator-password`) the operator key lies in a
    web3 keystore (version 3, scrypt): it spends money, and a copied backup must not. Without one it
    is a plain file, which is right for a development chain, whose money is nobody's, and for
    machines that decrypt the whole disk. The peer key is always plain: a node must come up by
    itself, and the key holds no money.

    Blocks for about a second when there is a password. Raises MarketError, which says what to do.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        seed = _load(directory / PEER_FILE, secrets.token_bytes, _plain, _from_plain, SigningKey)
        operator_key = _operator_key(directory, password_file)
    except OSError as problem:
        raise MarketError(
            f"the keys in {directory} cannot be used: {problem}",
            hint="check that the folder belongs to the user who runs the node",
        ) from problem
    return FileSigner(seed, operator_key)


def _operator_key(directory: Path, password_file: Path | None) -> bytes:
    plain, keystore = directory / OPERATOR_FILE, directory / OPERATOR_KEYSTORE
    password_file = password_file or credential(OPERATOR_CREDENTIAL)
    if password_file is None:
        if keystore.exists():
            raise MarketError(
                f"{keystore} is locked by a password",
                hint='name the file that holds the password: password_file = "…"',
            )
        return _load(plain, _new_operator_key, _plain, _from_plain, coincurve.PrivateKey)
    if plain.exists():
        raise MarketError(
            f"{plain} is not locked by a password, though one was given",
            hint="withdraw from its wallet and move it away, or start without the password file",
        )
    password = read_password(password_file)

    def lock(key: bytes) -> bytes:
        return json.dumps(create_keyfile_json(key, password, kdf="scrypt")).encode()

    def unlock(text: bytes) -> bytes:
        locked: dict[Any, Any] = json.loads(text)
        return decode_keyfile_json(locked, password)

    return _load(keystore, _new_operator_key, lock, unlock, coincurve.PrivateKey)


def _load(
    path: Path,
    make: Callable[[int], bytes],
    wrap: Callable[[bytes], bytes],
    unwrap: Callable[[bytes], bytes],
    check: Callable[[bytes], object],
) -> bytes:
    """The 32 secret bytes in a file; a file that is not there is made with fresh ones.

    `check` raises if they are no key of its kind.
    """
    if not path.exists():
        create(path, wrap(make(32)))
    text = read(path)
    try:
        key = unwrap(text)
        if len(key) != 32:
            raise ValueError("coincurve would fill up a shorter one")
        check(key)
    except Exception:  # parsers quote what they cannot read, and it may be the key: no `from`
        raise MarketError(
            f"{path} does not hold a key that can be read",
            hint="check the password, or restore the file from a backup",
        ) from None
    return key


def _new_operator_key(size: int) -> bytes:
    key = bytes(coincurve.PrivateKey().secret)  # drawn within the order of the curve
    assert len(key) == size, "secp256k1 keys are 32 bytes"
    return key


def _plain(key: bytes) -> bytes:
    return key.hex().encode() + b"\n"


def _from_plain(text: bytes) -> bytes:
    return bytes.fromhex(text.decode().strip())
