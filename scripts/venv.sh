#!/usr/bin/env bash
# Makes a Python environment with the packages of a bench, once.
#   scripts/venv.sh VENV benches/duckdb 3.11 [3.14]      the oldest and the newest Python that the packages take
# $PYTHON: the Python to make it with; python3 if it is one of them.
set -euo pipefail

venv=$1 requirements=$2/requirements.txt oldest=$3 newest=${4:-3.99}

python() { # the first that the packages can be installed for
    local each fits='import ensurepip, sys
versions = [tuple(map(int, each.split("."))) for each in sys.argv[1:]]
sys.exit(not versions[0] <= sys.version_info[:2] <= versions[1])'
    for each in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9}; do
        if "$each" -c "$fits" "$oldest" "$newest" 2>/dev/null; then
            echo "$each"
            return
        fi
    done
    echo "$2: needs Python $oldest${4:+ to $newest} with venv (Debian: python3-venv); \$PYTHON may name one" >&2
    return 1
}

if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    python=$(python "$@")
    echo "== installing the packages of $requirements, once, into $venv" >&2
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements" >&2
    cp "$requirements" "$venv/requirements.txt"
fi
