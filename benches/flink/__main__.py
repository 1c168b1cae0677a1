"""Nexmark in Apache Flink, from the file of JSON events that our own bench reads, beside what that bench has printed.

    the bench's file ──first lines──▶ a file to warm up with, and one of few events
    for each query: a process of its own (job.py) ──▶ CPU-seconds, seconds, memory ─┐
    the table that `cargo bench --bench nexmark` has printed (ours.py) ─────────────┴──▶ a line of the table, with the ratio

`python benches/flink --ours TABLE [--events N] [--queries q0,q1]`; `make bench-flink` runs both.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ours
from queries import QUERIES

HERE = Path(__file__).parent
# Events of the job whose cost is subtracted.
FEW = 1000
# Of a query; the longest takes some minutes of 5 million events.
TIMEOUT_SECONDS = 3600


def flink(name: str, files: list[Path]) -> dict:
    """What job.py says of a query: what it measured, or a failure."""
    if QUERIES[name].not_run:
        return {"failure": QUERIES[name].not_run}
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "FLINK_LOG_DIR": scratch,
            "JVM_ARGS": f"-XX:MaxRAMPercentage=50 -Djava.io.tmpdir={scratch}",
        }
        command = [sys.executable, "-B", HERE / "job.py", name, scratch, *files]
        try:
            job = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return {"failure": f"not done after {TIMEOUT_SECONDS} s"}
        return json.loads(job.stdout.splitlines()[-1]) if job.returncode == 0 else {"failure": "see above"}


def row(name: str, events: int, theirs: dict, mine: ours.Ours | None) -> list[str]:
    cells = [name, mine.asks_for if mine else ""]
    own = [thousands(mine.per_cpu_second), f"{events / mine.rate:.1f} s", megabytes(mine.peak_bytes)] if mine else [""] * 3
    if "failure" in theirs:
        return [*cells, f"not run: {theirs['failure']}", own[0], "", "", own[1], "", own[2], ""]
    per_cpu_second = events / theirs["cpu_seconds"]
    ratio = f"{mine.per_cpu_second / per_cpu_second:.1f}" if mine else ""
    seconds, memory, before = f"{theirs['seconds']:.1f} s", megabytes(theirs["peak_bytes"]), f"{theirs['cpu_seconds_before']:.0f} s"
    return [*cells, thousands(per_cpu_second), own[0], ratio, seconds, own[1], memory, own[2], before]


def first_lines(path: Path, count: int, to: Path) -> Path:
    with path.open() as lines, to.open("w") as out:
        out.writelines(itertools.islice(lines, count))
    return to


def thousands(n: float) -> str:
    return f"{n / 1e3:.0f} k"


def megabytes(n: float) -> str:
    return f"{n / 1e6:.0f} MB"


def print_row(cells: list[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--queries", default=",".join(QUERIES))
    parser.add_argument("--ours", type=Path, help="a file with the table that our bench has printed")
    parser.add_argument("--warm-up", type=int, default=200_000, help="events that each JVM reads before it is measured")
    arguments = parser.parse_args()
    path = Path(tempfile.gettempdir(), "tidemark-bench", f"nexmark-{arguments.events}.json")
    if not path.exists():
        parser.error(f"{path} is missing: our own bench makes it")
    beside = ours.read(arguments.ours) if arguments.ours else {}
    print_row(
        ["Query", "What it asks for", "Flink, events per CPU-second", "Tidemark", "times Flink's"]
        + ["Flink, wall", "Tidemark", "Flink, peak memory", "Tidemark", "CPU before, left out"]
    )
    print("|---" * 10 + "|")
    with tempfile.TemporaryDirectory() as directory:
        first = first_lines(path, arguments.warm_up, Path(directory, "first.json"))
        few = first_lines(path, FEW, Path(directory, "few.json"))
        for name in arguments.queries.split(","):
            print_row(row(name, arguments.events, flink(name, [first, few, path]), beside.get(name)))


if __name__ == "__main__":
    main()
