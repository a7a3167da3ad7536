#!/usr/bin/env bash
# The long figures, too slow for every change:  bash tests/long.sh [PART…]
# Most parts are the Rust tests whose path contains their name, with more rounds; SEALWRIGHT_ROUNDS=N overrides how many.
#
#   crash    kill -9 under load, on both engines, several databases at once: nothing acknowledged is lost
#   replay   one client assertion presented many times at once: one winner
#   revoke   revoked on one node, refused on the other from the moment of the 200
#   race     one code, or one refresh token, presented many times at once, also at several processes, and with kill -9
#            among it: what clients were told and what the database holds are one history
#   rotation 500 rotations of the signing keys under load, on both engines, with processes that are killed meanwhile
#   envoy    as many rotations, on both engines at once, before an Envoy that keeps the keys for exactly their max-age
#   reseal   the command that seals everything anew is killed again and again, under load and beside servers: everything
#            opens under the new master key, and nothing needs the old one
#   t21      kill -9 right after a refresh token was revoked or used: it stays so
#   t135     so many wrong passwords at once at three processes, of which one is killed: ten are looked at
#   t136     so many wrong passwords, and the owner signs in at a browser that the account knows
#   fuzz     the fuzz targets under libFuzzer, SEALWRIGHT_FUZZ_SECONDS each (300); then bytes on connections.
#            What it finds and keeps is in target/fuzz. SEALWRIGHT_FUZZ_TARGETS="form jwk" takes only those.
#   flood    sign-ins begun by strangers, and logins at once: rows and memory stay within their bounds
#   strangers T-190 with wrk, on SQLite: so many requests to the authorization endpoint, each from another address: rows,
#            files and memory stay within their bounds; from a million on, also that what has ended makes room
#   timing   T-48: times of right and wrong secrets, whose Welch's t beyond ±4.5 is a leak; T-121: sign-ins that fail for one
#            reason or another, whose medians are less than 2 % apart and whose distributions are alike (p > 0.01)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/need.sh

export CARGO_TERM_COLOR=never
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR

