"""The two databases, asked the same things in the same words.

    run, query, sessions ──▶ Tidemark: a server of its own, by psycopg; CPU-seconds are those of the server
                         └─▶ DuckDB: a process of its own, by a pipe; CPU-seconds are those of that process
"""

import multiprocessing
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import duckdb
import processes
import psycopg

# Of a statement of Tidemark's, which would be one that stands still.
TIMEOUT = "30min"
# Of a server that starts, and of one that ends.
PATIENCE_SECONDS = 60

SERVE = ["serve", "--http", "off", "--log", "warn"]


class Refused(Exception):
    """What a database says instead of rows."""


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu_seconds: float
    rows: list[tuple]


@dataclass(frozen=True)
class Sessions:
    """What sessions at once have done, until the last was through."""

    seconds: float
    cpu_seconds: float
    done: int
    refusals: list[str]


class Side(Protocol):
    name: str

    def run(self, sql: str) -> None: ...

    def query(self, sql: str) -> Measured: ...

    def sessions(self, work: list[list[str]]) -> Sessions:
        """A session for each list of queries, all at once."""

    def peak_bytes(self) -> int: ...


@contextmanager
def both(server: Path, memory: str | None) -> Iterator[tuple["Tidemark", "DuckDB"]]:
    """Fresh ones; with that much memory for queries, or with what each takes by itself."""
    with tempfile.TemporaryDirectory() as directory:
        options = ["--query-memory-limit", memory] if memory else []
        ours = Tidemark.started([server, *SERVE, "--data-dir", f"{directory}/tidemark", *options])
        theirs = DuckDB.started(f"{directory}/duck.db", {"memory_limit": memory} if memory else {})
        with ours as ours, theirs as theirs:
            yield ours, theirs


def measure(cpu_seconds: Callable[[], float], rows: Callable[[], list[tuple]]) -> Measured:
    cpu, began = cpu_seconds(), time.perf_counter()
    found = rows()
    return Measured(time.perf_counter() - began, cpu_seconds() - cpu, found)


def measure_sessions(cpu_seconds: Callable[[], float], clients: list[Any], work: list[list[str]]) -> Sessions:
    """Clients have `execute` and `fetchall`, one for each list of work."""
    done, refusals = [], []

    def session(client: Any, queries: list[str]) -> None:
        for sql in queries:
            try:
                client.execute(sql)
                client.fetchall()
                done.append(sql)
            except (psycopg.Error, duckdb.Error) as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=session, args=each, daemon=True) for each in zip(clients, work, strict=True)]
    cpu, began = cpu_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Sessions(time.perf_counter() - began, cpu_seconds() - cpu, len(done), refusals)


# ---- Tidemark -------------------------------------------------------------------------------------------------------


class Tidemark:
    name = "Tidemark"

    def __init__(self, server: subprocess.Popen, port: int) -> None:
        self.server = server
        self.address = f"host=127.0.0.1 port={port} user=tidemark dbname=tidemark"
        self.cursor = self._connect().cursor()

    @classmethod
    @contextmanager
    def started(cls, command: list[str | Path]) -> Iterator["Tidemark"]:
        port = processes.spare_port()
        server = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"])
        try:
            yield cls(server, port)
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(PATIENCE_SECONDS)
            server.kill()
            server.wait()

    def _connect(self) -> psycopg.Connection:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return psycopg.connect(self.address, autocommit=True, options=f"-c statement_timeout={TIMEOUT}")
            except psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def run(self, sql: str) -> None:
        self.cursor.execute(sql)

    def query(self, sql: str) -> Measured:
        try:
            return measure(self._cpu_seconds, lambda: self.cursor.execute(sql).fetchall())
        except psycopg.Error as error:
            raise Refused(str(error)) from error

    def sessions(self, work: list[list[str]]) -> Sessions:
        connections = [self._connect() for _ in work]
        try:
            return measure_sessions(self._cpu_seconds, [connection.cursor() for connection in connections], work)
        finally:
            for connection in connections:
                connection.close()

    def peak_bytes(self) -> int:
        return processes.peak_bytes(self.server.pid)

    def _cpu_seconds(self) -> float:
        return processes.cpu_seconds(self.server.pid)


# ---- DuckDB ---------------------------------------------------------------------------------------------------------


class DuckDB:
    name = "DuckDB"

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    @classmethod
    @contextmanager
    def started(cls, database: str, settings: dict[str, str]) -> Iterator["DuckDB"]:
        spawn = multiprocessing.get_context("spawn")
        pipe, its_end = spawn.Pipe()
        process = spawn.Process(target=serve, args=(its_end, database, settings), daemon=True)
        process.start()
        its_end.close()
        try:
            yield cls(pipe)
        finally:
            pipe.close()
            process.join(PATIENCE_SECONDS)
            process.kill()

    def _ask(self, what: Callable, *arguments: Any) -> Any:
        self.pipe.send((what, arguments))
        answer = self.pipe.recv()
        if isinstance(answer, Refused):
            raise answer
        return answer

    def run(self, sql: str) -> None:
        self._ask(own_run, sql)

    def query(self, sql: str) -> Measured:
        return self._ask(own_query, sql)

    def sessions(self, work: list[list[str]]) -> Sessions:
        return self._ask(own_sessions, work)

    def peak_bytes(self) -> int:
        return self._ask(own_peak_bytes)


def serve(pipe: Connection, database: str, settings: dict[str, str]) -> None:
    """The process of DuckDB's: does what comes through the pipe until that is closed."""
    with duckdb.connect(database, config=settings) as connection, suppress(EOFError):
        while True:
            what, arguments = pipe.recv()
            try:
                answer = what(connection, *arguments)
            except duckdb.Error as error:
                answer = Refused(str(error))
            pipe.send(answer)


def own_run(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(sql)


def own_query(connection: duckdb.DuckDBPyConnection, sql: str) -> Measured:
    return measure(own_cpu_seconds, lambda: connection.execute(sql).fetchall())


def own_sessions(connection: duckdb.DuckDBPyConnection, work: list[list[str]]) -> Sessions:
    return measure_sessions(own_cpu_seconds, [connection.cursor() for _ in work], work)


def own_cpu_seconds(*_: duckdb.DuckDBPyConnection) -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def own_peak_bytes(*_: duckdb.DuckDBPyConnection) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
