#!/usr/bin/env bash
# Runs a command beside a PostgreSQL of its own: fresh, in a temporary directory, superuser `tidemark`, no password.
# The command finds it by PGHOST, PGPORT and PGUSER; PG_LISTEN=127.0.0.1 PG_PORT=.. opens TCP as well. PG_CONF: more lines for its
# postgresql.conf.
#   scripts/postgres.sh psql -c 'SELECT version()' postgres
set -euo pipefail

bin=$(command -v initdb 2>/dev/null || ls -d /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)
bin=$(dirname "$bin")
dir=$(mktemp -d)
as=()
if [ "$(id -u)" -eq 0 ]; then # PostgreSQL does not run as root
    chown postgres "$dir"
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
trap '"${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate -s stop 2>/dev/null || true; rm -rf "$dir"' EXIT

cd /
"${as[@]}" "$bin/initdb" -D "$dir/data" -U tidemark -A trust -E UTF8 --locale=C --lc-ctype=C.UTF-8 --no-sync >/dev/null
cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '${PG_LISTEN:-}'
port = ${PG_PORT:-5432}
unix_socket_directories = '$dir'
timezone = 'UTC'
fsync = ${PG_FSYNC:-off}
${PG_CONF:-}
CONF
"${as[@]}" "$bin/pg_ctl" -D "$dir/data" -s -w -l "$dir/log" start

cd "$OLDPWD"
PGHOST=$dir PGPORT=${PG_PORT:-5432} PGUSER=tidemark "$@"
