"""The servers that are measured, all over TCP on loopback.

    Tidemark, Redis ── started and ended here
    PostgreSQL      ── scripts/postgres.sh has started it, and says where by PGHOST and PGPORT
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import processes

# Until a server answers for the first time.
START_SECONDS = 30


@dataclass(frozen=True)
class Database:
    name: str
    port: int
    database: str
    # The process that all others of the server come from.
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time so far, also of the processes of the server that have ended."""
        return processes.cpu_seconds(self.pid)


def postgres() -> Database:
    # The first line of its postmaster.pid is the process.
    pid = Path(os.environ["PGHOST"], "data", "postmaster.pid").read_text().split()[0]
    return Database("PostgreSQL", int(os.environ["PGPORT"]), "postgres", int(pid))


@contextlib.contextmanager
def tidemark(binary: Path, directory: Path) -> Iterator[Database]:
    port = processes.spare_port()
    options = ["--data-dir", directory / "tidemark", "--listen", f"127.0.0.1:{port}", "--http", "off", "--log", "warn"]
    with running([binary, "serve", *options], port) as pid:
        yield Database("Tidemark", port, "tidemark", pid)


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[int]:
    """Its port."""
    port = processes.spare_port()
    # Nothing is written to the disk: what is measured is a server that only reads memory.
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "no"]
    with running(["redis-server", *options, "--loglevel", "warning"], port):
        yield port


@contextlib.contextmanager
def running(command: list, port: int) -> Iterator[int]:
    """A process, once it takes connections; it is ended with the block. Its standard output is not ours, which has the tables."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(process, port)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} does not answer")
