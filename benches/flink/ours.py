"""What our own bench has printed, a line a query.

    | Query | What it asks for | Events/s | Events per CPU-second | .. | Peak memory | .. |   ──by the names of the columns──▶   Ours
"""

from dataclasses import dataclass
from pathlib import Path

UNITS = {"k": 1e3, "M": 1e6, "MB": 1e6}


@dataclass(frozen=True)
class Ours:
    asks_for: str
    rate: float
    per_cpu_second: float
    peak_bytes: float


def number(text: str) -> float:
    """`1.69 M`, `231 k` or `175 MB`."""
    digits, unit = text.split()
    return float(digits) * UNITS[unit]


def read(path: Path) -> dict[str, Ours]:
    """By query; without those that failed, whose lines are shorter."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines() if line.startswith("|")]
    names = lines[0]
    rows = [dict(zip(names, line)) for line in lines[2:] if len(line) == len(names)]
    return {
        row["Query"]: Ours(
            asks_for=row["What it asks for"],
            rate=number(row["Events/s"]),
            per_cpu_second=number(row["Events per CPU-second"]),
            peak_bytes=number(row["Peak memory"]),
        )
        for row in rows
    }
