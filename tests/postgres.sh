#!/usr/bin/env bash
# A throwaway PostgreSQL for tests, on a free loopback port, that asks nobody for a password.
#
#   eval "$(bash tests/postgres.sh start [--durable] [DIR])"     sets SEALWRIGHT_TEST_POSTGRES and …_DIR
#   bash tests/postgres.sh stop [DIR]                            ends it and removes DIR
#
# DIR is a new folder under /tmp unless given. Without --durable nothing is synced to the disk: that is right where
# only the server under test is killed, and wrong where the machine is meant to be lost or speed is measured.
set -euo pipefail

fail() {
    echo "postgres.sh: $*" >&2
    exit 1
}

# initdb refuses root, so that root runs all of this as the package's user, or as nobody.
as_user() {
    if [[ $(id -u) != 0 ]]; then
        (cd / && "$@")
    else
        (cd / && runuser -u "$user" -- "$@")
    fi
}

user=$(id -un)
if [[ $user == root ]]; then
    user=nobody
    if id -u postgres >/dev/null 2>&1; then user=postgres; fi
fi

bin() {
    local newest
    newest=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -1 || true)
    [[ -n $newest ]] || newest=$(command -v initdb || true)
    [[ -n $newest ]] || fail "no PostgreSQL server here (Debian: apt-get install postgresql)"
    dirname "$(readlink -f "$newest")"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
    local settings=(-c fsync=off -c full_page_writes=off)
    if [[ ${1:-} == --durable ]]; then
        settings=(-c fsync=on)
        shift
    fi
    local dir=${1:-} bin port
    bin=$(bin)
    if [[ -z $dir ]]; then dir=$(mktemp -d /tmp/sealwright-postgres.XXXXXX); fi
    mkdir -p "$dir"
    dir=$(readlink -f "$dir")
    [[ -z $(ls -A "$dir") ]] || fail "$dir is not empty"
    if [[ $(id -u) == 0 ]]; then chown "$user" "$dir"; fi
    as_user test -w "$dir" || fail "$user may not enter $dir; give a folder that it may, or none"
    as_user "$bin/initdb" --pgdata "$dir/data" --username sealwright --auth trust \
        --encoding UTF8 --locale C --no-instructions >"$dir/initdb.log" || { cat "$dir/initdb.log" >&2; exit 1; }

    # Between asking for a free port and taking it, somebody else may: hence the second and third try.
    for _ in 1 2 3; do
        port=$(free_port)
        if as_user "$bin/pg_ctl" start --silent --wait --pgdata "$dir/data" --log "$dir/server.log" --options "\
            -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='$dir' -c max_connections=300 \
            -c synchronous_commit=on ${settings[*]}" >/dev/null </dev/null; then
            echo "export SEALWRIGHT_TEST_POSTGRES='postgres://sealwright@127.0.0.1:$port/postgres'"
            echo "export SEALWRIGHT_TEST_POSTGRES_DIR='$dir'"
            return
        fi
    done
    tail -20 "$dir/server.log" >&2
    fail "PostgreSQL did not start"
}

stop() {
    local dir=${1:-${SEALWRIGHT_TEST_POSTGRES_DIR:-}}
    [[ -f $dir/data/PG_VERSION ]] || fail "no throwaway PostgreSQL in '$dir'"
    if [[ -f $dir/data/postmaster.pid ]]; then
        as_user "$(bin)/pg_ctl" stop --silent --mode immediate --pgdata "$dir/data"
    fi
    rm -rf "$dir"
}

case ${1:-} in
    start | stop) "$@" ;;
    *) fail "say start or stop" ;;
esac
