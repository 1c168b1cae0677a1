"""DuckDB beside Tidemark: the same rows, the same queries, one after the other on the same machine.

    groupby:   a table of rows that both make ──▶ GROUP BY          (groupby.py)  ─┐
    tpch:      Parquet files ──▶ 22 queries                         (tpch.py)     ─┼─▶ a table of Markdown each
    sessions:  the same files and queries, ten sessions at once     (tpch.py)     ─┘

`python benches/duckdb --server BINARY [--parts groupby,tpch,sessions] [--rows N] [--scale 1]`; `make bench-duckdb` runs it.
"""

import argparse
import signal
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))

import groupby
import tpch
from sides import both

PARTS = ["groupby", "tpch", "sessions"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", type=Path, required=True, help="Tidemark's binary, a release build")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the table of GROUP BY")
    parser.add_argument("--scale", type=Decimal, default=Decimal(1), help="of TPC-H")
    parser.add_argument("--files", type=Path, help="directory of TPC-H's Parquet files; made if it is not there")
    parser.add_argument("--memory", help="for queries, of both, such as 4GB; otherwise what each takes by itself")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    # Terminated, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    server, scale = arguments.server.resolve(), arguments.scale
    files = (arguments.files or Path(tempfile.gettempdir(), "tidemark-bench", f"tpch-sf{scale}")).resolve()
    if "groupby" in parts:
        with both(server, arguments.memory) as sides:
            groupby.report(sides, arguments.rows)
    if "tpch" in parts or "sessions" in parts:
        tpch.make_files(files, scale)
        with both(server, arguments.memory) as sides:
            tpch.open_files(*sides, files)
            if "tpch" in parts:
                tpch.report(sides, scale)
            if "sessions" in parts:
                tpch.report_sessions(sides, scale)


if __name__ == "__main__":
    main()