declare -A rounds=(
    [crash]=200 [replay]=200 [revoke]=1000 [race]=500 [rotation]=500 [envoy]=500 [reseal]=200 [t21]=500 [t135]=500 [t136]=10000
    [fuzz]=1000000 [flood]=10000 [strangers]=10000000 [timing]=100000
)
parts=("$@")
((${#parts[@]})) || parts=(crash replay revoke race rotation envoy reseal t21 t135 t136 fuzz flood strangers timing)
for part in "${parts[@]}"; do
    [[ ${rounds[$part]:-} ]] || { echo "No part '$part'; there are: ${!rounds[*]}" >&2; exit 2; }
done

TMPDIR=$(mktemp -d -p "$(roomy_memory || echo "${TMPDIR:-/tmp}")")
export TMPDIR
started_postgres=
cleanup() {
    if [[ $started_postgres ]]; then bash tests/postgres.sh stop || true; fi
    rm -rf "$TMPDIR"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

postgres() {
    [[ -z ${SEALWRIGHT_TEST_POSTGRES:-} ]] || return 0
    local settings
    settings=$(bash tests/postgres.sh start) || return
    eval "$settings"
    started_postgres=yes
}

# rust FILTER ROUNDS [AT_ONCE]: the Rust tests of that name. One that matches none has failed.
rust() {
    postgres || return
    SEALWRIGHT_LONG=1 SEALWRIGHT_ROUNDS=${SEALWRIGHT_ROUNDS:-$2} \
        cargo test --release --locked --no-fail-fast "$1" -- --nocapture --test-threads "${3:-1}" </dev/null 2>&1 |
        tee "$TMPDIR/log" || return
    grep -qE '^test result: ok\. [1-9]' "$TMPDIR/log" || { echo "No test ran."; return 1; }
}

envoy() {
    local tools=$CARGO_TARGET_DIR/test-tools sqlite status=0
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
    install_needed && python_tools "$tools" && postgres && cargo build --release --locked --bin sealwright || return
    local rotation=(
        env SEALWRIGHT="$CARGO_TARGET_DIR/release/sealwright" SEALWRIGHT_ROUNDS="${SEALWRIGHT_ROUNDS:-$1}"
        SEALWRIGHT_TEST_LOGS="$TMPDIR" PYTHONDONTWRITEBYTECODE=1 "$tools/bin/python" tests/interop/envoy_rotation.py
    )
    "${rotation[@]}" sqlite &
    sqlite=$!
    "${rotation[@]}" postgres || status=$?
    wait "$sqlite" || status=$?
    return "$status"
}

strangers() {
    need python3 python3
    need wrk wrk
    need taskset util-linux
    install_needed && cargo build --release --locked --bin sealwright || return
    env SEALWRIGHT="$CARGO_TARGET_DIR/release/sealwright" SEALWRIGHT_ROUNDS="${SEALWRIGHT_ROUNDS:-$1}" \
        SEALWRIGHT_TEST_LOGS="$TMPDIR" PYTHONDONTWRITEBYTECODE=1 python3 tests/bench/strangers.py
}

# What cargo-fuzz does without a sanitizer, on the stable compiler: coverage counters, and operands of comparisons. Only
# what is built for --target has them; build scripts have not.
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
    --cfg fuzzing
)

libfuzzer() {
    local host folder=$CARGO_TARGET_DIR/fuzz seconds=${SEALWRIGHT_FUZZ_SECONDS:-300} names
    need c++ g++
    install_needed || return
    host=$(rustc --print host-tuple) || return
    # Nearly the versions of the main package: its lock, and what libFuzzer adds.
    cp Cargo.lock tests/fuzz/Cargo.lock
    RUSTFLAGS="${coverage[*]}" CARGO_TARGET_DIR=$folder \
        cargo build --release --target "$host" --manifest-path tests/fuzz/Cargo.toml || return
    names=${SEALWRIGHT_FUZZ_TARGETS:-$(sed -nE 's/.*Target \{ name: "([a-z_]+)".*/\1/p' tests/it/targets.rs)}
    mkdir -p "$folder/corpus" "$folder/seeds" "$folder/found" "$folder/logs"
    export -f fuzz_one
    # shellcheck disable=SC2086
    printf '%s\n' $names |
        xargs -P "$(nproc)" -I{} bash -c 'fuzz_one "$@"' fuzz {} "$folder" "$folder/$host/release/sealwright-fuzz" "$seconds"
}

# fuzz_one TARGET FOLDER PROGRAM SECONDS: one line that says how it went, and what it panicked on.
fuzz_one() {
    local name=$1 folder=$2 log=$2/logs/$1.log status=0
    mkdir -p "$folder/corpus/$name"
    # The seeds are made when the program starts; libFuzzer wants their folder to be there before.
    rm -rf "$folder/seeds/$name"
    mkdir -p "$folder/seeds/$name"
    SEALWRIGHT_FUZZ=$name SEALWRIGHT_FUZZ_SEEDS=$folder/seeds/$name \
        "$3" "$folder/corpus/$name" "$folder/seeds/$name" -dict="$folder/seeds/$name.dict" -max_total_time="$4" -max_len=8192 -timeout=20 \
        -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="$folder/found/$name-" >"$log" 2>&1 </dev/null || status=$?
    awk -v name="$name" -v status="$status" '
        / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1); else if ($i == "corp:") corpus = $(i + 1) }
        /^Done / { runs = $2; seconds = $5 }
        END {
            printf "fuzz %s: %s, %d runs in %d s (%d a second), coverage %d, corpus %s\n", name,
                status == 0 ? "fine" : "FAILED", runs, seconds, seconds ? runs / seconds : 0, cov, corpus
        }' "$log"
    if ((status != 0)); then grep -vE '^#[0-9]+' "$log" | tail -40; fi
    return "$status"
}

# Behind `||`, bash does not stop at an error: these functions return by themselves.
failed=()
for part in "${parts[@]}"; do
    echo "── $part"
    begun=$SECONDS
    case $part in
        crash) rust crash "${rounds[crash]}" 2 || failed+=("$part") ;;
        envoy | strangers) "$part" "${rounds[$part]}" || failed+=("$part") ;;
        fuzz) { libfuzzer && rust f23_http "${rounds[fuzz]}"; } || failed+=("$part") ;;
        *) rust "$part" "${rounds[$part]}" || failed+=("$part") ;;
    esac
    echo "── $part: $((SECONDS - begun)) s"
done
((${#failed[@]} == 0)) || { echo "Failed: ${failed[*]}"; exit 1; }
echo "All of these held: ${parts[*]}"
