# shellcheck shell=bash
# Sourced by the scripts beside it. `need FILE PACKAGE` sees to it that FILE (a command, or a path with wildcards)
# is there: what is missing is installed at once by `install_needed`, as Debian packages.

needed=()

need() {
    if [[ $1 == */* ]]; then
        compgen -G "$1" >/dev/null && return
    else
        command -v "$1" >/dev/null && return
    fi
    needed+=("$2")
}

install_needed() {
    ((${#needed[@]})) || return 0
    echo "Installing ${needed[*]} …" >&2
    command -v apt-get >/dev/null || {
        echo "No apt-get here: install the like of ${needed[*]} yourself." >&2
        return 1
    }
    local as_root=()
    [[ $(id -u) == 0 ]] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${needed[@]}" </dev/null >/dev/null
    needed=()
}

# python_tools DIR: the Python that the scripts of tests/interop run by, with what they need.
python_tools() {
    if ! cmp -s tests/interop/requirements.txt "$1/requirements.txt"; then
        python3 -m venv --clear "$1" || return
        "$1/bin/pip" install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt || return
        cp tests/interop/requirements.txt "$1/"
    fi
}

# Where temporary files are quickest, if there is room: a disk that stalls costs a server its lease, and that is no
# test's business but its own.
roomy_memory() {
    local free
    free=$(df --output=avail /dev/shm 2>/dev/null | tail -1)
    ((${free:-0} > 4 * 1024 * 1024)) && [[ -w /dev/shm ]] && echo /dev/shm
}
