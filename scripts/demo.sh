#!/usr/bin/env bash
# Starts the server given, runs examples/flights.sql once, says what to try, and stays until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
server=$1

sql() { psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 8433 -U tidemark -d tidemark "$@"; }

if sql -c 'SELECT 1' >/dev/null 2>&1; then
    echo "demo: a server answers on 127.0.0.1:8433 already; stop it first" >&2
    exit 1
fi

"$server" serve &
pid=$!
trap 'kill -TERM "$pid" 2>/dev/null || true; wait "$pid" || true' EXIT
trap 'exit 0' INT TERM

# The server answers psql as soon as it is ready; if it has ended instead, it has said why.
until sql -c 'SELECT 1' >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { trap - EXIT; wait "$pid"; exit 1; }
    sleep 0.1
done

# Run again, it has nothing to say but that all is there.
PGOPTIONS='-c client_min_messages=warning' sql -f examples/flights.sql

cat <<'TEXT'

  Tidemark is up. A month of flights out of New York is being replayed, an hour of 2013 a second.

      psql -h 127.0.0.1 -p 8433 -U tidemark

  Try first:

      SELECT * FROM delays_by_hour ORDER BY window_start DESC LIMIT 9;   -- the last hours, up to this moment
      COPY (SUBSCRIBE delays_by_hour) TO STDOUT;                         -- watch them change; Ctrl-C ends it
      SELECT * FROM worst_hours ORDER BY avg_delay DESC LIMIT 10;        -- a view on that view

  Ctrl-C here stops the server; its data stays in ./tidemark-data, and `make demo` goes on from there.

TEXT
wait "$pid"
