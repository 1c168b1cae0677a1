"""TPC-H: the 22 queries over Parquet files, one after the other, and in sessions at once.

    tpchgen-cli ──▶ a Parquet file a table ──┬─▶ Tidemark: CREATE SOURCE .. (connector = 'file'); a SELECT reads the file
    tests/it/tpch/q*.sql ────────────────────┴─▶ DuckDB: CREATE VIEW .. read_parquet
"""

import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

from compare import COLUMNS, FIGURES, Pair, asked_cells, cells, duration, pair, print_head, print_memory, print_row
from sides import Measured, Refused, Sessions, Side

TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]
QUERIES = 22
TEXTS = Path(__file__).parents[2] / "tests/it/tpch"

RUNS = 3
ASKED = 1.5
SESSIONS = 10
ASKED_OF_SESSIONS = 0.8


def make_files(directory: Path, scale: Decimal) -> None:
    """Unless they are there."""
    if directory.exists():
        return
    print(f"making {directory}", file=sys.stderr)
    unfinished = directory.with_name(directory.name + ".part")
    program = Path(sys.executable).with_name("tpchgen-cli")
    subprocess.run([program, "parquet", "-q", "--overwrite", "-s", str(scale), "-o", unfinished], check=True)
    unfinished.rename(directory)


def queries(scale: Decimal) -> dict[str, str]:
    found = {f"q{number}": (TEXTS / f"q{number:02}.sql").read_text() for number in range(1, QUERIES + 1)}
    # The fraction goes with the scale; the text has that of 0.01.
    whole = found["q11"].replace("* 0.01", f"* {Decimal('0.0001') / scale:f}")
    assert whole != found["q11"] or scale == Decimal("0.01")
    return found | {"q11": whole}


def open_files(ours: Side, theirs: Side, directory: Path) -> None:
    for table in TABLES:
        path = directory / f"{table}.parquet"
        ours.run(f"CREATE SOURCE {table} (*) WITH (connector = 'file', path = '{path}', bounded = true) FORMAT PLAIN ENCODE PARQUET")
        theirs.run(f"CREATE VIEW {table} AS FROM read_parquet('{path}')")
    # A SELECT sees as much of a source as the clock has read.
    while (states := {state for (state,) in ours.query("SELECT state FROM tidemark.sources").rows}) != {"finished"}:
        if "failed" in states:
            raise Refused("a source has failed")
        time.sleep(0.1)


def total(pairs: list[Pair]) -> Pair:
    """Of those that both have done."""
    both = [pair for pair in pairs if pair.ours and pair.theirs]
    ours, theirs = (added(side) for side in ([pair.ours for pair in both], [pair.theirs for pair in both]))
    not_same = sum(bool(pair.remark) for pair in pairs)
    return Pair(ours, theirs, f"{not_same} failed or not the same" if not_same else "")


def added(each: list[Measured]) -> Measured:
    rows = [row for timed in each for row in timed.rows]
    return Measured(sum(timed.seconds for timed in each), sum(timed.cpu_seconds for timed in each), rows)


def report(sides: tuple[Side, Side], scale: Decimal) -> None:
    print(f"\n### TPC-H at scale {scale}, Parquet\n")
    print_head(["Query", *COLUMNS])
    pairs = []
    for name, sql in queries(scale).items():
        pairs.append(pair(sides, sql, RUNS, min))
        print_row([name, *cells(pairs[-1])])
    print_row(["all", *asked_cells("TPC-H, all queries", total(pairs), ASKED)])
    print_memory(sides)


def report_sessions(sides: tuple[Side, Side], scale: Decimal) -> None:
    texts = list(queries(scale).values())
    begins = [number * QUERIES // SESSIONS for number in range(SESSIONS)]
    work = [texts[begin:] + texts[:begin] for begin in begins]
    print(f"\n### {SESSIONS} sessions at once, each with the {QUERIES} queries of TPC-H at scale {scale}\n")
    print_head(["", "Tidemark", "DuckDB", "Ratio", "Asked"])
    found: list[Sessions] = []
    for side in sides:
        side.sessions([texts])
        found.append(side.sessions(work))
    ours, theirs = found
    rates = [each.done / each.seconds * 3600 for each in found]
    print_row(["Queries an hour", *(f"{rate:.0f}" for rate in rates), f"{rates[0] / rates[1]:.2f}", f"at least {ASKED_OF_SESSIONS}"])
    FIGURES.at_least(f"{SESSIONS} sessions, times DuckDB's queries an hour", rates[0] / rates[1], ASKED_OF_SESSIONS)
    print_row(["Until the last is through", *(duration(each.seconds) for each in found), f"{ours.seconds / theirs.seconds:.2f}", ""])
    cpu = [each.cpu_seconds for each in found]
    print_row(["CPU-seconds", *(f"{seconds:.1f}" for seconds in cpu), f"{cpu[0] / cpu[1]:.2f}", ""])
    print_row(["Queries that failed", *(str(len(each.refusals)) for each in found), "", "0"])
    for side, each in zip(sides, found):
        if each.refusals:
            print(f"\n{side.name}, the first: {each.refusals[0].splitlines()[0]}")
    print_memory(sides)
