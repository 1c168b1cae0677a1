"""What serving and writing cost: Tidemark and PostgreSQL on one machine, in turn; Redis beside the point SELECTs.

    pgbench, psql ──TCP──▶ Tidemark, then PostgreSQL ──▶ a second, p99, CPU-seconds ──▶ a table for each topic

`scripts/bench-pg.sh BINARY [--seconds N] [--topics point,copy]` starts PostgreSQL and this.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))

import clients
import servers
from topics import TOPICS, Bench


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench-pg.sh")
    parser.add_argument("binary", type=Path, help="the server of Tidemark")
    parser.add_argument("--seconds", type=int, default=10, help="of each run of pgbench")
    parser.add_argument("--topics", default=",".join(TOPICS), help="with commas between; all of them: %(default)s")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table that is copied")
    arguments = parser.parse_args()
    topics = arguments.topics.split(",")
    for topic in topics:
        if topic not in TOPICS:
            parser.error(f"no topic {topic}; there are {', '.join(TOPICS)}")
    # So that the servers end with us, as they do after Control-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as directory, servers.tidemark(arguments.binary, Path(directory)) as tidemark:
        postgres = servers.postgres()
        version = clients.sql(postgres, "SHOW server_version").split()[0]
        load = os.getloadavg()[0]
        print(f"PostgreSQL {version}, {os.cpu_count()} cores, load {load:.1f} before, {arguments.seconds} s a run of pgbench")
        bench = Bench(tidemark, postgres, Path(directory), arguments.seconds, arguments.rows)
        for topic in topics:
            TOPICS[topic](bench)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"bench-pg: {error}")
