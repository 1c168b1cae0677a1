#!/usr/bin/env bash
# Starts the server given, runs examples/flights.sql once, says what to try, and stays until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
server=$1

"$server" serve &
pid=$!
trap 'kill -TERM "$pid" 2>/dev/null || true; wait "$pid" || true' EXIT
trap 'exit 0' INT TERM

# The server answers psql as soon as it is ready; if it has ended instead, it has said why.
until psql -X -q -h 127.0.0.1 -p 8433 -U tidemark -d tidemark -c 'SELECT 1' >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || { trap - EXIT; wait "$pid"; exit 1; }
    sleep 0.1
done

psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 8433 -U tidemark -d tidemark -f examples/flights.sql

cat <<'TEXT'

  Tidemark is up. A month of flights out of New York is being replayed, an hour of 2013 a second.

      psql -h 127.0.0.1 -p 8433 -U tidemark

  Try first:

      SELECT * FROM worst_hours ORDER BY avg_delay DESC LIMIT 10;   -- a view on a view, always up to date
      COPY (SUBSCRIBE delays_by_hour) TO STDOUT;                    -- watch it change; Ctrl-C ends it
      SELECT * FROM tidemark.sources;                               -- how far the replay is

  Ctrl-C here stops the server; its data stays in ./tidemark-data, and `make demo` goes on from there.

TEXT
wait "$pid"
