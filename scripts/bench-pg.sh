#!/usr/bin/env bash
# Point SELECTs by key, pgbench as the client: Tidemark (the binary given) and PostgreSQL on the same machine, one after the
# other.
#   scripts/bench-pg.sh path/to/tidemark [seconds]
set -euo pipefail
cd "$(dirname "$0")/.."
server=$1
seconds=${2:-10}

if [ -z "${PGHOST:-}" ]; then
    PG_FSYNC=on PG_LISTEN=127.0.0.1 PG_PORT=8436 exec scripts/postgres.sh "$0" "$@"
fi
pgbench=$(command -v pgbench || ls -d /usr/lib/postgresql/*/bin/pgbench | sort -V | tail -1)
dir=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT

"$server" serve --data-dir "$dir/data" --listen 127.0.0.1:8435 --http off --log warn &
pid=$!
until psql -X -q -h 127.0.0.1 -p 8435 -U tidemark -d tidemark -c 'SELECT 1' >/dev/null 2>&1; do
    kill -0 "$pid" || exit 1
    sleep 0.1
done

cat >"$dir/select.sql" <<'SQL'
\set id random(1, 100000)
SELECT v FROM points WHERE id = :id;
SQL

# Both over TCP on loopback.
tidemark=(-h 127.0.0.1 -p 8435 -U tidemark)
postgres=(-h 127.0.0.1 -p "$PGPORT" -U tidemark)

prepare() {
    psql -X -q "$@" -c 'CREATE TABLE points (id INT PRIMARY KEY, v TEXT)' \
        -c "INSERT INTO points SELECT i, 'value ' || i FROM generate_series(1, 100000) AS g (i)"
}
prepare "${tidemark[@]}" -d tidemark
prepare "${postgres[@]}" -d postgres

rate() { # rate CLIENTS ARGS..
    local clients=$1
    shift
    "$pgbench" -n -M prepared -c "$clients" -j 2 -T "$seconds" -f "$dir/select.sql" "$@" 2>/dev/null | sed -n 's/^tps = \([0-9]*\).*/\1/p'
}

echo "| Clients | Tidemark, queries/s | PostgreSQL, queries/s | Ratio |"
echo "|---|---|---|---|"
for clients in 1 8 32; do
    ours=$(rate "$clients" "${tidemark[@]}" tidemark)
    theirs=$(rate "$clients" "${postgres[@]}" postgres)
    echo "| $clients | $ours | $theirs | $(awk "BEGIN { printf \"%.2f\", $ours / $theirs }") |"
done
