"""Owners: whose money it is. Finds the wallet's key here, takes one over, or knows its address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from market.errors import MarketError, NotFoundError, SpecError
from node.cli.answers import Answers
from node.cli.purse import Money, keys_dir
from node.cli.readers import read_address
from node.cli.settings import Settings
from node.cli.sitting import BEFORE, Sitting
from node.cli.wallet import keep, own_operator, read_source

QUESTION = "wallet (new, a key file to take over, or the 0x address of one elsewhere)"


def settle(
    sitting: Sitting, answers: Answers, money: Money, settings: Settings
) -> tuple[bytes, Money]:
    """The wallet's address, and how its money is moved: by a key here, or signed elsewhere."""
    if answers.wallet is not None:
        _no_secret(answers.wallet)
    here = _here(settings, money)
    if here is not None:
        path, owner = here
        _must_be(answers, owner, path)
        sitting.note(f"wallet 0x{owner.hex()}: its key is in {path}")
        outcome = BEFORE
    elif settings.wallet is not None and answers.wallet is None:
        owner, outcome = settings.wallet, BEFORE
        money = replace(money, unsigned=True)
        sitting.note(f"wallet 0x{owner.hex()}, named in the settings; its key is elsewhere")
    else:
        owner, money = _settled(sitting, answers, money, settings)
        outcome = "done"
    operator = own_operator(settings)
    sitting.note(f"operator 0x{operator.hex()}: the node's own key, which the wallet authorises")
    sitting.end(f"0x{owner.hex()} owns the money", outcome)
    return owner, money


def _here(settings: Settings, money: Money) -> tuple[Path, bytes] | None:
    from node.adapters.keystore.wallet import address_of, find

    try:
        path = find(keys_dir(settings), money.wallet_file)
    except NotFoundError:
        if money.wallet_file is not None:
            raise
        return None
    owner = address_of(path) or settings.wallet
    if owner is None:
        raise SpecError(f"{path} does not say whose it is", hint="add wallet to the settings")
    if settings.wallet is not None and owner != settings.wallet:
        raise SpecError(
            f"the settings name the wallet 0x{settings.wallet.hex()}, {path} holds 0x{owner.hex()}",
            hint="correct wallet there, or name the right file with --wallet-file",
        )
    return path, owner


def _must_be(answers: Answers, owner: bytes, path: Path) -> None:
    """The same command said again is about the same key."""
    said = answers.wallet
    if said is None or said == "new":
        return
    named = read_address(said) if _is_address(said) else _address(read_source(
        said, answers.source_password_file
    ))  # fmt: skip
    if named != owner:
        raise SpecError(
            f"--wallet: {path} is the key of another wallet, 0x{owner.hex()}",
            hint="leave --wallet out, or move that file to a safe place",
        )


def _settled(
    sitting: Sitting, answers: Answers, money: Money, settings: Settings
) -> tuple[bytes, Money]:
    def check(text: str) -> None:
        if not text:
            raise SpecError("nothing was named", hint="new, FILE, or 0x...")
        _no_secret(text)
        if _is_address(text):
            read_address(text)
        elif text != "new":
            read_source(text, answers.source_password_file)

    while True:
        said = sitting.ask(QUESTION, "--wallet", answers.wallet, None, check)
        if _is_address(said):
            sitting.note("its key stays elsewhere: what it is to sign will be shown")
            return read_address(said), replace(money, unsigned=True)
        key = _new_key() if said == "new" else read_source(said, answers.source_password_file)
        try:
            path = keep(key, money.password_file, settings)
        except MarketError as problem:
            if answers.wallet is not None or not sitting.terminal:
                raise
            sitting.note(f"{problem} ({problem.hint})")
            continue
        sitting.note(f"kept in {path}; back it up, and its password")
        return _address(key), money


def _new_key() -> bytes:
    from node.adapters.keystore.wallet import new_key

    return new_key()


def _no_secret(text: str) -> None:
    """Whatever might be a key, whole or not, is neither taken from here nor shown."""
    digits = text.removeprefix("0x")
    if len(digits) > 40 and not set(digits.lower()) - set("0123456789abcdef"):
        raise SpecError(
            "an address has 40 digits, and a key does not belong here",
            hint="write the key to a file of your own (chmod 600) and name that",
        )


def _is_address(text: str) -> bool:
    return text.startswith("0x")


def _address(key: bytes) -> bytes:
    from node.adapters.keystore.signer import FileSigner

    return FileSigner(bytes(32), key).operator
