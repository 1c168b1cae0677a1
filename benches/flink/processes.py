"""What Linux says of the processes that this one has started.

    /proc/PID/task/*/children ──▶ this process and all below it ──▶ user and system time, the most memory
"""

import os
import signal
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # a thread that has ended meanwhile
            continue
        for child in children:
            found += tree(int(child))
    return found


def cpu_seconds() -> float:
    """User and system time so far, of this process and all below it, and of those of them that have ended."""
    ticks = 0
    for pid in tree(os.getpid()):
        # After the name in brackets: utime, stime, cutime and cstime are the 12th to 15th fields.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_A_SECOND


def peak_bytes() -> int:
    """The most memory that each process below this one had, together."""
    lines = [line for pid in tree(os.getpid())[1:] for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def end_children() -> None:
    """Those that this process has started; until they are gone."""
    for pid in tree(os.getpid())[1:]:
        os.kill(pid, signal.SIGKILL)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return
