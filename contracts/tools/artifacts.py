#!/usr/bin/env python3
"""Contract artifacts: writes them from a fresh build, or checks that a fresh build equals them.

Those that ship lie in contracts/artifacts; those that only tests deploy, in tests/contracts.

    contracts/tools/artifacts.py --write
    contracts/tools/artifacts.py --check

Standard library only. The bytecode carries no metadata, so that the same sources and settings give
the same bytes on every machine; --check builds in a temporary folder and compares bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS = ROOT / "artifacts"
CONTRACTS = ("Escrow", "TestToken")
FIXTURES = ROOT.parent / "tests" / "contracts"
MOCKS = ("Wallet", "MoodyWallet", "CallbackToken")  # of test/Mocks.sol
SIZE_MAX = 21_999  # bytes of runtime code: our goal; EIP-170 allows 24,576


def forge() -> str:
    printed = subprocess.run(
        [str(ROOT / "tools" / "toolchain.sh")], check=True, capture_output=True, text=True
    ).stdout
    assignments = dict(word.split("=", 1) for word in shlex.split(printed))
    return assignments["FORGE"]


def build(out: Path) -> None:
    """What ships is compiled by itself, so that no test changes a byte of it."""
    for where, what in (("out", ["--skip", "test"]), ("mocks", ["test/Mocks.sol"])):
        command = [forge(), "build", "--force", *what, "--out", str(out / where)]
        command += ["--cache-path", str(out / f"{where}-cache")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"forge build failed:\n{done.stdout}{done.stderr}")


def fixture(name: str, out: Path) -> str:
    """What a test needs of a mock: how to deploy and to call it."""
    built = json.loads((out / "mocks" / "Mocks.sol" / f"{name}.json").read_text())
    return canonical({"abi": built["abi"], "bytecode": built["bytecode"]["object"]})


def artifact(name: str, out: Path) -> dict[str, Any]:
    built = json.loads((out / "out" / f"{name}.sol" / f"{name}.json").read_text())
    metadata = built["metadata"]
    settings = {
        "compiler": metadata["compiler"]["version"],
        "evmVersion": metadata["settings"]["evmVersion"],
        "optimizer": metadata["settings"]["optimizer"],
        "viaIR": metadata["settings"].get("viaIR", False),
        "metadata": metadata["settings"]["metadata"],
    }
    # Our own sources are hashed in the working tree; a library is pinned by package-lock.json, but
    # its hash shows at once which file of it went into the build.
    sources = {
        path.removeprefix("node_modules/"): hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        for path in metadata["sources"]
    }
    return {
        "contractName": name,
        "abi": built["abi"],
        "bytecode": built["bytecode"]["object"],
        "deployedBytecode": built["deployedBytecode"]["object"],
        "immutableReferences": built["deployedBytecode"].get("immutableReferences", {}),
        "settings": settings,
        "sourcesSha256": sources,
    }


def canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write artifacts/*.json")
    what.add_argument("--check", action="store_true", help="exit 1 if a fresh build differs")
    arguments = parser.parse_args()

    failed = False

    def settle(committed: Path, text: str) -> None:
        nonlocal failed
        if arguments.write:
            committed.parent.mkdir(exist_ok=True)
            committed.write_text(text)
        elif not committed.exists() or committed.read_text() != text:
            failed = True
            sys.stderr.write(f"{committed.name}: differs from a fresh build; run --write\n")

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        for name in CONTRACTS:
            value = artifact(name, Path(folder))
            size = len(value["deployedBytecode"]) // 2 - 1
            if size > SIZE_MAX:
                failed = True
                sys.stderr.write(f"{name}: {size} bytes of runtime code, limit {SIZE_MAX}\n")
            settle(ARTIFACTS / f"{name}.json", canonical(value))
            sys.stdout.write(f"{name}: {size} bytes of runtime code\n")
        for name in MOCKS:
            settle(FIXTURES / f"{name}.json", fixture(name, Path(folder)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
