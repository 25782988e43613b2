#!/bin/sh
# Installs the locked toolchain (only when the lock has changed) and prints where it is, as
# shell assignments: eval "$(contracts/tools/toolchain.sh)" gives FORGE ANVIL CAST.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
stamp="$here/node_modules/.gridsouk-lock"
if ! cmp -s "$here/package-lock.json" "$stamp" 2>/dev/null; then
    # What npm has in its cache is not fetched again, so a second checkout installs offline.
    (cd "$here" && npm ci --prefer-offline --ignore-scripts >&2)
    cp "$here/package-lock.json" "$stamp"
fi
# The locked binaries exist for linux/amd64; elsewhere what is on PATH must do (versions: package.json).
find_tool() {
    locked="$here/node_modules/@foundry-rs/$1-linux-amd64/bin/$1"
    if [ -x "$locked" ]; then
        printf '%s' "$locked"
    elif ! command -v "$1"; then
        echo "no $1: not in node_modules and not on PATH; install Foundry 1.7.1" >&2
        exit 1
    fi
}
forge=$(find_tool forge)
anvil=$(find_tool anvil)
cast=$(find_tool cast)
printf "FORGE='%s'\nANVIL='%s'\nCAST='%s'\n" "$forge" "$anvil" "$cast"
