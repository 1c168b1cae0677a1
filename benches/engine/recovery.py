"""Recovery: how long a server is away that was killed with a gigabyte of state.

    rows ──▶ table ──▶ view: a state and a row for each key     kill -9
             started again ──▶ the first right SELECT by key ──▶ a row goes in and is seen ──▶ all rows are counted
"""

import tempfile
import time
from pathlib import Path

import tables
from figures import Figures
from server import Server, server

# Of one INSERT.
CHUNK = 250_000
# Each key has 160 hexadecimal digits, in the table, in the operator's state and in the view; the store compresses them, and what is
# counted are bytes on the disk.
ROW = "md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text) || md5((i + 3)::text) || md5((i + 4)::text)"
BYTES_A_KEY = 240
VIEW = "CREATE MATERIALIZED VIEW v AS SELECT id, count(*) AS n, max(payload) AS payload FROM t GROUP BY id"
STARTS = 3
ASKED_SECONDS = 3.0


def fill(db: Server, keys: int) -> None:
    db.run("CREATE TABLE t (id BIGINT, payload TEXT) WITH (strategy = 'append')", VIEW)
    for first in range(0, keys, CHUNK):
        last = min(first + CHUNK, keys) - 1
        db.run(f"INSERT INTO t SELECT i, {ROW} FROM generate_series({first}, {last}) AS g (i)")


def report(binary: Path, gigabytes: float, figures: Figures) -> None:
    keys = int(gigabytes * 1e9 / BYTES_A_KEY)
    columns = ["Start", "Data directory", "Connected", "First SELECT by key", "A new row is seen", "Asked"]
    tables.begin(f"Recovery, kill -9 with a view of {keys} keys", [*columns, "CPU-seconds until then", "All rows counted"])
    recovered = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, "data")
        with server(binary, directory) as db:
            fill(db, keys)
            db.kill()
        for start in range(1, STARTS + 1):
            size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            with server(binary, directory) as db:
                took = [time.perf_counter() - db.started]
                db.wait_for("SELECT n FROM v WHERE id = 17", [(start,)])
                took.append(time.perf_counter() - db.started)
                db.run("INSERT INTO t VALUES (17, 'again')")
                db.wait_for("SELECT n FROM v WHERE id = 17", [(start + 1,)])
                recovered.append(time.perf_counter() - db.started)
                cpu = db.cpu_seconds()
                counting = time.perf_counter()
                db.wait_for("SELECT count(*), sum(n) FROM v", [(keys, keys + start)])
                counting = time.perf_counter() - counting
                until = [*map(tables.seconds, [*took, recovered[-1]]), f"{ASKED_SECONDS:.0f} s"]
                tables.row([str(start), f"{size / 1e9:.2f} GB", *until, tables.seconds(cpu), tables.seconds(counting)])
                db.kill()
    figures.at_most(f"recovery with {gigabytes:.0f} GB of state, the longest of {STARTS}", max(recovered), ASKED_SECONDS, "s")
