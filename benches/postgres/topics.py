"""What is measured, topic by topic. Each prints a table, and makes what it reads when it is not there yet."""

import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import servers
import tables
from clients import Run, pgbench, psql, redis_get, sql
from figures import Figures
from servers import Database

FIGURES = Figures("bench-pg")
# Keys of the table and the view that are looked up in, so many of them by one IN.
KEYS = 100_000
KEYS_OF_IN = 20
# Clients, where not several numbers of them are tried; and those that insert.
CLIENTS = 8
SESSIONS = 16
# That the view is to take in a second, meanwhile.
CHANGES = 50_000
# Of each bulk transfer, the databases taking turns; the fastest counts.
TRIES = 3
COLUMNS = "id BIGINT, name TEXT, amount NUMERIC(12,2), x DOUBLE PRECISION, n INT, at TIMESTAMPTZ"


@dataclass(frozen=True, eq=False)
class Bench:
    tidemark: Database
    postgres: Database
    directory: Path
    # Of each run of pgbench.
    seconds: int
    # Of the table that is copied.
    rows: int

    @property
    def both(self) -> tuple[Database, Database]:
        return self.tidemark, self.postgres

    @functools.cache
    def with_points(self, db: Database) -> Database:
        """With the table `points`, which has been read for a second."""
        sql(
            db,
            "CREATE TABLE points (id INT PRIMARY KEY, v TEXT)",
            f"INSERT INTO points SELECT i, 'value ' || i FROM generate_series(1, {KEYS}) AS g (i)",
        )
        if db is self.postgres:
            sql(db, "VACUUM ANALYZE points")  # it does so by itself, but some time within the next minute
        pgbench(db, select_one("v", "points"), CLIENTS, 1)
        return db

    @functools.cache
    def point(self, db: Database, connections: int) -> Run:
        """Measured once: other topics have it as their peer."""
        return pgbench(self.with_points(db), select_one("v", "points"), connections, self.seconds)

    @functools.cache
    def csv(self) -> Path:
        path = self.directory / "rows.csv"
        columns = "i, 'name ' || i, (i % 1000003) / 100.0, i / 7.0::float8, i % 1000, timestamptz '2026-01-01' + i * interval '1 s'"
        self.transfer(self.postgres, f"\\copy (SELECT {columns} FROM generate_series(1, {self.rows}) AS g (i)) TO '{path}' CSV")
        return path

    def transfer(self, db: Database, copy: str) -> None:
        said = psql(db, "-c", copy)
        if said.split() != ["COPY", str(self.rows)]:
            raise RuntimeError(f"{db.name}: {copy}: {said}")


@dataclass(frozen=True)
class Transfer:
    wall: float
    # CPU-seconds.
    server: float
    client: float


def point(bench: Bench) -> None:
    tables.begin(f"Point SELECTs by primary key of {KEYS} rows", ["Clients", *QUERIES])
    for connections in (1, CLIENTS, 32):
        tables.row([str(connections), *run_cells(f"point SELECTs, {connections} clients", 1.3, *(bench.point(db, connections) for db in bench.both))])


def view(bench: Bench) -> None:
    db, peer = bench.tidemark, bench.point(bench.postgres, CLIENTS)
    # The table fills the view, the source changes it. Of GROUP BY the view has a key.
    sql(
        db,
        "CREATE TABLE events (id BIGINT, amount BIGINT) WITH (strategy = 'append')",
        f"INSERT INTO events SELECT i, i % 100 FROM generate_series(1, {KEYS}) AS g (i)",
        f"""CREATE SOURCE changes (id BIGINT, amount BIGINT) WITH (connector = 'datagen', rows_per_second = {CHANGES},
            fields.id.kind = 'random', fields.id.min = 1, fields.id.max = {KEYS})""",
        "ALTER SOURCE changes PAUSE",
        """CREATE MATERIALIZED VIEW totals AS SELECT id, sum(amount) AS total, count(*) AS n
            FROM (SELECT * FROM events UNION ALL SELECT * FROM changes) AS e GROUP BY id""",
    )
    plan = sql(db, "EXPLAIN SELECT total FROM totals WHERE id = 42")
    if "Lookup: public.totals by id" not in plan:
        raise RuntimeError(f"the view is not looked up in by its key:\n{plan}")
    title = f"Point SELECTs by the key of a view of {KEYS} rows, {CLIENTS} clients (PostgreSQL: of the table, nothing else to do)"
    tables.begin(title, ["Changes of the view a second", *QUERIES])
    for command, asked in (("PAUSE", 0), ("RESUME", CHANGES)):
        sql(db, f"ALTER SOURCE changes {command}")
        time.sleep(1)
        before, started = taken(db), time.monotonic()
        run = pgbench(db, select_one("total", "totals"), CLIENTS, bench.seconds)
        changes = (taken(db) - before) / (time.monotonic() - started)
        tables.row([f"{changes:.0f} of {asked}", *run_cells(f"point SELECTs of a view, {asked} changes a second", 1.3, run, peer)])
    sql(db, "DROP MATERIALIZED VIEW totals", "DROP SOURCE changes", "DROP TABLE events")


