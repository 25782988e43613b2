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
native() {
    for binary in "$here"/node_modules/@foundry-rs/"$1"-*/bin/"$1"; do
        if [ -x "$binary" ]; then
            printf '%s\n' "$binary"
            return
        fi
    done
    printf '%s\n' "$here/node_modules/.bin/$1"
}
printf "FORGE='%s'\nANVIL='%s'\nCAST='%s'\n" "$(native forge)" "$(native anvil)" "$(native cast)"
