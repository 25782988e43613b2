"""The escrow's specs are kept: each leaf of a .tree and each threat names a test that exists."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREES = ROOT / "contracts" / "test" / "trees"
BRANCH = re.compile(r"^([│ ]*)[├└]── (.+)$")
NAMED = re.compile(r"\[(\w+)\]$")


@cache
def known_tests() -> frozenset[str]:
    solidity = (path.read_text() for path in (ROOT / "contracts" / "test").rglob("*.sol"))
    python = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    shared = (path.read_text() for path in (ROOT / "tests").rglob("contract_*.py"))
    return frozenset(
        name
        for texts, pattern in (
            (solidity, r"function (\w+)\("),
            (python, r"def (test_\w+)\("),
            (shared, r"def (test_\w+)\("),
        )
        for text in texts
        for name in re.findall(pattern, text)
    )


def external_functions() -> set[str]:
    abi = json.loads((ROOT / "contracts" / "artifacts" / "Escrow.json").read_text())["abi"]
    return {
        entry["name"]
        for entry in abi
        if entry["type"] == "function" and entry["stateMutability"] not in {"view", "pure"}
    }


def unproven(tree: str, known: frozenset[str]) -> list[str]:
    """The leaves that name no test that exists."""
    branches = [(len(m[1]), m[2]) for m in map(BRANCH.match, tree.splitlines()) if m]
    depths = [depth for depth, _ in branches[1:]] + [-1]
    leaves = [text for (depth, text), after in zip(branches, depths, strict=True) if after <= depth]
    return [leaf for leaf in leaves if not (m := NAMED.search(leaf)) or m[1] not in known]


def threats(page: str) -> list[tuple[str, list[str]]]:
    """The rows of the escrow's two tables: what is said, and the tests it names."""
    section = page.split("## Escrow threats", 1)[1].split("### What remains", 1)[0]
    rows = [row.strip("| ").split("|") for row in section.splitlines() if row.startswith("| ")]
    return [
        (cells[0].strip(), [name.strip() for name in cells[-1].split(",")])
        for cells in rows
        if cells[-1].strip() != "test"
    ]


def test_every_external_function_has_a_tree() -> None:
    assert {path.stem for path in TREES.glob("*.tree")} == external_functions()


@pytest.mark.parametrize("name", sorted(external_functions()))
def test_every_leaf_names_its_test(name: str) -> None:
    assert unproven((TREES / f"{name}.tree").read_text(), known_tests()) == []


def test_every_threat_names_its_tests() -> None:
    rows = threats((ROOT / "docs" / "SECURITY.md").read_text())
    assert len(rows) > 40
    missing = [(said, n) for said, names in rows for n in names if n not in known_tests()]
    assert missing == []


GAS_ROWS = {
    "open, relayer, two signatures": "open, relayer, two signatures",
    "open by the requester": "open by requester",
    "open by two operators": "open, two operators",
    "claim": "claim",
    "settle with a last voucher": "settle, last voucher",
    "closeSigned with payment (signers)": "closeSigned, with payment",
    "answer": "answer",
    "slashEquivocation": "slashEquivocation",
}


def gas_in(readme: str) -> dict[str, str]:
    """The second cell of each row, by the first; bold or not."""
    rows = [row.strip("| ").split("|") for row in readme.splitlines() if row.startswith("| ")]
    return {cells[0].strip(): cells[1].strip(" *") for cells in rows if len(cells) > 2}


def test_the_gas_table_is_the_snapshot() -> None:
    contracts = ROOT / "contracts"
    said = gas_in((contracts / "README.md").read_text())
    measured = json.loads((contracts / "snapshots" / "GasTest.json").read_text())
    assert {row: said[row] for row in GAS_ROWS} == {
        row: f"{int(measured[key]):,}" for row, key in GAS_ROWS.items()
    }
    opening = int(measured["open, relayer, two signatures"])
    settling = int(measured["settle, last voucher"])
    twenty = int(measured["openMany 20"]) + int(measured["settleMany 20"])
    assert said["open + settle"] == f"{opening + settling:,}"
    assert said["open + settle, per job of 20"] == f"{twenty // 20:,}"
    assert said["slash, steady / first burn"].startswith(f"{int(measured['slash']):,}")
    built = json.loads((contracts / "artifacts" / "Escrow.json").read_text())
    assert said["runtime code"] == f"{len(built['deployedBytecode']) // 2 - 1:,} B"


def test_a_leaf_without_a_test_is_found() -> None:
    tree = "f\n├── when a\n│   ├── when b → c [test_b]\n│   └── d\n└── e [test_gone]\n"
    assert unproven(tree, frozenset({"test_b"})) == ["d", "e [test_gone]"]


def test_a_threat_without_a_test_is_found() -> None:
    page = "## Escrow threats\n| attack | stops | test |\n|---|---|---|\n| a | b | t, u |\n"
    assert threats(page) == [("a", ["t", "u"])]
