"""Windows over rows in memory: what `benches/tumble.rs` has measured."""

import tables
from figures import Figures
from nexmark import Bench

ASKED = 6.0


def report(bench: Bench, figures: Figures) -> None:
    title = "Windows over Arrow in memory, 1 shard, every epoch synced, median of 5"
    tables.begin(title, ["Query", "Rows/s", "Rows per core-second", "Asked"])
    lines = bench.lines("tumble")
    for line in lines:
        millions = [f"{line[each] / 1e6:.2f} M" for each in ("rows_per_second", "rows_per_core_second")]
        tables.row([line["query"], *millions, f"{ASKED:.0f} M" if line is lines[0] else ""])
    figures.at_least("tumble over Arrow in memory, rows per core-second", lines[0]["rows_per_core_second"] / 1e6, ASKED, "M")
