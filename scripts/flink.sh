#!/usr/bin/env bash
# Runs Python with Apache Flink, which is a package of Python's and brings its jars; java has to be there.
#   scripts/flink.sh VENV benches/flink        VENV is made the first time (scripts/venv.sh); without a command that is all
set -euo pipefail

venv=$1
shift
root="$(cd "$(dirname "$0")/.." && pwd)"
"$root/scripts/venv.sh" "$venv" "$root/benches/flink" 3.9 3.12
[ $# -eq 0 ] && exit 0

exec "$venv/bin/python" -B "$@"
