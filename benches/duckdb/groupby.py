"""GROUP BY over a table of many rows, and over a live view of them.

    rows by the same SQL ──▶ Tidemark: table c ──▶ live view v     DuckDB: table c, and v in its place
                               └── each query over c, then over v, median of some runs
"""

import statistics
import time

from compare import COLUMNS, asked_cells, pair, print_head, print_memory, print_row
from sides import Side

TABLE = 'CREATE TABLE c (id BIGINT, name TEXT, amount NUMERIC(12,2), x DOUBLE PRECISION, n INT, "at" TIMESTAMPTZ)'

# Whole numbers until the last step, so that both make the same rows.
ROWS = """INSERT INTO c SELECT i, 'name ' || i * 7919 % {names}, i * 104729 % 1000000 * 0.01,
    CAST(i % 9973 AS DOUBLE PRECISION) / 7, i * 31 % 1000, to_timestamp(1767225600 + i)
FROM generate_series({first}, {last}) AS g (i)"""
# Of one INSERT.
CHUNK = 500_000

VIEW = """CREATE MATERIALIZED VIEW v AS
SELECT id, max(name) AS name, max(amount) AS amount, max(x) AS x, max(n) AS n, max("at") AS "at" FROM c GROUP BY id"""

KEPT_BY_COLUMN = "SELECT column_rows > 0.99 * rows FROM tidemark.materialized_views WHERE name = 'v'"
PATIENCE_SECONDS = 600

QUERIES = {
    "by n, 1000 groups": "SELECT n, count(*), sum(amount), avg(x) FROM {over} GROUP BY n",
    "by n, a tenth of the rows": "SELECT n, count(*), sum(amount), avg(x) FROM {over} WHERE x < 142.4 GROUP BY n",
    "by name, a group for 100 rows": "SELECT name, count(*), sum(amount) FROM {over} GROUP BY name ORDER BY 3 DESC, 1 LIMIT 10",
    "count(*)": "SELECT count(*) FROM {over}",
}

RUNS = 5
ASKED = 5


def load(ours: Side, theirs: Side, rows: int) -> None:
    for side in (ours, theirs):
        side.run(TABLE)
        for first in range(1, rows + 1, CHUNK):
            side.run(ROWS.format(names=max(rows // 100, 1), first=first, last=min(first + CHUNK - 1, rows)))
    ours.run(VIEW)
    until_kept_by_column(ours)
    theirs.run("CREATE VIEW v AS SELECT * FROM c")


def until_kept_by_column(ours: Side) -> None:
    """As a table that has been vacuumed: rows that rest are copied by column while the clock has nothing else to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ours.query(KEPT_BY_COLUMN).rows[0][0]:
        if time.monotonic() > deadline:
            raise RuntimeError("the view is still not kept by column")
        time.sleep(0.5)


def report(sides: tuple[Side, Side], rows: int) -> None:
    load(*sides, rows)
    print(f"\n### GROUP BY over {rows} rows\n")
    print_head(["Query", "Over", *COLUMNS])
    for over, words in {"c": "table", "v": "live view"}.items():
        for name, sql in QUERIES.items():
            found = pair(sides, sql.format(over=over), RUNS, statistics.median)
            print_row([name, words, *asked_cells(f"GROUP BY over a {words}: {name}", found, ASKED)])
    print_memory(sides)
