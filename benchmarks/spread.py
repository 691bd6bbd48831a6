"""A measured figure: the median of several values, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of `count` values."""

    median: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median * factor, self.least * factor, self.greatest * factor, self.count)

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.least)} .. {number(self.greatest)})"


def number(value: float) -> str:
    """A figure with three significant digits, and without an exponent unless it is tiny."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    if abs(value) < 1e-4:
        return f"{value:.1e}"
    digits = 2
    while abs(value) * 10**digits < 100 and digits < 6:
        digits += 1
    return f"{value:.{digits if abs(value) < 10 else 1}f}"


def timed(work: Callable[[], object], repeats: int, warm_up: int = 1) -> tuple[Spread, Spread]:
    """Wall and processor seconds of a call, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        work()
    walls, used = [], []
    for _ in range(repeats):
        wall, cpu = perf_counter(), process_time()
        work()
        walls.append(perf_counter() - wall)
        used.append(process_time() - cpu)
    return Spread.of(walls), Spread.of(used)


def interleaved(works: dict[str, Callable[[], object]], repeats: int, warm_up: int = 1) -> dict[str, Spread]:
    """Wall seconds of several calls that take turns, so that what disturbs the machine disturbs them alike."""
    walls: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warm_up + repeats):
        for name, work in works.items():
            began = perf_counter()
            work()
            if turn >= warm_up:
                walls[name].append(perf_counter() - began)
    return {name: Spread.of(values) for name, values in walls.items()}
