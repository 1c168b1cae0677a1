#!/usr/bin/env bash
# Serving and writing: Tidemark (the binary given) and PostgreSQL on the same machine, in turn, over TCP; Redis beside the point SELECTs.
#   scripts/bench-pg.sh path/to/tidemark [--seconds 10] [--topics point,view,redis,in,copy,out,insert]
set -euo pipefail
cd "$(dirname "$0")/.."

PG_FSYNC=on PG_LISTEN=127.0.0.1 PG_PORT=8436 exec scripts/postgres.sh python3 -B benches/postgres "$@"
