"""What a measurement hands out: a Markdown table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.machine import describe, describe_machine, load
from benchmarks.spread import Spread, number

Value = str | int | float | bool | None | Spread


class Sheet:
    """Rows of one benchmark. Each is printed and, with a file, appended to it the moment it is known.

    A row of the file holds the benchmark's name, its settings and the machine, so that it can stand alone.
    """

    def __init__(self, benchmark: str, settings: Mapping[str, object], file: Path | None) -> None:
        self.rows: list[dict[str, Value]] = []
        self._benchmark = benchmark
        self._settings = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
        self._file = file
        self._machine = describe() | {"load_before": round(load(), 2)}
        self._headings: dict[str, str] = {}

    def __enter__(self) -> Self:
        words = " ".join(f"{name}={value}" for name, value in self._settings.items())
        print(f"## {self._benchmark}\n\nSettings: {words}\n\nMachine before: {describe_machine()}", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._append({"load_after": round(load(), 2), "complete": kind is None})
        print(f"\nLoad after: {load():.2f}\n", flush=True)

    def columns(self, headings: Mapping[str, str]) -> None:
        """Begin a table: which values of the following rows it shows, and what stands above them."""
        self._headings = dict(headings)
        print(f"\n| {' | '.join(headings.values())} |\n|{' --- |' * len(headings)}", flush=True)

    def row(self, **values: Value) -> None:
        """One line of the table; values without a column go to the file only."""
        self.rows.append(values)
        self._append(values)
        print(f"| {' | '.join(cell(values.get(name)) for name in self._headings)} |", flush=True)

    def note(self, text: str) -> None:
        """A sentence below the table, and in the file."""
        self._append({"note": text})
        print(f"\n{text}", flush=True)

    def _append(self, values: Mapping[str, Value]) -> None:
        if self._file is None:
            return
        plain = {name: asdict(value) if isinstance(value, Spread) else value for name, value in values.items()}
        head = {"benchmark": self._benchmark, "settings": self._settings, "machine": self._machine}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(head | {"load": round(load(), 2)} | plain) + "\n")


def cell(value: Value) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return str(value)


def ratio(left: Sequence[float] | Spread, right: Sequence[float] | Spread) -> float:
    """How many times `right` fits into `left`, by their medians."""
    above = left if isinstance(left, Spread) else Spread.of(left)
    below = right if isinstance(right, Spread) else Spread.of(right)
    return above.median / below.median
