"""Tables as Markdown has them, and how figures stand in them. Rows are printed as they come."""

from collections.abc import Iterable


def begin(title: str, columns: list[str]) -> None:
    print(f"\n{title}:\n")
    row(columns)
    print("|---" * len(columns) + "|")


def row(cells: Iterable[str]) -> None:
    print("|", " | ".join(cells), "|", flush=True)


def number(n: float) -> str:
    return f"{n:.0f}"


def thousands(n: float) -> str:
    return f"{n / 1e3:.0f} k"


def ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}"


def seconds(n: float) -> str:
    return f"{n:.2f} s"


def milliseconds(n: float) -> str:
    return f"{n * 1e3:.3f} ms"


def microseconds(n: float) -> str:
    return f"{n * 1e6:.0f} µs"


def microseconds_of_one(n: float) -> str:
    """Of what takes about one."""
    return f"{n * 1e6:.2f} µs"
