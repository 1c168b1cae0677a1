"""What commits cost: every epoch written and synced, beside the same without waiting for the disk, and the commits' part of the time.

    --sync on, off, on, off .. ──▶ events/s of both ──▶ 1 - on / off
    tidemark.epochs            ──▶ commit_ms of all epochs / seconds of the run

The store takes every epoch's changes in both, so the first says what waiting for the disk costs. The second is more than an engine
without a store would gain: decoding goes on meanwhile.
"""

import statistics

import tables
from figures import Figures
from nexmark import Bench, Setting, median

QUERIES = ["tumble", "q4", "q5", "q17", "q18"]
ASKED = 8.0


def report(bench: Bench, events: int, rounds: int, figures: Figures) -> None:
    title = f"What commits cost, {events} events, median of {rounds}"
    columns = ["Query", "Events/s, synced", "not synced", "Lost by syncing", "CPU-seconds, synced", "not synced"]
    tables.begin(title, [*columns, "Commits' part of the time, synced", "not synced", "Asked"])
    synced, unsynced = bench.in_turn(QUERIES, [Setting(events, "--sync on"), Setting(events, "--sync off")], rounds)
    lost, parts = [], []
    for query in QUERIES:
        on, off = synced[query], unsynced[query]
        seconds = [median(runs, lambda run: run.seconds) for runs in (on, off)]
        lost.append(100 * (1 - seconds[1] / seconds[0]))
        parts.append(100 * median(on, lambda run: run.commits_seconds / run.seconds))
        unsynced_part = 100 * median(off, lambda run: run.commits_seconds / run.seconds)
        rates = [tables.thousands(events / each) for each in seconds]
        cpu = [tables.seconds(median(runs, lambda run: run.cpu_seconds)) for runs in (on, off)]
        tables.row([query, *rates, f"{lost[-1]:.1f}%", *cpu, f"{parts[-1]:.1f}%", f"{unsynced_part:.1f}%", f"{ASKED:.0f}%"])
    figures.at_most("throughput lost by syncing commits, median of queries", statistics.median(lost), ASKED, "%")
    figures.at_most("commits' part of the time, the largest of queries", max(parts), ASKED, "%")
