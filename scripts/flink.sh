#!/usr/bin/env bash
# Runs Python with Apache Flink, which is a package of Python's and brings its jars; java has to be there.
#   scripts/flink.sh VENV benches/flink        VENV is made the first time; without a command that is all
# $PYTHON: the Python to make it with, 3.9 to 3.12, as Flink's package asks; python3 if it is one of them.
set -euo pipefail

venv=$1
shift
requirements="$(cd "$(dirname "$0")/.." && pwd)/benches/flink/requirements.txt"

python() { # the first that Flink's package can be installed for
    local each
    for each in ${PYTHON:-python3 python3.12 python3.11 python3.10 python3.9}; do
        if "$each" -c 'import ensurepip, sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$each"
            return
        fi
    done
    echo "flink: needs Python 3.9 to 3.12 with venv (Debian: python3-venv); \$PYTHON may name one" >&2
    return 1
}

if ! cmp -s "$requirements" "$venv/requirements.txt"; then
    python=$(python)
    echo "== installing Apache Flink, once, into $venv" >&2
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements" >&2
    cp "$requirements" "$venv/requirements.txt"
fi
[ $# -eq 0 ] && exit 0

exec "$venv/bin/python" -B "$@"
