#!/usr/bin/env bash
# The long figures, too slow for every change:  bash tests/long.sh [PART…]
# A part is the Rust tests whose path contains its name, with more rounds: SEALWRIGHT_ROUNDS=N overrides how many.
#
#   crash    kill -9 under load, on both engines: nothing acknowledged is lost
#   replay   one client assertion presented many times at once: one winner
#   revoke   revoked on one node, refused on the other from the moment of the 200
#   fuzz     the fuzz targets, on random input
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A rounds=([crash]=200 [replay]=200 [revoke]=1000 [fuzz]=1000000)
parts=("$@")
((${#parts[@]})) || parts=(crash replay revoke fuzz)
for part in "${parts[@]}"; do
    [[ ${rounds[$part]:-} ]] || { echo "No part '$part'; there are: ${!rounds[*]}" >&2; exit 2; }
done

log=$(mktemp)
started_postgres=
cleanup() {
    if [[ $started_postgres ]]; then bash tests/postgres.sh stop || true; fi
    rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
if [[ -z ${SEALWRIGHT_TEST_POSTGRES:-} ]]; then
    settings=$(bash tests/postgres.sh start)
    eval "$settings"
    started_postgres=yes
fi

failed=()
for part in "${parts[@]}"; do
    echo "── $part"
    SEALWRIGHT_LONG=1 SEALWRIGHT_ROUNDS=${SEALWRIGHT_ROUNDS:-${rounds[$part]}} CARGO_TERM_COLOR=never \
        cargo test --release --locked --no-fail-fast "$part" -- --nocapture --test-threads 1 </dev/null 2>&1 |
        tee "$log" || failed+=("$part")
    grep -qE '^test result: ok\. [1-9]' "$log" || failed+=("$part (no test ran)")
done
((${#failed[@]} == 0)) || { echo "Failed: ${failed[*]}"; exit 1; }
echo "All of these held: ${parts[*]}"
