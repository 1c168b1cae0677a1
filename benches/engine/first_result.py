"""From CREATE MATERIALIZED VIEW to the first SELECT that has its rows.

    a table of 10,000 rows, a file of as many ──▶ CREATE MATERIALIZED VIEW .. ──▶ SELECT until it is right ──▶ milliseconds
    cold: the first of a server that has just started; warm: those after it
"""

import statistics
import tempfile
import time
from pathlib import Path

import tables
from figures import Figures
from server import Server, server

ROWS = 10_000
COLD = 5
WARM = 15
ASKED_SECONDS = 0.2

QUERIES = {
    "groups of a table": "SELECT g, count(*) AS n, sum(x) AS x FROM t GROUP BY g",
    "join with a table": "SELECT d.name, count(*) AS n FROM t JOIN d ON t.g = d.g GROUP BY d.name",
    "groups of a file source": "SELECT g, count(*) AS n, sum(x) AS x FROM f GROUP BY g",
}


def open_inputs(db: Server, path: Path) -> None:
    db.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, g BIGINT, x BIGINT)",
        f"INSERT INTO t SELECT i, i % 100, i FROM generate_series(1, {ROWS}) AS s (i)",
        "CREATE TABLE d (g BIGINT PRIMARY KEY, name TEXT)",
        "INSERT INTO d SELECT i, 'name ' || i FROM generate_series(0, 99) AS s (i)",
        f"CREATE SOURCE f (id BIGINT, g BIGINT, x BIGINT) WITH (connector = 'file', path = '{path}') FORMAT PLAIN ENCODE JSON",
    )


def once(db: Server, query: str, number: int) -> float:
    began = time.perf_counter()
    db.run(f"CREATE MATERIALIZED VIEW v{number} AS {query}")
    db.wait_for(f"SELECT sum(n) FROM v{number}", [(ROWS,)])
    took = time.perf_counter() - began
    db.run(f"DROP MATERIALIZED VIEW v{number}")
    return took


def report(binary: Path, figures: Figures) -> None:
    title = f"From CREATE MATERIALIZED VIEW to its rows, {ROWS} rows of input, median of {COLD} cold servers and of {WARM} warm"
    tables.begin(title, ["View", "Cold", "Warm", "Slowest", "Asked"])
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "rows.json")
        path.write_text("".join(f'{{"id": {i}, "g": {i % 100}, "x": {i}}}\n' for i in range(1, ROWS + 1)))
        directory = Path(scratch, "data")
        with server(binary, directory) as db:
            open_inputs(db, path)
        for name, query in QUERIES.items():
            cold = []
            for _ in range(COLD):
                with server(binary, directory) as db:
                    cold.append(once(db, query, 0))
                    warm = [once(db, query, number) for number in range(1, WARM + 1)]
            medians = [statistics.median(cold), statistics.median(warm)]
            slowest = max(slowest, *medians)
            figures_of = [tables.milliseconds(each) for each in (*medians, max(cold + warm), ASKED_SECONDS)]
            tables.row([name, *figures_of])
    figures.at_most("from CREATE to the first result, the slowest median", slowest * 1e3, ASKED_SECONDS * 1e3, "ms")
