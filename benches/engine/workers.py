"""One and two workers: how much faster the second core makes it, and how much faster it could.

    --workers 1, 2, 1, 2 .. ──▶ events/s of both
    CPU-seconds with two    ──▶ D decoding │ C the clock's thread, which nothing shares │ W the workers
                                one worker: the longer of D and C + W     two: no shorter than C + W / 2, nor (D + C + W) / cores

Decoding has threads of its own, so that with one worker the second core is not idle. The last column is what CPU-seconds alone
allow, whatever else runs on the machine.
"""

import os
import statistics

import tables
from figures import Figures
from nexmark import Bench, Run, Setting, median

QUERIES = ["tumble", "q4", "q5", "q9", "q16", "q17", "q18", "q20"]
ASKED = 1.7


def at_best(run: Run) -> tuple[float, float]:
    """By how much two workers are faster on this machine, and by how much the engine is if it has two cores of its own."""
    clock, workers = run.clock_cpu_seconds, run.workers_cpu_seconds
    decoding, engine = run.cpu_seconds - clock - workers, clock + workers
    with_two = max(clock + workers / 2, (decoding + engine) / (os.cpu_count() or 1), decoding)
    return max(decoding, engine) / with_two, engine / (clock + workers / 2)


def report(bench: Bench, events: int, rounds: int, figures: Figures) -> None:
    columns = ["Query", "Events/s, 1 worker", "2 workers", "Ratio", "Asked", "Epochs, 1 worker", "2 workers", "Ratio"]
    parts = ["CPU-seconds: decoding", "clock", "workers", "Ratio at best", "of the engine alone"]
    tables.begin(f"One and two workers, {events} events, median of {rounds}", [*columns, *parts])
    one, two = bench.in_turn(QUERIES, [Setting(events, f"--workers {n}") for n in (1, 2)], rounds)
    faster = []
    for query in QUERIES:
        seconds = [median(runs[query], lambda run: run.seconds) for runs in (one, two)]
        epochs = [median(runs[query], lambda run: run.epochs_seconds) for runs in (one, two)]
        faster.append(seconds[0] / seconds[1])
        rates = [tables.thousands(events / each) for each in seconds]
        cpu = [
            median(two[query], of)
            for of in (
                lambda run: run.cpu_seconds - run.clock_cpu_seconds - run.workers_cpu_seconds,
                lambda run: run.clock_cpu_seconds,
                lambda run: run.workers_cpu_seconds,
            )
        ]
        best = [f"{median(two[query], lambda run: at_best(run)[which]):.2f}" for which in (0, 1)]
        took = [*map(tables.seconds, epochs), tables.ratio(*epochs)]
        tables.row([query, *rates, tables.ratio(*seconds), str(ASKED), *took, *map(tables.seconds, cpu), *best])
    figures.at_least("2 workers, times as fast as 1, median of queries", statistics.median(faster), ASKED)
