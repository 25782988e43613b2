"""Wallet file: the key that owns the money, for those who keep it here. Used by commands only.

A web3 keystore (version 3, scrypt), as every wallet program reads and writes it; or, on a
development chain, whose money is nobody's, a plain file. The node never opens it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import coincurve
from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json

from market.errors import MarketError, NotFoundError
from market.signing import keccak
from node.adapters.keystore.files import create, read

KEYSTORE: Final = "wallet.json"
PLAIN: Final = "wallet.key"
WALLET_CREDENTIAL: Final = "wallet-password"


def find(directory: Path, named: Path | None = None) -> Path:
    """The wallet's file. Raises NotFoundError with what to do."""
    if named is not None:
        if not named.is_file():
            raise NotFoundError(f"there is no wallet file {named}", hint="check --wallet-file")
        return named
    for name in (KEYSTORE, PLAIN):
        if (directory / name).is_file():
            return directory / name
    raise NotFoundError(
        f"there is no wallet file in {directory}",
        hint="souk wallet new, souk wallet import FILE, or --unsigned to sign elsewhere",
    )


def save(directory: Path, key: bytes, password: bytes | None) -> Path:
    """Keep a key; without a password in plain. Never over another one.

    Takes a second with a password. Raises MarketError.
    """
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in (KEYSTORE, PLAIN):
            if (directory / name).exists():
                raise MarketError(
                    f"{directory / name} is there already",
                    hint="move it to a safe place first: it may hold money",
                )
        if password is None:
            path, text = directory / PLAIN, key.hex().encode() + b"\n"
        else:
            path = directory / KEYSTORE
            text = json.dumps(create_keyfile_json(key, password, kdf="scrypt")).encode()
        create(path, text)
    except OSError as problem:
        raise MarketError(f"{directory}: {problem.strerror}", hint="check who owns it") from problem
    return path


def new_key() -> bytes:
    """A fresh secp256k1 secret."""
    return bytes(coincurve.PrivateKey().secret)


def address_of(path: Path) -> bytes | None:
    """The address a file is for, as far as it says so without its password."""
    text = _text(path)
    if not is_locked(text):
        return _address(_plain(path, text))
    said = json.loads(text).get("address")
    digits = said.removeprefix("0x") if isinstance(said, str) else ""
    try:
        address = bytes.fromhex(digits)
    except ValueError:
        return None
    return address if len(address) == 20 else None


def unlock(path: Path, password: bytes | None) -> bytes:
    """The key in a wallet file. Raises MarketError, which never says what is in it."""
    text = _text(path)
    if not is_locked(text):
        return _plain(path, text)
    if password is None:
        raise MarketError(
            f"{path} is locked by a password", hint="name its file: --password-file FILE"
        )
    try:
        locked: dict[Any, Any] = json.loads(text)
        key = bytes(decode_keyfile_json(locked, password))
        _address(key)
    except Exception:  # parsers quote what they cannot read: no `from`
        raise MarketError(
            f"{path} does not open with this password", hint="check the password, and the file"
        ) from None
    return key


def is_locked(text: bytes) -> bool:
    """Whether it is a keystore."""
    return text.lstrip()[:1] == b"{"


def read_key(text: bytes, password: bytes | None, name: str) -> bytes:
    """A key somebody brings: a keystore of version 3, or 64 hex digits. Raises MarketError."""
    if not is_locked(text):
        return _plain(Path(name), text)
    if password is None:
        raise MarketError(
            f"{name} is locked by a password", hint="name its file: --source-password-file FILE"
        )
    try:
        key = bytes(decode_keyfile_json(json.loads(text), password))
        _address(key)
    except Exception:  # as above
        raise MarketError(
            f"{name} does not open with this password", hint="check the password, and the file"
        ) from None
    return key


def _text(path: Path) -> bytes:
    try:
        return read(path)
    except OSError as problem:
        raise MarketError(f"{path}: {problem.strerror}", hint="check the wallet file") from problem


def _plain(path: Path, text: bytes) -> bytes:
    try:
        key = bytes.fromhex(text.decode().strip().removeprefix("0x"))
        if len(key) != 32:
            raise ValueError("not 32 bytes")
        _address(key)
    except ValueError:
        raise MarketError(
            f"{path} does not hold a key", hint="64 hex digits, or a web3 keystore"
        ) from None
    return key


def _address(key: bytes) -> bytes:
    public = coincurve.PrivateKey(key).public_key.format(compressed=False)
    return keccak(public[1:])[12:]
