"""Does an event cost more when there have been many? Ten times as many events, CPU-seconds of one.

    state with a bound (windows)          ──▶ at most as much
    state that grows with what has come   ──▶ at most by the logarithm: 7 / 6 from 1 to 10 million
"""

import math

import tables
from figures import Figures
from nexmark import Bench, Setting, median

BOUNDED = ["q0", "q5", "q7", "q8", "tumble", "hop"]
GROWING = ["q4", "q17", "q18"]
TIMES = 10
# By how much the same run differs from itself.
NOISE = 1.1


def report(bench: Bench, events: int, rounds: int, figures: Figures) -> None:
    asked_of = {query: 1.0 for query in BOUNDED}
    asked_of |= {query: math.log(events * TIMES) / math.log(events) for query in GROWING}
    title = f"CPU of an event, {events * TIMES} events beside {events}, median of {rounds}"
    tables.begin(title, ["Query", f"{events} events", f"{events * TIMES} events", "Ratio", "Asked, without noise", "State", "State"])
    few, many = bench.in_turn(list(asked_of), [Setting(events), Setting(events * TIMES)], rounds)
    for query, asked in asked_of.items():
        both = [few[query], many[query]]
        cost = [median(runs, lambda run: run.cpu_seconds / run.events) for runs in both]
        state = [f"{median(runs, lambda run: run.state_bytes) / 1e6:.0f} MB" for runs in both]
        tables.row([query, *map(tables.microseconds_of_one, cost), tables.ratio(*reversed(cost)), f"{asked:.2f}", *state])
        figures.at_most(f"{query}: cost of an event, {TIMES} times as many", cost[1] / cost[0], asked * NOISE)