def taken(db: Database) -> int:
    """Rows that are in the view by now; the source may have sent some more."""
    return int(sql(db, "SELECT sum(n) FROM totals"))


def redis(bench: Bench) -> None:
    runs = {db.name: bench.point(db, CLIENTS) for db in bench.both}
    with servers.redis(bench.directory) as port:
        rate, p99 = redis_get(port, KEYS, CLIENTS, bench.seconds)
    tables.begin(f"p99 of a point SELECT beside GET of Redis, {CLIENTS} clients", ["", "Queries/s", "p99", "times Redis's", "Asked"])
    tables.row(["Redis", tables.number(rate), tables.milliseconds(p99), "", ""])
    FIGURES.at_most("p99 of a point SELECT, times Redis's GET", runs[bench.tidemark.name].p99 / p99, 3)
    for name, run in runs.items():
        asked = "at most 3" if name == bench.tidemark.name else ""
        tables.row([name, tables.number(run.rate), tables.milliseconds(run.p99), tables.ratio(run.p99, p99), asked])


def keys_in(bench: Bench) -> None:
    names = [f"i{n}" for n in range(KEYS_OF_IN)]
    sets = "".join(f"\\set {name} random(1, {KEYS})\n" for name in names)
    script = f"{sets}SELECT id, v FROM points WHERE id IN ({', '.join(':' + name for name in names)});\n"
    tables.begin(f"SELECTs of {KEYS_OF_IN} of {KEYS} rows by IN", ["Clients", *QUERIES])
    runs = [pgbench(bench.with_points(db), script, CLIENTS, bench.seconds) for db in bench.both]
    tables.row([str(CLIENTS), *run_cells(f"SELECTs of {KEYS_OF_IN} rows by IN", 2, *runs)])


def copy_in(bench: Bench) -> None:
    path = bench.csv()
    tables.begin(f"COPY in, {bench.rows} rows, {path.stat().st_size / 1e6:.0f} MB, best of {TRIES}", ["", *TRANSFERS])
    best = best_of(bench, lambda db: bench.transfer(db, f"\\copy c FROM '{path}' CSV"), before=empty)
    tables.row(["`\\copy c FROM`", *transfer_cells(bench, "COPY in", 2, best)])
    sums = "SELECT count(*), sum(id), max(name), sum(amount), max(x), sum(n), extract(epoch FROM max(at))::bigint FROM c"
    ours, theirs = (sql(db, sums) for db in bench.both)
    if ours != theirs:
        raise RuntimeError(f"not the rows that PostgreSQL has: {ours}, {theirs}")


def empty(db: Database) -> None:
    sql(db, "DROP TABLE IF EXISTS c", f"CREATE TABLE c ({COLUMNS})")


def copy_out(bench: Bench) -> None:
    for db in bench.both:
        sql(db, f"CREATE TABLE IF NOT EXISTS c ({COLUMNS})")
        if sql(db, "SELECT count(*) FROM c") == "0":
            bench.transfer(db, f"\\copy c FROM '{bench.csv()}' CSV")
    tables.begin(f"Out, {bench.rows} rows, best of {TRIES}", ["", *TRANSFERS])
    best = best_of(bench, lambda db: bench.transfer(db, "\\copy c TO /dev/null"))
    tables.row(["`\\copy c TO`", *transfer_cells(bench, "COPY out", 1, best)])
    best = best_of(bench, lambda db: psql(db, "-A", "-t", "-o", "/dev/null", "-c", "SELECT * FROM c"))
    tables.row(["`SELECT * FROM c`", *transfer_cells(bench, "SELECT of a whole table", 1, best)])


