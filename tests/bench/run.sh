#!/usr/bin/env bash
# The benchmark: how far each path is from what this machine's core can do at all (tests/bench/RESULTS.md).
#
#   bash tests/bench/run.sh              all paths on SQLite, 8 s each; adds a table to RESULTS.md
#   bash tests/bench/run.sh --quick      2 s each, only printed
#   bash tests/bench/run.sh --postgres   on a throwaway PostgreSQL that syncs to the disk
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/need.sh

need wrk wrk
need openssl openssl
need taskset util-linux
need python3 python3
install_needed

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} PYTHONDONTWRITEBYTECODE=1
cargo build --release --locked --bin sealwright
cargo build --release --locked --example ceilings

cleanup() { if [[ ${SEALWRIGHT_TEST_POSTGRES_DIR:-} ]]; then bash tests/postgres.sh stop; fi; }
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
if [[ " $* " == *" --postgres "* ]]; then
    settings=$(bash tests/postgres.sh start --durable)
    eval "$settings"
fi
python3 tests/bench/bench.py "$@"
