"""The engine alone: windows in memory, commits, recovery, the first result, workers, and whether an event's cost grows.

    benches/tumble.rs, benches/nexmark ──with other flags in turn──▶ arrow, checkpoints, workers, growth ─┐
    a server that is asked, killed, started again                  ──▶ recovery, first                  ─┴─▶ a table each

`python benches/engine --server BINARY [--topics arrow,growth] [--events N] [--rounds N]`; `make bench-engine` runs it.
"""

import argparse
import signal
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))

import arrow
import checkpoints
import first_result
import growth
import recovery
import workers
from figures import Figures
from nexmark import Bench

CARGO = "cargo bench --workspace --bench"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", type=Path, required=True, help="Tidemark's binary, a release build")
    parser.add_argument("--bench", default=CARGO, help="what comes before the name of a bench: %(default)s")
    parser.add_argument("--events", type=int, default=5_000_000, help="of checkpoints and workers; growth has 1 and 10 million")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--state", type=float, default=1.0, help="gigabytes, of recovery")
    figures = Figures("engine")
    topics = {
        "arrow": lambda: arrow.report(bench, figures),
        "checkpoints": lambda: checkpoints.report(bench, arguments.events, arguments.rounds, figures),
        "workers": lambda: workers.report(bench, arguments.events, arguments.rounds, figures),
        "growth": lambda: growth.report(bench, 1_000_000, arguments.rounds, figures),
        "recovery": lambda: recovery.report(server, arguments.state, figures),
        "first": lambda: first_result.report(server, figures),
    }
    parser.add_argument("--topics", default=",".join(topics), help="with commas between; all of them: %(default)s")
    arguments = parser.parse_args()
    server = arguments.server.resolve()
    bench = Bench(arguments.bench.split(), server)
    wanted = arguments.topics.split(",")
    if unknown := set(wanted) - set(topics):
        parser.error(f"no such topic: {', '.join(sorted(unknown))}")
    # Terminated, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for topic in wanted:
        topics[topic]()


if __name__ == "__main__":
    main()