def insert(bench: Bench) -> None:
    script = "\\set id random(1, 1000000000)\nINSERT INTO ins VALUES (:id, :id % 100, 'abc');\n"
    runs = []
    for db in bench.both:
        sql(db, "CREATE TABLE ins (id BIGINT, g INT, s TEXT)")
        if db is bench.tidemark:
            sql(db, "CREATE MATERIALIZED VIEW ins_groups AS SELECT g, count(*) AS n FROM ins GROUP BY g")
        runs.append(pgbench(db, script, SESSIONS, bench.seconds))
        for count in ["count(*) FROM ins"] + ["sum(n) FROM ins_groups"] * (db is bench.tidemark):
            found = sql(db, f"SELECT {count}")
            if found != str(runs[-1].count):
                raise RuntimeError(f"{db.name}: {runs[-1].count} rows went in, {count} is {found}")
    title = f"INSERTs of a row, {SESSIONS} sessions, each commit synced (in Tidemark a view counts the rows by group)"
    tables.begin(title, ["Sessions", *INSERTS])
    cells = run_cells(f"INSERTs of a row, {SESSIONS} sessions", 0.5, *runs)
    tables.row([str(SESSIONS), *cells, *(tables.seconds(run.cpu) for run in runs)])


def best_of(bench: Bench, what: Callable[[Database], object], before: Callable[[Database], object] = lambda _: None) -> list[Transfer]:
    """Of Tidemark and of PostgreSQL; `before` each try is not measured."""
    tries = []
    for _ in range(TRIES):
        for db in bench.both:
            before(db)
            server, client, started = db.cpu_seconds(), client_cpu_seconds(), time.monotonic()
            what(db)
            wall = time.monotonic() - started
            tries.append(Transfer(wall, db.cpu_seconds() - server, client_cpu_seconds() - client))
    return [min(of_one, key=lambda each: each.wall) for of_one in (tries[::2], tries[1::2])]


def client_cpu_seconds() -> float:
    """Of all clients that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def select_one(column: str, relation: str) -> str:
    return f"\\set id random(1, {KEYS})\nSELECT {column} FROM {relation} WHERE id = :id;\n"


# What stands above the cells that come after the first.
COMPARED = ["PostgreSQL", "Ratio", "Asked"]
QUERIES = ["Tidemark, queries/s", *COMPARED, "Tidemark, p99", "PostgreSQL", "Tidemark, CPU of one", "PostgreSQL"]
INSERTS = ["Tidemark, INSERTs/s", *QUERIES[1:], "Tidemark, CPU", "PostgreSQL"]
TRANSFERS = [
    *["Tidemark, rows/s", *COMPARED, "Tidemark, wall", "PostgreSQL", "Tidemark, CPU", "PostgreSQL"],
    *["psql, CPU with Tidemark", "with PostgreSQL"],
]


def run_cells(figure: str, asked: float, ours: Run, theirs: Run) -> list[str]:
    FIGURES.at_least(f"{figure}, times PostgreSQL's rate", ours.rate / theirs.rate, asked)
    rates = [tables.number(ours.rate), tables.number(theirs.rate), tables.ratio(ours.rate, theirs.rate)]
    p99s = [tables.milliseconds(run.p99) for run in (ours, theirs)]
    return [*rates, f"{asked:g}", *p99s, *(tables.microseconds(run.cpu / run.count) for run in (ours, theirs))]


def transfer_cells(bench: Bench, figure: str, asked: float, best: list[Transfer]) -> list[str]:
    ours, theirs = best
    FIGURES.at_least(f"{figure}, times PostgreSQL's rate", theirs.wall / ours.wall, asked)
    rates = [tables.thousands(bench.rows / each.wall) for each in best]
    figures = [ours.wall, theirs.wall, ours.server, theirs.server, ours.client, theirs.client]
    return [*rates, tables.ratio(theirs.wall, ours.wall), f"{asked:g}", *map(tables.seconds, figures)]


TOPICS: dict[str, Callable[[Bench], None]] = {
    "point": point,
    "view": view,
    "redis": redis,
    "in": keys_in,
    "copy": copy_in,
    "out": copy_out,
    "insert": insert,
}
