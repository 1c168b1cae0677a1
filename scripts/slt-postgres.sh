#!/usr/bin/env bash
# Asks PostgreSQL itself: runs sqllogictest/suites/postgres and the plain queries of suites/views against it.
#   scripts/slt-postgres.sh [part of a path]            compares
#   TIDEMARK_SLT_BLESS=1 scripts/slt-postgres.sh [..]   records PostgreSQL's answers as the expectation
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PGHOST:-}" ]; then
    exec scripts/postgres.sh "$0" "$@"
fi
TIDEMARK_SLT="${1:-}" TIDEMARK_SLT_POSTGRES="host=$PGHOST port=$PGPORT user=$PGUSER" cargo test --workspace --test it slt::
