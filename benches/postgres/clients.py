"""The clients, the same for both databases: psql, pgbench, and redis-benchmark for Redis."""

import csv
import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers import Database

# Of one client; the longest takes some tens of seconds more than it was told to.
TIMEOUT_SECONDS = 600
# pgbench writes down every tenth transaction: what percentiles need, at little cost for the client.
SAMPLED = 0.1


@dataclass(frozen=True)
class Run:
    # Transactions that have been answered, and how many a second.
    count: int
    rate: float
    # Seconds.
    p99: float
    # CPU-seconds of the server.
    cpu: float


def program(name: str) -> str:
    """Debian's psql and pgbench on the PATH are Perl, which looks for these."""
    installed = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(installed, key=lambda path: float(path.parts[-3]), default=None)
    return str(newest or shutil.which(name) or name)


def run(command: list) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def address(db: Database) -> list[str]:
    return ["-h", "127.0.0.1", "-p", str(db.port), "-U", "tidemark"]


def psql(db: Database, *options: str) -> str:
    return run([program("psql"), "-X", "-v", "ON_ERROR_STOP=1", *address(db), "-d", db.database, *options])


def sql(db: Database, *statements: str) -> str:
    """Runs them one by one; the rows as psql prints them without a frame."""
    return psql(db, "-q", "-A", "-t", *(f"--command={statement}" for statement in statements)).strip()


def pgbench(db: Database, script: str, clients: int, seconds: int) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "script.sql")
        path.write_text(script)
        options = ["-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds), "-f", path]
        log = ["-l", f"--log-prefix={directory}/log", f"--sampling-rate={SAMPLED}"]
        before = db.cpu_seconds()
        said = run([program("pgbench"), *options, *log, *address(db), db.database])
        cpu = db.cpu_seconds() - before
        # A file for each thread; the third field is the microseconds that the transaction took.
        lines = (line for part in Path(directory).glob("log.*") for line in part.read_text().splitlines())
        latencies = sorted(int(line.split()[2]) for line in lines)
    count = int(re.search(r"transactions actually processed: (\d+)", said)[1])
    rate = float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)[1])
    return Run(count, rate, latencies[math.ceil(0.99 * len(latencies)) - 1] / 1e6, cpu)


def redis_get(port: int, keys: int, clients: int, seconds: int) -> tuple[float, float]:
    """How many a second, and the seconds of p99."""

    def benchmark(command: str, count: int, *options: str) -> dict[str, str]:
        options = ["-t", command, "-n", str(count), "-r", str(keys), "-d", "12", "--precision", "3", "--csv", *options]
        return next(csv.DictReader(run(["redis-benchmark", "-p", str(port), *options]).splitlines()))

    # Ten times as many as there are keys, so that nearly each is there.
    benchmark("set", 10 * keys, "-P", "100")
    # It cannot be told how long to run, so a short run tells how much it does.
    rate = float(benchmark("get", 20_000, "-c", str(clients))["rps"])
    measured = benchmark("get", int(rate * seconds), "-c", str(clients))
    return float(measured["rps"]), float(measured["p99_latency_ms"]) / 1e3
