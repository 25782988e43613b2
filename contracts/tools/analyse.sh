#!/bin/sh
# Runs slither and halmos over the escrow; what they said last is in ANALYSIS.md. Not part of CI: both
# are fetched with uvx on first use, and halmos takes minutes.
#
#     contracts/tools/analyse.sh [slither|halmos]
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)"
eval "$(tools/toolchain.sh)"
PATH=$(dirname "$FORGE"):$PATH
export PATH
uvx=$(command -v uvx || echo ../.tools/uv/bin/uvx)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
what=${1:-all}
status=0

if [ "$what" != halmos ]; then
    # Findings in libraries are theirs; informational ones are style.
    FOUNDRY_OUT=$out/slither FOUNDRY_CACHE_PATH=$out/cache \
        "$uvx" --from slither-analyzer==0.11.6 slither . --foundry-out-directory "$out/slither" \
        --filter-paths 'node_modules|test' --exclude-informational || status=1
fi
if [ "$what" != slither ]; then
    "$FORGE" build --ast --out "$out/halmos" test/symbolic src/escrow/Arithmetic.sol >/dev/null
    "$uvx" --from halmos==0.3.3 halmos --forge-build-out "$out/halmos" \
        --contract MoneySymbolic --solver-timeout-assertion 120000 || status=1
fi
exit $status
