"""The figures that are asked for: each part of `make bench` adds its own, the last step prints them all.

    at_least, at_most ──▶ a line of JSON each in $TIDEMARK_FIGURES, if that is set ──`python figures.py FILE`──▶ one table
"""

import json
import os
import sys
from pathlib import Path

import tables


class Figures:
    """`part`: of the benchmarks."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.path = os.environ.get("TIDEMARK_FIGURES")

    def at_least(self, figure: str, reached: float, asked: float, unit: str = "") -> None:
        self._add(figure, reached, f"at least {amount(asked, unit)}", unit, reached >= asked)

    def at_most(self, figure: str, reached: float, asked: float, unit: str = "") -> None:
        self._add(figure, reached, f"at most {amount(asked, unit)}", unit, reached <= asked)

    def _add(self, figure: str, reached: float, asked: str, unit: str, met: bool) -> None:
        if self.path:
            line = {"part": self.part, "figure": figure, "reached": amount(reached, unit), "asked": asked, "met": met}
            with Path(self.path).open("a") as out:
                out.write(json.dumps(line) + "\n")


def amount(n: float, unit: str) -> str:
    digits = f"{n:.3g}" if abs(n) < 1000 else f"{n:.0f}"
    return f"{digits} {unit}".rstrip()


def main() -> None:
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    tables.begin("What is asked for", ["Part", "Figure", "Reached", "Asked", ""])
    for line in lines:
        tables.row([line["part"], line["figure"], line["reached"], line["asked"], "yes" if line["met"] else "no"])
    print(f"\n{sum(line['met'] for line in lines)} of {len(lines)} are reached.")


if __name__ == "__main__":
    main()
