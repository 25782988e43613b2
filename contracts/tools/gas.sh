#!/bin/sh
# Gas: checks that it is what is committed, or writes it anew.
#
#     contracts/tools/gas.sh --check | --write
#
# snapshots/GasTest.json is whole transactions (forge --isolate) to the unit; .gas-snapshot is the same
# tests as one call each, within 1 %. The goals of issue 4 are asserted in test/gas/Gas.t.sol.
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)"
[ -n "${FORGE:-}" ] || eval "$(tools/toolchain.sh)"
case ${1:-} in
--check)
    "$FORGE" snapshot --check --tolerance 1 --match-contract GasTest
    FOUNDRY_PROFILE=gas "$FORGE" test --match-contract GasTest \
        --gas-snapshot-check true --gas-snapshot-emit false
    ;;
--write)
    "$FORGE" snapshot --match-contract GasTest
    FOUNDRY_PROFILE=gas "$FORGE" test --match-contract GasTest --gas-snapshot-emit true
    ;;
*)
    echo "usage: contracts/tools/gas.sh --check | --write" >&2
    exit 2
    ;;
esac
