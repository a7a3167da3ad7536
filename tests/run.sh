#!/usr/bin/env bash
# All tests of a change: format, lints, the Rust tests on SQLite and PostgreSQL, real peers (Authlib, openid-client,
# Envoy, nginx, HAProxy, and what README has for verifiers in five languages), and a real browser (Chromium).
# Needs Rust and, on Debian, nothing else: what is missing is installed. A part that cannot be had has failed; nothing
# is skipped. The last line is the total; what each part printed stays in target/test-logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/need.sh

export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR

logs=$CARGO_TARGET_DIR/test-logs
tools=$CARGO_TARGET_DIR/test-tools
node=$tools/node
rm -rf "$logs"
mkdir -p "$logs"
TMPDIR=$(mktemp -d -p "$(roomy_memory || echo "${TMPDIR:-/tmp}")")
export TMPDIR SEALWRIGHT_TEST_LOGS=$logs SEALWRIGHT_TEST_NODE=$node
started_postgres=

cleanup() {
    local job
    for job in $(jobs -rp); do kill -- "-$job" || true; done
    wait
    if [[ $started_postgres ]]; then bash tests/postgres.sh stop || true; fi
    rm -rf "$TMPDIR"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

passed=0
failed=0
broken=()

# part NAME COMMAND…: runs it, shows and keeps what it prints, and adds what it counted to the total. One that fails
# without having counted a failure is one failure. The parts after it run all the same.
part() {
    local name=$1 log=$logs/$1.log begun=$SECONDS status good bad
    shift
    echo "── $name"
    set +e
    (set -e; "$@") </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    # Of cargo test (`test result: ok. 3 passed; 0 failed; …`) and the interop scripts (`envoy: 3 passed, 0 failed`).
    read -r good bad < <(awk '
        /^test result: / || /^[a-z]+: [0-9]+ passed, [0-9]+ failed$/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) good += $(i - 1)
                if ($i ~ /^failed/) bad += $(i - 1)
            }
        }
        END { print good + 0, bad + 0 }' "$log")
    if ((status != 0 && bad == 0)); then bad=1; fi
    if ((bad > 0)); then broken+=("$name"); fi
    passed=$((passed + good))
    failed=$((failed + bad))
    echo "── $name: $( ((bad == 0)) && echo fine || echo FAILED), $((SECONDS - begun)) s"
}

# begin NAME COMMAND…: goes on beside the parts that follow, because it waits more than it works, until `part NAME ended
# NAME` tells how it went.
begin() {
    local name=$1
    shift
    # A job of its own group, so that all of it can be ended.
    set -m
    (
        set +e
        (set -e; "$@") </dev/null >"$logs/$name.out" 2>&1
        echo "$?" >"$logs/$name.status"
    ) &
    set +m
}

ended() {
    until [[ -s $logs/$1.status ]]; do sleep 1; done
    cat "$logs/$1.out"
    return "$(<"$logs/$1.status")"
}

install() {
    need cc gcc
    need make make
    need curl curl
    need openssl openssl
    # josekit, a test dependency, builds OpenSSL, whose build scripts want all of Perl.
    need '/usr/share/perl/*/FindBin.pm' perl
    need '/usr/lib/postgresql/*/bin/initdb' postgresql
    need nginx nginx-light
    need '/usr/*/nginx/modules/ngx_http_js_module.so' libnginx-mod-http-js
    need haproxy haproxy
    need python3 python3
    need node nodejs
    need npm npm
    need go golang-go
    need javac default-jdk-headless
    need /usr/share/java/gson.jar libgoogle-gson-java
    need chromium chromium
    need chromedriver chromium-driver
    python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
    install_needed
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy
    fi
    python_tools "$tools"
    if ! cmp -s tests/interop/package-lock.json "$node/installed.json"; then
        mkdir -p "$node"
        cp tests/interop/package.json tests/interop/package-lock.json "$node/"
        npm ci --prefix "$node" --no-audit --no-fund --ignore-scripts --silent
        cp tests/interop/package-lock.json "$node/installed.json"
    fi
}

# A database server of ours, unless the caller named one.
postgres() {
    [[ -z ${SEALWRIGHT_TEST_POSTGRES:-} ]] || return 0
    bash tests/postgres.sh start >"$TMPDIR/postgres.env"
}

interop() {
    SEALWRIGHT=$CARGO_TARGET_DIR/debug/sealwright timeout 600 "$tools/bin/python" "tests/interop/$1.py" "${@:2}"
}

# Chromium with the production headers; what it saw is in target/screenshots.
browser() {
    rm -rf "$CARGO_TARGET_DIR/screenshots"
    SEALWRIGHT=$CARGO_TARGET_DIR/debug/sealwright SEALWRIGHT_TEST_SCREENSHOTS=$CARGO_TARGET_DIR/screenshots \
        timeout 900 "$tools/bin/python" tests/browser/people.py
}

part install install
part postgres postgres
if [[ -s $TMPDIR/postgres.env ]]; then
    started_postgres=yes
    # shellcheck source=/dev/null
    source "$TMPDIR/postgres.env"
fi
part format cargo fmt --check
part clippy cargo clippy --all-targets --locked -- -D warnings
part test timeout 3600 cargo test --locked --no-fail-fast
# Without the features that test dependencies switch on in shared ones: this is the binary that people get.
part build cargo build --locked
begin rotation interop envoy_rotation sqlite
begin rotationpostgres interop envoy_rotation postgres
part authlib interop authlib_client
part authliblogin interop authlib_login
part openidclient interop openid_client
part envoy interop envoy_gateway
part nginx interop nginx_gateway
part recipes interop recipes
part browser browser
part envoyrotation ended rotation
part envoyrotationpostgres ended rotationpostgres

echo
if ((${#broken[@]})); then echo "Failed: ${broken[*]} (see $logs)"; fi
echo "All in $SECONDS s."
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
