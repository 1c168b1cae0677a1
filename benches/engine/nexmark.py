"""The Nexmark bench, run with other flags in turn, and what its lines of JSON say.

    settings A, B ──▶ A B A B A B, all queries each ──▶ for each query the median of A's and of B's runs
"""

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """Of one query."""

    query: str
    events: int
    seconds: float
    # Of the whole server; of these the clock's thread, and the workers that it starts. The rest is mostly decoding.
    cpu_seconds: float
    clock_cpu_seconds: float
    workers_cpu_seconds: float
    # In which an epoch was under way, and of these in which it was committed.
    epochs_seconds: float
    commits_seconds: float
    state_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Setting:
    events: int
    flags: str = ""


@dataclass(frozen=True)
class Bench:
    # `cargo bench --workspace --bench`, what comes after it is the name of a bench.
    command: list[str]
    # That Nexmark is to start.
    server: Path

    def lines(self, bench: str, *options: str) -> list[dict]:
        """What a bench says with `--out`; what it prints is left out."""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, "out.jsonl")
            # What is asked for is asked of other runs than these.
            environment = {name: value for name, value in os.environ.items() if name != "TIDEMARK_FIGURES"}
            environment["TIDEMARK_BIN"] = str(self.server)
            command = [*self.command, bench, "--", *options, "--out", out]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            return [json.loads(line) for line in out.read_text().splitlines()]

    def nexmark(self, queries: list[str], setting: Setting) -> dict[str, Run]:
        flags = ["--flag", setting.flags] if setting.flags else []
        lines = self.lines("nexmark", "--queries", ",".join(queries), "--events", str(setting.events), *flags)
        return {line["query"]: Run(**line) for line in lines}

    def in_turn(self, queries: list[str], settings: list[Setting], rounds: int) -> list[dict[str, list[Run]]]:
        """For each setting the runs of each query; settings take turns, so that what else the machine does meets all of them."""
        runs: list[dict[str, list[Run]]] = [{query: [] for query in queries} for _ in settings]
        for _ in range(rounds):
            for setting, of_setting in zip(settings, runs, strict=True):
                for query, run in self.nexmark(queries, setting).items():
                    of_setting[query].append(run)
        return runs


def median(runs: list[Run], of: Callable[[Run], float]) -> float:
    return statistics.median(map(of, runs))
