"""A server of Tidemark's that may die: started on a directory, killed, started again on what it has left.

    Popen ──▶ connections are taken ──▶ psycopg: run, rows ──▶ kill -9, or terminated with the block
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import psycopg

# Of a server that starts, of one that ends, and of an answer that is waited for.
PATIENCE_SECONDS = 120
# Between two tries.
PAUSE_SECONDS = 0.002


class Server:
    def __init__(self, binary: Path, directory: Path) -> None:
        port = processes.spare_port()
        self.started = time.perf_counter()
        options = ["--data-dir", directory, "--listen", f"127.0.0.1:{port}", "--http", "off", "--log", "warn"]
        self.process = subprocess.Popen([binary, "serve", *options], stdout=subprocess.DEVNULL)
        address = f"host=127.0.0.1 port={port} user=tidemark dbname=tidemark"
        self.connection = self._until(lambda: psycopg.connect(address, autocommit=True))

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.connection.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def wait_for(self, query: str, rows: list[tuple[Any, ...]]) -> None:
        """Until it answers so."""

        def answer() -> bool:
            if (found := self.rows(query)) != rows:
                raise RuntimeError(f"{query}: {found}, not {rows}")
            return True

        self._until(answer)

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _until(self, attempt: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return attempt()
            except (psycopg.Error, RuntimeError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)


@contextlib.contextmanager
def server(binary: Path, directory: Path) -> Iterator[Server]:
    started = Server(binary, directory)
    try:
        yield started
    finally:
        started.process.terminate()
        try:
            started.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
