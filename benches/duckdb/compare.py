"""One query in both databases: its times, and whether the rows are the same.

    warm-up, then some runs of each side ──▶ Pair ──▶ cells of a table
                 rows of the last run ──▶ same but for the last digits of numbers, in any order?
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from figures import Figures
from sides import Measured, Refused, Side

# Between numbers: averages are NUMERIC in one and DOUBLE in the other.
TOLERANCE = 1e-9

FIGURES = Figures("bench-duckdb")


@dataclass(frozen=True)
class Pair:
    """What both have done with a query, or why there is nothing to compare."""

    ours: Measured | None
    theirs: Measured | None
    remark: str


def timed(side: Side, sql: str, runs: int, which: Callable[[list[float]], float]) -> Measured:
    """All runs as one: `which` of their times, and the mean of their CPU-seconds."""
    side.query(sql)
    measured: list[Measured] = [side.query(sql) for _ in range(runs)]
    cpu_seconds = sum(each.cpu_seconds for each in measured) / runs
    return Measured(which([each.seconds for each in measured]), cpu_seconds, measured[-1].rows)


def pair(sides: tuple[Side, Side], sql: str, runs: int, which: Callable[[list[float]], float]) -> Pair:
    """One side after the other; `which` of the runs' times counts."""
    found, remarks = [], []
    for side in sides:
        try:
            found.append(timed(side, sql, runs, which))
        except Refused as refused:
            found.append(None)
            remarks.append(f"{side.name}: {str(refused).splitlines()[0]}")
    ours, theirs = found
    if ours and theirs and (difference := differs(ours.rows, theirs.rows)):
        remarks.append(difference)
    return Pair(ours, theirs, "; ".join(remarks))


def differs(ours: list[tuple], theirs: list[tuple]) -> str:
    """In what, or nothing."""
    if len(ours) != len(theirs):
        return f"{len(ours)} rows and {len(theirs)}"
    for own, other in zip(sorted(map(plain, ours), key=place), sorted(map(plain, theirs), key=place)):
        if len(own) != len(other) or not all(map(is_same, own, other)):
            return f"{own} and {other}"
    return ""


def plain(row: tuple) -> tuple:
    return tuple(float(value) if isinstance(value, Decimal | int) else value for value in row)


def place(row: tuple) -> tuple:
    """By what is exact, then by numbers, those that are nearly the same in the same place."""
    exact = [str(value) for value in row if not isinstance(value, float)]
    return exact, [f"{value:.6g}" for value in row if isinstance(value, float)]


def is_same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE)
    return one == other


def duration(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def asked_cells(figure: str, pair: Pair, asked: float) -> list[str]:
    """Of a query that is one of the figures: DuckDB's time so many times at most, and the same rows."""
    if pair.ours and pair.theirs:
        FIGURES.at_most(f"{figure}, times DuckDB's time", pair.ours.seconds / pair.theirs.seconds, asked)
    return cells(pair, f"at most {asked:g}")


def cells(pair: Pair, asked: str = "") -> list[str]:
    """Time of both, ratio, what is asked for, CPU-seconds of both, rows, and what is not as it should be."""
    sides = [pair.ours, pair.theirs]
    times = [duration(side.seconds) if side else "" for side in sides]
    cpu = [f"{side.cpu_seconds:.3g}" if side else "" for side in sides]
    ratio = f"{pair.ours.seconds / pair.theirs.seconds:.2f}" if all(sides) and pair.theirs.seconds else ""
    rows = next((str(len(side.rows)) for side in sides if side), "")
    return [*times, ratio, asked, *cpu, rows, pair.remark or "same"]


COLUMNS = ["Tidemark", "DuckDB", "Ratio", "Asked", "Tidemark, CPU-seconds", "DuckDB", "Rows", "Results"]


def print_row(cells: list[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def print_head(columns: list[str]) -> None:
    print_row(columns)
    print("|---" * len(columns) + "|", flush=True)


def print_memory(sides: tuple[Side, Side]) -> None:
    peaks = ", ".join(f"{side.name} {side.peak_bytes() / 1e6:.0f} MB" for side in sides)
    print(f"\nPeak memory, loading included: {peaks}\n", flush=True)
