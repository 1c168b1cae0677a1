"""What Linux says of processes: those of a server, or those that this one has started.

    /proc/PID/task/*/children ──▶ a process and all below it ──▶ user and system time, the most memory
"""

import contextlib
import os
import signal
import socket
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):  # one that has ended meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of a process and all below it, and of those of them that have ended."""
    while True:
        pids, ticks = tree(pid), 0
        for each in pids:
            with contextlib.suppress(OSError):
                # After the name in brackets: utime, stime, cutime and cstime are the 12th to 15th fields.
                fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])
        # The time of one that ends moves to its parent: it may have been missed, or counted twice.
        if tree(pid) == pids:
            return ticks / TICKS_A_SECOND


def peak_bytes(pid: int) -> int:
    """The most memory that it had, without what is below it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def end_children() -> None:
    """Those that this process has started; until they are gone."""
    for pid in tree(os.getpid())[1:]:
        os.kill(pid, signal.SIGKILL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def spare_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
